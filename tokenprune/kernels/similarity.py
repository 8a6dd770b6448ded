# mypy: disable-error-code="import-untyped, import-not-found, no-untyped-def, no-untyped-call, untyped-decorator"
"""Cosines of half-precision tokens on tensor cores, row sums of exponentials, and relevance made of them.

Half-precision numbers are exact inputs of a tensor core and products are added up in float32, so cosines are as good
as those of the same numbers cast to float32 first, at many times the speed: a dot product is off by about 1e-6 of the
norms. Cosines near each other by less than that may change places.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenprune.kernels import power_of_two

__all__ = ["half_cosine", "pmi_relevance", "row_partition"]


@triton.jit
def _norms(x, y, scaled_x, scaled_y, inverse, rows, width, SCALE: tl.constexpr, BLOCK: tl.constexpr):
    """1 / norm of each row of x and then of y, 0 for zeros; with SCALE also rows over a power of 2 near their top."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    if row < rows:
        own = x + row * width
        scaled = scaled_x + row * width
    else:
        own = y + (row - rows) * width
        scaled = scaled_y + (row - rows) * width
    if SCALE:
        # two passes: bfloat16 reaches squares that float32 does not
        most = tl.zeros((BLOCK,), tl.float32)
        for start in range(0, width, BLOCK):
            part = tl.load(own + start + at, mask=start + at < width, other=0.0).to(tl.float32)
            most = tl.maximum(most, tl.abs(part))
        top = tl.max(most, axis=0)
        # the exponent's bits alone, mirrored: 2^-e for 2^e <= top < 2^(e+1), within the range of normal numbers
        bits = tl.minimum(tl.maximum(254 - (top.to(tl.int32, bitcast=True) >> 23), 1), 254)
        shrink = (bits << 23).to(tl.float32, bitcast=True)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, width, BLOCK):
        inside = start + at < width
        part = tl.load(own + start + at, mask=inside, other=0.0).to(tl.float32)
        if SCALE:
            part = part * shrink
            tl.store(scaled + start + at, part.to(scaled_x.dtype.element_ty), mask=inside)
        total += part * part
    square = tl.sum(total, axis=0)
    tl.store(inverse + row, tl.where(square > 0, 1 / tl.sqrt(tl.where(square > 0, square, 1.0)), 0.0))


