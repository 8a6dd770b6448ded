"""From a batch of prompts to pruning units and their features, and from a selection to what each span keeps.

A unit is what one budget applies to: an image or video, one of its tiles or frames, or everything in a sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from tokenprune.core.budget import Unit
from tokenprune.core.errors import FeatureError, UnsupportedError
from tokenprune.core.features import Grid
from tokenprune.hf.adapters.base import Block, ModelAdapter, Observation
from tokenprune.hf.request import Request
from tokenprune.hf.splice import Layout, Span

__all__ = ["Batch", "Member", "read_batch"]


@dataclass(frozen=True)
class Member:
    """A stretch of one visual input's prunable tokens.

    Attributes
    ----------
    modality : str
    block : int
        Which of the modality's observed inputs.
    start, stop : int
        Its prunable tokens from ``start`` up to ``stop``.
    """

    modality: str
    block: int
    start: int
    stop: int


@dataclass(frozen=True)
class Batch:
    """A batch of prompts, taken apart.

    Attributes
    ----------
    layout : Layout
        One span a unit; tokens that always stay belong to none.
    members : tuple of tuple of Member
        For each span, what it consists of, in order; empty where nothing was observed.
    grids : tuple of tuple of Grid
        For each span, where its tokens lie, if that is known. In a family that shows frames of videos as images of
        their own, images of one size that share a unit ("sample") and stand apart in the prompt are such frames. For
        a strategy that reads frames a picture cut into tiles is one frame, of a single row.
    owner : tuple of int
        For each span, which decision it gets: rows that are copies of one prompt (beams) share one.
    distinct : tuple of int
        For each decision, the span it is made for.
    """

    layout: Layout
    members: tuple[tuple[Member, ...], ...]
    grids: tuple[tuple[Grid, ...], ...]
    owner: tuple[int, ...]
    distinct: tuple[int, ...]

    def followed_by(self, mask: Tensor) -> Batch:
        """The same with more tokens behind, which are neither text nor visual: mask (B, t)."""
        layout = self.layout
        text = torch.cat([layout.text, torch.zeros_like(mask)], dim=1)
        return replace(self, layout=Layout(torch.cat([layout.mask, mask], dim=1), text, layout.spans))


@dataclass(frozen=True)
class _Piece:
    """A candidate for a unit: prunable tokens of one row, before they are grouped.

    ``end`` is the last placeholder of the input it comes from, prunable or not; ``start`` the first.
    """

    positions: Tensor
    member: Member | None
    grid: Grid | None
    start: int
    end: int


def read_batch(request: Request, ids: Tensor, mask: Tensor, seen: Observation) -> Batch:
    """Find units, text and copies in a batch of prompts.

    Parameters
    ----------
    request : Request
    ids : int64 Tensor, (B, S)
    mask : bool Tensor, (B, S)
    seen : Observation
        What was observed; a batch expanded for beams repeats its prompts, not its visual inputs.

    Raises
    ------
    FeatureError
        Placeholders are not as many as the tokens that were observed.
    """
    adapter = request.adapter
    placeholders = adapter.image_mask(ids)
    text = request.marked(ids, mask, placeholders)
    pieces: list[list[_Piece]] = [[] for _ in range(ids.shape[0])]
    for modality in adapter.placeholders:
        here = adapter.image_mask(ids, modality)
        blocks = seen.blocks.get(modality, [])
        counts = here.sum(1).tolist()
        for row, items in enumerate(_blocks_of_rows(modality, counts, [block.size for block in blocks])):
            if counts[row]:
                positions = here[row].nonzero().flatten()
                pieces[row].extend(_pieces(adapter, modality, positions, blocks, items))
    spans: list[Span] = []
    members: list[tuple[Member, ...]] = []
    grids: list[tuple[Grid, ...]] = []
    for row, found in enumerate(pieces):
        row_ids = ids[row].tolist() if found else []
        for group in _grouped(sorted(found, key=lambda piece: piece.start), request.budget.unit, adapter, row_ids):
            spans.append(Span(row, torch.cat([piece.positions for piece in group])))
            known = [piece.member for piece in group if piece.member is not None]
            members.append(tuple(known) if len(known) == len(group) else ())
            lie = _grids_of(group, adapter, row_ids)
            if len(lie) != 1 and "frames" in request.signals and _one_picture(group, adapter, row_ids):
                lie = (Grid(1, len(spans[-1].positions)),)
            grids.append(lie)
    owner, distinct = _copies(ids, spans, members)
    return Batch(Layout(mask, text, tuple(spans)), tuple(members), tuple(grids), owner, distinct)


def _blocks_of_rows(modality: str, counts: Sequence[int], sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """Observed inputs of each row, given placeholders a row; empty tuples where an input would be in two rows.

    With ``e`` copies of each prompt there are ``e`` times as many placeholders as observed tokens.
    """
    nothing: list[tuple[int, ...]] = [() for _ in counts]
    if not sizes:
        return nothing
    expand, rest = divmod(sum(counts), sum(sizes))
    if rest or not expand or len(counts) % expand:
        raise FeatureError(
            f"input_ids has {sum(counts)} {modality} placeholders but the {modality}s have {sum(sizes)} tokens"
        )
    rows: list[tuple[int, ...]] = []
    first = 0
    for group in range(0, len(counts), expand):
        last, left = first, counts[group]
        while left > 0 and last < len(sizes):
            left -= sizes[last]
            last += 1
        if left or len(set(counts[group : group + expand])) > 1:
            return nothing
        rows.extend([tuple(range(first, last))] * expand)
        first = last
    return rows


def _pieces(
    adapter: ModelAdapter, modality: str, positions: Tensor, blocks: Sequence[Block], members: Sequence[int]
) -> Iterator[_Piece]:
    """Cut a row's placeholders into visual inputs, and those into stretches that lie on a grid of their own."""
    if not members:
        for part in _contiguous(positions):
            yield _Piece(part, None, adapter.grid(len(part)), int(part[0]), int(part[-1]))
        return
    ends = positions.tolist()
    offset = 0
    for i in members:
        block = blocks[i]
        part = positions[offset : offset + block.size]
        first, last = ends[offset], ends[offset + block.size - 1]
        offset += block.size
        if block.fixed is not None:
            part = part[~block.fixed.to(part.device)]
        start = 0
        for grid in block.grids or (None,):
            stop = len(part) if grid is None else start + grid.size
            yield _Piece(part[start:stop], Member(modality, i, start, stop), grid, first, last)
            start = stop


