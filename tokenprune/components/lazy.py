"""Lazy greedy: a gain that never rises need not be looked at again while it is not the largest (Minoux, 1978)."""

from __future__ import annotations

import heapq
import math

import torch
from torch import Tensor

from tokenprune.core.errors import NonFiniteError
from tokenprune.core.kinds import BEFORE_THE_PICKS, Objective, Oracle, State, check_gains, overridden

__all__ = ["can_be_lazy", "gain_of", "lazy_batch", "lazy_row"]

_AT_A_TIME = 16
"""Gains of a row that are brought up to date together; twice as many each time it was too few."""


def can_be_lazy(objective: Objective) -> bool:
    """Whether a batch's picks can be found from single gains: they never rise, and the class itself gives them."""
    own = type(objective).gains_of is not Objective.gains_of
    return own and objective.non_increasing_gains and not overridden(objective, "gains_of", BEFORE_THE_PICKS)


def lazy_batch(objective: Objective, state: State, available: Tensor, counts: tuple[int, ...]) -> Tensor:
    """Greedy picks of a batch, those of all gains at each pick.

    Parameters
    ----------
    objective : Objective
        One that :func:`can_be_lazy`.
    state : State
    available : bool Tensor, (B, N)
    counts : tuple of int
        Budget of each row.

    Returns
    -------
    int64 Tensor, (B, max count)
        -1 as padding.

    Raises
    ------
    NonFiniteError
        A gain is NaN.
    """
    open_ = available.clone()
    rows = torch.arange(len(open_), device=open_.device)
    limit = torch.tensor(counts, device=open_.device)
    ragged, most = len(set(counts)) > 1, max(counts)
    order: list[Tensor] = []
    bound = torch.empty(0)
    for step in range(most):
        if step < 2:  # gains may rise from no pick to one
            bound = objective.gains(state)
            check_gains(objective, bound, tuple(open_.shape))
            _check_numbers(objective, bound, open_)
            fresh = torch.ones_like(open_)
        else:
            fresh = torch.zeros_like(open_)
        # a candidate whose gain is -inf still comes before a token that is no candidate
        bound = bound.clamp_min(torch.finfo(bound.dtype).min).masked_fill(~open_, -math.inf)
        size = _AT_A_TIME
        pick = bound.argmax(-1)
        while not bool(fresh[rows, pick].all()):
            stale = bound.masked_fill(fresh, -math.inf).topk(min(size, open_.shape[1])).indices
            asked = open_.gather(1, stale) & ~fresh.gather(1, stale)
            now = objective.gains_of(state, stale)
            _check_numbers(objective, now, asked)
            now = now.clamp_min(torch.finfo(bound.dtype).min).where(asked, bound.gather(1, stale))
            bound = bound.scatter(1, stale, now)
            fresh.scatter_(1, stale, True)
            pick, size = bound.argmax(-1), size * 2
        open_.scatter_(1, pick.unsqueeze(-1), False)
        if ragged:
            pick = pick.masked_fill(step >= limit, -1)
        order.append(pick)
        if step + 1 < most:
            state = objective.take(state, pick)
    return torch.stack(order, dim=1) if order else open_.new_zeros((open_.shape[0], 0), dtype=torch.long)


def _check_numbers(objective: Objective, gains: Tensor, asked: Tensor) -> None:
    if bool((gains.isnan() & asked).any()):
        raise NonFiniteError(f"{objective!r}: the gain of a token is NaN")


def gain_of(oracle: Oracle, candidate: int) -> float:
    """Gain of one candidate, which must be a number."""
    gain = oracle.gain(candidate)
    if math.isnan(gain):
        raise NonFiniteError(f"the gain of token {candidate} is NaN")
    return gain


def lazy_row(oracle: Oracle, candidates: list[int], count: int, *, started: bool) -> list[int]:
    """Lazy greedy. Gains may rise from no pick to one, so the heap is made after the first pick."""
    picks: list[int] = []
    if not started and count:
        _, first = min((-gain_of(oracle, i), i) for i in candidates)
        picks.append(first)
        oracle.take(first)
    if len(picks) == count:
        return picks
    # (negative gain, index): the smallest is the largest gain, ties to the lowest index
    heap = [(-gain_of(oracle, i), i, len(picks)) for i in candidates if i not in picks]
    heapq.heapify(heap)
    while len(picks) < count:
        _, index, evaluated = heap[0]
        if evaluated == len(picks):
            heapq.heappop(heap)
            picks.append(index)
            if len(picks) < count:
                oracle.take(index)
        else:
            heapq.heapreplace(heap, (-gain_of(oracle, index), index, len(picks)))
    return picks
