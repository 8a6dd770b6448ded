"""What the session has to know about a model family."""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune.core.draws import fingerprint, place_noise
from tokenprune.core.errors import UnsupportedError, closest
from tokenprune.core.features import Grid, is_signal, signal_of
from tokenprune.core.layer_names import at_layer, layer_index, split_layer
from tokenprune.core.registry import registry
from tokenprune.hf.adapters.encoder_attention import ENCODER_SIGNALS, Readings
from tokenprune.hf.adapters.encoder_stage import EncoderHooks
from tokenprune.hf.patching import arguments_of, standing_in
from tokenprune.hf.splice import Splice

__all__ = [
    "FROM_PIXELS",
    "MODALITIES",
    "PIXELS",
    "Block",
    "ModelAdapter",
    "Observation",
    "adapter_for",
    "dtype_of",
    "frames_in",
    "pixels_of",
]

MODALITIES = ("image", "video")
"""What visual inputs may be: ``model.get_<modality>_features`` encodes them."""

FROM_PIXELS = frozenset({"noise"})
"""Signals that follow from the pixels alone, in every family; not there where only encoder outputs are given."""

PIXELS: Mapping[str, tuple[str, ...]] = {
    "image": ("pixel_values", "pixel_values_images"),
    "video": ("pixel_values_videos",),
}
"""Names under which processors return pixels."""


@dataclass(frozen=True)
class Block:
    """One visual input (an image, a tile, a video) as it fills placeholders of the prompt.

    Attributes
    ----------
    size : int
        Placeholders it fills.
    grids : tuple of Grid
        Where its prunable tokens lie, stretch after stretch (a thumbnail and the whole picture; the frames of a
        video); empty where that is not known.
    fixed : bool Tensor, (size,), or None
        True at tokens that stay whatever a strategy says: newlines between rows of tiles, a frame's [CLS].
    signals : mapping of str to Tensor
        Signals asked for, shaped as in :data:`tokenprune.core.features.SIGNALS` without ``b``, over prunable tokens.
    """

    size: int
    grids: tuple[Grid, ...] = ()
    fixed: Tensor | None = None
    signals: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.grids and sum(grid.size for grid in self.grids) != self.free:
            raise UnsupportedError(f"a visual input of {self.free} prunable tokens cannot lie on {self.grids}")

    @property
    def free(self) -> int:
        """Prunable tokens."""
        return self.size if self.fixed is None else self.size - int(self.fixed.sum())


