"""The data of pruning between decoder layers: what enters, stretches of layers with the same tokens, what is left."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tokenprune.core.errors import FeatureError
from tokenprune.core.features import Features, signal_of
from tokenprune.core.groups import Groups
from tokenprune.core.indexing import gather_tokens
from tokenprune.core.selection import Selection
from tokenprune.hf.layer_signals import Places
from tokenprune.hf.record import Prefill, Stage
from tokenprune.hf.splice import Layout, Splice, next_position

__all__ = ["Entered", "Outcome", "Segment", "forgotten", "parts_of", "per_sample", "places_in", "still_there"]


@dataclass(frozen=True)
class Entered:
    """A batch of prompts as they enter the language model.

    Attributes
    ----------
    layout : Layout
        ``text`` marks everything of the prompt that is neither visual nor padding.
    embeds : Tensor, (B, M, d)
    positions : Tensor, (B, M) or (R, B, M)
        Position ids.
    keep : tuple of int
        Budget of each span.
    signals : Features
        What was collected before, a row for each distinct unit with all the tokens that it had then.
    owner : tuple of int
        For each span, its row in ``signals``.
    distinct : tuple of int
        For each row of ``signals``, its first span.
    origin : tuple of int64 Tensor
        For each span, the place in ``signals`` of each token that entered.
    groups : Groups or None
        What the strategy in front of the language model found, a row for each row of ``signals``.
    """

    layout: Layout
    embeds: Tensor
    positions: Tensor
    keep: tuple[int, ...]
    signals: Features
    owner: tuple[int, ...]
    distinct: tuple[int, ...]
    origin: tuple[Tensor, ...]
    groups: Groups | None = None


@dataclass(frozen=True)
class Segment:
    """A stretch of layers that see the same tokens.

    Attributes
    ----------
    first : int
        Its first layer.
    source : int64 Tensor, (B, M)
        Place of each token among those that entered the language model.
    layout : Layout
    positions : Tensor, (B, M) or (R, B, M)
    sliced : dict
        What its layers are given in the current prefill or decoding step, made once for all of them.
    """

    first: int
    source: Tensor
    layout: Layout
    positions: Tensor
    sliced: dict[str, Any] = field(default_factory=dict, repr=False)

    def same_tokens(self, other: Segment) -> bool:
        """Whether nothing went or moved: layers of the other segment are then given what this one's are, to the bit."""
        return torch.equal(self.source, other.source)

    @cached_property
    def full(self) -> bool:
        """Whether there is no padding (asked once: on an accelerator the answer has to be waited for)."""
        return bool(self.layout.mask.all())

    @property
    def next_position(self) -> Tensor:
        """Position id of the first new token, (B,)."""
        return next_position(self.positions, self.layout.mask)


@dataclass(frozen=True)
class Outcome:
    """What became of a prompt between layers: what went in, the last segment, the events, and what is left.

    ``origin`` holds for each span the original place of each token left; a merged token counts as the one whose place
    it takes.
    """

    entered: Entered
    last: Segment
    stages: tuple[Stage, ...]
    origin: tuple[Tensor, ...]

    def splice(self, before: Splice) -> Splice:
        """From the original sequence to what the last layer saw, given the splice in front of the first layer."""
        slots = tuple(span.positions for span in self.last.layout.spans)
        return Splice(before.index.gather(1, self.last.source), self.last.layout.mask, slots)

    def complete(self, prefill: Prefill) -> Prefill:
        """Bring a record up to date that ends at the first layer."""
        order = pad_sequence([self.origin[span] for span in self.entered.distinct], True, -1)
        return replace(
            prefill,
            selection=Selection.from_order(order, self.entered.signals.n_visual),
            tokens_after=per_sample(self.last.layout),
            sequence_after=self.last.layout.length,
            layer_tokens=tuple(self._layers_of(row, counts) for row, counts in enumerate(prefill.layer_tokens)),
            splice=self.splice(prefill.splice),
            stages=tuple(self._of_units(stage) for stage in self.stages),
        )

    def _of_units(self, stage: Stage) -> Stage:
        """What an event did to each unit once, where a batch holds copies of prompts (beams)."""
        units = self.entered.distinct
        if len(units) == len(stage.sequence):
            return stage
        return replace(stage, selection=stage.selection.units(units), sequence=stage.sequence[list(units)])

    def _layers_of(self, row: int, entered: tuple[int, ...]) -> tuple[int, ...]:
        counts = list(entered)
        for stage in self.stages:
            counts[stage.layer + 1 :] = [stage.tokens_after[row]] * (len(counts) - stage.layer - 1)
        return tuple(counts)


def places_in(layout: Layout) -> Places:
    """Where each span's visual tokens and the text after them stand in a layout."""
    texts, lasts = [], []
    place = torch.arange(layout.length, device=layout.mask.device)
    for span in layout.spans:
        end = int(span.positions[-1])
        texts.append((layout.text[span.row] & (place > end)).nonzero().flatten())
        lasts.append(max(end, int(texts[-1][-1]) if len(texts[-1]) else end))
    return Places(
        rows=torch.tensor([span.row for span in layout.spans], device=layout.mask.device),
        visual=pad_sequence([span.positions for span in layout.spans], batch_first=True, padding_value=-1),
        text=pad_sequence(texts, batch_first=True, padding_value=-1),
        last=torch.tensor(lasts, device=layout.mask.device).unsqueeze(1),
    )


def still_there(entered: Entered, name: str, origin: list[Tensor]) -> Tensor:
    """A signal collected before the language model, for the tokens that each span still has."""
    signal = entered.signals[name]
    letters = signal_of(name).shape.split()
    owner = torch.tensor(entered.owner, device=signal.device)
    rows = signal[owner]
    if "n" not in letters:
        return rows
    axis = letters.index("n")
    places = pad_sequence(origin, batch_first=True, padding_value=-1)
    return gather_tokens(rows.movedim(axis, 1), places).movedim(1, axis)


def parts_of(entered: Entered, origin: list[Tensor], strategy: str) -> Tensor:
    """Part that each token still there was put in before the language model, -1 as padding."""
    if entered.groups is None or entered.groups.part is None:
        raise FeatureError(f"strategy {strategy!r} reads 'part', and nothing before the language model hands parts on")
    part = entered.groups.part
    rows = part[torch.tensor(entered.owner, device=part.device)]
    places = pad_sequence(origin, batch_first=True, padding_value=-1)
    return rows.gather(1, places.clamp_min(0)).masked_fill(places < 0, -1)


def forgotten(first: Segment, last: Segment) -> Tensor | None:
    """Tokens that entered and are not left in the end, bool (B, M); None where all are."""
    width = first.layout.mask.shape[1]
    left = torch.zeros(len(last.source), width + 1, dtype=torch.bool, device=last.source.device)
    left.scatter_(1, last.source.where(last.layout.mask, width), True)
    gone = first.layout.mask & ~left[:, :width]
    return gone if bool(gone.any()) else None


def per_sample(layout: Layout) -> tuple[int, ...]:
    """Visual tokens of each sample."""
    counts = [0] * layout.mask.shape[0]
    for span in layout.spans:
        counts[span.row] += len(span.positions)
    return tuple(counts)