@triton.jit
def _scale(raw, left, right, n, m, BLOCK: tl.constexpr):
    """Multiply a row of dot products by the inverse norms of both sides, in place."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < m
    factor = tl.load(left + row) * tl.load(right + (row // n) * m + at, mask=inside, other=0.0)
    tl.store(raw + row * m + at, tl.load(raw + row * m + at, mask=inside, other=0.0) * factor, mask=inside)


def half_cosine(x: Tensor, y: Tensor) -> Tensor:
    """Cosine of every pair of half-precision tokens: (B, N, d), (B, M, d) -> (B, N, M) float32."""
    (batch, n, width), m = x.shape, y.shape[1]
    alone = x is y
    x = x.contiguous()
    y = x if alone else y.contiguous()
    wide = x.dtype == torch.bfloat16
    first = torch.empty_like(x) if wide else x
    second = first if alone else torch.empty_like(y) if wide else y
    inverse = torch.empty(batch * (n if alone else n + m), dtype=torch.float32, device=x.device)
    right = inverse if alone else inverse[batch * n :]
    block = min(4096, power_of_two(width))
    _norms[len(inverse),](
        x, y, first, second, inverse, batch * n, width, SCALE=wide, BLOCK=block, num_warps=8 if block > 2048 else 4
    )
    # the interpreter runs on the CPU, which has no product of this kind
    raw = torch.bmm(first, second.mT, out_dtype=torch.float32) if x.is_cuda else first.float() @ second.float().mT
    block = min(1024, power_of_two(m, 16))
    _scale[batch * n, -(-m // block)](raw, inverse, right, n, m, BLOCK=block, num_warps=4 if block > 256 else 1)
    return raw


@triton.jit(do_not_specialize=["n"])
def _partition(table, mask, out, n, m, scale, MASKED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """log sum_j exp(table_ij * scale) of some rows of a sample, blocks of columns folded as they come."""
    sample = tl.program_id(1)
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    at = tl.arange(0, BLOCK)
    base = table + sample.to(tl.int64) * n * m + i[:, None].to(tl.int64) * m
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    for start in range(0, m, BLOCK):
        j = start + at
        real = j < m
        if MASKED:
            real = real & (tl.load(mask + sample * m + j, mask=real, other=0) != 0)
        both = (i < n)[:, None] & real[None, :]
        logits = tl.where(both, tl.load(base + j[None, :], mask=both, other=0.0) * scale, float("-inf"))
        higher = tl.maximum(top, tl.max(logits, axis=1))
        safe = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(top - safe) + tl.sum(tl.exp(logits - safe[:, None]), axis=1)
        top = higher
    tl.store(out + sample * n + i, top + tl.log(total), mask=i < n)


def row_partition(table: Tensor, scale: float, mask: Tensor | None) -> Tensor:
    """log sum_j exp(table_ij * scale) over columns in the mask: float32 (B, N, M), bool (B, M) -> (B, N)."""
    batch, n, m = table.shape
    table = table.contiguous()
    out = torch.empty(batch, n, dtype=torch.float32, device=table.device)
    seen = table if mask is None else mask.contiguous().view(torch.uint8)
    block = min(2048, power_of_two(m, 16))
    tall = max(1, (512 if table.is_cuda else 4096) // block)
    grid = (-(-n // tall), batch)
    _partition[grid](
        table,
        seen,
        out,
        n,
        m,
        scale,
        MASKED=mask is not None,
        ROWS=tall,
        BLOCK=block,
        num_warps=4 if block > 512 else 2,
    )
    return out


@triton.jit(do_not_specialize=["n", "m"])
def _marginal(
    table, partition, mask, out, n, m, scale, MASKED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """log of the mean over real rows of exp(table_ij * scale - partition_i), a few columns a program."""
    sample = tl.program_id(1)
    j = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    r = tl.arange(0, ROWS)
    base = table + sample.to(tl.int64) * n * m
    top = tl.full((COLUMNS,), float("-inf"), tl.float32)
    total = tl.zeros((COLUMNS,), tl.float32)
    count = tl.zeros((), tl.float32)
    for start in range(0, n, ROWS):
        i = start + r
        real = i < n
        if MASKED:
            real = real & (tl.load(mask + sample * n + i, mask=real, other=0) != 0)
        both = real[:, None] & (j < m)[None, :]
        logits = tl.load(base + i[:, None].to(tl.int64) * m + j[None, :], mask=both, other=0.0) * scale
        logits = logits - tl.load(partition + sample * n + i, mask=real, other=0.0)[:, None]
        logits = tl.where(both, logits, float("-inf"))
        higher = tl.maximum(top, tl.max(logits, axis=0))
        safe = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(top - safe) + tl.sum(tl.exp(logits - safe[None, :]), axis=0)
        top = higher
        count += tl.sum(real.to(tl.float32), axis=0)
    tl.store(out + sample * m + j, top + tl.log(total) - tl.log(count), mask=j < m)


@triton.jit(do_not_specialize=["n", "m"])
def _strongest(
    table,
    partition,
    marginal,
    mask,
    score,
    nearest,
    n,
    m,
    scale,
    MASKED: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Largest PMI and largest cosine of each row, over the columns in the mask."""
    sample = tl.program_id(1)
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = i < n
    at = tl.arange(0, BLOCK)
    base = table + sample.to(tl.int64) * n * m
    own = tl.load(partition + sample * n + i, mask=inside, other=0.0)
    best = tl.full((ROWS,), float("-inf"), tl.float32)
    close = tl.full((ROWS,), float("-inf"), tl.float32)
    for start in range(0, m, BLOCK):
        j = start + at
        real = j < m
        if MASKED:
            real = real & (tl.load(mask + sample * m + j, mask=real, other=0) != 0)
        both = inside[:, None] & real[None, :]
        cosine = tl.load(base + i[:, None].to(tl.int64) * m + j[None, :], mask=both, other=0.0)
        pmi = cosine * scale - own[:, None] - tl.load(marginal + sample * m + j, mask=real, other=0.0)[None, :]
        best = tl.maximum(best, tl.max(tl.where(both, pmi, float("-inf")), axis=1))
        close = tl.maximum(close, tl.max(tl.where(both, cosine, float("-inf")), axis=1))
    tl.store(score + sample * n + i, best, mask=inside)
    tl.store(nearest + sample * n + i, close, mask=inside)


