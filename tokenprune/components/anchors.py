"""Anchors of one layer with their neighbours in the picture, and the best of another layer (HiPrune)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune.core.indexing import as_mask
from tokenprune.core.kinds import Problem, Scorer, Selector, check_number
from tokenprune.core.ranking import relevance, top_k, within_budget

__all__ = ["AnchorsAndBuffers", "grid_neighbours", "raster_neighbours"]


def grid_neighbours(places: Tensor, chosen: Tensor) -> Tensor:
    """Chosen tokens and the tokens above, below, left and right of one, in the same frame.

    Parameters
    ----------
    places : int64 Tensor, (B, N, 3)
        Frame, row and column, -1 at padding.
    chosen : bool Tensor, (B, N)

    Returns
    -------
    bool Tensor, (B, N)
    """
    near = torch.cdist(places.float(), places.float(), p=1) <= 1  # whole numbers: exact
    near &= places[:, :, None, 0] == places[:, None, :, 0]
    return (near & chosen.unsqueeze(1)).any(2)


def raster_neighbours(places: Tensor, chosen: Tensor, valid: Tensor) -> Tensor:
    """The same by positions in the raster, as published code counts them, bool (B, N).

    A neighbour beyond the end of a row is the next row's first token; beyond the first or last row it is the first or
    last token of all.
    """
    together = places[:, :, None, 0] == places[:, None, :, 0]
    width = torch.where(together, places[:, None, :, 2], -1).amax(2) + 1  # of the picture that a token lies in
    last = valid.sum(1, keepdim=True) - 1
    place = torch.arange(chosen.shape[1], device=chosen.device).expand_as(chosen)
    local = torch.zeros_like(chosen)
    for step in (0, 1, -1, width, -width):
        moved = torch.minimum((place + step).clamp_min(0), last)
        local |= as_mask(moved.masked_fill(~chosen, -1), chosen.shape[1])
    return local


@dataclass(frozen=True)
class AnchorsAndBuffers(Selector):
    """Anchors by one score, their four neighbours, and the best of the rest by the strategy's own score.

    Parameters
    ----------
    salience : Scorer
        What makes an anchor.
    alpha : float, default 0.1
        Share of the budget, in [0, 1], for anchors and their neighbours: ``round(alpha * K / 5)`` anchors, half to
        even. Where neighbours do not fit the budget, those with the largest own score do.
    wrap : bool, default False
        Neighbours by position in the raster, as the published code has them (:func:`raster_neighbours`), not by place.
    """

    salience: Scorer
    alpha: float = 0.1
    wrap: bool = False
    requires = frozenset({"places"})

    def __post_init__(self) -> None:
        check_number(self, "alpha", 0, 1)

    def rounds(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """Anchors best first (B, A), -1 as padding, and they with their neighbours, bool (B, N)."""
        scores = relevance(self.salience, problem.features)
        anchors = top_k(scores, tuple(round(count * self.alpha / 5) for count in problem.counts), problem.available)
        chosen = as_mask(anchors, problem.available.shape[1])
        places = problem.features["places"]
        if self.wrap:
            return anchors, raster_neighbours(places, chosen, problem.available) & problem.available
        return anchors, grid_neighbours(places, chosen) & problem.available

    def select(self, problem: Problem) -> Tensor:
        """Anchors, neighbours, the best of the rest."""
        anchors, local = self.rounds(problem)
        first = as_mask(anchors, local.shape[1])
        scores = torch.where(first, relevance(self.salience, problem.features), problem.scores.to(torch.float64))
        best = scores.masked_fill(~problem.available, -torch.inf).argsort(dim=1, descending=True, stable=True)
        level = (first.to(torch.int8) + local.to(torch.int8)).gather(1, best)
        level = level.masked_fill(~problem.available.gather(1, best), -1)
        order = best.gather(1, level.argsort(dim=1, descending=True, stable=True))
        return within_budget(order[:, : max(problem.counts)], problem.counts)
