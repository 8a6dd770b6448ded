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

__all__ = ["half_cosine", "half_products", "pmi_relevance", "row_partition", "scaled_rows", "text_quality", "unit_rows"]


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


def half_products(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Dot products (B, N, M) of half-precision tokens (B, N, d), (B, M, d), and what to multiply rows and columns by.

    The product of all three is the cosine. Factors are (B * N,) and (B * M,), 1 / norm, 0 for zeros.
    """
    batch, n, _ = x.shape
    first, second, inverse = _scaled(x, y)
    # the interpreter runs on the CPU, which has no product of this kind
    raw = torch.bmm(first, second.mT, out_dtype=torch.float32) if x.is_cuda else first.float() @ second.float().mT
    return raw, inverse, inverse if x is y else inverse[batch * n :]


def _scaled(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Half-precision tokens whose dot products float32 holds, and 1 / norm of those of x and then of y."""
    (batch, n, width), m = x.shape, y.shape[1]
    alone = x is y
    x = x.contiguous()
    y = x if alone else y.contiguous()
    wide = x.dtype == torch.bfloat16
    first = torch.empty_like(x) if wide else x
    second = first if alone else torch.empty_like(y) if wide else y
    inverse = torch.empty(batch * (n if alone else n + m), dtype=torch.float32, device=x.device)
    block = min(4096, power_of_two(width))
    _norms[len(inverse),](
        x, y, first, second, inverse, batch * n, width, SCALE=wide, BLOCK=block, num_warps=8 if block > 2048 else 4
    )
    return first, second, inverse


def scaled_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens whose dot products float32 holds, contiguous, and the factors that make those cosines.

    (B, N, d), half precision or float32 -> (B, N, d) of the same precision, float32 (B * N,); 0 for zeros.
    """
    if x.dtype != torch.float32:
        scaled, _, inverse = _scaled(x, x)
        return scaled, inverse
    top = x.abs().amax(-1, keepdim=True)
    x = x / torch.where(top > 0, top, 1.0)
    norm = x.norm(dim=-1).flatten()
    return x.contiguous(), torch.where(norm > 0, 1 / norm, 0.0)


def half_cosine(x: Tensor, y: Tensor) -> Tensor:
    """Cosine of every pair of half-precision tokens: (B, N, d), (B, M, d) -> (B, N, M) float32."""
    raw, left, right = half_products(x, y)
    batch, n, m = raw.shape
    block = min(1024, power_of_two(m, 16))
    _scale[batch * n, -(-m // block)](raw, left, right, n, m, BLOCK=block, num_warps=4 if block > 256 else 1)
    return raw


@triton.jit(do_not_specialize=["n"])
def _partition(
    table,
    left,
    right,
    mask,
    out,
    n,
    m,
    scale,
    SCALED: tl.constexpr,
    MASKED: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """log sum_j exp(table_ij * scale) of some rows of a sample; with SCALED dot products become cosines in place."""
    sample = tl.program_id(1)
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    at = tl.arange(0, BLOCK)
    base = table + sample.to(tl.int64) * n * m + i[:, None].to(tl.int64) * m
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    if SCALED:
        factor = tl.load(left + sample * n + i, mask=i < n, other=0.0)
    for start in range(0, m, BLOCK):
        j = start + at
        both = (i < n)[:, None] & (j < m)[None, :]
        cosine = tl.load(base + j[None, :], mask=both, other=0.0)
        if SCALED:
            cosine *= factor[:, None] * tl.load(right + sample * m + j, mask=j < m, other=0.0)[None, :]
            tl.store(base + j[None, :], cosine, mask=both)
        if MASKED:
            both = both & (tl.load(mask + sample * m + j, mask=j < m, other=0) != 0)[None, :]
        logits = tl.where(both, cosine * scale, float("-inf"))
        higher = tl.maximum(top, tl.max(logits, axis=1))
        safe = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(top - safe) + tl.sum(tl.exp(logits - safe[:, None]), axis=1)
        top = higher
    tl.store(out + sample * n + i, top + tl.log(total), mask=i < n)


def row_partition(
    table: Tensor, scale: float, mask: Tensor | None, factors: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """log sum_j exp(table_ij * scale) over columns in the mask: float32 (B, N, M), bool (B, M) -> (B, N).

    A contiguous table of dot products with ``factors`` (see :func:`half_products`) is made one of cosines on the way.
    """
    batch, n, m = table.shape
    table = table.contiguous()
    out = torch.empty(batch, n, dtype=torch.float32, device=table.device)
    left, right = (table, table) if factors is None else factors
    block = min(2048, power_of_two(m, 16))
    tall = max(1, (512 if table.is_cuda else 4096) // block)
    _partition[-(-n // tall), batch](
        table,
        left,
        right,
        table if mask is None else mask.contiguous().view(torch.uint8),
        out,
        n,
        m,
        scale,
        SCALED=factors is not None,
        MASKED=mask is not None,
        ROWS=tall,
        BLOCK=block,
        num_warps=4 if block > 512 else 2,
    )
    return out


@triton.jit
def _cosines(table, left, right, i, j, n, m, both, SCALED: tl.constexpr):
    """Some cosines of a sample, made of dot products and factors where SCALED."""
    found = tl.load(table + i[:, None].to(tl.int64) * m + j[None, :], mask=both, other=0.0)
    if SCALED:
        rows = tl.load(left + i, mask=i < n, other=0.0)
        found *= rows[:, None] * tl.load(right + j, mask=j < m, other=0.0)[None, :]
    return found


@triton.jit
def _real(mask, at, size, MASKED: tl.constexpr):
    """Which positions are tokens."""
    inside = at < size
    if MASKED:
        inside = inside & (tl.load(mask + at, mask=inside, other=0) != 0)
    return inside


@triton.jit
def _unit(x, out, width, BLOCK: tl.constexpr):
    """A row over its largest entry, and that over its norm, in float64; zeros stay zeros."""
    row = tl.program_id(0).to(tl.int64) * width
    at = tl.arange(0, BLOCK)
    most = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, width, BLOCK):
        most = tl.maximum(most, tl.abs(tl.load(x + row + start + at, mask=start + at < width, other=0.0)))
    top = tl.max(most, axis=0)
    top = tl.where(top > 0, top, 1.0)
    total = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, width, BLOCK):
        part = tl.load(x + row + start + at, mask=start + at < width, other=0.0) / top
        total += part * part
    norm = tl.sqrt(tl.sum(total, axis=0))
    norm = tl.where(norm > 0, norm, 1.0)
    for start in range(0, width, BLOCK):
        inside = start + at < width
        part = tl.load(x + row + start + at, mask=inside, other=0.0) / top
        tl.store(out + row + start + at, part / norm, mask=inside)


def unit_rows(x: Tensor) -> Tensor:
    """Rows of float64 tokens scaled to norm 1, zeros left alone: (..., d) -> (..., d)."""
    x = x.contiguous()
    out = torch.empty_like(x)
    width = x.shape[-1]
    block = min(1024, power_of_two(width, 16))
    _unit[x.numel() // width,](x, out, width, BLOCK=block, num_warps=4)
    return out


@triton.jit(do_not_specialize=["n", "m"])
def _relevance(
    table,
    left,
    right,
    visual,
    text,
    partition,
    marginal,
    nearest,
    score,
    n,
    m,
    scale,
    rounding,
    SCALED: tl.constexpr,
    VISUAL: tl.constexpr,
    TEXT: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    sample = tl.program_id(0)
    table += sample.to(tl.int64) * n * m
    left += sample * n
    right += sample * m
    visual += sample * n
    text += sample * m
    partition += sample * n
    marginal += sample * m
    nearest += sample * n
    score += sample * n
    r = tl.arange(0, ROWS)
    c = tl.arange(0, BLOCK)
    nothing = float("-inf")
    # each row's log sum of exponentials and largest cosine, blocks of columns folded as they come
    for start in range(0, n, ROWS):
        i = start + r
        top = tl.full((ROWS,), nothing, tl.float32)
        close = tl.full((ROWS,), nothing, tl.float32)
        total = tl.zeros((ROWS,), tl.float32)
        for first in range(0, m, BLOCK):
            both = (i < n)[:, None] & _real(text, first + c, m, TEXT)[None, :]
            cosine = _cosines(table, left, right, i, first + c, n, m, both, SCALED)
            logits = tl.where(both, cosine * scale, nothing)
            higher = tl.maximum(top, tl.max(logits, axis=1))
            safe = tl.where(higher == nothing, 0.0, higher)
            total = total * tl.exp(top - safe) + tl.sum(tl.exp(logits - safe[:, None]), axis=1)
            top = higher
            close = tl.maximum(close, tl.max(tl.where(both, cosine, nothing), axis=1))
        tl.store(partition + i, top + tl.log(total), mask=i < n)
        tl.store(nearest + i, close, mask=i < n)
    tl.debug_barrier()
    # log of the mean of each column's conditional probabilities, over real rows
    for first in range(0, m, BLOCK):
        j = first + c
        top = tl.full((BLOCK,), nothing, tl.float32)
        total = tl.zeros((BLOCK,), tl.float32)
        count = tl.zeros((), tl.float32)
        for start in range(0, n, ROWS):
            i = start + r
            real = _real(visual, i, n, VISUAL)
            both = real[:, None] & (j < m)[None, :]
            logits = _cosines(table, left, right, i, j, n, m, both, SCALED) * scale
            logits = logits - tl.load(partition + i, mask=real, other=0.0, volatile=True)[:, None]
            logits = tl.where(both, logits, nothing)
            higher = tl.maximum(top, tl.max(logits, axis=0))
            safe = tl.where(higher == nothing, 0.0, higher)
            total = total * tl.exp(top - safe) + tl.sum(tl.exp(logits - safe[None, :]), axis=0)
            top = higher
            count += tl.sum(real.to(tl.float32), axis=0)
        tl.store(marginal + j, top + tl.log(total) - tl.log(count), mask=j < m)
    tl.debug_barrier()
    # largest PMI of each row, and between which limits they lie
    lowest = -nothing
    highest = nothing
    nearest_low = -nothing
    nearest_high = nothing
    tokens = 0
    for start in range(0, n, ROWS):
        i = start + r
        inside = i < n
        own = tl.load(partition + i, mask=inside, other=0.0, volatile=True)
        best = tl.full((ROWS,), nothing, tl.float32)
        for first in range(0, m, BLOCK):
            j = first + c
            both = inside[:, None] & _real(text, j, m, TEXT)[None, :]
            prior = tl.load(marginal + j, mask=j < m, other=0.0, volatile=True)
            pmi = _cosines(table, left, right, i, j, n, m, both, SCALED) * scale - own[:, None] - prior[None, :]
            best = tl.maximum(best, tl.max(tl.where(both, pmi, nothing), axis=1))
        tl.store(score + i, best, mask=inside)
        close = tl.load(nearest + i, mask=inside, other=0.0, volatile=True)
        real = _real(visual, i, n, VISUAL)
        highest = tl.maximum(highest, tl.max(tl.where(real, best, nothing), axis=0))
        lowest = tl.minimum(lowest, tl.min(tl.where(real, best, -nothing), axis=0))
        nearest_high = tl.maximum(nearest_high, tl.max(tl.where(real, close, nothing), axis=0))
        nearest_low = tl.minimum(nearest_low, tl.min(tl.where(real, close, -nothing), axis=0))
        tokens += tl.sum(real.to(tl.int32), axis=0)
    # where all scores are alike the cosines stand there; where those are alike too, an even spread
    if (highest - lowest <= rounding) & (tokens > 1):
        tokens = 0
        for start in range(0, n, ROWS):
            i = start + r
            real = _real(visual, i, n, VISUAL)
            multiple = (tokens + tl.cumsum(real.to(tl.int32), axis=0) - 1).to(tl.float64) * 0.6180339887498949
            even = (-1e-6 * (multiple - tl.floor(multiple))).to(tl.float32)
            close = tl.load(nearest + i, mask=i < n, other=0.0, volatile=True)
            tl.store(score + i, tl.where(nearest_high - nearest_low <= rounding, even, close), mask=i < n)
            tokens += tl.sum(real.to(tl.int32), axis=0)


def pmi_relevance(
    table: Tensor,
    factors: tuple[Tensor, Tensor] | None,
    scale: float,
    visual_mask: Tensor | None,
    text_mask: Tensor | None,
) -> Tensor:
    """Largest PMI of each visual token under a softmax and a uniform prior, with the fallbacks of the scorer ``pmi``.

    One program a sample: the table is small, and what counts is how often the host has to start something.

    Parameters
    ----------
    table, factors
        As :func:`products` returns them, (B, N, T) and so on.
    scale : float
        1 / temperature.
    visual_mask, text_mask : bool Tensor, (B, N) and (B, T), optional

    Returns
    -------
    float32 Tensor, (B, N)
        Equal to that of tensor operations up to the rounding of exponentials and logarithms (some 1e-6).
    """
    batch, n, m = table.shape
    left, right = (table, table) if factors is None else factors
    score = torch.empty(batch, n, dtype=torch.float32, device=table.device)
    scratch = torch.empty(3, batch, max(n, m), dtype=torch.float32, device=table.device)
    block = min(128, power_of_two(m, 16))
    _relevance[batch,](
        table,
        left,
        right,
        table if visual_mask is None else visual_mask.contiguous().view(torch.uint8),
        table if text_mask is None else text_mask.contiguous().view(torch.uint8),
        *scratch.unbind(0),
        score,
        n,
        m,
        scale,
        16 * torch.finfo(torch.float32).eps * scale,
        SCALED=factors is not None,
        VISUAL=visual_mask is not None,
        TEXT=text_mask is not None,
        ROWS=min(8192 // block, power_of_two(n, 16)),
        BLOCK=block,
        num_warps=16,
    )
    return score


@triton.jit(do_not_specialize=["n", "m"])
def _quality(
    table,
    left,
    right,
    visual,
    text,
    out,
    n,
    m,
    sign,
    SCALED: tl.constexpr,
    VISUAL: tl.constexpr,
    TEXT: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    sample = tl.program_id(0)
    table += sample.to(tl.int64) * n * m
    left += sample * n
    right += sample * m
    visual += sample * n
    text += sample * m
    out += sample * n
    r = tl.arange(0, ROWS)
    c = tl.arange(0, BLOCK)
    lowest = float("inf")
    highest = float("-inf")
    for start in range(0, n, ROWS):
        i = start + r
        total = tl.zeros((ROWS,), tl.float32)
        words = tl.zeros((), tl.int32)
        for first in range(0, m, BLOCK):
            real = _real(text, first + c, m, TEXT)
            both = (i < n)[:, None] & real[None, :]
            cosine = _cosines(table, left, right, i, first + c, n, m, both, SCALED)
            total += tl.sum(tl.where(both, cosine, 0.0), axis=1)
            words += tl.sum(real.to(tl.int32), axis=0)
        mean = sign * tl.math.div_rn(total, words.to(tl.float32) + tl.zeros_like(total))
        tl.store(out + i, mean, mask=i < n)
        real = _real(visual, i, n, VISUAL)
        highest = tl.maximum(highest, tl.max(tl.where(real, mean, float("-inf")), axis=0))
        lowest = tl.minimum(lowest, tl.min(tl.where(real, mean, float("inf")), axis=0))
    tl.debug_barrier()
    span = highest - lowest
    span = tl.where(span > 0, span, 1.0)
    for start in range(0, n, ROWS):
        i = start + r
        rise = tl.load(out + i, mask=i < n, other=0.0, volatile=True) - lowest + 1e-6
        tl.store(out + i, tl.math.div_rn(rise, span + tl.zeros_like(rise)), mask=i < n)


def text_quality(
    table: Tensor,
    factors: tuple[Tensor, Tensor] | None,
    sign: int,
    visual_mask: Tensor | None,
    text_mask: Tensor | None,
) -> Tensor:
    """Mean cosine of each visual token to the text times ``sign``, less the smallest, plus 1e-6, over the range.

    Parameters
    ----------
    table, factors
        As :func:`products` returns them, (B, N, T) and so on.
    sign : int
    visual_mask, text_mask : bool Tensor, (B, N) and (B, T), optional

    Returns
    -------
    float32 Tensor, (B, N)
        Equal to that of tensor operations up to the order of addition.
    """
    batch, n, m = table.shape
    left, right = (table, table) if factors is None else factors
    out = torch.empty(batch, n, dtype=torch.float32, device=table.device)
    block = min(128, power_of_two(m, 16))
    _quality[batch,](
        table,
        left,
        right,
        table if visual_mask is None else visual_mask.contiguous().view(torch.uint8),
        table if text_mask is None else text_mask.contiguous().view(torch.uint8),
        out,
        n,
        m,
        float(sign),
        SCALED=factors is not None,
        VISUAL=visual_mask is not None,
        TEXT=text_mask is not None,
        ROWS=min(8192 // block, power_of_two(n, 16)),
        BLOCK=block,
        num_warps=16,
    )
    return out
