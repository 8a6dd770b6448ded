"""Greedy selection in one launch where a pick changes the gains through one column of an N x N table.

Maximal marginal relevance (cosine or self-PMI), max-min dispersion, mean dispersion and graph cut differ in what an
entry of the table is, in how entries fold into one number a candidate, and in the gain made of it. Candidates stay in
registers; a step is an argmax and one row of the cosine matrix. The operations and their order are those of the
objectives on tensors, without fused multiply-add, so picks are equal to the bit, ties included.
"""

# mypy: disable-error-code="import-untyped, import-not-found, no-untyped-def, no-untyped-call, untyped-decorator"
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenprune.kernels import power_of_two
from tokenprune.kernels.exchange import agree, best_of
from tokenprune.kernels.launch import Launch, share_out

__all__ = ["Columns", "greedy_columns"]

Entry = Literal["cosine", "pmi", "distance", "similarity"]
Gain = Literal["relevance", "extremum", "cut", "mean"]
Fold = Literal["max", "min", "sum"]


@dataclass(frozen=True)
class Columns:
    """A greedy problem over columns.

    Parameters
    ----------
    cosine : Tensor, (B, N, N)
        float32 or float64; all floats below are of the same dtype.
    bonus : Tensor, (B, N)
        The gains before the first pick.
    entry : str
        ``cosine`` as it is; ``pmi``: ``max(cosine * scale - statistics_i - marginal_j, log of the smallest number)``;
        ``distance``: 1 - cosine; ``similarity``: (1 + cosine) / 2 clamped to [0, 1].
    fold : str
        ``max``, ``min`` or ``sum``.
    gain : str
        ``relevance``: bonus - price * folded, the bonus while ``folded`` is infinite; ``extremum``: folded, likewise;
        ``cut``: bonus - price * folded; ``mean``: - folded / picks, the bonus while there are none.
    folded : Tensor, (B, N), optional
        What the entries of the picks so far fold to; may be left out before the first pick of an extremum.
    price, scale : float
    statistics, marginal : Tensor, (B, N), optional
        For ``pmi``.
    picks : Tensor, (B, 1), optional
        Picks so far, for ``mean``.
    """

    cosine: Tensor
    bonus: Tensor
    entry: Entry
    fold: Fold
    gain: Gain
    folded: Tensor | None = None
    price: float = 0.0
    scale: float = 1.0
    statistics: Tensor | None = None
    marginal: Tensor | None = None
    picks: Tensor | None = None


