"""Greedy selection of long inputs in rounds, without a table of all pairs.

Where gains never rise, a gain that was looked at once bounds the token's gain for good. A round takes the tokens with
the largest gains, makes the table of those alone by matrix products, and one program picks among them until the best
one left gains less than the best token outside did when the round began: no token outside can be a pick before that.
Then all tokens fold in the round's picks, again by matrix products. A round picks at least one token and most often
hundreds, so that a budget of thousands takes some tens of rounds. Memory is O(N + M^2) for M tokens a round.

All dot products come from one loop (:func:`_dots`): products are added up in float32, always in the same order, so the
entry of two tokens has the same bits in whichever tile it is made, and picks are those of a loop over these entries,
ties included. Half-precision tokens are multiplied on tensor cores.
"""

# mypy: disable-error-code="import-untyped, import-not-found, no-untyped-def, no-untyped-call, untyped-decorator"
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenprune.kernels import power_of_two
from tokenprune.kernels.exchange import best_of
from tokenprune.kernels.similarity import scaled_rows

__all__ = ["Extrema", "greedy_rounds", "log_partitions", "nearest_cosines"]

TOGETHER = 2048
"""Tokens of a round: what one program handles at about a microsecond a pick."""

FIXED = 42
"""Bits behind the point where exponentials are added up as whole numbers, in whichever order they come."""

FIRST_BIT = tl.constexpr(-0x80000000)
ALL_BITS = tl.constexpr(0x7FFFFFFF)


class Tiles(NamedTuple):
    """Rows and columns of a tile, numbers multiplied at a time, warps and stages of its program."""

    tall: int
    wide: int
    deep: int
    warps: int
    stages: int


def _tiles(x: Tensor) -> Tiles:
    """Tiles that fit where tokens lie."""
    if x.device.type != "cuda":
        return Tiles(16, 32, 32, 4, 1)
    if x.dtype == torch.float32:
        return Tiles(64, 64, 32, 4, 2)
    return Tiles(128, 256, 64, 8, 3)


@dataclass(frozen=True)
class _Rows:
    """Tokens of one sample (N, d) as programs multiply them, and 1 / norm of each, 0 for zeros."""

    x: Tensor
    inverse: Tensor

    @property
    def shape(self) -> dict[str, Any]:
        """Of a launch that multiplies them."""
        tall, wide, deep, warps, stages = _tiles(self.x)
        whole = self.x.shape[1] % deep == 0
        return {"WHOLE": whole, "TALL": tall, "WIDE": wide, "DEEP": deep, "num_warps": warps, "num_stages": stages}


def _rows(tokens: Tensor) -> list[_Rows]:
    """One for each sample of (B, N, d)."""
    batch, n, _ = tokens.shape
    x, inverse = scaled_rows(tokens)
    if not x.is_cuda:
        x = x.float()  # the interpreter multiplies numbers of NumPy
    return [_Rows(x[b], inverse[b * n : (b + 1) * n]) for b in range(batch)]


@triton.jit
def _dots(x, i, j, width, WHOLE: tl.constexpr, TALL: tl.constexpr, WIDE: tl.constexpr, DEEP: tl.constexpr):
    """Dot products of some tokens with others, (TALL, WIDE)."""
    k = tl.arange(0, DEEP)
    left = x + i[:, None].to(tl.int64) * width + k[None, :]
    right = x + j[None, :].to(tl.int64) * width + k[:, None]
    total = tl.zeros((TALL, WIDE), tl.float32)
    for start in range(0, width, DEEP):
        if WHOLE:
            a = tl.load(left + start)
            b = tl.load(right + start)
        else:
            a = tl.load(left + start, mask=(start + k < width)[None, :], other=0.0)
            b = tl.load(right + start, mask=(start + k < width)[:, None], other=0.0)
        total = tl.dot(a, b, total, input_precision="ieee")
    return total


@triton.jit
def _ordered(value):
    """Floats as whole numbers in the same order; -0.0 counts as 0.0."""
    bits = tl.where(value == 0, 0.0, value).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & ALL_BITS)


