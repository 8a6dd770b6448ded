"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: native resolution, 2 x 2 patches a token, positions along three axes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from tokenprune.core.draws import fingerprint
from tokenprune.core.features import Grid, signal_of
from tokenprune.hf.adapters.base import Block, ModelAdapter, dtype_of, pixels_of
from tokenprune.hf.adapters.encoder_attention import CLS_SIGNALS, ENCODER_SIGNALS, Readings, read_layer
from tokenprune.hf.adapters.patches import mean_of_groups
from tokenprune.hf.splice import Splice

__all__ = ["Qwen2VLAdapter", "Qwen3VLAdapter"]

TOKEN_TYPES = {"image": 1, "video": 2}


class Qwen2VLAdapter(ModelAdapter):
    """``Qwen2VLForConditionalGeneration`` and ``Qwen2_5_VLForConditionalGeneration``.

    There is no [CLS]. ``received_attention`` is that of the last encoder layer (which looks at the whole image in
    Qwen2.5-VL too), ``keys`` are its keys; both are means over the 2 x 2 patches that the merger joins. ``encoder`` is
    what the merger is given: four patches side by side. A video's frames are pairs of what the camera saw.
    """

    multi_axis = True

    @property
    def placeholders(self) -> Mapping[str, int]:
        """``<|image_pad|>`` and ``<|video_pad|>``."""
        return {"image": self.model.config.image_token_id, "video": self.model.config.video_token_id}

    @property
    def available(self) -> frozenset[str]:
        """Projection space, prompt, encoder features, and attention that patches receive."""
        return frozenset({"visual", "text", "encoder", "received_attention", "keys"})

    @property
    def on_demand(self) -> frozenset[str]:
        """What an encoder layer's attention sees, and its output."""
        return frozenset(name for name in ENCODER_SIGNALS - CLS_SIGNALS if signal_of(name).layered)

    def encoder_layers(self, modality: str) -> list[nn.Module]:
        """All of them; in Qwen2.5-VL most look at windows of the picture."""
        return list(self._visual.blocks)

    @property
    def _visual(self) -> Any:
        return self.core.get_submodule("visual")

    @contextmanager
    def watch(self, modality: str, signals: frozenset[str]) -> Iterator[Readings]:
        """Hook the encoder layers that signals come from, and the merger's input."""
        layers: list[Any] = self.encoder_layers(modality)
        with ExitStack() as stack:
            readings: Readings = {}
            for number, names in self.by_layer(modality, signals, len(layers) - 1).items():
                attention = layers[number].attn
                readings |= stack.enter_context(read_layer(layers[number], attention, attention.config, names))
            if "encoder" in signals:
                readings["encoder"] = []
                hook = self._visual.merger.register_forward_pre_hook(
                    lambda _, args: readings["encoder"].append(args[0])
                )
                stack.callback(hook.remove)
            yield readings

    def blocks(self, modality: str, output: Any, inputs: Mapping[str, Any], readings: Readings) -> list[Block]:
        """One block an image or video, as large as its resolution makes it."""
        thw = inputs[f"{'image' if 'image_grid_thw' in inputs else 'video'}_grid_thw"]
        merge = self._visual.spatial_merge_size
        grids = [Grid(h // merge, w // merge, t) for t, h, w in thw.tolist()]
        sizes = [grid.size for grid in grids]
        order = self._raster(thw)
        signals: dict[str, tuple[Tensor, ...]] = {}
        for name, values in readings.items():
            axis = signal_of(name).shape.split()[1:].index("n")
            patches = torch.cat(values, axis)
            if name == "encoder":  # what is merged lies side by side
                tokens = rearrange(patches, "(n m) e -> n (m e)", m=merge**2)
            else:
                tokens = mean_of_groups(name, patches, merge**2)
            signals[name] = torch.split(tokens if order is None else tokens.index_select(axis, order), sizes, axis)
        return [
            Block(size, (grid,), signals={name: parts[i] for name, parts in signals.items()})
            for i, (size, grid) in enumerate(zip(sizes, grids, strict=True))
        ]

    def pictures(self, modality: str, inputs: Mapping[str, Any], blocks: Sequence[Block]) -> Tensor:
        """All patches lie in one tensor; pictures follow each other."""
        thw = inputs[f"{'image' if 'image_grid_thw' in inputs else 'video'}_grid_thw"]
        parts = torch.split(pixels_of(modality, inputs), [t * h * w for t, h, w in thw.tolist()])
        return torch.cat([fingerprint(part.reshape(1, -1)) for part in parts])

    def _raster(self, thw: Tensor) -> Tensor | None:
        """Where the encoder put each token, if it sorts them into windows; None where they stay in raster order."""
        visual = self._visual
        if not hasattr(visual, "window_size"):
            return None
        merge = visual.spatial_merge_size
        return window_order(thw.tolist(), merge, visual.window_size // merge // visual.patch_size).to(thw.device)

    def project(self, tokens: Tensor) -> Tensor:
        """Apply the merger to tokens of four patches each."""
        merger: Any = self._visual.merger
        tokens = tokens.to(dtype_of(merger, self.model.dtype))
        patches = rearrange(tokens, "... (m e) -> (... m) e", m=self._visual.spatial_merge_size**2)
        projected: Tensor = merger.forward(patches)
        return projected.view(*tokens.shape[:-1], -1)

    def position_ids(self, inputs: Mapping[str, Any], mask: Tensor) -> Tensor:
        """Rows for the sequence's own count, time, height and width."""
        ids = inputs["input_ids"]
        core: Any = self.core
        accepted = inspect.signature(core.get_rope_index).parameters
        given = {name: value for name, value in inputs.items() if name in accepted and value is not None}
        types = torch.zeros_like(ids)
        for modality, kind in TOKEN_TYPES.items():
            types[self.image_mask(ids, modality)] = kind
        given = {"mm_token_type_ids": types, **given, "attention_mask": mask.long()}
        axes, _ = core.get_rope_index(**{name: value for name, value in given.items() if name in accepted})
        return torch.cat([super().position_ids(inputs, mask).unsqueeze(0), axes])


class Qwen3VLAdapter(Qwen2VLAdapter):
    """``Qwen3VLForConditionalGeneration`` and its mixture of experts.

    Features of earlier encoder layers are added to the visual tokens after the first layers of the language model
    (deepstack); they go with their tokens. A token that a strategy made of several has those of the place it takes.
    """

    def shorten(self, kwargs: Mapping[str, Any], plan: Splice) -> dict[str, Any]:
        """Deepstack features and the mask of their places."""
        places = kwargs.get("visual_pos_masks")
        if places is None:
            return {}
        left = plan.tokens(places) & plan.mask
        features = kwargs.get("deepstack_visual_embeds") or []
        return {
            "visual_pos_masks": left,
            "deepstack_visual_embeds": [plan.scattered(places, layer)[left] for layer in features],
        }


def window_order(thw: list[list[int]], merge: int, window: int) -> Tensor:
    """Place of each token, in raster order, in a sequence sorted into square windows (Qwen2.5-VL).

    Parameters
    ----------
    thw : list of [frames, rows, columns]
        In patches, for each image or video.
    merge : int
        Patches along each side of a token.
    window : int
        Tokens along each side of a window; windows at the right and lower edge may be smaller.
    """
    sorted_tokens, offset = [], 0
    for t, h, w in thw:
        frame, row, column = Grid(h // merge, w // merge, t).coordinates().unbind(1)
        across = -(-(w // merge) // window)
        down = -(-(h // merge) // window)
        number = (frame * down + row // window) * across + column // window
        sorted_tokens.append(number.argsort(stable=True) + offset)
        offset += len(number)
    return torch.cat(sorted_tokens).argsort()