@dataclass
class Observation:
    """What was seen of the vision side: modality -> its visual inputs, in the order of their placeholders."""

    blocks: dict[str, list[Block]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any(self.blocks.values())

    def clear(self) -> None:
        """Forget; called when the visual inputs have been used."""
        self.blocks.clear()

    def copy(self) -> Observation:
        """The same, unaffected by what is seen next."""
        return Observation({modality: list(blocks) for modality, blocks in self.blocks.items()})


class ModelAdapter(ABC):
    """One model of a family. Adapters hold no state of a run.

    Parameters
    ----------
    model : PreTrainedModel
        The whole model, head included.

    Attributes
    ----------
    joins_adjacent : bool
        Visual inputs without anything between their placeholders are tiles of one image.
    multi_axis : bool
        Position ids have several rows (time, height, width), which cannot be renumbered without gaps.
    frames_apart : bool
        Each frame of a video is an image of its own in the prompt, so that only the unit "sample" holds a video.
    """

    joins_adjacent: bool = False
    multi_axis: bool = False
    frames_apart: bool = False

    def __init__(self, model: Any) -> None:
        self.model = model

    @property
    def core(self) -> nn.Module:
        """The module that merges visual features into the embeddings and calls the language model."""
        core: nn.Module = self.model.base_model
        return core

    @property
    def language_model(self) -> nn.Module:
        """The decoder that receives ``inputs_embeds``."""
        return self.core.get_submodule("language_model")

    @property
    def placeholders(self) -> Mapping[str, int]:
        """Modality -> id of the token that its features replace."""
        return {"image": self.model.config.image_token_id}

    @property
    def image_token_ids(self) -> tuple[int, ...]:
        """Placeholder ids of all modalities."""
        return tuple(self.placeholders.values())

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that are no text of anybody's: begin, end, padding, placeholders and what marks their ends."""
        ids: set[int] = set(self.image_token_ids)
        for config in (self.model.config, self.model.config.get_text_config(), self.model.generation_config):
            for name in SPECIAL:
                value = getattr(config, name, None)
                if value is not None:
                    ids.update(value if isinstance(value, list | tuple) else (value,))
        return frozenset(ids)

    @property
    @abstractmethod
    def available(self) -> frozenset[str]:
        """Signals this model can give before its language model runs, as a rule: those read where none is named."""

    @property
    def on_demand(self) -> frozenset[str]:
        """Signals that are read only where somebody asks for them, those of layers without the layer's number."""
        return frozenset()

    def encoder_layers(self, modality: str) -> list[nn.Module]:
        """Layers of the vision encoder whose attention can be read, from the first on; empty where none can."""
        return []

    def gives(self, name: str) -> bool:
        """Whether the model has a signal before its language model runs, at the layer named (``keys@-1``)."""
        base, layer = split_layer(name)
        if layer is None:
            return name in FROM_PIXELS or name in self.available or name in self.on_demand
        if base not in self.on_demand or not (is_signal(base) and signal_of(base).layered):
            return False
        try:
            layer_index(layer, len(self.encoder_layers("image")))
        except UnsupportedError:
            return False
        return True

    def missing(self, signals: Iterable[str]) -> frozenset[str]:
        """Signals that the model does not have, whatever may stand in for them."""
        return frozenset(name for name in signals if not self.gives(name))

    def by_layer(self, modality: str, signals: Iterable[str], plain: int) -> dict[int, set[str]]:
        """Number of an encoder layer -> signals to read there; ``plain`` is that of names without a layer."""
        depth = len(self.encoder_layers(modality))
        found: dict[int, set[str]] = {}
        for name in signals:
            base, layer = split_layer(name)
            if base in ENCODER_SIGNALS:
                found.setdefault(plain if layer is None else layer_index(layer, depth), set()).add(name)
        return found

    @property
    def layouts(self) -> frozenset[str]:
        """What follows from where tokens lie: "places", and "frames", where the family shows videos."""
        return frozenset({"places", "frames"} if "video" in self.placeholders or self.frames_apart else {"places"})

    @abstractmethod
    def watch(self, modality: str, signals: frozenset[str]) -> AbstractContextManager[Readings]:
        """Hook the vision side while it encodes one batch of a modality; yields what it says."""

    @abstractmethod
    def blocks(self, modality: str, output: Any, inputs: Mapping[str, Any], readings: Readings) -> list[Block]:
        """Take what ``get_<modality>_features`` returned apart.

        Parameters
        ----------
        modality : str
        output : ModelOutput
            ``pooler_output`` holds the projected features.
        inputs : mapping
            What it was called with, by parameter name.
        readings : dict
            What :meth:`watch` yielded.
        """

    def thinned(self, modality: str, stage: EncoderHooks | None) -> AbstractContextManager[None]:
        """Let a stage drop patches inside the encoder of a modality while it runs; None drops none."""
        if stage is not None:
            raise UnsupportedError(f"{type(self).__name__} cannot drop patches inside the encoder")
        return nullcontext()

    @contextmanager
    def observe(self, signals: frozenset[str], seen: Observation, stage: EncoderHooks | None = None) -> Iterator[None]:
        """While open, note every visual input that the model encodes, with the signals asked for.

        A ``stage`` drops patches inside the encoder meanwhile.
        """
        inside = False

        def shadowing(modality: str, original: Any) -> Any:
            @functools.wraps(original)
            def features(*args: Any, **kwargs: Any) -> Any:
                nonlocal inside
                if inside:  # some models encode videos through their function for images
                    return original(*args, **kwargs)
                inside = True
                try:
                    with (
                        self.thinned(modality, stage),
                        self.watch(modality, signals - {"survivors"} - FROM_PIXELS) as readings,
                    ):
                        output = original(*args, **kwargs)
                    if stage is not None:
                        readings["survivors"] = stage.survivors()
                finally:
                    inside = False
                given = arguments_of(original, args, kwargs)
                blocks = self.blocks(modality, output, given, readings)
                if "noise" in signals:
                    blocks = self._with_noise(modality, given, blocks)
                seen.blocks.setdefault(modality, []).extend(blocks)
                return output

            return features

        with ExitStack() as stack:
            for modality in MODALITIES:
                name = f"get_{modality}_features"
                if (original := getattr(self.core, name, None)) is not None:
                    stack.enter_context(standing_in(self.core, name, shadowing(modality, original)))
            yield

    def pictures(self, modality: str, inputs: Mapping[str, Any], blocks: Sequence[Block]) -> Tensor:
        """A hash of the pixels of each visual input, the same in any batch: int64 (U,).

        Parameters
        ----------
        modality : str
        inputs : mapping
            What ``get_<modality>_features`` was called with, by parameter name.
        blocks : sequence of Block
            What :meth:`blocks` made of it.
        """
        return torch.cat([fingerprint(one.unsqueeze(0).flatten(1)) for one in pixels_of(modality, inputs)])

    def _with_noise(self, modality: str, inputs: Mapping[str, Any], blocks: Sequence[Block]) -> list[Block]:
        """Blocks with a number for each token, drawn from the pixels of its picture."""
        found = self.pictures(modality, inputs, blocks)
        if len(found) != len(blocks):
            raise UnsupportedError(f"{len(blocks)} {modality}s were encoded, and pixels of {len(found)} are known")
        return [
            replace(block, signals={**block.signals, "noise": place_noise(one, block.free)[0]})
            for block, one in zip(blocks, torch.split(found, 1), strict=True)
        ]

    def encode(self, modality: str, **inputs: Any) -> Any:
        """Run the vision side alone and return what ``forward`` accepts as ``mm_encoder_outputs[modality]``."""
        encoder = getattr(self.core, f"get_{modality}_features")
        accepted = inspect.signature(encoder).parameters
        # some functions for videos call their pixels pixel_values
        named = ["pixel_values" if name in PIXELS[modality] and name not in accepted else name for name in inputs]
        return encoder(**dict(zip(named, inputs.values(), strict=True)), return_dict=True)

    def joins(self, ids: Sequence[int], before: tuple[int, int], after: tuple[int, int]) -> bool:
        """Whether two stretches of placeholders are tiles of one image.

        Parameters
        ----------
        ids : sequence of int
            The row's token ids.
        before, after : tuple of int
            First and last place of each stretch; no other lies between them.
        """
        return self.joins_adjacent and after[0] == before[1] + 1

    def vision_inputs(self, modality: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Those of a processor's outputs that the vision side takes."""
        encoder = getattr(self.core, f"get_{modality}_features", None)
        accepted = set() if encoder is None else set(inspect.signature(encoder).parameters) - {"kwargs"}
        accepted = accepted.difference(*PIXELS.values()) | {name for name in PIXELS[modality] if encoder is not None}
        return {name: value for name, value in inputs.items() if name in accepted}

    @abstractmethod
    def project(self, tokens: Tensor) -> Tensor:
        """From encoder space to projection space: (..., e) -> (..., d)."""

    def grid(self, n_tokens: int) -> Grid | None:
        """Where an image's tokens lie if nothing but their number is known, or None."""
        return None

    def position_ids(self, inputs: Mapping[str, Any], mask: Tensor) -> Tensor:
        """Position ids of a prompt as ``generate`` makes them: (B, S), or (4, B, S) where they have several axes."""
        return (mask.long().cumsum(1) - 1).clamp_min(0)

    def told(self, inputs: Mapping[str, Any]) -> Hashable:
        """What an encoder asks the device about pixels, asked on the host; None where it asks nothing.

        All that it asks has to follow from this and from sizes.
        """
        return None

    def both_ways(self, inputs: Mapping[str, Any]) -> Tensor | None:
        """Which tokens of prompts see each other both ways: int64 (B, S), one number for those that do, -1 elsewhere.

        None where all of them only look back.
        """
        return None

    def shorten(self, kwargs: Mapping[str, Any], plan: Splice) -> dict[str, Any]:
        """Further arguments of the language model that run over the sequence, for the shorter one."""
        return {}

    def embed_text(self, input_ids: Tensor) -> Tensor:
        """Embed token ids with the language model's table: (B, S) -> (B, S, d); placeholders embed as id 0."""
        ids = input_ids.masked_fill(self.image_mask(input_ids), 0)
        embedded: Tensor = self.model.get_input_embeddings()(ids)
        return embedded

    def image_mask(self, input_ids: Tensor, modality: str | None = None) -> Tensor:
        """Bool (B, S), True at placeholders (of one modality)."""
        wanted = self.image_token_ids if modality is None else (self.placeholders[modality],)
        return torch.isin(input_ids, torch.tensor(wanted, device=input_ids.device))

    def substitutes(self, signals: frozenset[str]) -> dict[str, str]:
        """Signals that the model lacks and what stands in for each."""
        found = {}
        for name in self.missing(signals):
            base, layer = split_layer(name)
            if base in SUBSTITUTES and self.gives(other := at_layer(SUBSTITUTES[base], layer)):
                found[name] = other
        return found


def dtype_of(module: nn.Module, otherwise: torch.dtype) -> torch.dtype:
    """The dtype in which a module computes: that of its numbers, not of weights that are stored in fewer bits."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), otherwise)


def pixels_of(modality: str, inputs: Mapping[str, Any]) -> Any:
    """The pixels that a function for a modality was called with; some call those of videos ``pixel_values``."""
    return next(value for name in (*PIXELS[modality], "pixel_values") if (value := inputs.get(name)) is not None)


def frames_in(inputs: Mapping[str, Any]) -> int:
    """Frames of each video that was encoded: pixels are (videos, frames, channels, height, width)."""
    pixels = inputs.get("pixel_values_videos")
    frames: int = (inputs["pixel_values"] if pixels is None else pixels).shape[1]
    return frames


SPECIAL = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "vision_start_token_id",
    "vision_end_token_id",
    "boi_token_index",
    "eoi_token_index",
)
"""Names under which configs keep the ids of tokens that nobody wrote."""


SUBSTITUTES: Mapping[str, str] = {"cls_attention": "received_attention", "cls_wide_attention": "received_attention"}
"""Encoders without [CLS]: what patches attend to, summed and made to add up to one, says how salient a patch is (Eqn 4,
right, in place of Eqn 4, left)."""


def adapter_for(model: Any) -> ModelAdapter:
    """Find the adapter of a model by its ``config.model_type``.

    Raises
    ------
    UnsupportedError
        No adapter; lists the model types that have one.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    model_type = getattr(getattr(inner, "config", None), "model_type", None)
    known = [entry.name for entry in registry.entries("adapters")]
    if isinstance(model, nn.DataParallel):
        raise UnsupportedError(
            "DataParallel hands a model's forward pass to others, where hooks and methods of the model are not: pass "
            "model.module, and run that"
        )
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise UnsupportedError(
            "DistributedDataParallel is a wrapper around the model: pass model.module; what runs through the wrapper "
            "is pruned too"
        )
    if model_type is None:
        raise UnsupportedError(f"{type(model).__name__} is no transformers model: it has no config.model_type")
    if model_type not in known:
        raise UnsupportedError(
            f"model type {model_type!r} ({type(inner).__name__}) has no adapter; {closest(model_type, known)} "
            f"Supported: {', '.join(known)}. A package adds one through the entry-point group tokenprune.adapters."
        )
    adapter = registry.load("adapters", model_type)(inner)
    if not isinstance(adapter, ModelAdapter):
        raise UnsupportedError(f"the adapter of {model_type!r} must be a ModelAdapter, got {type(adapter).__name__}")
    return adapter
