"""Images encoded once, for any number of questions and strategies."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tokenprune.errors import UnsupportedError
from tokenprune.models.base import ModelAdapter, Observation, adapter_for

__all__ = ["Encoded", "encode", "takes_encoded"]


@dataclass(frozen=True)
class Encoded:
    """What encoding some images gave.

    Attributes
    ----------
    outputs : ModelOutput
        What ``get_image_features`` returned; pass it to the model as ``mm_encoder_outputs={"image": outputs}``.
    seen : Observation
        Signals read while encoding.
    """

    outputs: Any
    seen: Observation

    def pick(self, images: Sequence[int]) -> Encoded:
        """Some of the images, in the order given; an image may occur several times."""
        outputs = copy.copy(self.outputs)
        outputs.pooler_output = [self.outputs.pooler_output[i] for i in images]
        signals = {name: [per_image[i] for i in images] for name, per_image in self.seen.signals.items()}
        return Encoded(outputs, Observation([self.seen.sizes[i] for i in images], signals))


def takes_encoded(model: Any) -> bool:
    """Whether the model's forward takes ``mm_encoder_outputs`` (transformers >= 5.18)."""
    return "mm_encoder_outputs" in inspect.signature(model.forward).parameters


def vision_inputs(adapter: ModelAdapter, inputs: dict[str, Any]) -> dict[str, Any]:
    """Those of a processor's outputs that the vision side takes."""
    accepted = inspect.signature(adapter.core.get_image_features).parameters  # type: ignore[arg-type]
    return {name: value for name, value in inputs.items() if name in accepted and name != "kwargs"}


@torch.no_grad()
def encode(model: Any, signals: frozenset[str] | None = None, **inputs: Any) -> Encoded:
    """Encode images and read signals.

    Parameters
    ----------
    model : PreTrainedModel
    signals : frozenset of str, optional
        Which signals to read; all that the model can give by default.
    **inputs
        What the processor returned; only what the vision side takes (``pixel_values`` ...) is used.

    Raises
    ------
    UnsupportedError
        The installed transformers does not take ``mm_encoder_outputs``, or there is no image.
    """
    adapter = adapter_for(model)
    if not takes_encoded(adapter.model):
        raise UnsupportedError("images encoded beforehand need transformers >= 5.18 (forward with mm_encoder_outputs)")
    if inputs.get("pixel_values") is None:
        raise UnsupportedError("encode needs pixel_values, as the processor returns them")
    seen = Observation()
    with adapter.observe(adapter.available if signals is None else signals, seen):
        return Encoded(adapter.encode(**vision_inputs(adapter, inputs)), seen)
