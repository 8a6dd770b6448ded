"""What a composition answers: batches of questions kept ready, so that pictures are encoded once for all trials."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenprune.core.errors import DegenerateRelevanceWarning, SubstituteWarning, UnusedBudgetWarning
from tokenprune.data.items import Item
from tokenprune.evaluation.conditions import Condition
from tokenprune.evaluation.runner import Asked, batches, following

__all__ = ["Answered", "Questions"]


@dataclass(frozen=True)
class _Tried(Condition):
    """A row whose strategy is written down whole, so that nobody needs a hash of its code: that takes a while."""

    identity = ""


@dataclass(frozen=True)
class Answered:
    """Answers to some questions, in one order for all strategies.

    Attributes
    ----------
    samples, images : tuple of str
    correct : tuple of float
    tokens : tuple of float
        Visual tokens that layers processed on average.
    said : tuple of str
    """

    samples: tuple[str, ...]
    images: tuple[str, ...]
    correct: tuple[float, ...]
    tokens: tuple[float, ...]
    said: tuple[str, ...]

    @classmethod
    def of(cls, lines: Sequence[Mapping[str, Any]]) -> Answered:
        """From lines of results."""
        names = ("sample", "image", "correct", "layer_average_tokens", "prediction")
        columns = [tuple(line[name] for line in lines) for name in names]
        samples, images, correct, tokens, said = columns
        return cls(samples, images, tuple(map(float, correct)), tuple(map(float, tokens)), said)

    def __add__(self, other: Answered) -> Answered:
        return Answered(
            self.samples + other.samples,
            self.images + other.images,
            self.correct + other.correct,
            self.tokens + other.tokens,
            self.said + other.said,
        )

    @property
    def accuracy(self) -> float:
        """Mean over questions."""
        return sum(self.correct) / len(self.correct)

    @property
    def mean_tokens(self) -> float:
        """Mean over questions."""
        return sum(self.tokens) / len(self.tokens)


class Questions:
    """Questions of one part of the split, to be asked in batches.

    Parameters
    ----------
    model, processor
    items : sequence of Item
    batch_size, max_new_tokens : int
    keep : bool
        Whether encoded pictures stay in memory, for a part that is asked again and again.
    """

    def __init__(
        self, model: Any, processor: Any, items: Sequence[Item], batch_size: int, max_new_tokens: int, *, keep: bool
    ) -> None:
        self.max_new_tokens, self.keep = max_new_tokens, keep
        self._model, self._processor = model, processor
        self._after = following(items)
        self._items = list(batches(items, batch_size))
        self._ready: dict[int, Asked] = {}

    def __len__(self) -> int:
        """Batches."""
        return len(self._items)

    @property
    def n(self) -> int:
        """Questions."""
        return sum(map(len, self._items))

    def batch(self, number: int) -> Asked:
        """One batch, its pictures encoded."""
        if number in self._ready:
            return self._ready[number]
        items = self._items[number]
        stranger = self._after[items[-1].image_id]
        made = Asked(self._model, self._processor, items, "kept", stranger, "tune", ())
        if self.keep:
            self._ready[number] = made
        return made

    def ask(self, rows: Sequence[Condition], start: int = 0, stop: int | None = None) -> list[Answered]:
        """Answers of some rows to the questions of some batches, each batch's pictures encoded once.

        Of rows that differ only in their budget the largest comes first: where picks do not depend on how many follow,
        the others are its beginnings.
        """
        named = [_Tried(row.label, row.kind, row.keep, row.draw, row.strategy) for row in rows]
        lines: list[list[dict[str, Any]]] = [[] for _ in rows]
        for number in range(start, len(self) if stop is None else stop):
            asked = self.batch(number)
            for row, mine in zip(named, lines, strict=True):
                with warnings.catch_warnings():
                    # a ceiling of its own is what such a rule is tried with
                    warnings.simplefilter("ignore", UnusedBudgetWarning)
                    # told of one strategy this helps; of hundreds it hides all else
                    warnings.simplefilter("ignore", DegenerateRelevanceWarning)
                    warnings.simplefilter("ignore", SubstituteWarning)
                    mine += asked.answers(row, self.max_new_tokens)
            asked.shared_work.forget()
        return [Answered.of(mine) for mine in lines]
