"""Rounds of bipartite matching in one launch.

Every second token of a list is compared with the others, the most alike go, and what is left is the next round's list.
Nothing is computed but maxima and order, so the list is that of tensor operations to the place, ties included.
"""

# mypy: disable-error-code="import-untyped, import-not-found, no-untyped-def, no-untyped-call, untyped-decorator"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenprune.kernels import power_of_two
from tokenprune.kernels.launch import Launch

__all__ = ["bipartite_rounds"]


@triton.jit
def _together(arrivals, times, PROGRAMS: tl.constexpr):
    """Wait until all programs of a sample have come here: what each wrote before is then visible to all."""
    tl.debug_barrier()
    if PROGRAMS > 1:
        tl.atomic_add(arrivals, 1, sem="release", scope="gpu")
        seen = tl.atomic_add(arrivals, 0, sem="acquire", scope="gpu")
        while seen < times * PROGRAMS:
            seen = tl.atomic_add(arrivals, 0, sem="acquire", scope="gpu")
        tl.debug_barrier()


@triton.jit(do_not_specialize=["width", "most", "rate"])
def _rounds(
    cosine,
    lists,
    nearest,
    sizes,
    counts,
    out,
    arrivals,
    n,
    width,
    most,
    rate,
    EVEN: tl.constexpr,
    PROGRAMS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    row = tl.program_id(1)
    left = width if EVEN else tl.load(sizes + row).to(tl.int32)
    count = most if EVEN else tl.load(counts + row).to(tl.int32)
    table = cosine + row.to(tl.int64) * n * n
    # two lists, written in turn
    here = lists + row.to(tl.int64) * 2 * width
    there = here + width
    nearest += row.to(tl.int64) * width
    arrivals += row
    r = tl.arange(0, ROWS)
    c = tl.arange(0, BLOCK)
    times = 0
    while left > count:
        odds = left // 2
        evens = left - odds
        drop = tl.minimum(tl.minimum(rate, left - count), evens)
        for start in range(program * ROWS, evens, PROGRAMS * ROWS):
            real = start + r < evens
            token = tl.load(here + 2 * (start + r), mask=real, other=0, volatile=True)
            top = tl.full((ROWS, BLOCK), float("-inf"), cosine.dtype.element_ty)
            for first in range(0, odds, BLOCK):
                inside = first + c < odds
                other = tl.load(here + 2 * (first + c) + 1, mask=inside, other=0, volatile=True)
                both = real[:, None] & inside[None, :]
                alike = tl.load(table + token[:, None] * n + other[None, :], mask=both, other=float("-inf"))
                # NaN comes first, as where tensors are sorted
                top = tl.maximum(top, tl.where(alike != alike, float("inf"), alike))
            tl.store(nearest + start + r, tl.max(top, axis=1), mask=real)
        times += 1
        _together(arrivals, times, PROGRAMS)
        for start in range(program * ROWS, evens, PROGRAMS * ROWS):
            place = start + r
            real = place < evens
            token = tl.load(here + 2 * place, mask=real, other=0, volatile=True)
            own = tl.load(nearest + place, mask=real, other=0.0, volatile=True)
            ahead = tl.zeros((ROWS, BLOCK), tl.int32)
            for first in range(0, evens, BLOCK):
                inside = first + c < evens
                other = tl.load(nearest + first + c, mask=inside, other=float("-inf"), volatile=True)
                before = (other[None, :] == own[:, None]) & ((first + c)[None, :] < place[:, None])
                ahead += ((other[None, :] > own[:, None]) | before).to(tl.int32)
            rank = tl.sum(ahead, axis=1) - drop
            tl.store(there + rank, token, mask=real & (rank >= 0))
        for first in range(program * BLOCK, odds, PROGRAMS * BLOCK):
            inside = first + c < odds
            token = tl.load(here + 2 * (first + c) + 1, mask=inside, other=0, volatile=True)
            tl.store(there + evens - drop + first + c, token, mask=inside)
        times += 1
        _together(arrivals, times, PROGRAMS)
        left -= drop
        spare = here
        here = there
        there = spare
    if program == 0:
        for first in range(0, most, BLOCK):
            inside = first + c < most
            token = tl.load(here + first + c, mask=inside & (first + c < count), other=-1, volatile=True)
            tl.store(out + row.to(tl.int64) * most + first + c, token, mask=inside)


def _shape(width: int, batch: int, device: torch.device) -> tuple[int, int, int, int]:
    """Programs a sample, evens and odds at a time, warps."""
    block = min(512, power_of_two(width, 32) // 2)
    if device.type != "cuda":
        return 1, 32, block, 4
    # what a round takes is waiting for memory, one batch of evens after the other: best one batch a program
    tall = 8
    most = min(64, torch.cuda.get_device_properties(device).multi_processor_count // batch)
    programs = 1
    while 2 * programs <= most and programs * tall < width // 2:
        programs *= 2
    return programs, tall, block, 8 if block >= 256 else 4


def bipartite_rounds(
    cosine: Tensor, places: Tensor, sizes: tuple[int, ...], counts: tuple[int, ...], rate: int
) -> Tensor:
    """What rounds of at most ``rate`` leave of a list, in the order of the last list.

    In a round the tokens at even places are compared with those at odd places; the most similar even ones go. Evens by
    descending similarity, then odds, are the next list.

    Parameters
    ----------
    cosine : Tensor, (B, N, N)
        float32 or float64, entry [even, odd].
    places : int64 Tensor, (B, L)
        The first list of each row, positions from 0 to N - 1 throughout.
    sizes, counts : tuple of int
        How long each row's list is, and how long it is to be; a row as long or shorter is left alone.
    rate : int

    Returns
    -------
    int64 Tensor, (B, max count)
        -1 as padding.
    """
    batch, width = places.shape
    device = places.device
    programs, tall, block, warps = _shape(width, batch, device)
    launch = Launch(batch, counts, device, programs, warps, uniform=min(sizes) == width)
    out = launch.picks()
    if launch.most == 0:
        return out
    lists = places.unsqueeze(1).repeat(1, 2, 1)
    _rounds[launch.grid](
        cosine.contiguous(),
        lists,
        cosine.new_empty(batch, width),
        launch.rows(sizes, out),
        launch.rows(counts, out),
        out,
        torch.zeros(batch, dtype=torch.int32, device=device) if programs > 1 else out,
        cosine.shape[1],
        width,
        launch.most,
        rate,
        ROWS=tall,
        BLOCK=block,
        **launch.options,
    )
    return out
