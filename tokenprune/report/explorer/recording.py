"""Features as ``attach`` gathers them, taken out of a model."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import torch

from tokenprune.core.budget import Budget, Keep, Unit
from tokenprune.core.features import Features
from tokenprune.core.selection import Selection
from tokenprune.core.strategy import AnyStrategy, Positions, TextScope
from tokenprune.hf.attach import attach
from tokenprune.hf.encoded import Encoded

__all__ = ["recorded"]


class _Recorder(AnyStrategy):
    """Keeps everything and remembers what it was shown."""

    positions: Positions = "keep"

    def __init__(self, name: str, signals: frozenset[str]) -> None:
        self.name, self.signals = name, signals
        self.features: Features | None = None

    @property
    def requires(self) -> frozenset[str]:
        """The signals to record."""
        return self.signals

    def reads(self, given: Container[str] = ()) -> frozenset[str]:
        """The signals to record."""
        return self.signals

    def select(self, features: Features, keep: Keep | Budget, *, unit: Unit | None = None) -> Selection:
        """All tokens."""
        self.features = features
        everything = torch.arange(features.n_visual, device=features.device).expand(features.batch, -1)
        return Selection.from_order(everything.contiguous(), features.n_visual)


@torch.no_grad()
def recorded(
    model: Any,
    processor: Any,
    inputs: dict[str, Any],
    encoded: Encoded | None,
    name: str,
    signals: frozenset[str],
    unit: Unit | None = None,
    text: TextScope | None = None,
) -> Features:
    """Features of a prompt with one picture or video.

    Parameters
    ----------
    model, processor
    inputs : dict
        Of the model.
    encoded : Encoded or None
        The picture, where it was encoded beforehand.
    name : str
        Whose features, for errors.
    signals : frozenset of str
        Which; a model without one of them raises as it does for a strategy that reads it.
    unit, text : str, optional
        As in :func:`~tokenprune.attach`.
    """
    recorder = _Recorder(name, signals)
    given: Any = {} if unit is None else {"unit": unit}
    with attach(model, recorder, 1.0, text=text, processor=processor, encoded=encoded, **given):
        model(**inputs)
    assert recorder.features is not None
    return recorder.features
