"""The abstract kinds of parts that act between decoder layers, and what they know when they are asked."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from tokenprune.core.features import Features
from tokenprune.core.kinds import Component, Merger, Scorer

__all__ = ["Appending", "AsAsked", "Counted", "DecodeRule", "KeepRule", "LayerContext", "Measure"]


@dataclass(frozen=True)
class LayerContext:
    """What one forward pass knows at a layer; a new one is made for every forward and for every event.

    Parameters
    ----------
    keep : tuple of int
        Budget of each unit.
    entered : tuple of int
        Visual tokens of each unit that entered the language model.
    present : tuple of int
        Those that are still there.
    n_layers : int
        Decoder layers of the model.
    layers : tuple of int
        Layers after which the schedule acts in this model, ascending.
    layer : int, default -1
        The layer that has just run; -1 before the first.
    measured : mapping of str to Tensor
        What earlier events measured, batch first.
    """

    keep: tuple[int, ...]
    entered: tuple[int, ...]
    present: tuple[int, ...]
    n_layers: int
    layers: tuple[int, ...] = ()
    layer: int = -1
    measured: Mapping[str, Tensor] = field(default_factory=dict)

    def at(self, layer: int, present: tuple[int, ...] | None = None) -> LayerContext:
        """The same after another layer, with as many tokens as ``present`` says.

        Counts of all layers are worked out while a device waits for them: this takes a fifth of what ``replace`` does.
        """
        left = self.present if present is None else present
        return LayerContext(self.keep, self.entered, left, self.n_layers, self.layers, layer, self.measured)


class Measure(Component):
    """A quantity taken at one layer for use at later ones; later features carry it as an extra of this name."""

    kind = "measures"
    name: str

    @abstractmethod
    def measure(self, features: Features) -> Tensor:
        """Return the quantity, batch first."""


class Appending(Merger):
    """A merger that adds tokens behind the kept ones, so that more are left than were kept."""

    @abstractmethod
    def added(self, dropped: int) -> int:
        """Return how many tokens are made out of so many dropped ones."""


class Counted(Appending):
    """One that can be told how many tokens to make by tensors, where the host knows bounds alone.

    Attributes
    ----------
    scorer : Scorer
        Says which of the dropped tokens are best.
    """

    scorer: Scorer

    @abstractmethod
    def recycled(self, dropped: int) -> int:
        """How many of so many dropped tokens the added ones are made of: those that score best."""

    @abstractmethod
    def additions(self, features: Features, recycled: Tensor, added: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """What :meth:`~tokenprune.core.kinds.Merger.merge` puts behind the kept tokens; nothing is read back.

        Parameters
        ----------
        features : Features
        recycled : int64 Tensor, (B, m)
            Positions of the dropped tokens that are used, best first, -1 as padding.
        added : int64 Tensor, (B,)
            How many tokens to make of them, at most ``most``.
        most : int

        Returns
        -------
        tokens : Tensor, (B, most, d)
        source : int64 Tensor, (B, most)
            Positions that they stand for, -1 as padding.
        """


class DecodeRule(Component):
    """Which visual tokens some layers look at while a token is decoded; caches stay whole."""

    kind = "decode-rules"

    @abstractmethod
    def visible(self, attention: Tensor, before: Tensor | None, valid: Tensor) -> Tensor:
        """Return True at tokens that are looked at, bool (U, N).

        Parameters
        ----------
        attention : Tensor, (U, N)
            What the new token pays each visual token in the layer before, mean over heads, after softmax over
            everything; 0 at padding. A row for each unit.
        before : Tensor, (U, N), optional
            The same of the token before; None at the first.
        valid : bool Tensor, (U, N)
            True at real tokens.
        """


class KeepRule(Component):
    """How many of the present tokens an event keeps, before a merger adds any."""

    kind = "rules"
    follows: ClassVar[bool] = True
    """Whether counts follow from budgets and sizes alone, not from what is measured: lengths are then the same for
    every picture, and can be compiled."""

    @abstractmethod
    def counts(self, context: LayerContext) -> tuple[int, ...]:
        """Return a count for each unit; the event clips it to 1 .. present.

        ``context.measured`` may lack what the rule reads when tokens are only counted, not pruned.
        """

    def examples(self, units: int) -> tuple[Mapping[str, Tensor], ...]:
        """Measurements of so many units, from one end of what there is to the other, where counts follow from any.

        Room is made for the counts of all of them beforehand. Without examples counts cannot be compiled.
        """
        return ()


@dataclass(frozen=True)
class AsAsked(KeepRule):
    """The budget itself is what stays after the layer."""

    def counts(self, context: LayerContext) -> tuple[int, ...]:
        """The budget."""
        return context.keep
