"""From a batch of prompts to pruning units and their features, and from a selection to what each span keeps.

A unit is what one budget applies to: an image, or all images of a sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tokenprune.budget import Budget, Keep, Unit
from tokenprune.errors import FeatureError, UnsupportedError
from tokenprune.features import SIGNALS, Features
from tokenprune.models.base import ModelAdapter, Observation, adapter_for
from tokenprune.prompt import Scaffold, Text, prompt_text
from tokenprune.registry import build
from tokenprune.schedule import LayerSchedule
from tokenprune.selection import Selection
from tokenprune.splice import Layout, Span
from tokenprune.strategy import AnyStrategy, Positions

__all__ = ["Batch", "Decision", "Request", "collect", "decide", "read_batch"]


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
        return self.strategy.reads(self.adapter.available)

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
        adapter.require(built.requires, f"strategy {built.name!r}")
        scaffold = None if processor is None else Scaffold.of(processor, adapter.image_token_ids)
        return cls(adapter, built, Budget.of(keep, unit), positions or built.positions, text, scaffold)


@dataclass(frozen=True)
class Batch:
    """A batch of prompts, taken apart.

    Attributes
    ----------
    layout : Layout
        One span a unit.
    images : tuple of tuple of int
        For each span, the observed images it consists of, in order; empty where none was observed.
    owner : tuple of int
        For each span, which decision it gets: rows that are copies of one prompt (beams) share one.
    distinct : tuple of int
        For each decision, the span it is made for.
    """

    layout: Layout
    images: tuple[tuple[int, ...], ...]
    owner: tuple[int, ...]
    distinct: tuple[int, ...]

    def followed_by(self, mask: Tensor) -> Batch:
        """The same with more tokens behind, which are neither text nor visual: mask (B, t)."""
        layout = self.layout
        text = torch.cat([layout.text, torch.zeros_like(mask)], dim=1)
        return replace(self, layout=Layout(torch.cat([layout.mask, mask], dim=1), text, layout.spans))


def read_batch(request: Request, ids: Tensor, mask: Tensor, sizes: Sequence[int]) -> Batch:
    """Find units, text and copies in a batch of prompts.

    Parameters
    ----------
    request : Request
    ids : int64 Tensor, (B, S)
    mask : bool Tensor, (B, S)
    sizes : sequence of int
        Tokens of each observed image, in order; a batch expanded for beams repeats its prompts, not its images.
    """
    placeholders = request.adapter.image_mask(ids)
    special = request.adapter.special_ids
    text = prompt_text(ids, mask, placeholders, special, text=request.text, scaffold=request.scaffold)
    spans: list[Span] = []
    images: list[tuple[int, ...]] = []
    for row, members in enumerate(_images_of_rows(placeholders.sum(1).tolist(), sizes)):
        positions = placeholders[row].nonzero().flatten()
        if not len(positions):
            continue
        if request.budget.unit == "sample":
            spans.append(Span(row, positions))
            images.append(members)
        elif members:
            spans.extend(Span(row, part) for part in torch.split(positions, [sizes[i] for i in members]))
            images.extend((i,) for i in members)
        else:
            parts = _contiguous(positions)
            spans.extend(Span(row, part) for part in parts)
            images.extend(() for _ in parts)
    owner, distinct = _copies(ids, spans, images)
    return Batch(Layout(mask, text, tuple(spans)), tuple(images), owner, distinct)


def _images_of_rows(counts: Sequence[int], sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """Observed images of each row, given placeholders a row; empty tuples where they do not add up.

    With ``e`` copies of each prompt there are ``e`` times as many placeholders as observed tokens.
    """
    nothing: list[tuple[int, ...]] = [() for _ in counts]
    expand, rest = divmod(sum(counts), sum(sizes)) if sizes else (0, 0)
    if rest or not expand or len(counts) % expand:
        return nothing
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


def _contiguous(positions: Tensor) -> list[Tensor]:
    """Split ascending positions where they jump."""
    breaks = ((positions[1:] - positions[:-1]) != 1).nonzero().flatten() + 1
    return list(torch.tensor_split(positions, breaks.tolist()))


def _copies(
    ids: Tensor, spans: Sequence[Span], images: Sequence[tuple[int, ...]]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Group spans that stand for the same observed images in equal rows."""
    owner: list[int] = []
    distinct: list[int] = []
    for i, span in enumerate(spans):
        for d, j in enumerate(distinct):
            other = spans[j]
            if images[i] and images[i] == images[j] and torch.equal(ids[span.row], ids[other.row]):
                owner.append(d)
                break
        else:
            owner.append(len(distinct))
            distinct.append(i)
    return tuple(owner), tuple(distinct)


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
    images = [batch.images[i] for i in batch.distinct]
    visual, visual_mask = _padded([embeds[s.row, s.positions] for s in spans], 0)
    signals: dict[str, Any] = {}
    if "text" in needed:
        silent = [s.row for s in spans if not bool(batch.layout.text[s.row].any())]
        if silent:
            raise FeatureError(
                f"sample {silent[0]} has an empty prompt (no text of its own) and strategy {name!r} reads the text: "
                "ask a question, pass text='all' or a mask, or use a strategy that ignores the prompt"
            )
        texts = [embeds[s.row, batch.layout.text[s.row]] for s in spans]
        signals["text"], signals["text_mask"] = _padded(texts, 0)
    for signal in sorted(needed - {"visual", "text"}):
        if signal not in seen.signals or not all(images):
            raise UnsupportedError(
                f"strategy {name!r} needs the signal {signal!r}, which is read while images are encoded; these were "
                "encoded elsewhere (precomputed mm_encoder_outputs?): pass pixel_values"
            )
        signals[signal] = _joined(seen.signals[signal], images, SIGNALS[signal].shape)
    grid = request.adapter.grid(visual.shape[1]) if visual_mask is None else None
    return Features(visual, visual_mask=visual_mask, grid=grid, **signals)


