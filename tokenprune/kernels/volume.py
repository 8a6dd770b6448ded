"""Greedy log-determinant in one launch: each pick adds a row to an incremental Cholesky factor, in float64.

A candidate's entry of the new row is a sum over the picks so far. The objective on tensors adds in another order, so
variances may differ in the last bits of float64; picks differ only where two variances are equal to about 1e-13 of the
quality without being equal (copies of a token are equal either way, and the lowest index goes first).
"""

# mypy: disable-error-code="import-untyped, import-not-found, no-untyped-def, no-untyped-call, untyped-decorator"
from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenprune.kernels import power_of_two
from tokenprune.kernels.exchange import best_of
from tokenprune.kernels.launch import Launch, share_out

__all__ = ["greedy_volume", "volume_rounds"]

TOGETHER = 1024
"""Tokens of a round."""


@triton.jit
def _agree(keys, flags, program, top, at, PROGRAMS: tl.constexpr):
    """As ``exchange.agree`` for float64: the value in one word, then the position with what was written before it."""
    bits = tl.where(top == 0, 0.0, top).to(tl.int64, bitcast=True)
    tl.store(keys + program, bits)
    tl.debug_barrier()
    # 0 is an empty flag, 1 a candidate that is NaN
    tl.atomic_xchg(flags + program, at + 2, sem="release", scope="gpu")
    lanes = tl.arange(0, PROGRAMS)
    seen = tl.atomic_add(flags + lanes, tl.zeros((PROGRAMS,), tl.int32), sem="acquire", scope="gpu")
    while tl.min(seen, axis=0) == 0:
        seen = tl.atomic_add(flags + lanes, tl.zeros((PROGRAMS,), tl.int32), sem="acquire", scope="gpu")
    tl.debug_barrier()
    tops = tl.load(keys + lanes, volatile=True).to(tl.float64, bitcast=True)
    best = tl.max(tops, axis=0)
    at = tl.min(tl.where(tops == best, seen, 0x7FFFFFFF), axis=0) - 2
    return best, tl.where(tl.min(seen, axis=0) == 1, -1, at)


