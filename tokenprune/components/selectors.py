"""Which tokens to keep, given scores and an objective. Ties go to the lowest index everywhere."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from tokenprune.components.lazy import can_be_lazy, gain_of, lazy_batch, lazy_row
from tokenprune.components.objectives import MaximalMarginalRelevance
from tokenprune.core.errors import ConfigError, NonFiniteError
from tokenprune.core.features import on_host
from tokenprune.core.indexing import as_mask, left_aligned
from tokenprune.core.kinds import (
    Objective,
    Problem,
    Scorer,
    Selector,
    State,
    check_choice,
    check_count,
    check_gains,
    check_number,
    picks_by_kernel,
)
from tokenprune.core.optimality import Optimality
from tokenprune.core.ranking import TopK, relevance, top_k, within_budget
from tokenprune.kernels import constant

__all__ = ["Candidates", "Greedy", "Optimizer", "Prefilter", "Strided", "TopK", "TwoStage", "round_one", "round_one_of"]


Optimizer = Literal["vectorized", "lazy", "naive"]


@dataclass(frozen=True)
class Greedy(Selector):
    """Add the candidate with the largest gain until the budget is used up (MI-Pruner, Algorithm 1).

    A fixed budget is filled even where gains are negative. A gain that is NaN raises ``NonFiniteError``: an argmax
    would pick it and say nothing. On an accelerator, where the host does not wait for the picks, such a row has none
    (:meth:`Selection.verify` raises then).

    Parameters
    ----------
    objective : Objective, default ``MaximalMarginalRelevance()``
    optimizer : str, default "vectorized"
        How the same picks are found. ``vectorized``: all gains of the batch at each pick, updated as tensors; on a
        GPU with Triton in one launch, for the built-in objectives; on a CPU only the gains that may be the largest,
        where the objective gives single ones (:meth:`Objective.gains_of`) and they never rise.
        ``lazy``: a heap of stale gains, re-evaluated only at the top (Minoux); needs gains that never rise.
        ``naive``: every gain from scratch at each pick; slow, the reference for the other two.
    repeats : bool, default False
        Leave picked tokens among the candidates, so that one may be picked again (a defect of some official code,
        kept for parity); only with ``vectorized``.
    """

    objective: Objective = MaximalMarginalRelevance()  # noqa: RUF009  (immutable)
    optimizer: Optimizer = "vectorized"
    repeats: bool = False
    # a pick depends on the picks before it, never on how many will follow
    nested = True

    def __post_init__(self) -> None:
        check_choice(self, "optimizer", get_args(Optimizer))
        if self.optimizer == "lazy" and not self.objective.non_increasing_gains:
            raise ConfigError(
                f"Greedy.optimizer 'lazy' needs an objective whose gains never rise, and {self.objective!r} does not "
                "declare non_increasing_gains; use 'vectorized'"
            )
        if self.repeats and self.optimizer != "vectorized":
            raise ConfigError(f"Greedy.repeats needs optimizer 'vectorized', got {self.optimizer!r}")

    @property
    def uses_scores(self) -> bool:  # type: ignore[override]
        """As the objective."""
        return self.objective.uses_scores

    @property
    def distinct(self) -> bool:  # type: ignore[override]
        """Not where a token may be picked again."""
        return not self.repeats

    def select(self, problem: Problem) -> Tensor:
        """Best first at each step."""
        if self.optimizer == "vectorized":
            return self._vectorized(problem)
        start = self.objective.start(problem.features, problem.scores)
        if type(self.objective).oracle is Objective.oracle:  # which reads gains, a row at a time
            check_gains(self.objective, self.objective.gains(start), tuple(problem.available.shape))
        rows = []
        for row, count in enumerate(problem.counts):
            context = [] if problem.context is None else [i for i in problem.context[row].tolist() if i >= 0]
            candidates = problem.available[row].nonzero().flatten().tolist()
            if self.optimizer == "lazy":
                oracle = self.objective.oracle(start, row)
                for pick in context:
                    oracle.take(pick)
                picks = lazy_row(oracle, candidates, count, started=bool(context))
            else:
                picks = []
                for _ in range(count):
                    oracle = self.objective.oracle(start, row)
                    for pick in context + picks:
                        oracle.take(pick)
                    left = [i for i in candidates if i not in picks]
                    picks.append(min((-gain_of(oracle, i), i) for i in left)[1])
            rows.append(picks + [-1] * (max(problem.counts) - count))
        return torch.tensor(rows, dtype=torch.long, device=problem.scores.device).view(len(rows), -1)

    def optimality(self, problem: Problem, picks: Tensor) -> Optimality:
        """By the objective."""
        if self.repeats:
            return super().optimality(problem, picks)
        return self.objective.optimality(problem, picks)

    def _vectorized(self, problem: Problem) -> Tensor:
        state = self.objective.start(problem.features, problem.scores)
        if problem.context is not None:
            state = self.objective.resume(state, problem.context)
        picks = picks_by_kernel(self.objective, state, problem.available, problem.counts, self.repeats)
        if picks is not None:
            return picks
        if not self.repeats and on_host(problem.available) and can_be_lazy(self.objective):
            return lazy_batch(self.objective, state, problem.available, problem.counts)
        return self._steps(problem, state)

    def _steps(self, problem: Problem, state: State) -> Tensor:
        open_ = problem.available.clone()
        order: list[Tensor] = []
        ragged = len(set(problem.counts)) > 1
        limit = constant(problem.counts, open_.device)
        broken = torch.zeros_like(open_[:, :1])
        for step in range(max(problem.counts)):
            gains = self.objective.gains(state)
            check_gains(self.objective, gains, tuple(open_.shape))
            # a candidate whose gain is -inf still comes before a token that is no candidate
            gains = gains.clamp_min(torch.finfo(gains.dtype).min).masked_fill(~open_, -math.inf)
            broken = broken | gains.isnan().any(-1, keepdim=True)
            pick = gains.argmax(-1)
            if not self.repeats:
                open_.scatter_(1, pick.unsqueeze(-1), False)
            if ragged:
                pick = pick.masked_fill(step >= limit, -1)
            order.append(pick)
            if step + 1 < max(problem.counts):
                state = self.objective.take(state, pick)
        if on_host(broken) and bool(broken.any()):
            raise NonFiniteError(f"{self.objective!r}: the gain of a token is NaN")
        picks = torch.stack(order, dim=1) if order else open_.new_zeros((open_.shape[0], 0), dtype=torch.long)
        return picks.masked_fill(broken, -1)


def round_one(share: float, count: int, reserve: int = 0) -> int:
    """Tokens of the first of two rounds: a share of the budget, rounded down, less the places held back."""
    return max(0, int(share * count) - reserve)


def round_one_of(share: float, counts: Tensor, reserve: int = 0) -> Tensor:
    """:func:`round_one` of budgets in a tensor: float64 rounds as Python does."""
    return ((share * counts.double()).long() - reserve).clamp_min(0)


@dataclass(frozen=True)
class TwoStage(Selector):
    """A share of the budget by one score, the rest by another selector (VisPruner, VisionZip, MI-Attention).

    Parameters
    ----------
    salience : Scorer or None
        Score of round 1, which keeps its top ``int(share * K)`` tokens; None for the strategy's own.
    fill : Selector
        Round 2: chooses among the rest, by the strategy's own scores.
    share : float, default 0.5
        Round 1's share of the budget, in [0, 1].
    seed_redundancy : bool, default True
        Whether round 2 counts round 1's tokens as already selected.
    reserve : int, default 0
        Places of round 1 held back for tokens that are no patches (VisionZip's [CLS]): the last picks, which are the
        lowest positions left over. A merger replaces what stands there.
    """

    salience: Scorer | None
    fill: Selector
    share: float = 0.5
    seed_redundancy: bool = True
    reserve: int = 0

    def __post_init__(self) -> None:
        check_number(self, "share", 0, 1)
        check_count(self, "reserve", 0)

    def _rounds(self, problem: Problem) -> tuple[Tensor, Problem, tuple[int, ...]]:
        """Picks of round 1, what is left to round 2, and the places held back."""
        scores = problem.scores if self.salience is None else relevance(self.salience, problem.features)
        reserved = tuple(min(self.reserve, k) for k in problem.counts)
        first = tuple(round_one(self.share, k, self.reserve) for k in problem.counts)
        salient = top_k(scores, first, problem.available)
        rest = replace(
            problem,
            counts=tuple(k - f - r for k, f, r in zip(problem.counts, first, reserved, strict=True)),
            available=_without(problem.available, salient),
            context=salient if self.seed_redundancy else None,
            sizes=tuple(n - f for n, f in zip(problem.size(), first, strict=True)),
        )
        return salient, rest, reserved

    def select(self, problem: Problem) -> Tensor:
        """Round 1 best first, then round 2, then the places held back."""
        salient, rest, reserved = self._rounds(problem)
        filled = self.fill.select(rest)
        first = {k - left for k, left in zip(problem.counts, rest.counts, strict=True)}
        if not any(reserved) and len(first) == 1:
            return torch.cat([salient, filled], dim=1)  # no padding comes before a pick
        held = top_k(torch.zeros_like(problem.scores), reserved, _without(rest.available, filled))
        return left_aligned(torch.cat([salient, filled, held], dim=1))[:, : max(problem.counts)]

    def optimality(self, problem: Problem, picks: Tensor) -> Optimality:
        """Of round 2, given the picks of round 1, which are the largest scores."""
        salient, rest, _ = self._rounds(problem)
        begin = (salient >= 0).sum(1, keepdim=True)
        place = begin + torch.arange(max(rest.counts), device=picks.device)
        filled = picks.gather(1, place.clamp_max(picks.shape[1] - 1))
        return self.fill.optimality(rest, within_budget(filled, rest.counts))


@dataclass(frozen=True)
class Strided(Selector):
    """Candidates at a uniform stride, ascending (VisionZip's centres); scores play no part.

    With R candidates and c places the stride is max(1, R // c), so that up to stride - 1 + R mod c candidates lie
    behind the last pick.
    """

    uses_scores = False

    def select(self, problem: Problem) -> Tensor:
        """Ranks 0, stride, 2 stride, ... among the candidates."""
        limit = constant(problem.counts, problem.available.device).unsqueeze(-1)
        stride = (problem.available.sum(1, keepdim=True) // limit.clamp_min(1)).clamp_min(1)
        rank = torch.arange(max(problem.counts), device=limit.device) * stride
        ascending = problem.available.to(torch.int8).argsort(dim=1, descending=True, stable=True)
        return within_budget(ascending.gather(1, rank.clamp_max(ascending.shape[1] - 1)), problem.counts)


@dataclass(frozen=True)
class Prefilter(Selector):
    """Drop the tokens with the lowest scores, then select as if the rest were all there are (TrimTokenator).

    Parameters
    ----------
    share : float
        Share of the candidates that survive, in [0, 1]: ``int(share * N)``, and never fewer than the budget.
    fill : Selector
        Chooses among the survivors. Means and neighbours that it computes are those of survivors only.
    """

    share: float
    fill: Selector

    def __post_init__(self) -> None:
        check_number(self, "share", 0, 1)

    def survivors(self, problem: Problem) -> Tensor:
        """Positions that stay in play, best first, (B, most), -1 as padding."""
        counts = tuple(max(k, int(self.share * n)) for k, n in zip(problem.counts, problem.size(), strict=True))
        return top_k(problem.scores, counts, problem.available)

    def select(self, problem: Problem) -> Tensor:
        """The picks of ``fill``."""
        mask = as_mask(self.survivors(problem), problem.available.shape[1])
        features = problem.features.replace(visual_mask=mask, check=False)
        return self.fill.select(replace(problem, features=features, available=mask, sizes=None))


@dataclass(frozen=True)
class Candidates(Selector):
    """Choose among candidates that a signal names (MMTok's exclusion of padded borders); without it, among all.

    Excluded tokens still take part in what the objective covers or normalises over.

    Parameters
    ----------
    fill : Selector
        Chooses among the candidates; where they are fewer than the budget, excluded tokens come after them.
    signal : str, default "candidates"
        A bool signal (B, N) in ``Features(extra=...)``, True at candidates.
    repeat_first : bool, default False
        Instead of excluded tokens take the first token again and again, as the official code does with position 0.
    """

    fill: Selector
    signal: str = "candidates"
    repeat_first: bool = False

    @property
    def uses_scores(self) -> bool:  # type: ignore[override]
        """As ``fill``."""
        return self.fill.uses_scores

    @property
    def distinct(self) -> bool:  # type: ignore[override]
        """Not where the first token is taken again and again."""
        return not self.repeat_first

    @property
    def nested(self) -> bool:  # type: ignore[override]
        """As ``fill``."""
        return self.fill.nested

    def optimality(self, problem: Problem, picks: Tensor) -> Optimality:
        """Of ``fill``, among the candidates; not where these were too few."""
        if self.signal in problem.features:
            allowed = problem.available & problem.features[self.signal].bool()
            if any(k > n for k, n in zip(problem.counts, allowed.sum(1).tolist(), strict=True)):
                return super().optimality(problem, picks)
            problem = replace(problem, available=allowed, sizes=None)
        return self.fill.optimality(problem, picks)

    def select(self, problem: Problem) -> Tensor:
        """Candidates first."""
        if self.signal not in problem.features:
            return self.fill.select(problem)
        allowed = problem.available & problem.features[self.signal].bool()
        counts = tuple(min(k, n) for k, n in zip(problem.counts, allowed.sum(1).tolist(), strict=True))
        picks = self.fill.select(replace(problem, counts=counts, available=allowed, sizes=None))
        missing = tuple(k - c for k, c in zip(problem.counts, counts, strict=True))
        if not any(missing):
            return picks
        if self.repeat_first:
            first = problem.features.valid().to(torch.int8).argmax(1, keepdim=True)
            extra = within_budget(first.expand(-1, max(missing)), missing)
        else:
            context = picks if problem.context is None else torch.cat([problem.context, picks], dim=1)
            available = _without(problem.available, picks)
            rest = replace(problem, counts=missing, available=available, context=context, sizes=None)
            extra = self.fill.select(rest)
        return left_aligned(torch.cat([picks, extra], dim=1))[:, : max(problem.counts)]


def _without(available: Tensor, picks: Tensor) -> Tensor:
    return available & ~as_mask(picks, available.shape[1])
