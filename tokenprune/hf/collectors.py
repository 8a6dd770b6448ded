"""Signals that neither a model's encoder nor its prompt holds: whoever can make them, makes them for each batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tokenprune.core.features import Features, Signal
from tokenprune.hf.adapters.base import ModelAdapter

__all__ = ["Collector", "Units"]


@dataclass(frozen=True)
class Units:
    """The pruning units of a batch of prompts, as a collector sees them.

    Attributes
    ----------
    adapter : ModelAdapter
    features : Features
        What the model gives: the signals that the collector and the strategy ask for, a row for each unit.
    ids : int64 Tensor, (U, S)
        Token ids of each unit's prompt.
    words : bool Tensor, (U, S)
        True at the prompt's own text; nowhere unless the collector or the strategy reads ``text``.
    """

    adapter: ModelAdapter
    features: Features
    ids: Tensor
    words: Tensor


class Collector(ABC):
    """Makes one signal for the units of a batch of prompts.

    A package lists it under the entry-point group ``tokenprune.signals``, by the signal's name: it is then asked where
    a strategy reads that signal and the model's adapter does not give it. One that needs objects of yours (another
    model, a file) is handed in: ``attach(..., extra={"joint_text": collector})``.

    Attributes
    ----------
    signal : Signal
        Name, shape and meaning of what it makes.
    requires : frozenset of str
        Signals of the model that it reads, of any encoder layer (``hidden@-1``); ``text`` has the words marked.
    """

    signal: ClassVar[Signal]
    requires: frozenset[str] = frozenset()

    def offers(self, adapter: ModelAdapter) -> bool:
        """Whether it can make the signal for this model, besides that the model has what it reads."""
        return True

    @abstractmethod
    def collect(self, units: Units) -> Tensor:
        """Return the signal, a row for each unit; what stands at padding is ignored."""
