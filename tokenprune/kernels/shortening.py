# mypy: disable-error-code="import-untyped, import-not-found, no-untyped-def, no-untyped-call, untyped-decorator"
"""A sequence without the visual tokens that score least, where only the device knows how many go.

One launch finds which tokens stay and where everything stands then, one more moves hidden states. What is dropped may
come back as one mean, behind the tokens that are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenprune.kernels import power_of_two

__all__ = ["Sequence", "shortened"]


@dataclass(frozen=True)
class Sequence:
    """Sequences with one picture each; real tokens first.

    Attributes
    ----------
    mask, text : bool Tensor, (B, M)
        Real tokens, and those that are neither visual nor padding.
    source : int64 Tensor, (B, M)
        Place of each token among those that entered the language model.
    positions : int64 Tensor, (B, M)
        Position ids, consecutive.
    number : int64 Tensor, (B, M)
        Of each prunable token among those of its row; -1 at others.
    visual : int64 Tensor, (B, K)
        Places of prunable tokens, ascending, -1 as padding.
    origin : int64 Tensor, (B, K)
        Anything that goes with them.
    behind : int64 Tensor, (B, T)
        Places of text behind them, -1 as padding.
    rows : int64 Tensor, (B, T)
        The same, with the last of them as padding (of the visual tokens, where there is no text behind).
    """

    mask: Tensor
    text: Tensor
    source: Tensor
    positions: Tensor
    number: Tensor
    visual: Tensor
    origin: Tensor
    behind: Tensor
    rows: Tensor


@triton.jit(do_not_specialize=["length", "entered", "width", "room", "spoken", "most", "counted"])
def _layout(
    scores,
    mask,
    text,
    source,
    positions,
    number,
    visual,
    origin,
    counts,
    out_mask,
    out_text,
    out_source,
    out_positions,
    out_number,
    out_visual,
    out_origin,
    out_behind,
    out_rows,
    index,
    used,
    length,
    entered,
    width,
    room,
    spoken,
    most,
    counted,
    counts_row,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < length
    here = row * length + at
    kept_count = tl.load(counts + row * counts_row)
    used_count = tl.load(counts + counted + row * counts_row)
    made = tl.load(counts + 2 * counted + row * counts_row)
    made = tl.where(used_count > 0, made, 0)

    real = tl.load(mask + here, mask=inside, other=0) != 0
    num = tl.load(number + here, mask=inside, other=-1)
    shown = (num >= 0) & real
    score = tl.load(scores + here, mask=shown, other=0.0)
    # a token's rank is how many score more, or as much and stand before it: quicker than sorting
    n = tl.sum(shown.to(tl.int64), axis=0)
    ahead = tl.zeros((CHUNK, BLOCK), tl.int32)
    for start in range(0, entered, CHUNK):
        other = start + tl.arange(0, CHUNK)
        there = tl.load(visual + row * entered + other, mask=other < entered, other=-1)
        theirs = tl.load(scores + row * length + there, mask=there >= 0, other=0.0)
        more = theirs[:, None] > score[None, :]
        before = (theirs[:, None] == score[None, :]) & (other[:, None] < num[None, :])
        ahead += ((more | before) & (there >= 0)[:, None]).to(tl.int32)
    rank = tl.sum(ahead, axis=0)
    kept_count = tl.minimum(kept_count, n)
    used_count = tl.minimum(used_count, n - kept_count)
    made = tl.where(used_count > 0, made, 0)
    kept = shown & (rank < kept_count)
    mean = shown & (rank == tl.where(made > 0, kept_count, -1))
    spot = rank - kept_count
    pooled = shown & (spot >= 0) & (spot < used_count) & (spot < most)
    tl.store(used + row * most + spot, at.to(tl.int64), mask=pooled)

    # a seat is where a token of the picture stands afterwards; kept ones take seats in order, the mean the last one
    seat = kept | mean
    stays = real & ((num < 0) | seat)
    place = tl.cumsum(stays.to(tl.int32), axis=0) - 1
    seats = tl.sum(seat.to(tl.int64), axis=0)
    ordinal = tl.cumsum(seat.to(tl.int32), axis=0) - 1
    tl.store(out_visual + row * room + ordinal, place.to(tl.int64), mask=seat & (ordinal < room))
    tl.store(out_visual + row * room + at, tl.full((BLOCK,), -1, tl.int64), mask=(at >= seats) & (at < room))
    tl.debug_barrier()
    mine = tl.where(mean, (seats - 1).to(tl.int32), tl.cumsum(kept.to(tl.int32), axis=0) - 1)
    moved = tl.load(out_visual + row * room + mine, mask=seat & (mine < room), other=0, volatile=True)
    to = tl.where(seat, moved.to(tl.int32), place)
    goes = stays & (to < width)
    there = row * width + to
    total = tl.sum(stays.to(tl.int64), axis=0)

    spoke = tl.load(text + here, mask=inside, other=0) != 0
    tl.store(index + there, at.to(tl.int64), mask=goes)
    tl.store(out_source + there, tl.load(source + here, mask=inside, other=0), mask=goes)
    tl.store(out_text + there, (spoke & ~seat).to(tl.uint8), mask=goes)
    tl.store(out_number + there, tl.where(seat, mine, -1).to(tl.int64), mask=goes)
    first = tl.min(tl.where(stays, tl.load(positions + here, mask=inside, other=0), 0x7FFFFFFFFFFFFFFF), axis=0)
    new = at.to(tl.int64)
    tl.store(out_mask + row * width + at, (new < total).to(tl.uint8), mask=at < width)
    tl.store(out_positions + row * width + at, first + tl.minimum(new, tl.maximum(total - 1, 0)), mask=at < width)
    empty = (at < width) & (new >= total)
    nothing = tl.zeros((BLOCK,), tl.int64)
    tl.store(index + row * width + at, nothing, mask=empty)
    tl.store(out_source + row * width + at, nothing, mask=empty)
    tl.store(out_text + row * width + at, nothing.to(tl.uint8), mask=empty)
    tl.store(out_number + row * width + at, nothing - 1, mask=empty)
    kind = tl.load(origin + row * entered + num, mask=seat, other=0)
    tl.store(out_origin + row * room + mine, kind, mask=seat & (mine < room))
    tl.store(out_origin + row * room + at, nothing - 1, mask=(at >= seats) & (at < room))

    # text behind the picture
    end = tl.max(tl.where(seat, to, -1), axis=0)
    behind = stays & spoke & (num < 0) & (place > end)
    said = tl.cumsum(behind.to(tl.int32), axis=0) - 1
    says = behind & (said < spoken)
    last = tl.maximum(end, tl.max(tl.where(says, place, -1), axis=0)).to(tl.int64)
    heard = tl.sum(says.to(tl.int64), axis=0)
    tl.store(out_behind + row * spoken + said, place.to(tl.int64), mask=says)
    tl.store(out_rows + row * spoken + said, place.to(tl.int64), mask=says)
    silent = (at >= heard) & (at < spoken)
    tl.store(out_behind + row * spoken + at, nothing - 1, mask=silent)
    tl.store(out_rows + row * spoken + at, nothing + last, mask=silent)


@triton.jit(do_not_specialize=["length", "width", "room", "most", "counted", "wide"])
def _move(
    hidden,
    out,
    index,
    used,
    visual,
    counts,
    length,
    width,
    room,
    most,
    counted,
    counts_row,
    wide,
    hidden_row,
    BLOCK: tl.constexpr,
):
    new = tl.program_id(0).to(tl.int64)
    row = tl.program_id(1).to(tl.int64)
    c = tl.arange(0, BLOCK) + tl.program_id(2) * BLOCK
    inside = c < wide
    kept = tl.load(counts + row * counts_row)
    used_count = tl.minimum(tl.load(counts + counted + row * counts_row), most)
    made = tl.load(counts + 2 * counted + row * counts_row)
    has = (made > 0) & (used_count > 0) & (kept < room)
    seat = tl.load(visual + row * room + tl.where(has, kept, 0))
    if has & (seat == new):
        total = tl.zeros((BLOCK,), tl.float32)
        for i in range(used_count):
            place = tl.load(used + row * most + i)
            total += tl.load(hidden + row * hidden_row + place * wide + c, mask=inside, other=0.0).to(tl.float32)
        mean = total / used_count.to(tl.float32)
        tl.store(out + (row * width + new) * wide + c, mean.to(out.dtype.element_ty), mask=inside)
    else:
        place = tl.load(index + row * width + new)
        value = tl.load(hidden + row * hidden_row + place * wide + c, mask=inside, other=0.0)
        tl.store(out + (row * width + new) * wide + c, value, mask=inside)


def shortened(
    now: Sequence, hidden: Tensor, scores: Tensor, counts: Tensor, *, room: int, width: int, most: int
) -> tuple[Sequence, Tensor]:
    """Keep the best-scored tokens of each row's picture; the best of the others go on as one mean, if any.

    The mean stands behind the kept tokens, in the seat that the best token it is made of leaves over; it is summed in
    float32, best first.

    Parameters
    ----------
    now : Sequence
        M at most some thousand: one multiprocessor does all of it.
    hidden : Tensor, (B, M, d)
    scores : float32 Tensor, (B, M)
        No NaN; only those at prunable tokens count.
    counts : int64 Tensor, (3, B)
        Tokens kept, tokens that the mean is made of, and 1 where there is a mean, else 0.
    room, width : int
        No row has more prunable tokens, and more tokens at all, afterwards.
    most : int
        No mean is made of more tokens.

    Returns
    -------
    Sequence
    hidden : Tensor, (B, width, d)
    """
    batch, length, wide = hidden.shape
    entered, spoken = now.visual.shape[1], now.behind.shape[1]
    device = hidden.device

    def made(columns: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.empty(batch, columns, dtype=dtype, device=device)

    mask, text = made(width, torch.uint8), made(width, torch.uint8)
    source, positions, number, index = (made(width) for _ in range(4))
    visual, origin = made(room), made(room)
    behind, rows = made(spoken), made(spoken)
    used = made(max(1, most))
    kind, each = counts.stride()
    block = power_of_two(max(length, width, room, spoken), 16)
    warps = min(8, max(1, block // 64))
    own = (now.mask, now.text, now.source, now.positions, now.number, now.visual, now.origin)
    given = (x.contiguous() for x in (scores, *own))
    _layout[batch,](
        *(x.view(torch.uint8) if x.dtype == torch.bool else x for x in given),
        counts,
        mask,
        text,
        source,
        positions,
        number,
        visual,
        origin,
        behind,
        rows,
        index,
        used,
        length,
        entered,
        width,
        room,
        spoken,
        max(1, most),
        kind,
        each,
        CHUNK=16,
        BLOCK=block,
        num_warps=warps,
    )
    hidden = hidden.contiguous()
    out = torch.empty(batch, width, wide, dtype=hidden.dtype, device=device)
    columns = min(1024, power_of_two(wide, 16))
    _move[width, batch, -(-wide // columns)](
        hidden,
        out,
        index,
        used,
        visual,
        counts,
        length,
        width,
        room,
        max(1, most),
        kind,
        each,
        wide,
        hidden.stride(0),
        BLOCK=columns,
        num_warps=4,
    )
    after = Sequence(
        mask.view(torch.bool), text.view(torch.bool), source, positions, number, visual, origin, behind, rows
    )
    return after, out
