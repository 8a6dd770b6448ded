"""How much each visual token matters."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tokenprune.components.aggregators import Max
from tokenprune.components.base import Aggregator, Normalizer, Prior, Scorer, check_choice
from tokenprune.components.normalizers import Softmax
from tokenprune.components.priors import Uniform
from tokenprune.errors import DegenerateRelevanceWarning, OptionTypeError
from tokenprune.features import Features, working_precision
from tokenprune.information import cosine_similarity, log_marginal, pmi

__all__ = ["PMI", "ClsAttention", "Random", "ReceivedAttention", "TextSimilarity"]


@dataclass(frozen=True)
class PMI(Scorer):
    """Pointwise mutual information with the prompt's tokens, aggregated (MI-Pruner, Eqns 14-19).

    cosine -> log p(t_j | v_i) -> log p(t_j) = log sum_i p(v_i) p(t_j | v_i) -> PMI -> one number a visual token.
    O(N T d) time, O(N T) memory.

    Where the prompt cannot tell tokens apart (a single text token, or all alike: every PMI is then 0 up to rounding)
    the scores of that row are the cosine to the text instead, with a warning.

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
        similarity = cosine_similarity(features.visual, features.text)
        log_conditional = self.normalizer(similarity, features.text_mask)
        marginal = log_marginal(log_conditional, self.prior.log_prior(features), features.visual_mask)
        scores = self.aggregator(pmi(log_conditional, marginal), log_conditional, features.text_mask)
        return self._unless_degenerate(scores, similarity, features)

    def _unless_degenerate(self, scores: Tensor, similarity: Tensor, features: Features) -> Tensor:
        valid = features.valid()
        highest = scores.where(valid, -torch.inf).amax(1)
        lowest = scores.where(valid, torch.inf).amin(1)
        rounding = 16 * torch.finfo(scores.dtype).eps / getattr(self.normalizer, "tau", 1.0)
        flat = (highest - lowest <= rounding) & (valid.sum(1) > 1)
        if bool(flat.any()):
            rows = flat.nonzero().flatten().tolist()
            warnings.warn(
                f"the prompt does not tell visual tokens apart in rows {rows} (one text token, or all alike): "
                "scored by cosine similarity to the text instead of PMI",
                DegenerateRelevanceWarning,
                stacklevel=2,
            )
            nearest = Max()(similarity, mask=features.text_mask)
            scores = torch.where(flat.unsqueeze(-1), nearest, scores)
        return scores


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
        return self.aggregator(cosine_similarity(features.visual, features.text), mask=features.text_mask)


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

    Parameters
    ----------
    seed : int, default 0
        The same seed and shape give the same numbers on every device; rows of a batch differ.
    """

    seed: int = 0
    requires = frozenset({"visual"})

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise OptionTypeError(f"Random.seed must be an int, got {type(self.seed).__name__} {self.seed!r}")

    def score(self, features: Features) -> Tensor:
        """Uniform in [0, 1), (B, N), float64."""
        generator = torch.Generator().manual_seed(self.seed)
        draw = torch.rand(features.batch, features.n_visual, generator=generator, dtype=torch.float64)
        return draw.to(features.device)
