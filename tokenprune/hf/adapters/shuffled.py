"""InternVL, Idefics3 and SmolVLM: images cut into square tiles, neighbouring patches joined before the projector."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune.core.draws import fingerprint
from tokenprune.core.features import Grid
from tokenprune.hf.adapters.base import PIXELS, Block, pixels_of
from tokenprune.hf.adapters.encoder_attention import Readings
from tokenprune.hf.adapters.llava import LlavaAdapter, PatchesAlone
from tokenprune.hf.adapters.patches import mean_of_windows
from tokenprune.hf.encoded import tokens_of

__all__ = ["Idefics3Adapter", "InternVLAdapter"]

GLANCE = 64
"""Pixels of a tile at which one looks first."""


class InternVLAdapter(LlavaAdapter):
    """``InternVLForConditionalGeneration``.

    Tiles stand side by side in the prompt: an image is all tiles without anything between them, unless the unit is
    "tile". A frame of a video is an image. ``encoder`` is what the projector is given; attention and keys are means
    over the patches joined in a token.
    """

    joins_adjacent = True
    frames_apart = True
    one_token_a_patch = False

    @property
    def available(self) -> frozenset[str]:
        """As in LLaVA, but [CLS] has no feature in the space of joined patches."""
        return super().available - {"encoder_cls"}

    @property
    def joined(self) -> int:
        """Patches along each side of a token."""
        ratio: float = self.model.config.downsample_ratio
        return round(1 / ratio)

    def blocks(self, modality: str, output: Any, inputs: Mapping[str, Any], readings: Readings) -> list[Block]:
        """One block a tile."""
        side = self.side // self.joined
        signals = {
            name: values if name == "encoder" else [mean_of_windows(name, v, side, self.joined) for v in values]
            for name, values in readings.items()
        }
        return [
            Block(side**2, (Grid(side, side),), signals={name: values[i] for name, values in signals.items()})
            for i in range(len(tokens_of(output)) // side**2)
        ]

    def grid(self, n_tokens: int) -> Grid | None:
        """Square grid of tokens."""
        side = self.side // self.joined
        return Grid(side, side) if side**2 == n_tokens else None


class Idefics3Adapter(PatchesAlone, InternVLAdapter):
    """``Idefics3ForConditionalGeneration`` and ``SmolVLMForConditionalGeneration``.

    Tiles stand apart in the prompt, with their row and column before them; the whole picture, made smaller, comes last
    and ends the image.
    """

    joins_adjacent = False
    # tiles of an image stand apart too, so that frames of SmolVLM's videos cannot be told from them
    frames_apart = False
    projector = "connector.modality_projection"

    def joins(self, ids: Sequence[int], before: tuple[int, int], after: tuple[int, int]) -> bool:
        """Whether what stands before the earlier stretch says that it is a tile, and not a whole picture.

        A prompt's last stretch is a whole picture: what stands before that one is what stands before all of them,
        be it one token or several.
        """
        placeholder, border = ids[before[0]], before[1] + 1
        if border >= len(ids) or ids[border] == placeholder:
            return False
        last = len(ids) - 1 - list(reversed(ids)).index(placeholder)
        while ids[last] == placeholder:
            last -= 1
        return _written_before(ids, before[0], ids[border]) != _written_before(ids, last + 1, ids[border])

    def pictures(self, modality: str, inputs: Mapping[str, Any], blocks: Sequence[Block]) -> Tensor:
        """A hash a tile; samples with fewer tiles are filled up with black ones, which the model leaves out."""
        tiles = pixels_of(modality, inputs).flatten(0, 1).flatten(1)
        black = (tiles == 0).all(1)
        # without reading back which they are: the others first, in order
        return fingerprint(tiles)[black.to(torch.uint8).argsort(stable=True)[: len(blocks)]]

    def told(self, inputs: Mapping[str, Any]) -> Hashable:
        """Which tiles are black, that is padding, which the encoder leaves out."""
        found: list[bool] = []
        for modality in self.placeholders:
            if any(inputs.get(name) is not None for name in PIXELS[modality]):
                tiles = pixels_of(modality, inputs).flatten(0, 1).flatten(1)
                # pixels of a picture are hardly ever zero, so that a few of them tell; all are asked where they do not
                black = (tiles[:, :: max(1, tiles.shape[1] // GLANCE)] == 0).all(1)
                found += [bool(hint) and not bool(tile.any()) for hint, tile in zip(black.tolist(), tiles, strict=True)]
        return tuple(found)

    @property
    def language_model(self) -> nn.Module:
        """The decoder."""
        return self.core.get_submodule("text_model")

    def tower(self, modality: str) -> nn.Module:
        """The encoder."""
        return self.core.get_submodule("vision_model")

    @property
    def joined(self) -> int:
        """Patches along each side of a token."""
        return int(self.model.config.scale_factor)


def _written_before(ids: Sequence[int], start: int, border: int) -> list[int]:
    """Tokens between the last border and a stretch of placeholders; the one before it where there is no border."""
    written: list[int] = []
    for place in range(start - 1, -1, -1):
        if ids[place] == border:
            return written
        written.append(ids[place])
    return written[:1]