@triton.jit(do_not_specialize=["n", "supers", "scale"])
def _pairs(
    x,
    inverse,
    mask,
    out,
    n,
    supers,
    width,
    scale,
    FOLD: tl.constexpr,
    MASKED: tl.constexpr,
    GROUP: tl.constexpr,
    POINT: tl.constexpr,
    WHOLE: tl.constexpr,
    TALL: tl.constexpr,
    WIDE: tl.constexpr,
    DEEP: tl.constexpr,
):
    """Fold all pairs of tokens into one number each: sum of exponentials, or largest cosine to another one.

    Squares of ``WIDE`` tokens on and above the diagonal, each for its rows and its columns. Squares of ``GROUP`` rows
    of squares are made column after column, so that programs that run at one time read few tokens.
    """
    HALVES: tl.constexpr = WIDE // TALL
    place = tl.program_id(0)
    first = 0
    while place >= (supers - first) * GROUP * HALVES:
        place -= (supers - first) * GROUP * HALVES
        first += GROUP
    column = first + place // (GROUP * HALVES)
    part = place % (GROUP * HALVES)
    row = first + part // HALVES
    if row <= column:
        i = row * WIDE + (part % HALVES) * TALL + tl.arange(0, TALL)
        j = column * WIDE + tl.arange(0, WIDE)
        real_i = i < n
        real_j = j < n
        if MASKED:
            real_i = real_i & (tl.load(mask + i, mask=real_i, other=0) != 0)
            real_j = real_j & (tl.load(mask + j, mask=real_j, other=0) != 0)
        cosine = _dots(x, tl.minimum(i, n - 1), tl.minimum(j, n - 1), width, WHOLE, TALL, WIDE, DEEP)
        left = tl.load(inverse + i, mask=i < n, other=0.0)
        cosine *= left[:, None] * tl.load(inverse + j, mask=j < n, other=0.0)[None, :]
        both = real_i[:, None] & real_j[None, :]
        if FOLD == "sum":
            power = tl.where(both, tl.exp(cosine * scale - scale), 0.0)
            fixed = (power * POINT).to(tl.int64)
            tl.atomic_add(out + i, tl.sum(fixed, axis=1), mask=i < n, sem="relaxed")
            if row < column:
                tl.atomic_add(out + j, tl.sum(fixed, axis=0), mask=j < n, sem="relaxed")
        else:
            both = both & (i[:, None] != j[None, :])
            alike = tl.where(both, _ordered(cosine), FIRST_BIT)
            tl.atomic_max(out + i, tl.max(alike, axis=1), mask=i < n, sem="relaxed")
            if row < column:
                tl.atomic_max(out + j, tl.max(alike, axis=0), mask=j < n, sem="relaxed")


