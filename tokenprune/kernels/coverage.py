"""Greedy facility location in one launch: every row of a table is served by its best pick.

Candidates are shared out among programs, each of which keeps what every row already has. A gain is a sum over rows;
it is added up in float64 and rounded to float32, as the objective does on tensors, so that the order of addition does
not show: two sums that differ in the last bit of float64 round alike but for about one in 10^8.
"""

# mypy: disable-error-code="import-untyped, import-not-found, no-untyped-def, no-untyped-call, untyped-decorator"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenprune.kernels import power_of_two
from tokenprune.kernels.exchange import agree, best_of
from tokenprune.kernels.launch import Launch, share_out

__all__ = ["greedy_coverage"]


@triton.jit(do_not_specialize=["rows", "most"])
def _coverage(
    table,
    best,
    available,
    counts,
    out,
    slots,
    scratch,
    rows,
    n,
    most,
    EVEN: tl.constexpr,
    REPEATS: tl.constexpr,
    RESIDENT: tl.constexpr,
    PROGRAMS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    row = tl.program_id(1)
    first = program * BLOCK
    i = first + tl.arange(0, BLOCK)
    r = tl.arange(0, ROWS)
    inside = i < n
    open_ = tl.load(available + row * n + i, mask=inside, other=0) != 0
    count = most if EVEN else tl.load(counts + row).to(tl.int32)
    table += row.to(tl.int64) * rows * n
    best += row * rows
    out += row.to(tl.int64) * most
    slots += row.to(tl.int64) * most * PROGRAMS
    # each program has its own copy of what the rows have
    scratch += (row.to(tl.int64) * PROGRAMS + program) * rows
    if RESIDENT:
        held = tl.load(best + r, mask=r < rows, other=0.0)
        where = r[:, None].to(tl.int64) * n + i[None, :]
        tile = tl.load(table + where, mask=(r < rows)[:, None] & inside[None, :], other=0.0)
    broken = 0
    pick = -1
    for step in range(count):
        if RESIDENT:
            rise = tl.maximum(tile - held[:, None], 0.0)
            total = tl.sum(rise.to(tl.float64), axis=0)
        else:
            total = tl.zeros((BLOCK,), tl.float64)
            for start in range(0, rows, ROWS):
                part = start + r
                real = part < rows
                if step == 0:
                    held = tl.load(best + part, mask=real, other=0.0)
                else:
                    held = tl.load(scratch + part, mask=real, other=0.0)
                    served = tl.load(table + part.to(tl.int64) * n + pick, mask=real, other=0.0)
                    held = tl.maximum(held, served)
                tl.store(scratch + part, held, mask=real)
                where = part[:, None].to(tl.int64) * n + i[None, :]
                tile = tl.load(table + where, mask=real[:, None] & inside[None, :], other=0.0)
                total += tl.sum(tl.maximum(tile - held[:, None], 0.0).to(tl.float64), axis=0)
        gain = tl.where(open_, total.to(tl.float32), float("-inf"))
        top, pick = best_of(gain, first)
        if PROGRAMS > 1:
            pick = agree(slots + step * PROGRAMS, program, top, pick, PROGRAMS)
        broken = tl.where(pick < 0, 1, broken)
        pick = tl.maximum(pick, 0)
        if program == 0:
            tl.store(out + step, pick.to(tl.int64))
        if not REPEATS:
            open_ = open_ & (i != pick)
        if RESIDENT:
            served = tl.load(table + r.to(tl.int64) * n + pick, mask=r < rows, other=0.0)
            held = tl.maximum(held, served)
    if program == 0:
        begin = tl.where(broken != 0, 0, count)
        for step in range(begin, most):
            tl.store(out + step, tl.full((), -1, tl.int64))


def _shape(rows: int, n: int, batch: int, device: torch.device) -> tuple[int, int, int, int]:
    """Programs a sample, rows at a time, candidates a program, warps."""
    width = power_of_two(n, 16)
    tall = power_of_two(rows)
    if device.type != "cuda":
        return 1, min(tall, 64), width, 4
    programs = share_out(width, batch, device, 8)
    block = width // programs
    # a tile of 16,384 numbers stays in the registers of 8 warps; a taller table is read anew in parts
    tall = min(tall, max(16, 16384 // block))
    return programs, tall, block, 8 if tall * block >= 4096 else 4


def greedy_coverage(
    table: Tensor,
    best: Tensor,
    available: Tensor,
    counts: tuple[int, ...],
    *,
    repeats: bool = False,
) -> Tensor:
    """Picks in order, ties to the lowest index.

    Parameters
    ----------
    table : float32 Tensor, (B, R, N)
        Not negative.
    best : Tensor, (B, R)
        What each row has so far.
    available : bool Tensor, (B, N)
    counts : tuple of int
    repeats : bool, default False
        Leave picked tokens among the candidates.

    Returns
    -------
    int64 Tensor, (B, max count)
        -1 as padding, and throughout a row in which a gain was NaN.
    """
    batch, rows, n = table.shape
    programs, tall, block, warps = _shape(rows, n, batch, table.device)
    launch = Launch(batch, counts, table.device, programs, warps)
    out = launch.picks()
    if launch.most == 0:
        return out
    resident = tall >= rows
    scratch = best if resident else torch.empty(batch, programs, rows, dtype=torch.float32, device=table.device)
    _coverage[launch.grid](
        table.contiguous(),
        best.contiguous(),
        available.contiguous().view(torch.uint8),
        launch.rows(counts, out),
        out,
        launch.slots(out),
        scratch,
        rows,
        n,
        launch.most,
        REPEATS=repeats,
        RESIDENT=resident,
        ROWS=tall,
        BLOCK=block,
        **launch.options,
    )
    return out
