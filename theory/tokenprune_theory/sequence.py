"""Algorithm 1 on given relevance c (n,) and pair table D (n, n), in plain Python: the oracle for everything faster.

Gain of candidate i after picks S: ``lam * c_i - (1 - lam) * max_{j in S} D_ij`` (Eqn 22).
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from tokenprune_theory.discrete import Array
from tokenprune_theory.setfn import Trace

__all__ = ["first_pick", "gain", "max_spanning_tree", "select", "sequence_value", "static_heap", "value_range"]


def gain(c: Array, pairs: Array, lam: float, i: int, picks: Sequence[int], empty: float = 0.0) -> float:
    """S_i of Eqn 22; ``empty`` stands for the maximum over no pick, which the paper leaves open."""
    if lam == 1:
        return float(c[i])
    redundancy = max((float(pairs[i, j]) for j in picks), default=empty)
    return lam * float(c[i]) - (1 - lam) * redundancy


def first_pick(c: Array, pairs: Array, lam: float, convention: str = "relevance") -> int:
    """The first pick under a convention for the maximum over no pick.

    "relevance": counts as 0, so the most relevant token. "minus infinity": every score is +inf, so the first index.
    "diagonal": a token's redundancy with itself.
    """
    if convention == "minus infinity" and lam < 1:
        return 0
    bonus = lam * c - ((1 - lam) * np.diag(pairs) if convention == "diagonal" and lam < 1 else 0)
    return int(np.argmax(bonus))


def select(
    c: Array, pairs: Array, lam: float, k: int, first: str = "relevance", method: str = "naive", counter: bool = False
) -> Trace:
    """Picks, gains and number of gains evaluated.

    Parameters
    ----------
    first : str, default "relevance"
        See :func:`first_pick`.
    method : str, default "naive"
        "naive" evaluates every candidate at every step; "lazy" keeps stale gains in a heap made after the first pick;
        "lazy from empty" makes the heap before it, with 0 for the maximum over no pick.
    counter : bool, default False
        Break ties in the heap by order of insertion instead of by index.
    """
    n = len(c)
    if method == "naive":
        picks: list[int] = []
        gains: list[float] = []
        evaluations = 0
        while len(picks) < k:
            left = [i for i in range(n) if i not in picks]
            value = {i: gain(c, pairs, lam, i, picks) for i in left}
            evaluations += len(left)
            best = max(left, key=lambda i: (value[i], -i)) if picks else first_pick(c, pairs, lam, first)
            picks.append(best)
            gains.append(value[best])
        return Trace(tuple(picks), tuple(gains), evaluations)
    picks, gains = [], []
    if method == "lazy":
        picks = [first_pick(c, pairs, lam, first)]
        gains = [gain(c, pairs, lam, picks[0], [])]
    tick = itertools.count()

    def entry(i: int) -> tuple[float, int, int, int]:
        return (-gain(c, pairs, lam, i, picks), next(tick) if counter else i, i, len(picks))

    heap = [entry(i) for i in range(n) if i not in picks]
    heapq.heapify(heap)
    evaluations = n if method == "lazy" else 0
    evaluations += len(heap)
    while len(picks) < k:
        negative, _, i, seen = heapq.heappop(heap)
        if seen == len(picks):
            picks.append(i)
            gains.append(-negative)
        else:
            heapq.heappush(heap, entry(i))
            evaluations += 1
    return Trace(tuple(picks), tuple(gains), evaluations)


def static_heap(c: Array, k: int) -> tuple[int, ...]:
    """Build the heap once at no pick and pop k times, evaluating nothing again (Sec. 4.3 to the letter)."""
    heap = [(-float(value), i) for i, value in enumerate(c)]
    heapq.heapify(heap)
    return tuple(heapq.heappop(heap)[1] for _ in range(k))


def sequence_value(c: Array, pairs: Array, lam: float, order: Sequence[int]) -> float:
    """Sum of the gains along an order."""
    return math.fsum(gain(c, pairs, lam, i, order[:step]) for step, i in enumerate(order))


def value_range(c: Array, pairs: Array, lam: float, tokens: Sequence[int]) -> tuple[float, float]:
    """Smallest and largest sum of gains over all orders of the same tokens."""
    values = [sequence_value(c, pairs, lam, order) for order in itertools.permutations(tokens)]
    return min(values), max(values)


def max_spanning_tree(pairs: Array, tokens: Sequence[int]) -> tuple[float, tuple[int, ...]]:
    """Weight of the heaviest spanning tree of a symmetric table over some tokens, and an order that attains it."""
    order = [tokens[0]]
    weight: list[float] = []
    key: Callable[[int], float] = lambda i: max(float(pairs[i, j]) for j in order)  # noqa: E731
    while len(order) < len(tokens):
        nearest = max((i for i in tokens if i not in order), key=key)
        weight.append(key(nearest))
        order.append(nearest)
    return math.fsum(weight), tuple(order)