@triton.jit(do_not_specialize=["n"])
def _settle(score, nearest, mask, n, rounding, MASKED: tl.constexpr, BLOCK: tl.constexpr):
    """Where all scores of a row are alike, put the cosines there; where those are alike too, an even spread."""
    sample = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    inside = i < n
    real = inside
    if MASKED:
        real = real & (tl.load(mask + sample * n + i, mask=inside, other=0) != 0)
    own = tl.load(score + sample * n + i, mask=inside, other=0.0)
    close = tl.load(nearest + sample * n + i, mask=inside, other=0.0)
    low, high = float("-inf"), float("inf")
    span = tl.max(tl.where(real, own, low), axis=0) - tl.min(tl.where(real, own, high), axis=0)
    if (span <= rounding) & (tl.sum(real.to(tl.int32), axis=0) > 1):
        span = tl.max(tl.where(real, close, low), axis=0) - tl.min(tl.where(real, close, high), axis=0)
        multiple = (tl.cumsum(real.to(tl.int32), axis=0) - 1).to(tl.float64) * 0.6180339887498949
        even = (-1e-6 * (multiple - tl.floor(multiple))).to(tl.float32)
        tl.store(score + sample * n + i, tl.where(span <= rounding, even, close), mask=inside)


def pmi_relevance(cosine: Tensor, scale: float, visual_mask: Tensor | None, text_mask: Tensor | None) -> Tensor:
    """Largest PMI of each visual token under a softmax and a uniform prior, with the fallbacks of the scorer ``pmi``.

    Parameters
    ----------
    cosine : float32 Tensor, (B, N, T)
    scale : float
        1 / temperature.
    visual_mask, text_mask : bool Tensor, (B, N) and (B, T), optional

    Returns
    -------
    float32 Tensor, (B, N)
        Equal to that of tensor operations up to the rounding of exponentials and logarithms (some 1e-6).
    """
    batch, n, m = cosine.shape
    cosine = cosine.contiguous()
    partition = row_partition(cosine, scale, text_mask)
    marginal = torch.empty(batch, m, dtype=torch.float32, device=cosine.device)
    score, nearest = (torch.empty(batch, n, dtype=torch.float32, device=cosine.device) for _ in range(2))
    visual = cosine if visual_mask is None else visual_mask.contiguous().view(torch.uint8)
    text = cosine if text_mask is None else text_mask.contiguous().view(torch.uint8)
    width = power_of_two(n, 16)
    tall = min(1024, width)
    some = visual_mask is not None
    _marginal[-(-m // 4), batch](
        cosine, partition, visual, marginal, n, m, scale, MASKED=some, ROWS=tall, COLUMNS=4, num_warps=8
    )
    block = min(64, power_of_two(m, 16))
    known = (cosine, partition, marginal, text, score, nearest)
    _strongest[-(-n // 16), batch](*known, n, m, scale, MASKED=text_mask is not None, ROWS=16, BLOCK=block)
    rounding = 16 * torch.finfo(torch.float32).eps * scale
    _settle[batch,](
        score, nearest, visual, n, rounding, MASKED=some, BLOCK=width, num_warps=min(32, max(4, width // 256))
    )
    return score