@triton.jit(do_not_specialize=["most", "depth"])
def _volume(
    cosine,
    quality,
    variance,
    ridge,
    factor,
    available,
    counts,
    out,
    keys,
    flags,
    block,
    limit,
    tops,
    done,
    n,
    most,
    depth,
    EVEN: tl.constexpr,
    REPEATS: tl.constexpr,
    LIMITED: tl.constexpr,
    PROGRAMS: tl.constexpr,
    DEEP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    row = tl.program_id(1)
    first = program * BLOCK
    i = first + tl.arange(0, BLOCK)
    inside = i < n
    at = row * n + i
    own = tl.load(quality + at, mask=inside, other=1.0)
    left = tl.load(variance + at, mask=inside, other=0.0)
    least = tl.load(ridge + at, mask=inside, other=0.0)
    open_ = tl.load(available + at, mask=inside, other=0) != 0
    count = most if EVEN else tl.load(counts + row).to(tl.int32)
    table = cosine + row.to(tl.int64) * n * n
    factor += row.to(tl.int64) * (depth + most) * n
    out += row.to(tl.int64) * most
    keys += row.to(tl.int64) * most * PROGRAMS
    flags += row.to(tl.int64) * most * PROGRAMS
    t = tl.arange(0, DEEP)
    broken = 0
    step = 0
    going = count > 0
    while going:
        gain = tl.where(open_, left, float("-inf"))
        top, pick = best_of(gain, first)
        if PROGRAMS > 1:
            top, pick = _agree(keys + step * PROGRAMS, flags + step * PROGRAMS, program, top, pick, PROGRAMS)
        else:
            tl.debug_barrier()
        broken = tl.where(pick < 0, 1, broken)
        pick = tl.maximum(pick, 0)
        if LIMITED:
            # a token outside the block may gain as much as the first of them did when the block was made
            least_top = tl.load(limit).to(tl.float64, bitcast=True)
            ahead = (top == least_top) & (tl.load(block + pick) < tl.load(limit + 1))
            going = (broken == 0) & ((top > least_top) | ahead)
        if program == 0:
            tl.store(out + step, pick.to(tl.int64), mask=going)
            if LIMITED:
                tl.store(tops + step, top, mask=going)
        if not REPEATS:
            open_ = open_ & (i != pick)
        rows = depth + step
        total = tl.zeros((BLOCK,), tl.float64)
        for start in range(0, rows, DEEP):
            part = start + t
            real = part < rows
            where = part.to(tl.int64) * n
            at_pick = tl.load(factor + where + pick, mask=real, other=0.0, volatile=True)
            both = real[:, None] & inside[None, :]
            tile = tl.load(factor + where[:, None] + i[None, :], mask=both, other=0.0, volatile=True)
            total += tl.sum(tile * at_pick[:, None], axis=0)
        chosen = tl.load(quality + row * n + pick)
        kernel = chosen * own * tl.load(table + pick.to(tl.int64) * n + i, mask=inside, other=0.0)
        if not LIMITED:
            kernel += tl.where(i == pick, tl.load(ridge + row * n + pick), 0.0)
        entry = (kernel - total) / tl.sqrt(top)  # a gain is a variance, so the best is the pick's own
        tl.store(factor + rows * n + i, entry, mask=inside)
        left = tl.maximum(left - entry * entry, least)
        step += going.to(tl.int32)
        going = going & (step < count)
    if program == 0:
        if LIMITED:
            tl.store(done, tl.where(broken != 0, -1, step).to(tl.int64))
        else:
            begin = tl.where(broken != 0, 0, count)
            for rest in range(begin, most):
                tl.store(out + rest, tl.full((), -1, tl.int64))


def _shape(n: int, batch: int, device: torch.device) -> tuple[int, int, int, int]:
    """Programs a sample, rows of the factor at a time, candidates a program, warps."""
    width = power_of_two(n, 16)
    if device.type != "cuda":
        return 1, 8, width, 4
    programs = share_out(width, batch, device, 64)
    block = width // programs
    return programs, max(1, 4096 // block), block, 4 if block <= 1024 else 8


def greedy_volume(
    cosine: Tensor,
    quality: Tensor,
    variance: Tensor,
    ridge: Tensor,
    rows: Tensor,
    available: Tensor,
    counts: tuple[int, ...],
    *,
    repeats: bool = False,
) -> Tensor:
    """Picks in order, ties to the lowest index.

    Parameters
    ----------
    cosine : float64 Tensor, (B, N, N)
    quality, variance, ridge : float64 Tensor, (B, N)
        q_i, the variances given the picks so far, and what is added to the diagonal, below which none falls.
    rows : float64 Tensor, (B, t, N)
        The factor so far.
    available : bool Tensor, (B, N)
    counts : tuple of int
    repeats : bool, default False
        Leave picked tokens among the candidates.

    Returns
    -------
    int64 Tensor, (B, max count)
        -1 as padding, and throughout a row in which a gain was NaN.
    """
    batch, n = quality.shape
    depth = rows.shape[1]
    programs, deep, block, warps = _shape(n, batch, cosine.device)
    launch = Launch(batch, counts, cosine.device, programs, warps)
    out = launch.picks()
    if launch.most == 0:
        return out
    factor = rows.new_empty(batch, depth + launch.most, n)
    if depth:
        factor[:, :depth] = rows
    slots = (batch, launch.most, programs) if programs > 1 else (1,)
    _volume[launch.grid](
        cosine,
        quality.contiguous(),
        variance.contiguous(),
        ridge.contiguous(),
        factor,
        available.contiguous().view(torch.uint8),
        launch.rows(counts, out),
        out,
        torch.empty(slots, dtype=torch.int64, device=cosine.device),
        torch.zeros(slots, dtype=torch.int32, device=cosine.device),
        *(out, out, factor, out),
        n,
        launch.most,
        depth,
        REPEATS=repeats,
        LIMITED=False,
        DEEP=deep,
        BLOCK=block,
        **launch.options | {"enable_fp_fusion": True},  # rounding differs in the last bits anyway
    )
    return out


def volume_rounds(
    unit: Tensor,
    quality: Tensor,
    variance: Tensor,
    ridge: Tensor,
    rows: Tensor,
    available: Tensor,
    counts: tuple[int, ...],
) -> Tensor:
    """Picks in order, without a table of all pairs: as ``kernels.rounds`` does it, for variances never grow.

    A round's tokens have a kernel given all picks before it (one matrix product), in which one launch picks; then all
    tokens get the picks' rows of the factor (a product and a triangular solution). Memory is O((d + K) N + M^2).

    Parameters
    ----------
    unit : float64 Tensor, (B, N, d)
        Tokens of norm 1.
    quality, variance, ridge, rows, available, counts
        As :func:`greedy_volume` is given them.

    Returns
    -------
    int64 Tensor, (B, max count)
        -1 as padding, and throughout a row in which a gain was NaN.
    """
    out = torch.full((len(counts), max(counts)), -1, dtype=torch.int64, device=unit.device)
    for b, most in enumerate(counts):
        known = (unit[b], quality[b], variance[b], ridge[b], rows[b], available[b])
        if most and not _Sample(*known, out[b, :most]).run():
            out[b] = -1
    return out


class _Sample:
    """One sample's rounds."""

    def __init__(
        self, unit: Tensor, quality: Tensor, variance: Tensor, ridge: Tensor, rows: Tensor, open_: Tensor, out: Tensor
    ) -> None:
        self.unit, self.quality, self.ridge, self.out = unit, quality, ridge, out
        self.variance, self.open = variance, open_.clone()
        self.depth = len(rows)
        self.factor = rows.new_empty(self.depth + len(out), len(quality))
        self.factor[: self.depth] = rows

    def run(self) -> bool:
        """Fill ``out``; False where a gain was NaN."""
        done = 0
        while 0 <= done < len(self.out):
            done = self._round(done)
        return done >= 0

    def _kernel(self, some: Tensor, others: Tensor | None, above: Tensor) -> Tensor:
        """Entries of L, but for its ridge, given the picks so far: (R,), (C,) or all tokens -> (R, C)."""
        whole = others is None
        unit, quality = (self.unit, self.quality) if whole else (self.unit[others], self.quality[others])
        found = (self.unit[some] * self.quality[some].unsqueeze(1)) @ unit.mT
        found *= quality
        if len(above):
            factor = above[:, some]
            found.addmm_(factor.mT, above if whole else factor if others is some else above[:, others], alpha=-1)
        return found

    def _round(self, done: int) -> int:
        n, left = len(self.quality), len(self.out) - done
        above = self.factor[: self.depth + done]
        size = min(TOGETHER, n)
        gains = self.variance.masked_fill(~self.open, -math.inf)
        order = gains.nan_to_num_(math.inf, math.inf, -math.inf).argsort(descending=True, stable=True)[: size + 1]
        block = order[:size].sort().values
        least = gains[order[size:]] if size < n else gains.new_full((1,), -math.inf)
        limit = torch.cat([least.view(torch.int64), order[-1:]])
        ridge = self.ridge[block]
        kernel = self._kernel(block, block, above)
        kernel.diagonal().add_(ridge)
        picks, tops, own, found = _limited(kernel, self.variance[block], ridge, self.open[block], left, block, limit)
        new = int(found)
        if new <= 0:
            return -1  # at least one is picked, unless a gain is NaN
        picks = picks[:new]
        chosen = block[picks]
        self.out[done : done + new] = chosen
        self.open.index_fill_(0, chosen, False)
        if new < left:
            # rows of picks in columns of picks, transposed: what triangular solution makes of the kernel the new rows
            upper = own[:new, picks].triu(1)
            upper.diagonal().copy_(tops[:new].sqrt())
            rows = self._kernel(chosen, None, above)
            rows.mT[chosen, torch.arange(new, device=chosen.device)] += self.ridge[chosen]
            rows = torch.linalg.solve_triangular(upper, rows.mT, upper=True, left=False).mT
            self.factor[self.depth + done : self.depth + done + new] = rows
            self.variance = torch.maximum(self.variance - rows.square().sum(0), self.ridge)
        return done + new


def _limited(
    kernel: Tensor, variance: Tensor, least: Tensor, open_: Tensor, most: int, block: Tensor, limit: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Picks among a round's tokens, their variances, their rows of the factor, and how many."""
    n, device = len(kernel), kernel.device
    most = min(most, n)
    programs, deep, width, warps = _shape(n, 1, device)
    launch = Launch(1, (most,), device, programs, warps)
    out, tops, done = launch.picks(), kernel.new_empty(most), block.new_zeros(1)
    factor = kernel.new_empty(most, n)
    slots = (1, most, programs) if programs > 1 else (1,)
    _volume[launch.grid](
        kernel,
        torch.ones_like(variance),
        variance,
        least,
        factor,
        open_.view(torch.uint8),
        out,
        out,
        torch.empty(slots, dtype=torch.int64, device=device),
        torch.zeros(slots, dtype=torch.int32, device=device),
        block,
        limit,
        tops,
        done,
        n,
        most,
        0,
        REPEATS=False,
        LIMITED=True,
        DEEP=deep,
        BLOCK=width,
        **launch.options | {"enable_fp_fusion": True},
    )
    return out[0], tops, factor, done