def _grouped(pieces: Sequence[_Piece], unit: Unit, adapter: ModelAdapter, ids: Sequence[int]) -> Iterator[list[_Piece]]:
    """Group the pieces of one row into units."""
    if unit == "sample":
        if pieces:
            yield list(pieces)
        return
    if unit in ("tile", "frame"):
        for piece in pieces:
            yield from ([part] for part in (_frames(piece) if unit == "frame" else (piece,)))
        return
    group: list[_Piece] = []
    for piece in pieces:
        last = group[-1] if group else None
        if last is not None and not _continues(last, piece, adapter, ids):
            yield group
            group = []
        group.append(piece)
    if group:
        yield group


def _continues(last: _Piece, piece: _Piece, adapter: ModelAdapter, ids: Sequence[int]) -> bool:
    """Whether a piece is a further stretch, or a further tile, of the visual input before it."""
    same = piece.member is not None and piece.start == last.start
    return same or adapter.joins(ids, (last.start, last.end), (piece.start, piece.end))


def _one_picture(group: Sequence[_Piece], adapter: ModelAdapter, ids: Sequence[int]) -> bool:
    """Whether a unit is one still picture, cut up or not: a frame, whatever lies where in it."""
    still = all(piece.member is not None and piece.member.modality == "image" for piece in group)
    return still and all(_continues(last, piece, adapter, ids) for last, piece in pairwise(group))


def _grids_of(group: Sequence[_Piece], adapter: ModelAdapter, ids: Sequence[int]) -> tuple[Grid, ...]:
    """Where the tokens of a unit lie, picture after picture; empty where it is not known of all.

    Inputs of one size that stand apart in a prompt are frames of one video.
    """
    grids = tuple(piece.grid for piece in group if piece.grid is not None)
    if len(grids) < len(group):
        return ()
    first = grids[0]
    alike = all((grid.height, grid.width) == (first.height, first.width) for grid in grids)
    apart = not any(_continues(last, piece, adapter, ids) for last, piece in pairwise(group))
    if len(grids) > 1 and adapter.frames_apart and alike and apart:
        return (Grid(first.height, first.width, sum(grid.frames for grid in grids)),)
    return grids


def _frames(piece: _Piece) -> Iterator[_Piece]:
    """The frames of a video; anything else as it is."""
    grid, member = piece.grid, piece.member
    if member is None or (grid is None and member.modality == "video"):
        raise UnsupportedError(
            "unit='frame' needs to know where frames begin: these visual inputs were encoded elsewhere, or the model "
            "family does not say"
        )
    if grid is None or grid.frames == 1:
        yield piece
        return
    each = grid.height * grid.width
    for i, part in enumerate(torch.split(piece.positions, each)):
        start = member.start + i * each
        yield replace(
            piece,
            positions=part,
            member=replace(member, start=start, stop=start + each),
            grid=Grid(grid.height, grid.width),
        )


def _contiguous(positions: Tensor) -> list[Tensor]:
    """Split ascending positions where they jump."""
    breaks = ((positions[1:] - positions[:-1]) != 1).nonzero().flatten() + 1
    return list(torch.tensor_split(positions, breaks.tolist()))


def _copies(
    ids: Tensor, spans: Sequence[Span], members: Sequence[tuple[Member, ...]]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Group spans that stand for the same observed inputs in equal rows."""
    owner: list[int] = []
    distinct: list[int] = []
    first: dict[tuple[Member, ...], list[int]] = {}
    for i, span in enumerate(spans):
        for d in first.get(members[i], ()) if members[i] else ():
            if torch.equal(ids[span.row], ids[spans[distinct[d]].row]):
                owner.append(d)
                break
        else:
            first.setdefault(members[i], []).append(len(distinct))
            owner.append(len(distinct))
            distinct.append(i)
    return tuple(owner), tuple(distinct)
