"""What a benchmark runs on: a published model's sizes with random weights, or a model and questions of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from tokenprune.benchmark.geometry import asked, geometry
from tokenprune.core.errors import ConfigError
from tokenprune.data.items import Item
from tokenprune.hf.chat import prompt_inputs
from tokenprune.hf.prompt_text import Text

__all__ = ["CANDIDATES", "Prompts", "Questions", "Subject", "Synthetic"]

CANDIDATES = 64
"""Questions that are looked at for those of usual length."""


@dataclass(frozen=True)
class Prompts:
    """A batch of prompts.

    Attributes
    ----------
    inputs : dict of str to Tensor
    text : Text
        What counts as the question, as :func:`tokenprune.attach` takes it.
    processor : ProcessorMixin, optional
        Where the text needs one to be found.
    samples : tuple of str
        Ids of questions; empty where nobody asks.
    """

    inputs: dict[str, Tensor]
    text: Text
    processor: Any = None
    samples: tuple[str, ...] = ()


class Subject(Protocol):
    """A model, and prompts for it."""

    @property
    def model(self) -> Any:
        """The model."""

    def prompts(self, batch: int) -> Prompts:
        """So many prompts."""


@dataclass(frozen=True)
class Synthetic:
    """Prompts of one length for a published model's sizes: noise as pictures, ids as words.

    Attributes
    ----------
    model : PreTrainedModel
    geometry, kind : str
        See :data:`tokenprune.benchmark.geometry.GEOMETRIES`.
    words : int
        Text tokens.
    """

    model: Any
    geometry: str
    kind: str
    words: int

    def prompts(self, batch: int) -> Prompts:
        """So many prompts of one length."""
        return Prompts(geometry(self.geometry).inputs(self.model, self.kind, batch, self.words), asked(self.model))


class Questions:
    """Questions of one's own: of the first 64 those whose prompts are of usual length.

    Parameters
    ----------
    model, processor
        As :func:`tokenprune.zoo.loading.load_model` returns them.
    items : sequence of Item
    """

    def __init__(self, model: Any, processor: Any, items: Sequence[Item]) -> None:
        if not items:
            raise ConfigError("items: there are no questions to measure with")
        self.model, self.processor = model, processor
        first = items[:CANDIDATES]
        lengths = {item.id: self._inputs([item])["input_ids"].shape[1] for item in first}
        self._items = sorted(first, key=lambda item: lengths[item.id])

    def prompts(self, batch: int) -> Prompts:
        """Questions evenly spread from short to long, one the median; padded to one length."""
        chosen = [self._items[(2 * i + 1) * len(self._items) // (2 * batch)] for i in range(batch)]
        text = [[item.question.text] for item in chosen]
        return Prompts(self._inputs(chosen), text, self.processor, tuple(item.id for item in chosen))

    def _inputs(self, items: Sequence[Item]) -> dict[str, Tensor]:
        shown = prompt_inputs(self.processor, [item.image() for item in items], [i.question.prompt for i in items])
        device, dtype = self.model.device, self.model.dtype
        return {
            name: value.to(device, dtype if value.is_floating_point() else value.dtype)
            for name, value in shown.items()
            if isinstance(value, torch.Tensor)
        }