@triton.jit(do_not_specialize=["most", "marginal_row"])
def _columns(
    cosine,
    bonus,
    folded,
    statistics,
    marginal,
    picks,
    available,
    counts,
    out,
    slots,
    n,
    most,
    marginal_row,
    marginal_column,
    price,
    scale,
    floor,
    lowest,
    ENTRY: tl.constexpr,
    FOLD: tl.constexpr,
    GAIN: tl.constexpr,
    BEGUN: tl.constexpr,
    EVEN: tl.constexpr,
    REPEATS: tl.constexpr,
    PROGRAMS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    row = tl.program_id(1)
    first = program * BLOCK
    i = first + tl.arange(0, BLOCK)
    inside = i < n
    at = row * n + i
    reward = tl.load(bonus + at, mask=inside, other=0.0)
    if not BEGUN and FOLD == "max":
        held = tl.full((BLOCK,), float("-inf"), reward.dtype)
    elif not BEGUN and FOLD == "min":
        held = tl.full((BLOCK,), float("inf"), reward.dtype)
    else:
        held = tl.load(folded + at, mask=inside, other=0.0)
    open_ = tl.load(available + at, mask=inside, other=0) != 0
    own = reward
    if ENTRY == "pmi":
        own = tl.load(statistics + at, mask=inside, other=0.0)
    so_far = 0.0
    if GAIN == "mean":
        so_far = tl.load(picks + row).to(tl.float32)
    count = most if EVEN else tl.load(counts + row).to(tl.int32)
    table = cosine + row.to(tl.int64) * n * n
    out += row.to(tl.int64) * most
    slots += row.to(tl.int64) * most * PROGRAMS
    broken = 0
    for step in range(count):
        if GAIN == "relevance":
            gain = tl.where(tl.abs(held) == float("inf"), reward, reward - price * held)
        elif GAIN == "extremum":
            gain = tl.where(tl.abs(held) == float("inf"), reward, held)
        elif GAIN == "cut":
            gain = reward - price * held
        else:
            picked = tl.maximum(so_far, 1.0).to(held.dtype) + tl.zeros_like(held)
            mean = held / picked if held.dtype == tl.float64 else tl.math.div_rn(held, picked)
            gain = tl.where(so_far > 0, -mean, reward)
        gain = tl.where(gain < lowest, lowest, gain)
        gain = tl.where(open_, gain, float("-inf"))
        top, pick = best_of(gain, first)
        if PROGRAMS > 1:
            pick = agree(slots + step * PROGRAMS, program, top, pick, PROGRAMS)
        broken = tl.where(pick < 0, 1, broken)
        pick = tl.maximum(pick, 0)
        if program == 0:
            tl.store(out + step, pick.to(tl.int64))
        if not REPEATS:
            open_ = open_ & (i != pick)
        entry = tl.load(table + pick.to(tl.int64) * n + i, mask=inside, other=0.0)
        if ENTRY == "pmi":
            entry = entry * scale - own - tl.load(marginal + row * marginal_row + pick * marginal_column)
            entry = tl.where(entry < floor, floor, entry)
        elif ENTRY == "distance":
            entry = 1 - entry
        elif ENTRY == "similarity":
            entry = tl.minimum(tl.maximum((1 + entry) * 0.5, 0.0), 1.0)
        if FOLD == "max":
            held = tl.maximum(held, entry)
        elif FOLD == "min":
            held = tl.minimum(held, entry)
        else:
            held += entry
        so_far += 1
    if program == 0:
        start = tl.where(broken != 0, 0, count)
        for step in range(start, most):
            tl.store(out + step, tl.full((), -1, tl.int64))


def _shape(n: int, batch: int, dtype: torch.dtype, device: torch.device) -> tuple[int, int, int]:
    """Programs a sample, candidates a program, warps."""
    width = power_of_two(n)
    # a program handles 2,048 candidates at the cost of an exchange; more than that is faster shared
    programs = share_out(width, batch, device, 2048) if dtype == torch.float32 else 1
    block = max(16, width // programs)
    return programs, block, min(32, max(4, block // 256))


def greedy_columns(problem: Columns, available: Tensor, counts: tuple[int, ...], *, repeats: bool = False) -> Tensor:
    """Picks in order, ties to the lowest index.

    Parameters
    ----------
    problem : Columns
    available : bool Tensor, (B, N)
    counts : tuple of int
    repeats : bool, default False
        Leave picked tokens among the candidates.

    Returns
    -------
    int64 Tensor, (B, max count)
        -1 as padding, and throughout a row in which a gain was NaN.
    """
    cosine = problem.cosine
    batch, n = problem.bonus.shape
    programs, block, warps = _shape(n, batch, cosine.dtype, cosine.device)
    launch = Launch(batch, counts, cosine.device, programs, warps)
    out = launch.picks()
    if launch.most == 0:
        return out
    limits = torch.finfo(cosine.dtype)
    numbers = (problem.price, problem.scale, math.log(limits.tiny), limits.min)
    if cosine.dtype == torch.float64:
        numbers = tuple(tl.constexpr(number) for number in numbers)  # a plain float would be rounded to float32
    unused = problem.bonus
    marginal = unused if problem.marginal is None else problem.marginal  # may be one number for all
    _columns[launch.grid](
        cosine,
        problem.bonus.contiguous(),
        unused if problem.folded is None else problem.folded.contiguous(),
        unused if problem.statistics is None else problem.statistics.contiguous(),
        marginal,
        unused if problem.picks is None else problem.picks,
        available.contiguous().view(torch.uint8),
        launch.rows(counts, out),
        out,
        launch.slots(out),
        n,
        launch.most,
        *marginal.stride(),
        *numbers,
        ENTRY=problem.entry,
        FOLD=problem.fold,
        GAIN=problem.gain,
        BEGUN=problem.folded is not None,
        REPEATS=repeats,
        BLOCK=block,
        **launch.options,
    )
    return out
