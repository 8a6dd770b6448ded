"""What was pruned: the record that ``attach`` yields."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import Tensor

from tokenprune.core.selection import Selection
from tokenprune.hf.splice import Splice

__all__ = ["Prefill", "Run", "Stage"]


@dataclass(frozen=True)
class Stage:
    """What one event between two decoder layers did.

    Attributes
    ----------
    layer : int
        The layer after which it acted.
    selection : Selection
        A row for each unit; positions count the tokens that were there at that layer. Without the values of merged
        tokens: a record of many prompts would fill the memory with them.
    sequence : int64 Tensor, (U, K)
        Positions that went on, in their new order, -1 as padding; a merged token counts as the one whose place it
        takes.
    tokens_after : tuple of int
        Visual tokens of each sample that went on.
    """

    layer: int
    selection: Selection
    sequence: Tensor
    tokens_after: tuple[int, ...]


@dataclass(frozen=True)
class Prefill:
    """What happened to one batch of prompts.

    Attributes
    ----------
    selection : Selection
        One row for each unit (image by default), in the order of the prompts.
    rows : tuple of int
        The sample each unit belongs to; where a batch holds copies of a prompt (beams), the first of them.
    places : tuple of int64 Tensor
        For each unit, where its prunable tokens stood in the prompt, padding counted.
    tokens_before, tokens_after : tuple of int
        Prunable visual tokens of each sample, copies included. Those that always stay (newlines between rows of
        tiles, a frame's [CLS]) count as part of the prompt.
    sequence_before, sequence_after : int
        Length of the padded sequence that the language model would have received, and did.
    layer_tokens : tuple of tuple of int
        For each sample, the visual tokens that each decoder layer processed.
    splice : Splice
        Maps new places to original ones.
    text : bool Tensor, (B, S)
        Tokens of the prompt that counted as its text; none where the strategy reads no text.
    stages : tuple of Stage
        What happened between layers, where the strategy acts there. ``selection``, ``tokens_after``,
        ``sequence_after`` and ``splice`` then tell what is left after the last of them; a token made of several
        counts as the one whose place it takes.
    """

    selection: Selection
    rows: tuple[int, ...]
    places: tuple[Tensor, ...]
    tokens_before: tuple[int, ...]
    tokens_after: tuple[int, ...]
    sequence_before: int
    sequence_after: int
    layer_tokens: tuple[tuple[int, ...], ...]
    splice: Splice
    text: Tensor
    stages: tuple[Stage, ...] = ()

    def total(self, tokens: tuple[int, ...]) -> int:
        """Sum over prompts, each counted once however many copies the batch holds."""
        return sum(tokens[row] for row in set(self.rows))


LONGEST = 1000
"""Entries of a history."""


@dataclass
class Run:
    """Record of what was pruned while attached.

    Attributes
    ----------
    history : list of Prefill
        One entry for each batch of prompts, the last thousand. Selections in it tell which tokens were merged, without
        the merged values, which would fill the memory.
    """

    history: list[Prefill] = field(default_factory=list)

    def note(self, prefill: Prefill) -> None:
        """Add an entry; the oldest goes where there are too many."""
        merged = prefill.selection.merged
        if merged is not None:
            light = replace(merged, tokens=merged.tokens.new_empty(*merged.tokens.shape[:2], 0))
            prefill = replace(prefill, selection=replace(prefill.selection, merged=light))
        self.history.append(prefill)
        del self.history[:-LONGEST]

    @property
    def selections(self) -> list[Selection]:
        """Selections, one for each batch of prompts, a row for each unit."""
        return [prefill.selection for prefill in self.history]

    @property
    def tokens_before(self) -> int:
        """Visual tokens of the last batch before pruning, all prompts together; 0 if nothing was pruned."""
        return self.history[-1].total(self.history[-1].tokens_before) if self.history else 0

    @property
    def tokens_after(self) -> int:
        """Visual tokens of the last batch that the language model received."""
        return self.history[-1].total(self.history[-1].tokens_after) if self.history else 0