def _fold_pairs(rows: _Rows, mask: Tensor | None, scale: float, fold: str, out: Tensor) -> Tensor:
    n, width = rows.x.shape
    shape = rows.shape
    supers, group = -(-n // shape["WIDE"]), 8
    places = sum((supers - first) * group * (shape["WIDE"] // shape["TALL"]) for first in range(0, supers, group))
    _pairs[places,](
        rows.x,
        rows.inverse,
        rows.x if mask is None else mask.contiguous().view(torch.uint8),
        out,
        n,
        supers,
        width,
        scale,
        FOLD=fold,
        MASKED=mask is not None,
        GROUP=group,
        POINT=float(2**FIXED),
        **shape,
    )
    return out


def _masks(tokens: Tensor, mask: Tensor | None) -> list[Tensor | None]:
    return [None] * len(tokens) if mask is None else list(mask.unbind(0))


def log_partitions(tokens: Tensor, tau: float, mask: Tensor | None = None) -> Tensor:
    """log sum_j exp(cos_ij / tau) over real tokens j, each pair made once and not kept: (B, N, d) -> float32 (B, N).

    Exponentials are added up as whole numbers: whatever the order, copies of a token have the same sum. It is exact to
    N / 2^42 of the exponential of a token with itself.

    Parameters
    ----------
    tokens : Tensor, (B, N, d)
        Half precision or float32.
    tau : float
    mask : bool Tensor, (B, N), optional
        What stands at padding is finite.
    """
    found = []
    for rows, real in zip(_rows(tokens), _masks(tokens, mask), strict=True):
        total = _fold_pairs(
            rows, real, 1 / tau, "sum", torch.zeros(len(rows.x), dtype=torch.int64, device=tokens.device)
        )
        log = (total.clamp_min(1).double() / 2**FIXED).log() + 1 / tau
        # a token of zeros has cosine 0 to all, which may be less than the smallest number counted
        size = torch.full_like(log[:1], len(log)) if real is None else real.sum(dim=0, keepdim=True).double()
        found.append(torch.where(rows.inverse > 0, log, size.clamp_min(1).log()).float())
    return torch.stack(found)


def nearest_cosines(tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """Largest cosine to another real token, each pair made once and not kept: (B, N, d) -> float32 (B, N).

    -inf where there is none, and at padding.
    """
    found = []
    for rows, real in zip(_rows(tokens), _masks(tokens, mask), strict=True):
        empty = torch.full((len(rows.x),), FIRST_BIT.value, dtype=torch.int32, device=tokens.device)
        key = _fold_pairs(rows, real, 1.0, "max", empty)
        value = (key ^ ((key >> 31) & ALL_BITS.value)).view(torch.float32)
        found.append(value.masked_fill(key == FIRST_BIT.value, -math.inf))
    return torch.stack(found)


@triton.jit
def _entries(
    x,
    inverse,
    statistics,
    marginal,
    i,
    j,
    width,
    marginal_column,
    scale,
    floor,
    ENTRY: tl.constexpr,
    WHOLE: tl.constexpr,
    TALL: tl.constexpr,
    WIDE: tl.constexpr,
    DEEP: tl.constexpr,
):
    """Entries of candidates i with selected tokens j, by the operations of ``kernels.columns``."""
    entry = _dots(x, i, j, width, WHOLE, TALL, WIDE, DEEP)
    entry *= tl.load(inverse + i)[:, None] * tl.load(inverse + j)[None, :]
    if ENTRY == "pmi":
        entry = entry * scale - tl.load(statistics + i)[:, None] - tl.load(marginal + j * marginal_column)[None, :]
        entry = tl.where(entry < floor, floor, entry)
    elif ENTRY == "distance":
        entry = 1 - entry
    return entry


@triton.jit(do_not_specialize=["n", "count", "scale", "floor"])
def _table(
    x,
    inverse,
    statistics,
    marginal,
    candidates,
    selected,
    out,
    n,
    count,
    width,
    marginal_column,
    scale,
    floor,
    ENTRY: tl.constexpr,
    REDUCED: tl.constexpr,
    LARGEST: tl.constexpr,
    WHOLE: tl.constexpr,
    TALL: tl.constexpr,
    WIDE: tl.constexpr,
    DEEP: tl.constexpr,
):
    """Entries of candidates with selected tokens: (count, n), selected down; or their extremum in each tile."""
    tile = tl.program_id(0)
    a = tl.program_id(1) * TALL + tl.arange(0, TALL)
    b = tile * WIDE + tl.arange(0, WIDE)
    i = tl.minimum(a, n - 1)
    if not REDUCED:
        i = tl.load(candidates + i).to(tl.int32)
    j = tl.load(selected + tl.minimum(b, count - 1)).to(tl.int32)
    entry = _entries(
        x, inverse, statistics, marginal, i, j, width, marginal_column, scale, floor, ENTRY, WHOLE, TALL, WIDE, DEEP
    )
    # tokens beyond the last selected one are that one again: an extremum does not change
    if REDUCED:
        fold = tl.max(entry, axis=1) if LARGEST else tl.min(entry, axis=1)
        tl.store(out + tile * n + a, fold, mask=a < n)
    else:
        both = (a < n)[:, None] & (b < count)[None, :]
        tl.store(out + b[None, :] * n + a[:, None], entry, mask=both)


@triton.jit
def _gain(reward, held, price, lowest, GAIN: tl.constexpr):
    if GAIN == "relevance":
        gain = tl.where(tl.abs(held) == float("inf"), reward, reward - price * held)
    else:
        gain = tl.where(tl.abs(held) == float("inf"), reward, held)
    return tl.where(gain < lowest, lowest, gain)


@triton.jit
def _key(gain, at):
    """Gain and position in one word: the larger gain is larger, of equal ones the lower position; NaN above all."""
    order = tl.where(gain != gain, ALL_BITS, _ordered(gain))
    return (order.to(tl.int64) << 32) | (at ^ ALL_BITS).to(tl.int64)


@triton.jit(do_not_specialize=["n", "tiles", "price", "lowest"])
def _bounds(
    bonus,
    held,
    new,
    available,
    keys,
    n,
    tiles,
    price,
    lowest,
    GAIN: tl.constexpr,
    LARGEST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Fold in the extrema of the last picks, tile by tile, and make a word of each token's gain and position."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    folded = tl.load(held + i, mask=inside, other=0.0)
    for tile in range(tiles):
        part = tl.load(new + tile * n + i, mask=inside, other=0.0)
        folded = tl.maximum(folded, part) if LARGEST else tl.minimum(folded, part)
    tl.store(held + i, folded, mask=inside)
    gain = _gain(tl.load(bonus + i, mask=inside, other=0.0), folded, price, lowest, GAIN)
    gain = tl.where(tl.load(available + i, mask=inside, other=0) != 0, gain, float("-inf"))
    tl.store(keys + i, _key(gain, i), mask=inside)


@triton.jit(do_not_specialize=["size", "most", "price", "lowest"])
def _among(
    table,
    block,
    bonus,
    held,
    available,
    limit,
    out,
    done,
    size,
    most,
    price,
    lowest,
    GAIN: tl.constexpr,
    LARGEST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Pick among the tokens of a round until the best that is left lies below the limit; how many are done by then."""
    a = tl.arange(0, BLOCK)
    inside = a < size
    at = tl.load(block + a, mask=inside, other=0)
    reward = tl.load(bonus + at, mask=inside, other=0.0)
    folded = tl.load(held + at, mask=inside, other=0.0)
    open_ = inside & (tl.load(available + at, mask=inside, other=0) != 0)
    least = tl.load(limit)
    count = tl.load(done)
    going = (count > 0) & (count < most)
    broken = tl.where(count < 0, 1, 0)
    while going:
        gain = tl.where(open_, _gain(reward, folded, price, lowest, GAIN), float("-inf"))
        top, pick = best_of(gain, 0)
        broken = tl.where(pick < 0, 1, broken)
        pick = tl.maximum(pick, 0)
        index = tl.load(block + pick)
        good = (broken == 0) & (_key(top, index.to(tl.int32)) > least)
        tl.store(out + count, index, mask=good)
        tl.store(available + index, tl.zeros((), tl.uint8), mask=good)
        open_ = open_ & ((a != pick) | (good == 0))
        entry = tl.load(table + pick.to(tl.int64) * size + a, mask=inside, other=0.0)
        folded = tl.maximum(folded, entry) if LARGEST else tl.minimum(folded, entry)
        count += good.to(tl.int64)
        going = good & (count < most)
    tl.store(done, tl.where(broken != 0, -1, count))


@dataclass(frozen=True)
class Extrema:
    """A greedy problem whose gains follow from an extremum over the picks' entries and never rise.

    Parameters
    ----------
    tokens : Tensor, (B, N, d)
        Half precision or float32; entries are made of their cosines.
    bonus : float32 Tensor, (B, N)
        The gains before the first pick.
    entry, fold, gain, folded, price, scale, statistics, marginal
        As of :class:`tokenprune.kernels.columns.Columns`, float32; ``cosine``, ``pmi`` or ``distance`` by ``max`` or
        ``min`` to ``relevance`` or ``extremum``.
    """

    tokens: Tensor
    bonus: Tensor
    entry: str
    fold: str
    gain: str
    folded: Tensor | None = None
    price: float = 0.0
    scale: float = 1.0
    statistics: Tensor | None = None
    marginal: Tensor | None = None

    def row(self, name: str, b: int) -> Tensor:
        """One sample of a tensor; what is not there is not read."""
        value = getattr(self, name)
        return self.bonus[b] if value is None else value[b]


def greedy_rounds(problem: Extrema, available: Tensor, counts: tuple[int, ...]) -> Tensor:
    """Picks in order, ties to the lowest index. The host waits for the device once a round.

    Parameters
    ----------
    problem : Extrema
    available : bool Tensor, (B, N)
    counts : tuple of int

    Returns
    -------
    int64 Tensor, (B, max count)
        -1 as padding, and throughout a row in which a gain was NaN.
    """
    out = torch.full((len(counts), max(counts)), -1, dtype=torch.int64, device=available.device)
    for b, rows in enumerate(_rows(problem.tokens)):
        if counts[b] and not _Sample(problem, b, rows, available[b], out[b]).run(counts[b]):
            out[b] = -1
    return out


class _Sample:
    """One sample's rounds."""

    def __init__(self, problem: Extrema, b: int, rows: _Rows, available: Tensor, out: Tensor) -> None:
        self.rows, self.out = rows, out
        self.bonus = problem.row("bonus", b).contiguous()
        self.largest = problem.fold == "max"
        nothing = -math.inf if self.largest else math.inf
        if problem.folded is None:
            self.held = torch.full_like(self.bonus, nothing)
        else:
            self.held = problem.folded[b].clone(memory_format=torch.contiguous_format)
        self.open = available.to(torch.uint8, copy=True)
        marginal = problem.row("marginal", b)
        self.sides = (rows.x, rows.inverse, problem.row("statistics", b).contiguous(), marginal)
        limits = torch.finfo(torch.float32)
        self.entry = (rows.x.shape[1], marginal.stride(0), problem.scale, math.log(limits.tiny))
        self.options = {"GAIN": problem.gain, "LARGEST": self.largest, "enable_fp_fusion": False}
        self.prices = (problem.price, limits.min)
        self.kind = problem.entry
        self.new = self.bonus.unsqueeze(0)
        self.tiles = 0
        self.keys = torch.empty(len(self.bonus), dtype=torch.int64, device=out.device)

    def run(self, most: int) -> bool:
        """Fill ``out``; False where a gain was NaN."""
        self._bounds()
        # gains may rise from no pick to one, so the first is a round by itself
        first = self.keys.amax(0, keepdim=True)
        self.out[:1] = _position(first)
        self.open.scatter_(0, self.out[:1], 0)
        done = torch.where(first >> 32 == ALL_BITS.value, -1, 1)
        if most == 1:
            return int(done) > 0
        self._fold(self.out[:1])
        found = 1
        while 0 < found < most:
            before, found = found, self._round(most, done)
            if before < found < most:
                self._fold(self.out[before:found])
        return found > 0

    def _bounds(self) -> None:
        n, block = len(self.bonus), 1024
        known = (self.bonus, self.held, self.new, self.open, self.keys, n, self.tiles, *self.prices)
        _bounds[-(-n // block),](*known, BLOCK=block, **self.options)
        self.tiles = 0

    def _entries(self, candidates: Tensor, selected: Tensor, out: Tensor, n: int, reduced: bool) -> None:
        shape = self.rows.shape
        grid = (-(-len(selected) // shape["WIDE"]), -(-n // shape["TALL"]))
        known = (*self.sides, candidates, selected, out, n, len(selected), *self.entry)
        options = {"LARGEST": self.largest, "enable_fp_fusion": False}
        _table[grid](*known, ENTRY=self.kind, REDUCED=reduced, **options, **shape)

    def _fold(self, picks: Tensor) -> None:
        """Extrema of all tokens over the entries with some picks, which the next bounds fold in."""
        self.tiles = -(-len(picks) // self.rows.shape["WIDE"])
        self.new = self.bonus.new_empty(self.tiles, len(self.bonus))
        self._entries(picks, picks, self.new, len(self.bonus), True)

    def _round(self, most: int, done: Tensor) -> int:
        """Pick among the tokens with the largest gains; how many are picked now, -1 where a gain was NaN."""
        self._bounds()
        n = len(self.keys)
        size = min(TOGETHER, n)
        top = self.keys.topk(min(size + 1, n)).values
        limit = top[size:] if size < n else top.new_full((1,), torch.iinfo(torch.int64).min)
        block = _position(top[:size]).sort().values
        table = self.bonus.new_empty(size, size)
        self._entries(block, block, table, size, False)
        wide = power_of_two(size, 16)
        known = (table, block, self.bonus, self.held, self.open, limit, self.out, done, size, most, *self.prices)
        _among[1,](*known, BLOCK=wide, num_warps=min(16, max(4, wide // 256)), **self.options)
        return int(done)


def _position(keys: Tensor) -> Tensor:
    return torch.bitwise_and(keys, ALL_BITS.value).bitwise_xor(ALL_BITS.value)