def _joined(per_image: Sequence[Tensor], images: Sequence[tuple[int, ...]], shape: str) -> Tensor:
    """Concatenate a signal over the images of each unit and stack the units."""
    letters = shape.split()[1:]
    if "n" not in letters:
        return torch.stack([per_image[members[0]] for members in images])
    axis = letters.index("n")
    return _padded([torch.cat([per_image[i] for i in members], axis) for members in images], axis)[0]


def _padded(rows: Sequence[Tensor], axis: int) -> tuple[Tensor, Tensor | None]:
    """Stack tensors that may differ along one axis: the stack and, where they do, a mask over that axis."""
    sizes = [row.shape[axis] for row in rows]
    longest = max(sizes)
    if min(sizes) == longest:
        return torch.stack(list(rows)), None
    out = rows[0].new_zeros(len(rows), *rows[0].shape[:axis], longest, *rows[0].shape[axis + 1 :])
    for target, row in zip(out, rows, strict=True):
        target.narrow(axis, 0, row.shape[axis]).copy_(row)
    limit = torch.tensor(sizes, device=out.device).unsqueeze(-1)
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


@torch.no_grad()
def decide(request: Request, features: Features) -> Decision:
    """Run the strategy and, where it merged in encoder space, the projector."""
    unit = request.budget.unit
    if unit == "sample" or features.grid is None or features.grid.frames == 1:
        unit = "image"  # a row of features is the unit already
    budget = Budget(request.budget.keep, unit, request.budget.clip)
    if isinstance(request.strategy, LayerSchedule):
        selection = request.strategy.enter(features, budget)
    else:
        selection = request.strategy.select(features, budget)
    sequence = selection.sequence
    kept = tuple(row[row >= 0] for row in sequence)
    if selection.merged is None:
        return Decision(selection, kept, None)
    tokens = selection.merged.tokens
    if selection.merged.space == "encoder":
        tokens = request.adapter.project(tokens)
    return Decision(selection, kept, tuple(t[row >= 0] for t, row in zip(tokens, sequence, strict=True)))
