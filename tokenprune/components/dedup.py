"""Remove near-duplicates, a few at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune.components.base import Problem, Selector, check_number
from tokenprune.components.pairwise import CosineTable

__all__ = ["BipartiteDedup"]


@dataclass(frozen=True)
class BipartiteDedup(Selector):
    """Rounds of bipartite matching, each dropping the tokens most similar to the other half (VisPruner).

    Candidates start in descending order of score. In a round those at even places are compared with those at odd
    places; the ``rate`` most redundant even ones go. What is left is listed as evens by descending similarity, then
    odds as they were, so that places change in every round. It is a heuristic, and a chaotic one: noise in the last
    bit changes places and with them half of the result. Cosines are therefore float64.

    The reference computes cosines anew each round; here they are computed once: O(N^2 d) instead of O(N^3 d / rate).
    It also fails where a round drops more than half of the list, or where the list is odd; both are allowed here.

    Parameters
    ----------
    rate : int, default 8
        Most tokens dropped in a round, at least 1.
    signal : str, default "encoder"
        Whose cosine is compared.
    """

    rate: int = 8
    signal: str = "encoder"

    def __post_init__(self) -> None:
        check_number(self, "rate", 1, float("inf"))

    @property
    def requires(self) -> frozenset[str]:  # type: ignore[override]
        """The signal compared."""
        return frozenset({self.signal})

    def select(self, problem: Problem) -> Tensor:
        """The survivors, in the order in which the last round lists them."""
        table = CosineTable(problem.features[self.signal].double())
        out = torch.full((len(problem.counts), max(problem.counts)), -1, device=problem.scores.device)
        for row, count in enumerate(problem.counts):
            if count:
                out[row, :count] = self._survivors(table, row, self._listed(problem, row), count)
        return out

    def _listed(self, problem: Problem, row: int) -> Tensor:
        candidates = problem.available[row].nonzero().flatten()
        return candidates[problem.scores[row, candidates].argsort(descending=True, stable=True)]

    def _survivors(self, table: CosineTable, row: int, places: Tensor, count: int) -> Tensor:
        while (surplus := len(places) - count) > 0:
            even, odd = places[0::2], places[1::2]
            nearest = table.between(row, even, odd).amax(1)
            ranked = even[nearest.argsort(descending=True, stable=True)]
            places = torch.cat([ranked[min(self.rate, surplus) :], odd])
        return places
