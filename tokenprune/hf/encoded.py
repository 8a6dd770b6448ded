"""Visual inputs encoded once, for any number of questions and strategies."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokenprune.core.errors import UnsupportedError
from tokenprune.hf.adapters.base import FROM_PIXELS, MODALITIES, PIXELS, ModelAdapter, Observation, adapter_for
from tokenprune.hf.adapters.encoder_stage import EncoderHooks

__all__ = [
    "PRUNED",
    "Encoded",
    "deepstack_of",
    "encode",
    "observed",
    "packed",
    "takes_encoded",
    "tokens_of",
    "vision_in",
]


PRUNED = "_tokenprune_pruned"
"""Attribute of encoder outputs that hold only what a strategy kept."""


def tokens_of(output: Any) -> Tensor:
    """All projected features of a modality in the order of their placeholders, (M, d)."""
    features = output.pooler_output
    return features.flatten(0, 1) if isinstance(features, Tensor) else torch.cat(list(features))


def deepstack_of(output: Any) -> list[Tensor]:
    """What goes into later layers of the language model, one (M, d) for each of them; empty for most families."""
    layers = getattr(output, "deepstack_features", None) or ()
    return [layer if isinstance(layer, Tensor) else torch.cat(list(layer)) for layer in layers]


def packed(output: Any, sizes: Sequence[int], tokens: Tensor, deepstack: Sequence[Tensor] = ()) -> Any:
    """A copy of an encoder's output that holds other features.

    Parameters
    ----------
    output : ModelOutput
    sizes : sequence of int
        Tokens of each sample or visual input: ``generate`` splits there when it copies prompts (beams).
    tokens : Tensor, (M, d)
    deepstack : sequence of Tensor, (M, d)
        One for each deepstack layer.
    """
    shorter = copy.copy(output)
    if isinstance(output.pooler_output, Tensor):
        # inputs may differ in size now: every token stands alone, which can be split anywhere
        shorter.pooler_output = tokens.unsqueeze(1)
    else:
        shorter.pooler_output = torch.split(tokens, list(sizes))
    if deepstack:
        shorter.deepstack_features = [torch.split(layer, list(sizes)) for layer in deepstack]
    return shorter


@dataclass(frozen=True)
class Encoded:
    """What encoding some visual inputs gave.

    Attributes
    ----------
    outputs : dict of str to ModelOutput
        Modality ("image", "video") -> what encoding it returned; pass it to the model as ``mm_encoder_outputs``.
    seen : Observation
        Visual inputs and the signals read while encoding.
    """

    outputs: dict[str, Any]
    seen: Observation

    def pick(self, items: Sequence[int], modality: str = "image") -> Encoded:
        """Some of a modality's visual inputs, in the order given; one may occur several times."""
        blocks = self.seen.blocks[modality]
        sizes = [block.size for block in blocks]
        output = self.outputs[modality]

        def chosen(tokens: Tensor) -> Tensor:
            parts = torch.split(tokens, sizes)
            return torch.cat([parts[i] for i in items])

        deepstack = [chosen(layer) for layer in deepstack_of(output)]
        shorter = packed(output, [sizes[i] for i in items], chosen(tokens_of(output)), deepstack)
        return Encoded({modality: shorter}, Observation({modality: [blocks[i] for i in items]}))


def takes_encoded(model: Any) -> bool:
    """Whether the model's forward takes ``mm_encoder_outputs`` (transformers >= 5.18)."""
    return "mm_encoder_outputs" in inspect.signature(model.forward).parameters


def pixels_in(inputs: Mapping[str, Any]) -> list[str]:
    """Modalities whose pixels are among a processor's outputs."""
    return [modality for modality in MODALITIES if any(inputs.get(name) is not None for name in PIXELS[modality])]


def without_vision(adapter: ModelAdapter, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """A processor's outputs less what only the vision side takes."""
    vision = {name for modality in MODALITIES for name in adapter.vision_inputs(modality, inputs)}
    return {name: value for name, value in inputs.items() if name not in vision}


@torch.no_grad()
def encode(model: Any, signals: frozenset[str] | None = None, **inputs: Any) -> Encoded:
    """Encode visual inputs and read signals.

    Parameters
    ----------
    model : PreTrainedModel
    signals : frozenset of str, optional
        Which signals to read; all that the model can give by default.
    **inputs
        What the processor returned; only what the vision side takes (``pixel_values``, ``image_grid_thw`` ...) is used.

    Raises
    ------
    UnsupportedError
        The installed transformers does not take ``mm_encoder_outputs``, or there is no visual input.
    """
    adapter = adapter_for(model)
    if not takes_encoded(adapter.model):
        raise UnsupportedError("inputs encoded beforehand need transformers >= 5.18 (forward with mm_encoder_outputs)")
    if not pixels_in(inputs):
        raise UnsupportedError("encode needs pixel_values (or pixel_values_videos), as the processor returns them")
    return observed(adapter, adapter.available | FROM_PIXELS if signals is None else signals, inputs)


def vision_in(adapter: ModelAdapter, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What the vision side takes of some inputs, all modalities together."""
    return {
        name: value
        for modality in pixels_in(inputs)
        for name, value in adapter.vision_inputs(modality, inputs).items()
        if value is not None
    }


def observed(
    adapter: ModelAdapter, signals: frozenset[str], inputs: Mapping[str, Any], stage: EncoderHooks | None = None
) -> Encoded:
    """Encode the visual inputs among some inputs, and read signals meanwhile."""
    seen, outputs = Observation(), {}
    with adapter.observe(signals, seen, stage):
        for modality in pixels_in(inputs):
            outputs[modality] = adapter.encode(modality, **adapter.vision_inputs(modality, inputs))
    return Encoded(outputs, seen)
