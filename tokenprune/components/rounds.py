"""Long inputs on the host: all pairs once and never kept, and greedy picks in rounds.

The rounds are those of :mod:`tokenprune.kernels.rounds`, by tensor operations: a gain that never rises bounds itself,
so that only tokens of the largest gains have to be compared with each other, by one matrix product for many picks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tokenprune.core.errors import NonFiniteError
from tokenprune.core.kinds import PairTable

__all__ = ["greedy_rounds", "log_partitions", "nearest_cosines"]

TOGETHER = 1024
"""Tokens of a round at most."""


def log_partitions(unit: Tensor, tau: float, mask: Tensor | None, rows: int) -> Tensor:
    """log sum_j exp(cos_ij / tau) over real tokens j, each pair made once: (B, N, d) of norm 1 -> (B, N).

    Sums are float64, because a token's pairs come in another order than its copy's. What stands at padding is finite.
    """
    n = unit.shape[1]
    total = unit.new_zeros(unit.shape[:2], dtype=torch.float64)
    for start in range(0, n, rows):
        stop = min(start + rows, n)
        power = (unit[:, start:stop] @ unit[:, start:].mT).sub_(1).mul_(1 / tau).exp_()
        if mask is not None:
            power.masked_fill_(~(mask[:, start:stop].unsqueeze(2) & mask[:, start:].unsqueeze(1)), 0)
        total[:, start:stop] += power.sum(2, dtype=torch.float64)
        total[:, stop:] += power[:, :, stop - start :].sum(1, dtype=torch.float64)
    log = total.clamp_min(torch.finfo(torch.float64).tiny).log() + 1 / tau
    # a token of zeros has cosine 0 to all, itself included
    size = torch.full_like(log[:, :1], n) if mask is None else mask.sum(1, keepdim=True).double()
    return torch.where((unit == 0).all(-1), size.clamp_min(1).log(), log).to(unit.dtype)


def nearest_cosines(unit: Tensor, mask: Tensor | None, rows: int) -> Tensor:
    """Largest cosine to another real token, each pair made once: (B, N, d) of norm 1 -> (B, N); -inf without one."""
    n = unit.shape[1]
    nearest = unit.new_full(unit.shape[:2], -math.inf)
    for start in range(0, n, rows):
        stop = min(start + rows, n)
        cosine = unit[:, start:stop] @ unit[:, start:].mT
        cosine.diagonal(dim1=1, dim2=2).fill_(-math.inf)
        if mask is not None:
            cosine.masked_fill_(~(mask[:, start:stop].unsqueeze(2) & mask[:, start:].unsqueeze(1)), -math.inf)
        nearest[:, start:stop] = nearest[:, start:stop].maximum(cosine.amax(2))
        if stop < n:
            nearest[:, stop:] = nearest[:, stop:].maximum(cosine[:, :, stop - start :].amax(1))
    return nearest


def greedy_rounds(
    table: PairTable,
    gains: Callable[[Tensor, Tensor], Tensor],
    entry: Callable[[Tensor], Tensor],
    fold: tuple[float, Callable[..., Tensor], Callable[..., Tensor]],
    bonus: Tensor,
    extremum: Tensor | None,
    available: Tensor,
    count: int,
    columns: int,
) -> Tensor:
    """Picks of one sample whose gains follow from an extremum over the picks' entries and never rise.

    Parameters
    ----------
    table : PairTable
        Of one sample, read by :meth:`~tokenprune.core.kinds.PairTable.between`.
    gains : callable
        Bonus and extremum of some tokens -> gains, elementwise; the bonus where the extremum is infinite.
    entry : callable
        What the extremum is taken over, of entries of the table.
    fold : tuple
        The extremum over nothing, of two tensors, and along an axis.
    bonus, extremum : Tensor, (N,)
        The gains before the first pick; what the picks so far fold to, None without one.
    available : bool Tensor, (N,)
    count : int
    columns : int
        How many columns of the table may be held at a time; a round's own table is no larger than that.

    Returns
    -------
    int64 Tensor, (count,)

    Raises
    ------
    NonFiniteError
        A gain is NaN.
    """
    nothing, of_two, along = fold
    n, least = len(bonus), torch.finfo(bonus.dtype).min
    size = min(n, TOGETHER, max(1, math.isqrt(n * columns)))
    held = torch.full_like(bonus, nothing) if extremum is None else extremum.clone()
    open_ = available.clone()
    picks: list[int] = []

    def bounded(bonus: Tensor, held: Tensor, open_: Tensor) -> Tensor:
        gain = gains(bonus, held).clamp_min(least).masked_fill(~open_, -math.inf)
        if bool(gain.isnan().any()):
            raise NonFiniteError("the gain of a token is NaN")
        return gain

    def among(bound: Tensor) -> list[int]:
        """Picks of a round: until the best that is left lies below the best outside."""
        order = bound.sort(descending=True, stable=True).indices[: size + 1]
        block = order[:size].sort().values
        limit, outside = (float(bound[order[size]]), int(order[size])) if size < n else (-math.inf, n)
        entries = entry(table.between(block[None], block[None])[0]).mT.contiguous()
        own, seen, left = bonus[block], held[block], open_[block]
        found: list[int] = []
        while len(picks) + len(found) < count:
            gain = gains(own, seen).clamp_min(least).masked_fill(~left, -math.inf)
            at = int(gain.argmax())
            top, index = float(gain[at]), int(block[at])
            if top < limit or (top == limit and index > outside):
                break
            found.append(index)
            left[at] = False
            seen = of_two(seen, entries[at])
        return found

    while len(picks) < count:
        bound = bounded(bonus, held, open_)
        # gains may rise from no pick to one, so the first is a round by itself
        new: Any = among(bound) if picks else [int(bound.argmax())]
        picks += new
        new = torch.tensor(new)
        open_[new] = False
        if len(picks) < count:
            for some in new.split(max(1, columns // 4)):  # several tensors of this size are alive at a time
                held = of_two(held, along(entry(table.between(None, some[None])[0]), -1))
    return torch.tensor(picks, dtype=torch.long)
