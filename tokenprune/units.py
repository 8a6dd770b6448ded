"""From a batch of prompts to pruning units and their features, and from a selection to what each span keeps.

A unit is what one budget applies to: an image or video, one of its tiles or frames, or everything in a sample.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tokenprune.budget import Budget, Keep, Unit
from tokenprune.encoded import Encoded, tokens_of
from tokenprune.errors import FeatureError, SubstituteWarning, UnsupportedError
from tokenprune.features import SIGNALS, Features, Grid
from tokenprune.indexing import constant, gather_tokens
from tokenprune.models.base import Block, ModelAdapter, Observation, adapter_for
from tokenprune.models.loading import saved_processor
from tokenprune.prompt import TURNS, Scaffold, Text, check_text, prompt_text
from tokenprune.registry import build
from tokenprune.schedule import LayerSchedule
from tokenprune.selection import Selection
from tokenprune.splice import Layout, Span, Splice
from tokenprune.strategy import AnyStrategy, Positions
from tokenprune.support import check

__all__ = [
    "Batch",
    "Decision",
    "Member",
    "Request",
    "choose",
    "collect",
    "decide",
    "embedded",
    "gathered",
    "read_batch",
]


@dataclass(frozen=True)
class Request:
    """What the caller of ``attach`` or ``prepare`` asked for."""

    adapter: ModelAdapter
    strategy: AnyStrategy
    budget: Budget
    positions: Positions
    text: Text
    scaffold: Scaffold | None

    @property
    def signals(self) -> frozenset[str]:
        """Signals to collect: what the strategy reads, given what the model has."""
        return self.strategy.reads(self.adapter.available) - self.substitutes.keys() | set(self.substitutes.values())

    @property
    def reads_turns(self) -> bool:
        """Whether somebody has to tell the user's words from the rest of a prompt."""
        return isinstance(self.text, str) and self.text in TURNS and "text" in self.signals

    def marked(self, ids: Tensor, mask: Tensor, placeholders: Tensor) -> Tensor:
        """Tokens that count as text, bool (B, S); none where nobody reads them."""
        if isinstance(self.text, str) and self.text in TURNS and not (self.reads_turns and bool(placeholders.any())):
            return torch.zeros_like(mask)
        return prompt_text(ids, mask, placeholders, self.adapter.special_ids, text=self.text, scaffold=self.scaffold)

    @property
    def substitutes(self) -> dict[str, str]:
        """Signals that the model lacks, and what stands in for each."""
        return self.adapter.substitutes(self.strategy.requires)

    @classmethod
    def of(
        cls,
        model: Any,
        strategy: AnyStrategy | str | Mapping[str, Any],
        keep: Keep | Budget,
        unit: Unit | None,
        positions: Positions | None,
        text: Text,
        processor: Any,
    ) -> Request:
        """Find the adapter, build the strategy, and check that the model can give what it reads."""
        adapter = adapter_for(model)
        built = strategy if isinstance(strategy, AnyStrategy) else build(strategy)
        check(adapter, built)
        for name, other in adapter.substitutes(built.requires).items():
            warnings.warn(
                f"strategy {built.name!r} reads {name!r}, which {type(adapter.model).__name__} does not have: "
                f"{other!r}, made to add up to one, stands in for it",
                SubstituteWarning,
                stacklevel=4,
            )
        if positions == "compact" and adapter.multi_axis:
            raise UnsupportedError(
                f"positions='compact' cannot renumber the positions of {type(adapter.model).__name__}, which run along "
                "time, height and width: leave it out, or use 'keep'"
            )
        chosen = "keep" if adapter.multi_axis else positions or built.positions
        check_text(text, processor)
        scaffold = None if processor is None else Scaffold.of(processor, adapter.image_token_ids)
        request = cls(adapter, built, Budget.of(keep, unit), chosen, text, scaffold)
        if scaffold is None and request.reads_turns and (own := saved_processor(adapter.model)) is not None:
            return replace(request, scaffold=Scaffold.of(own, adapter.image_token_ids))
        return request


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
    grids : tuple of Grid or None
        For each span, where its tokens lie, if that is known.
    owner : tuple of int
        For each span, which decision it gets: rows that are copies of one prompt (beams) share one.
    distinct : tuple of int
        For each decision, the span it is made for.
    """

    layout: Layout
    members: tuple[tuple[Member, ...], ...]
    grids: tuple[Grid | None, ...]
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
    grids: list[Grid | None] = []
    for row, found in enumerate(pieces):
        for group in _grouped(sorted(found, key=lambda piece: piece.start), request.budget.unit, adapter):
            spans.append(Span(row, torch.cat([piece.positions for piece in group])))
            known = [piece.member for piece in group if piece.member is not None]
            members.append(tuple(known) if len(known) == len(group) else ())
            grids.append(group[0].grid if len(group) == 1 else None)
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


def _grouped(pieces: Sequence[_Piece], unit: Unit, adapter: ModelAdapter) -> Iterator[list[_Piece]]:
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
        if last is not None and not (
            (piece.member is not None and piece.start == last.start)  # further stretches of one input
            or (adapter.joins_adjacent and piece.start == last.end + 1)
        ):
            yield group
            group = []
        group.append(piece)
    if group:
        yield group


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


def embedded(adapter: ModelAdapter, ids: Tensor, encoded: Encoded) -> Tensor:
    """Embeddings of a batch of prompts with the features of its visual inputs in place.

    Parameters
    ----------
    adapter : ModelAdapter
    ids : int64 Tensor, (B, S)
    encoded : Encoded
        All the prompts' visual inputs.

    Returns
    -------
    Tensor, (B, S, d)

    Raises
    ------
    FeatureError
        Placeholders are not as many as the features.
    """
    embeds = adapter.embed_text(ids)
    for modality in adapter.placeholders:
        here = adapter.image_mask(ids, modality)
        output = encoded.outputs.get(modality)
        features = embeds.new_zeros(0, embeds.shape[-1]) if output is None else tokens_of(output)
        if int(here.sum()) != len(features):
            raise FeatureError(
                f"input_ids has {int(here.sum())} {modality} placeholders but the {modality}s have {len(features)} "
                "tokens"
            )
        embeds = embeds.masked_scatter(here.unsqueeze(-1), features.to(embeds.dtype))
    return embeds


def collect(request: Request, embeds: Tensor, batch: Batch, seen: Observation) -> Features:
    """Gather, for each distinct unit, exactly the signals that the strategy reads.

    Parameters
    ----------
    request : Request
    embeds : Tensor, (B, S, d)
        Embeddings with image features in place.
    batch : Batch
    seen : Observation
        What the hooks saw of these images.

    Raises
    ------
    FeatureError
        The strategy reads the prompt and a sample has none.
    UnsupportedError
        The strategy reads an encoder signal and the images were encoded elsewhere.
    """
    name, needed = request.strategy.name, request.signals
    spans = [batch.layout.spans[i] for i in batch.distinct]
    visual, visual_mask = _padded([embeds[s.row, s.positions] for s in spans], 0)
    text = text_mask = None
    if "text" in needed:
        silent = [s.row for s in spans if not bool(batch.layout.text[s.row].any())]
        if silent:
            raise FeatureError(
                f"sample {silent[0]} has an empty prompt (no text of its own) and strategy {name!r} reads the text: "
                "ask a question, pass text='all', text='<words of the prompt>' or a mask, or use a strategy that "
                "ignores the prompt"
            )
        text, text_mask = _padded([embeds[s.row, batch.layout.text[s.row]] for s in spans], 0)
    grids = {batch.grids[i] for i in batch.distinct}
    grid = grids.pop() if len(grids) == 1 else None
    members = [batch.members[i] for i in batch.distinct]
    return gathered(request, visual, visual_mask, text, text_mask, members, grid, seen)


def gathered(
    request: Request,
    visual: Tensor,
    visual_mask: Tensor | None,
    text: Tensor | None,
    text_mask: Tensor | None,
    members: Sequence[tuple[Member, ...]],
    grid: Grid | None,
    seen: Observation,
    *,
    check: bool = True,
    sizes: Sequence[int] | None = None,
) -> Features:
    """Features of some units, given what is taken from their embeddings; other signals come from what was observed.

    Parameters
    ----------
    request : Request
    visual, visual_mask, text, text_mask
        As in :class:`~tokenprune.features.Features`.
    members : sequence of tuple of Member
        What each unit consists of.
    grid : Grid or None
    seen : Observation
    check, sizes
        As in :class:`~tokenprune.features.Features`.
    """
    signals: dict[str, Any] = {}
    for signal in sorted(request.signals - {"visual", "text"}):
        signals[signal] = _joined(signal, members, seen, request.strategy.name)
    for lacking, other in request.substitutes.items():
        received = signals[other]
        signals[lacking] = (received / received.sum(1, keepdim=True)).unsqueeze(1)
    return Features(
        visual,
        text,
        visual_mask=visual_mask,
        text_mask=text_mask,
        grid=grid,
        check=check,
        sizes=sizes,
        extra=None,
        **signals,
    )


def _joined(signal: str, units: Sequence[tuple[Member, ...]], seen: Observation, strategy: str) -> Tensor:
    """Concatenate a signal over the visual inputs of each unit and stack the units."""
    letters = SIGNALS[signal].shape.split()[1:]
    axis = letters.index("n") if "n" in letters else None
    rows = []
    for members in units:
        blocks = [seen.blocks.get(m.modality, [])[m.block : m.block + 1] for m in members]
        if not members or not all(block and signal in block[0].signals for block in blocks):
            raise UnsupportedError(
                f"strategy {strategy!r} needs the signal {signal!r}, which is read while visual inputs are encoded; "
                "these were encoded elsewhere (precomputed mm_encoder_outputs?), or this kind of input has none: pass "
                "pixel_values, or use a strategy that does not read it"
            )
        values = [block[0].signals[signal] for block in blocks]
        if axis is None:
            rows.append(values[0])
        else:
            parts = [v.narrow(axis, m.start, m.stop - m.start) for v, m in zip(values, members, strict=True)]
            rows.append(torch.cat(parts, axis))
    return torch.stack(rows) if axis is None else _padded(rows, axis)[0]


def _padded(rows: Sequence[Tensor], axis: int) -> tuple[Tensor, Tensor | None]:
    """Stack tensors that may differ along one axis: the stack and, where they do, a mask over that axis."""
    sizes = [row.shape[axis] for row in rows]
    longest = max(sizes)
    if min(sizes) == longest:
        return torch.stack(list(rows)), None
    out = rows[0].new_zeros(len(rows), *rows[0].shape[:axis], longest, *rows[0].shape[axis + 1 :])
    for i, row in enumerate(rows):  # not over `out`: autograd refuses to write into what iterating a tensor yields
        out[i].narrow(axis, 0, row.shape[axis]).copy_(row)
    limit = constant(tuple(sizes), out.device).unsqueeze(-1)
    return out, torch.arange(longest, device=out.device) < limit


@dataclass(frozen=True)
class Decision:
    """What the distinct units of a batch keep.

    Attributes
    ----------
    selection : Selection
    kept : tuple of int64 Tensor
        For each unit, positions within it in the order in which they enter the language model.
    made : tuple of Tensor or None
        For each unit, embeddings of those places, where the strategy makes new ones.
    """

    selection: Selection
    kept: tuple[Tensor, ...]
    made: tuple[Tensor, ...] | None

    def spread(self, owner: Sequence[int]) -> Decision:
        """The same for every span of the batch, copies included."""
        made = None if self.made is None else tuple(self.made[d] for d in owner)
        return Decision(self.selection, tuple(self.kept[d] for d in owner), made)

    def embeddings(self, plan: Splice, embeds: Tensor, layout: Layout) -> Tensor:
        """Embeddings of the shorter sequence, tokens that the strategy made included: (B, S, d) -> (B, M, d)."""
        new = plan.tokens(embeds)
        if self.made is not None:
            for span, slots, tokens in zip(layout.spans, plan.slots, self.made, strict=True):
                new[span.row, slots] = tokens.to(new.dtype)
        return new


def decide(request: Request, features: Features) -> Decision:
    """Run the strategy and note what each unit keeps."""
    selection, made = choose(request, features)
    sequence = selection.sequence
    kept = tuple(row[row >= 0] for row in sequence)
    if made is None:
        return Decision(selection, kept, None)
    return Decision(selection, kept, tuple(t[row >= 0] for t, row in zip(made, sequence, strict=True)))


@torch.no_grad()
def choose(request: Request, features: Features) -> tuple[Selection, Tensor | None]:
    """Run the strategy; embeddings (U, K, d) of what it keeps, where it makes new ones, projected if need be."""
    # a row of features is the unit already
    budget = Budget(request.budget.keep, "image", request.budget.clip)
    if isinstance(request.strategy, LayerSchedule):
        selection = request.strategy.enter(features, budget)
    else:
        selection = request.strategy.select(features, budget)
    if selection.merged is None:
        return selection, None
    tokens = selection.merged.tokens
    if selection.merged.space == "encoder":
        # what was not changed stays what it is: where tokens were pooled, projecting them again gives something else
        source = selection.merged.source
        same = (tokens == gather_tokens(features["encoder"], source)).all(-1, keepdim=True)
        tokens = torch.where(same, gather_tokens(features.visual, source), request.adapter.project(tokens))
    return selection, tokens
