"""From kept tokens to a shorter sequence: index arithmetic on (B, S), no model in sight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tokenprune.core.errors import UnsupportedError
from tokenprune.core.indexing import gather_tokens

__all__ = ["Layout", "Span", "Splice", "next_position", "rotary_at", "splice"]


@dataclass(frozen=True)
class Span:
    """Where one unit's visual tokens stand.

    Attributes
    ----------
    row : int
        Sample.
    positions : int64 Tensor, (n,)
        Sequence positions of its tokens, ascending; not necessarily contiguous.
    """

    row: int
    positions: Tensor


@dataclass(frozen=True)
class Layout:
    """What stands where in a batch of prompts.

    Attributes
    ----------
    mask : bool Tensor, (B, S)
        True at real tokens (the 2-D attention mask).
    text : bool Tensor, (B, S)
        True at the prompt's own text.
    spans : tuple of Span
        Visual tokens, one span a unit, rows in order.
    """

    mask: Tensor
    text: Tensor
    spans: tuple[Span, ...]

    @property
    def length(self) -> int:
        """Sequence length S."""
        return self.mask.shape[1]


@dataclass(frozen=True)
class Splice:
    """How to build the shorter sequence.

    Attributes
    ----------
    index : int64 Tensor, (B, M)
        Source position of each new place; arbitrary at padding.
    mask : bool Tensor, (B, M)
        True at real tokens.
    slots : tuple of int64 Tensor
        New places of each span's kept tokens, in sequence order.
    """

    index: Tensor
    mask: Tensor
    slots: tuple[Tensor, ...]

    @cached_property
    def full(self) -> bool:
        """Whether there is no padding (asked once: on an accelerator the answer has to be waited for)."""
        return bool(self.mask.all())

    def tokens(self, x: Tensor) -> Tensor:
        """Gather (B, S, ...) -> (B, M, ...)."""
        return gather_tokens(x, self.index)

    def scattered(self, places: Tensor, values: Tensor) -> Tensor:
        """Gather what is given at some places only: places bool (B, S), values (count, d) -> (B, M, d), else 0."""
        whole = values.new_zeros(*places.shape, values.shape[-1])
        whole[places] = values
        return self.tokens(whole)

    def positions(self, position_ids: Tensor, how: str) -> Tensor:
        """Position ids of the new places.

        Parameters
        ----------
        position_ids : Tensor, (B, S) or (R, B, S)
            Original ones; 3-D for multi-axis rotary embeddings.
        how : str
            "keep": as they were; "compact": consecutive over real tokens, from the row's first on (2-D only). Where
            a first row of four counts the sequence beside time, height and width, it is counted anew.
        """
        if how == "compact" and position_ids.ndim == 2:
            old = position_ids.gather(1, self.index)
            first = old.masked_fill(~self.mask, torch.iinfo(old.dtype).max).amin(1, keepdim=True)
            return (self.mask.cumsum(1) - 1).clamp_min(0) + first
        if position_ids.ndim == 2:
            return position_ids.gather(1, self.index)
        gathered = position_ids.gather(2, self.index.expand(position_ids.shape[0], -1, -1))
        if gathered.shape[0] == 4:  # transformers prepends the sequence's own count
            gathered[0] = (self.mask.cumsum(1) - 1).clamp_min(0)
        return gathered

    def last_place(self, length: int) -> Tensor:
        """For each of ``length`` source positions, the new place of the last one kept up to it: (B, length).

        What a model predicts after a dropped token is what it predicts after the last kept token before it.
        """
        place = torch.arange(self.index.shape[1], device=self.index.device).expand_as(self.index)
        here = torch.zeros(len(self.index), length, dtype=torch.long, device=self.index.device)
        here.scatter_reduce_(1, self.index, place.where(self.mask, 0), "amax")
        return here.cummax(1).values

    def spread(self, x: Tensor, length: int) -> Tensor:
        """Values of the new places, (B, M, d), at ``length`` source positions: (B, length, d); see `last_place`."""
        return x.gather(1, self.last_place(length).unsqueeze(-1).expand(-1, -1, x.shape[-1]))

    def layout(self, before: Layout) -> Layout:
        """What stands where afterwards."""
        spans = tuple(Span(s.row, slots) for s, slots in zip(before.spans, self.slots, strict=True))
        return Layout(self.mask, before.text.gather(1, self.index) & self.mask, spans)


def splice(layout: Layout, kept: Sequence[Tensor], silent: Tensor | None = None) -> Splice:
    """Plan the sequence in which each span keeps some of its tokens and everything else stays.

    Rows are padded to the longest, on the side where the batch is padded already (left without padding). With nothing
    dropped the plan is the identity, so that a batch keeps its bits.

    Parameters
    ----------
    layout : Layout
    kept : sequence of int64 Tensor
        For each span, positions within the span in the order in which they shall stand (ascending unless merged).
    silent : bool Tensor, (B, S), optional
        Text tokens that go, too.

    Raises
    ------
    UnsupportedError
        A position is kept twice.
    """
    keep = layout.mask.clone() if silent is None else layout.mask & ~silent
    for span, chosen in zip(layout.spans, kept, strict=True):
        keep[span.row, span.positions] = False
        keep[span.row, span.positions[chosen]] = True
    length = int(keep.sum(1).max())
    right = bool(layout.mask[:, 0].all()) and not bool(layout.mask[:, -1].all())
    # stable sort: what goes first is left out or padding, what stays keeps its order
    place = (~keep if right else keep).to(torch.int8).argsort(dim=1, stable=True)
    index = place[:, :length] if right else place[:, keep.shape[1] - length :]
    mask = keep.gather(1, index)
    slots = []
    for span, chosen in zip(layout.spans, kept, strict=True):
        here = torch.isin(index[span.row], span.positions[chosen]) & mask[span.row]
        slot = here.nonzero().flatten()
        if len(slot) != len(chosen):
            raise UnsupportedError(
                f"a strategy keeps a token twice ({len(chosen)} picks of {len(slot)} tokens), as official code of "
                "DivPrune and MMTok does with faithful=True; a prompt holds it once: use faithful=False"
            )
        index[span.row, slot] = span.positions[chosen]
        slots.append(slot)
    return Splice(index, mask, tuple(slots))


def rotary_at(part: Tensor, source: Tensor) -> Tensor:
    """Rows of a cosine or sine table, (1 or B, M, k), at ``source`` (B, m); several tables are stacked in front."""
    if part.ndim > 3:
        return torch.stack([rotary_at(one, source) for one in part])
    return gather_tokens(part.expand(source.shape[0], -1, -1), source)


def next_position(positions: Tensor, mask: Tensor) -> Tensor:
    """The position after the last real token of each row: (B, S) or (R, B, S), mask (B, S) -> (B,)."""
    last = positions.masked_fill(~mask, 0).amax(-1) + 1
    return last if last.ndim == 1 else last[-3:].amax(0)
