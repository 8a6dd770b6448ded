"""How much each visual token matters."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tokenprune.components.aggregators import Max, Mean
from tokenprune.components.normalizers import Softmax
from tokenprune.components.priors import Uniform
from tokenprune.core.draws import fingerprint, place_noise, reseeded
from tokenprune.core.errors import (
    ConfigError,
    DegenerateRelevanceWarning,
    OptionTypeError,
)
from tokenprune.core.features import Features, on_host, working_precision
from tokenprune.core.information import cosine_products, cosine_similarity, log_marginal, pmi
from tokenprune.core.kinds import Aggregator, Normalizer, Prior, Scorer, aggregated, check_choice, overridden
from tokenprune.kernels import usable

__all__ = [
    "PMI",
    "ClsAttention",
    "ConditionedRelevance",
    "Random",
    "ReceivedAttention",
    "TextAlignment",
    "TextSimilarity",
]

ONE_PROGRAM = 4096
"""Tokens of a sample that one program scores; of more, tensor operations are faster, which share them."""


@dataclass(frozen=True)
class PMI(Scorer):
    """Pointwise mutual information with the prompt's tokens, aggregated (MI-Pruner, Eqns 14-19).

    cosine -> log p(t_j | v_i) -> log p(t_j) = log sum_i p(v_i) p(t_j | v_i) -> PMI -> one number a visual token.
    O(N T d) time, O(N T) memory.

    Where the prompt cannot tell tokens apart (a single text token, or all alike: every PMI is then 0 up to rounding)
    the scores of that row are the cosine to the text instead, with a warning; where that says nothing either (text of
    zeros) tokens that lie evenly over the row come first. On an accelerator the warning comes
    only where the shape tells (one text token): reading the scores would make the host wait.

    Parameters
    ----------
    normalizer : Normalizer, default ``Softmax(0.1)``
    aggregator : Aggregator, default ``Max()``
    prior : Prior, default ``Uniform()``
    """

    normalizer: Normalizer = Softmax()  # noqa: RUF009  (immutable)
    aggregator: Aggregator = Max()  # noqa: RUF009
    prior: Prior = Uniform()  # noqa: RUF009
    requires = frozenset({"visual", "text"})

    def score(self, features: Features) -> Tensor:
        """Relevance to the prompt, (B, N)."""
        plain = not overridden(self, "score", {"requires"})
        plain &= type(self.normalizer) is Softmax and type(self.aggregator) is Max and type(self.prior) is Uniform
        visual, text = features.visual, features.text
        if plain and torch.float64 not in (visual.dtype, text.dtype) and usable(visual, text) and not _many(visual):
            return self._by_program(features)
        similarity = cosine_similarity(visual, text)
        log_conditional = self.normalizer(similarity, features.text_mask)
        marginal = log_marginal(log_conditional, self.prior.log_prior(features), features.visual_mask)
        scores = aggregated(self.aggregator, pmi(log_conditional, marginal), log_conditional, features.text_mask)
        return self._unless_degenerate(scores, similarity, features)

    def _by_program(self, features: Features) -> Tensor:
        from tokenprune.kernels.similarity import pmi_relevance  # needs Triton

        assert isinstance(self.normalizer, Softmax)
        visual, text = features.visual, features.text
        if text.shape[1] == 1 < features.n_visual:
            _warn_degenerate(list(range(features.batch)))
        known = cosine_products(visual, text)
        return pmi_relevance(*known, 1 / self.normalizer.tau, features.visual_mask, features.text_mask)

    def _unless_degenerate(self, scores: Tensor, similarity: Tensor, features: Features) -> Tensor:
        valid = features.valid()
        highest = scores.where(valid, -torch.inf).amax(1)
        lowest = scores.where(valid, torch.inf).amin(1)
        rounding = 16 * torch.finfo(scores.dtype).eps / getattr(self.normalizer, "tau", 1.0)
        flat = (highest - lowest <= rounding) & (valid.sum(1) > 1)
        rows = _known_rows(flat, similarity.shape[2] == 1 < features.n_visual)
        if rows:
            _warn_degenerate(rows)
        elif on_host(flat):
            return scores
        nearest = Max()(similarity, mask=features.text_mask)
        spread = nearest.where(valid, -torch.inf).amax(1) - nearest.where(valid, torch.inf).amin(1)
        silent = (spread <= rounding).unsqueeze(-1)
        return torch.where(
            flat.unsqueeze(-1), torch.where(silent, _golden_ratio_order(valid).to(nearest.dtype), nearest), scores
        )


def _warn_degenerate(rows: list[int]) -> None:
    warnings.warn(
        f"the prompt does not tell visual tokens apart in rows {rows} (one text token, or all alike): "
        "scored by cosine similarity to the text instead of PMI",
        DegenerateRelevanceWarning,
        stacklevel=3,
    )


def _golden_ratio_order(valid: Tensor) -> Tensor:
    """Scores whose k largest lie evenly over the real tokens, for every k: (B, N), from -1e-6 to 0.

    Multiples of the golden ratio modulo 1 fill the interval evenly; so small that redundancy decides where it counts.
    """
    rank = valid.cumsum(1) - 1
    return -1e-6 * (rank.double() * ((math.sqrt(5) - 1) / 2)).frac()


def _known_rows(flags: Tensor, certain: bool) -> list[int]:
    """Rows that are True; of flags on an accelerator, which stay unread, all or none."""
    if on_host(flags):
        return [int(row) for row in flags.nonzero().flatten().tolist()]
    return list(range(len(flags))) if certain else []


def _many(visual: Tensor) -> bool:
    """Whether tokens are too many for one program a sample."""
    return visual.shape[1] > ONE_PROGRAM


@dataclass(frozen=True)
class TextSimilarity(Scorer):
    """Cosine similarity to the prompt's tokens (the paper's "Similarity" row; Eqn 14 without temperature).

    Parameters
    ----------
    aggregator : Aggregator, default ``Max()``
        The paper does not say how the text tokens are reduced; ``mean`` is the other reading.
    """

    aggregator: Aggregator = Max()  # noqa: RUF009  (immutable)
    requires = frozenset({"visual", "text"})

    def score(self, features: Features) -> Tensor:
        """Similarity to the text, (B, N)."""
        return aggregated(self.aggregator, cosine_similarity(features.visual, features.text), mask=features.text_mask)


@dataclass(frozen=True)
class ConditionedRelevance(Scorer):
    """Cosine to the text, signed, averaged over the text and min-max scaled: a quality in (0, 1] (CDPruner, TRIM).

    Reads a contrastive model's joint space where both its signals are given, else the prompt's tokens in projection
    space. In CLIP's joint space patches of the last-but-one layer are *less* similar to the text that describes them,
    as the method's authors found, so the sign is negative there.

    Parameters
    ----------
    sign : int, optional
        1 or -1; by default -1 in the joint space and 1 in projection space.
    over : str, default "row"
        Smallest and largest are those of each ``row``, or of the whole ``batch`` (official code: then the other
        images of a batch decide about this one).
    """

    sign: Literal[1, -1] | None = None
    over: Literal["row", "batch"] = "row"
    requires = frozenset({"visual", "text"})
    prefers = frozenset({"joint_visual", "joint_text"})

    def __post_init__(self) -> None:
        check_choice(self, "over", ("row", "batch"))
        if self.sign not in (None, 1, -1):
            raise ConfigError(f"ConditionedRelevance.sign must be 1, -1 or None, got {self.sign!r}")

    def score(self, features: Features) -> Tensor:
        """Relevance from 1e-6 to 1, over the range, (B, N); constant rows are 1e-6 throughout."""
        joint = all(name in features for name in self.prefers)
        sign = (-1 if joint else 1) if self.sign is None else self.sign
        visual, text = (features["joint_visual"], features["joint_text"]) if joint else (features.visual, features.text)
        mask = None if joint else features.text_mask
        plain = self.over == "row" and not overridden(self, "score", {"requires"})
        if plain and torch.float64 not in (visual.dtype, text.dtype) and usable(visual, text) and not _many(visual):
            from tokenprune.kernels.similarity import text_quality  # needs Triton

            return text_quality(*cosine_products(visual, text), sign, features.visual_mask, mask)
        relevance = sign * Mean()(cosine_similarity(visual, text), mask=mask)
        valid = features.valid()
        lowest = relevance.where(valid, torch.inf).amin(1, keepdim=True)
        highest = relevance.where(valid, -torch.inf).amax(1, keepdim=True)
        if self.over == "batch":
            lowest, highest = lowest.amin(0), highest.amax(0)
        span = highest - lowest
        return (relevance - lowest + 1e-6) / torch.where(span > 0, span, 1.0)


@dataclass(frozen=True)
class TextAlignment(Scorer):
    """Minus the mean L2 distance to the prompt's tokens (TrimTokenator).

    Under p(t | v) = N(v, sigma^2 I) the mean squared distance bounds mutual information up to constants. Squared
    distances only depend on the mean of the text: O(N d).

    Parameters
    ----------
    squared : bool, default True
        Average squared distances, or plain ones (O(N T d); the public text allows both readings).
    """

    squared: bool = True
    requires = frozenset({"visual", "text"})

    def score(self, features: Features) -> Tensor:
        """Alignment, (B, N), at most 0."""
        visual, text = working_precision(features.visual), working_precision(features.text)
        if not self.squared:
            # distances from differences: the matrix-product form loses the small ones
            distance = torch.cdist(visual, text, compute_mode="donot_use_mm_for_euclid_dist")
            return -Mean()(distance, mask=features.text_mask)
        mask = torch.ones_like(text[..., :1]) if features.text_mask is None else features.text_mask.unsqueeze(-1)
        count = mask.sum(1, keepdim=True)
        centre = (text * mask).sum(1, keepdim=True) / count
        spread = ((text - centre) * mask).square().sum((1, 2)) / count.view(-1)
        return -((visual - centre).square().sum(-1) + spread.unsqueeze(-1))


@dataclass(frozen=True)
class ClsAttention(Scorer):
    """Attention of the encoder's [CLS] to each patch (Eqn 4, left), reduced over heads.

    Parameters
    ----------
    reduce : str, default "mean"
        "mean" or "sum" over heads; the ranking is the same up to rounding.
    """

    reduce: Literal["mean", "sum"] = "mean"
    requires = frozenset({"cls_attention"})

    def __post_init__(self) -> None:
        check_choice(self, "reduce", ("mean", "sum"))

    def score(self, features: Features) -> Tensor:
        """Salience, (B, N)."""
        attention = working_precision(features["cls_attention"])
        return attention.mean(1) if self.reduce == "mean" else attention.sum(1)


@dataclass(frozen=True)
class ReceivedAttention(Scorer):
    """Attention each patch receives from the other patches, summed (Eqn 4, right; the paper's "Attention" row)."""

    requires = frozenset({"received_attention"})

    def score(self, features: Features) -> Tensor:
        """Salience, (B, N)."""
        return working_precision(features["received_attention"])


@dataclass(frozen=True)
class Random(Scorer):
    """Independent uniform numbers: the baseline that every method has to beat.

    A draw belongs to a picture: it follows from its pixels (of features without ``noise``: from its tokens) and the
    seed, and is the same in any batch, in any call, on every device. Copies of a picture keep the same tokens.

    Parameters
    ----------
    seed : int, default 0
    """

    seed: int = 0
    requires = frozenset({"visual"})
    prefers = frozenset({"noise"})

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise OptionTypeError(f"Random.seed must be an int, got {type(self.seed).__name__} {self.seed!r}")

    def score(self, features: Features) -> Tensor:
        """Uniform in [0, 1), (B, N), float64."""
        if "noise" in features:
            return reseeded(features["noise"], self.seed)
        mask = features.visual_mask
        return reseeded(place_noise(fingerprint(features.visual, mask), features.n_visual, mask), self.seed)
