"""Scores as selection relies on them, and the default answer to them: the tokens with the largest."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune.core.errors import (
    FeatureError,
    NonFiniteError,
)
from tokenprune.core.features import Features, on_host
from tokenprune.core.kinds import (
    Problem,
    Scorer,
    Selector,
)
from tokenprune.core.optimality import Optimality, top_optimality
from tokenprune.kernels import LONGEST_SORT, constant, usable

__all__ = ["TopK", "relevance", "top_k", "within_budget"]


def top_k(scores: Tensor, counts: tuple[int, ...], available: Tensor) -> Tensor:
    """Positions of the largest scores a row, best first, ties to the lowest index: (B, max count), -1 as padding."""
    if scores.dtype == torch.float32 and scores.shape[1] <= LONGEST_SORT and usable(scores):
        from tokenprune.kernels.order import best_scores  # needs Triton

        return within_budget(best_scores(scores, available, max(counts)), counts)
    ranked = scores.masked_fill(~available, -math.inf).argsort(dim=-1, descending=True, stable=True)
    return within_budget(ranked[:, : max(counts)], counts)


def within_budget(order: Tensor, counts: tuple[int, ...]) -> Tensor:
    """Blank the picks behind each row's count: (B, K) -> (B, K), -1 as padding."""
    if len(set(counts)) <= 1:
        return order
    limit = constant(counts, order.device).unsqueeze(-1)
    return order.masked_fill(torch.arange(order.shape[1], device=order.device) >= limit, -1)


@dataclass(frozen=True)
class TopK(Selector):
    """The tokens with the largest scores."""

    nested = True

    def select(self, problem: Problem) -> Tensor:
        """Best first."""
        return top_k(problem.scores, problem.counts, problem.available)

    def optimality(self, problem: Problem, picks: Tensor) -> Optimality:
        """By the sum of the scores, of which these are the best."""
        return top_optimality(problem, picks)


def relevance(scorer: Scorer, features: Features) -> Tensor:
    """What a scorer says, in the form that selection relies on: larger is better, finite, 0 at padding, no gradient.

    Returns
    -------
    Tensor, (B, N)

    Raises
    ------
    FeatureError
        The scorer returned something else than a tensor (B, N).
    NonFiniteError
        It returned NaN or infinity for a real token (read on the host only; see :meth:`Selection.verify`).
    """
    scores = scorer.score(features)
    shape = (features.batch, features.n_visual)
    if not isinstance(scores, Tensor) or tuple(scores.shape) != shape:
        got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise FeatureError(f"{scorer!r} must return scores of shape {shape}, got {got}")
    scores = scores.detach()
    if features.visual_mask is not None:
        scores = scores.masked_fill(~features.visual_mask, 0)
    if on_host(scores) and not bool(torch.isfinite(scores).all()):
        raise NonFiniteError(f"{scorer!r} returned NaN or infinity")
    return scores if scorer.higher_is_better else -scores
