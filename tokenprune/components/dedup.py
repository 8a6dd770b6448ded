"""Remove near-duplicates, a few at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune.components.pairwise import CosineTable
from tokenprune.core.kinds import Problem, Selector, check_count, overridden
from tokenprune.core.ranking import top_k
from tokenprune.kernels import constant, usable

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
        check_count(self, "rate", 1)

    @property
    def requires(self) -> frozenset[str]:  # type: ignore[override]
        """The signal compared."""
        return frozenset({self.signal})

    def select(self, problem: Problem) -> Tensor:
        """The survivors, in the order in which the last round lists them."""
        table = CosineTable(problem.features[self.signal].double())
        sizes = tuple(n if k else 0 for n, k in zip(problem.size(), problem.counts, strict=True))
        places = top_k(problem.scores, sizes, problem.available).clamp_min(0)
        if table.gram is not None and usable(table.gram) and not overridden(self, "select", {"requires"}):
            from tokenprune.kernels.bipartite import bipartite_rounds  # needs Triton

            return bipartite_rounds(table.gram, places, sizes, problem.counts, self.rate)
        left, count = constant(sizes, places.device), constant(problem.counts, places.device)
        # how long the lists are is known before anything runs, so no round asks the device
        known = list(zip(sizes, problem.counts, strict=True))
        while any(n > k for n, k in known):
            places, left = self._round(table, places, left, count)
            known = [(n - self._dropped(n, k), k) for n, k in known]
            places = places[:, : max(n for n, _ in known)]
        kept = torch.arange(max(problem.counts), device=places.device) < count.unsqueeze(1)
        return places[:, : kept.shape[1]].where(kept, -1)

    def _dropped(self, left: int, count: int) -> int:
        return min(self.rate, left - count, -(-left // 2))

    def _round(self, table: CosineTable, places: Tensor, left: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """List what a round leaves of the first ``left`` (B,) places of each row: (B, L) and (B,), both as before."""
        rank = torch.arange(places.shape[1], device=places.device)
        even, odd = places[:, 0::2], places[:, 1::2]
        absent = rank >= left.unsqueeze(1)
        nearest = table.between(even, odd).masked_fill(absent[:, 1::2].unsqueeze(1), -math.inf).amax(2)
        nearest = nearest.masked_fill(absent[:, 0::2], -math.inf)
        ranked = even.gather(1, nearest.argsort(dim=1, descending=True, stable=True))
        n_even = left - left // 2
        drop = torch.minimum((left - count).clamp_max(self.rate), n_even)
        evens = (n_even - drop).unsqueeze(1)
        early = (rank + drop.unsqueeze(1)).clamp_max(even.shape[1] - 1)
        late = (rank - evens).clamp(0, odd.shape[1] - 1)
        listed = torch.where(rank < evens, ranked.gather(1, early), odd.gather(1, late))
        return torch.where((drop > 0).unsqueeze(1), listed, places), left - drop
