"""Rules that decide how many picks are worth keeping: captured relevance, gains, redundancy, or fitted to questions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from tokenprune.components.pairwise import SelfPMI
from tokenprune.core.adaptive import BudgetRule, Evidence
from tokenprune.core.errors import ConfigError, OptionTypeError
from tokenprune.core.features import Features, working_precision
from tokenprune.core.information import unit_norm
from tokenprune.core.kinds import Objective, Pairwise, check_choice, check_number

__all__ = ["SIGNALS", "CapturedMass", "Fitted", "GainThreshold", "RedundancyKnee", "budget_signals", "relevance_mass"]

Scale = Literal["tail", "first", "none"]

SIGNALS = ("entropy", "rank", "length")
"""What :class:`Fitted` weighs, in order."""


def relevance_mass(scores: Tensor, valid: Tensor) -> Tensor:
    """Scores as shares of a whole: less the lowest of the row, divided by their sum; (B, N) -> (B, N), float64.

    Even shares where all scores are alike. Adding a number to all scores, or multiplying them by one, changes nothing.
    """
    known = scores.double()
    above = (known - known.masked_fill(~valid, math.inf).amin(1, keepdim=True)).masked_fill(~valid, 0)
    total = above.sum(1, keepdim=True)
    even = valid / valid.sum(1, keepdim=True)
    return torch.where(total > 0, above / total.where(total > 0, 1), even)


@dataclass(frozen=True)
class CapturedMass(BudgetRule):
    """Keep picks until they hold a share of the picture's relevance.

    A batch that shares its tokens captures the same share of each of its pictures.

    Parameters
    ----------
    share : float, default 0.5
        Of the scores' sum above the lowest score, in (0, 1].
    """

    share: float = 0.5

    def __post_init__(self) -> None:
        check_number(self, "share", 0, 1, open_low=True)

    @property
    def least(self) -> float:
        """Minus the share: what was captured before is counted against a pick."""
        return -self.share

    def worth(self, evidence: Evidence) -> Tensor:
        """Minus the mass captured before each pick, (B, K)."""
        mass = relevance_mass(evidence.problem.scores, evidence.features.valid())
        picked = mass.gather(1, evidence.order.clamp_min(0)).masked_fill(evidence.order < 0, 0)
        return picked - picked.cumsum(1)


@dataclass(frozen=True)
class GainThreshold(BudgetRule):
    """Keep picks while what they add, as the objective counts it, exceeds a threshold.

    Any greedy objective; for ``top-k`` the gain is the score. A batch that shares its tokens has the largest sum of
    gains (in units of the scale) that so many tokens can have.

    Parameters
    ----------
    threshold : float, default 0.1
        In units of the scale.
    scale : str, default "tail"
        ``tail``: the most that PMI can be at this place in the order, ``min(log N, log(N T / k))`` for the k-th of N
        tokens and T text tokens (in each column of the table the mean of exp(PMI) is 1, so that few can be large).
        ``first``: the gain of the unit's first pick. ``none``: the objective's own unit.
    objective : Objective, optional
        Whose gains; by default that of the selector.
    """

    threshold: float = 0.1
    scale: Scale = "tail"
    objective: Objective | None = None
    uses_scores = False

    def __post_init__(self) -> None:
        check_number(self, "threshold", -1000, 1000)
        check_choice(self, "scale", get_args(Scale))

    def reads(self, given: object) -> frozenset[str]:
        """Text, whose length the tail law counts."""
        return frozenset({"text"} if self.scale == "tail" else ())

    @property
    def least(self) -> float:
        """The threshold."""
        return self.threshold

    def worth(self, evidence: Evidence) -> Tensor:
        """Gain of each pick in units of the scale, (B, K)."""
        gains = evidence.gains(self.objective).double()
        if self.scale == "first":
            first = gains[:, :1]
            ratio = torch.where(first > 0, gains / first.where(first > 0, 1), -math.inf)
            return torch.cat([torch.ones_like(first), ratio[:, 1:]], dim=1)
        if self.scale == "tail":
            log_n = evidence.features.log_size(torch.float64)
            log_t = _text_tokens(evidence.features).log().unsqueeze(1)
            most = torch.minimum(log_n, log_n + log_t - evidence.rank.log())
            return gains / most.clamp_min(torch.finfo(torch.float32).eps)
        return gains


@dataclass(frozen=True)
class RedundancyKnee(BudgetRule):
    """Keep picks until one is more redundant with those before it than it is relevant.

    Parameters
    ----------
    weight : float, default 1.0
        Of relevance against redundancy, in (0, 1000].
    pairs : Pairwise, default ``SelfPMI()``
        What redundancy is measured with: the largest entry with any pick before.
    """

    weight: float = 1.0
    pairs: Pairwise = SelfPMI()  # noqa: RUF009  (immutable)

    def __post_init__(self) -> None:
        check_number(self, "weight", 0, 1000, open_low=True)
        if not isinstance(self.pairs, Pairwise):
            raise OptionTypeError(f"RedundancyKnee.pairs must be a Pairwise, got {self.pairs!r}")

    @property
    def least(self) -> float:
        """Nought: relevance and redundancy are equal."""
        return 0.0

    def worth(self, evidence: Evidence) -> Tensor:
        """Weighted relevance less redundancy, (B, K); infinite for the first pick, which repeats nothing."""
        table, order = self.pairs.table(evidence.features), evidence.order
        redundancy = torch.full_like(evidence.problem.scores, -math.inf, dtype=torch.float64)
        found = []
        for index in order.unbind(1):
            safe = index.clamp_min(0)
            found.append(redundancy.gather(1, safe.unsqueeze(1)))
            redundancy = torch.maximum(redundancy, table.column(safe).double())
        return self.weight * evidence.scores.double() - torch.cat(found, dim=1)


def _text_tokens(features: Features) -> Tensor:
    """Text tokens of each row, (B,), float64."""
    if features.text_mask is not None:
        return features.text_mask.sum(1).double()
    return torch.full((features.batch,), float(features.text.shape[1]), dtype=torch.float64, device=features.device)


def budget_signals(features: Features, scores: Tensor, *, length: bool = True) -> Tensor:
    """What is cheap to know of a picture and a question, (B, 3), float64, in the order of :data:`SIGNALS`.

    ``entropy``
        Of the relevance, as a share of log N: 1 where all tokens matter alike.
    ``rank``
        Log of the effective rank of the picture, the participation ratio N^2 / sum_ij cos_ij^2: how many different
        things its tokens are.
    ``length``
        Log of the number of the question's tokens; 0 where it is not to be read.
    """
    valid = features.valid()
    mass = relevance_mass(scores, valid)
    entropy = -(mass * mass.clamp_min(1e-300).log()).sum(1)
    n = valid.sum(1).double()
    share = torch.where(n > 1, entropy / n.clamp_min(2).log(), 1.0)
    unit = unit_norm(working_precision(features.visual)).masked_fill(~valid.unsqueeze(-1), 0)
    # the smaller of the two products of a matrix with itself has the same Frobenius norm
    gram = unit.mT @ unit if unit.shape[2] < unit.shape[1] else unit @ unit.mT
    spread = gram.double().square().sum((1, 2))
    rank = torch.where(spread > 0, n.square() / spread.where(spread > 0, 1), 1.0).log()
    words = _text_tokens(features).log() if length else torch.zeros_like(rank)
    return torch.stack([share, rank, words], dim=1)


@dataclass(frozen=True)
class Fitted(BudgetRule):
    """The budget asked for, times what a rule fitted to answered questions says that this question needs of it.

    ``exp(bias + sum_i weights_i (signal_i - means_i) / spreads_i)`` of :func:`budget_signals`. ``tokenprune tune``
    fits it by ridge regression of the log of the smallest budget at which a question is answered as without pruning;
    the default weights nothing.

    Parameters
    ----------
    weights, means, spreads : sequence of 3 float
        For entropy of the relevance, effective rank of the picture and length of the question.
    bias : float, default 0.0
    """

    weights: tuple[float, ...] = (0.0, 0.0, 0.0)
    means: tuple[float, ...] = (0.0, 0.0, 0.0)
    spreads: tuple[float, ...] = (1.0, 1.0, 1.0)
    bias: float = 0.0
    scales = True

    def __post_init__(self) -> None:
        for name in ("weights", "means", "spreads"):
            given = getattr(self, name)
            if not isinstance(given, list | tuple) or not all(
                isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in given
            ):
                raise OptionTypeError(f"Fitted.{name} must be {len(SIGNALS)} numbers, got {given!r}")
            if len(given) != len(SIGNALS):
                raise ConfigError(f"Fitted.{name} must be {len(SIGNALS)} numbers, one for each of {SIGNALS}")
            object.__setattr__(self, name, tuple(map(float, given)))
        if min(self.spreads) <= 0:
            raise ConfigError(f"Fitted.spreads must be positive, got {self.spreads}")
        check_number(self, "bias", -20, 20)

    def reads(self, given: object) -> frozenset[str]:
        """Text, where its length counts."""
        return frozenset({"visual", "text"} if self.weights[2] else {"visual"})

    @property
    def least(self) -> float:
        """Nought: the pick's number is what is needed."""
        return 0.0

    def need(self, features: Features, scores: Tensor) -> Tensor:
        """Share of the budget that each unit needs, (B,), float64."""
        signals = budget_signals(features, scores, length=bool(self.weights[2]))
        weights, means, spreads = (
            torch.tensor(x, dtype=torch.float64, device=signals.device)
            for x in (self.weights, self.means, self.spreads)
        )
        return (self.bias + ((signals - means) / spreads * weights).sum(1)).clamp(-20, 20).exp()

    def worth(self, evidence: Evidence) -> Tensor:
        """Log of what is needed over the place in the order, (B, K), so that counts round half up."""
        asked = torch.tensor(evidence.problem.counts, dtype=torch.float64, device=evidence.order.device)
        needed = asked * self.need(evidence.features, evidence.problem.scores)
        return needed.log().unsqueeze(1) - (evidence.rank - 0.5).log()
