"""LLaVA-NeXT and LLaVA-OneVision: large images cut into tiles, whose tokens are laid out again and cropped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from tokenprune.core.errors import UnsupportedError
from tokenprune.core.features import Grid, signal_of
from tokenprune.hf.adapters.base import Block, frames_in
from tokenprune.hf.adapters.encoder_attention import Readings
from tokenprune.hf.adapters.llava import LlavaAdapter
from tokenprune.hf.patching import replaced

__all__ = ["LlavaNextAdapter", "LlavaOnevisionAdapter"]


@dataclass
class _Packing:
    """How the model laid the tiles of its images out: arguments of ``pack_image_features``."""

    tiles: list[int] = field(default_factory=list)
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


class _TileReadings(Readings):
    """Readings, and how tiles were laid out meanwhile."""

    packing: _Packing


class LlavaNextAdapter(LlavaAdapter):
    """``LlavaNextForConditionalGeneration``.

    An image is a thumbnail and, behind it, the whole picture from its tiles, without what padding covers; each of its
    rows ends in a newline token, which stays. Signals of the encoder are laid out like the tokens, by the model's own
    function. [CLS] features are those of the thumbnail.
    """

    one_token_a_patch = False

    @contextmanager
    def watch(self, modality: str, signals: frozenset[str]) -> Iterator[Readings]:
        """Besides the encoder, see how tiles are laid out."""
        core: Any = self.core
        pack = core.pack_image_features
        packing = _Packing()

        def packed(image_features: Any, *args: Any, **kwargs: Any) -> Any:
            packing.tiles = [len(tiles) for tiles in image_features]
            packing.args, packing.kwargs = args, kwargs
            return pack(image_features, *args, **kwargs)

        with super().watch(modality, signals) as readings, replaced(vars(core), "pack_image_features", packed):
            noted = _TileReadings(readings)
            noted.packing = packing
            yield noted

    def blocks(self, modality: str, output: Any, inputs: Mapping[str, Any], readings: Readings) -> list[Block]:
        """One block an image: thumbnail, then picture."""
        assert isinstance(readings, _TileReadings)
        packing = readings.packing
        device = output.pooler_output[0].device
        where = [torch.zeros(tiles, self.side**2, 1, device=device) for tiles in packing.tiles]
        newline = [part[:, 0] == 1 for part in self._laid_out(packing, where, 1)]
        signals = {name: self._arranged(name, values, packing, newline) for name, values in readings.items()}
        return [
            Block(
                len(fixed),
                (Grid(self.side, self.side), *self._picture(fixed)),
                fixed,
                {name: parts[i] for name, parts in signals.items()},
            )
            for i, fixed in enumerate(newline)
        ]

    def _picture(self, newline: Tensor) -> tuple[Grid, ...]:
        """The picture behind the thumbnail; none where the thumbnail is all there is."""
        rest = newline[self.side**2 :]
        rows = int(rest.sum())
        # of a picture much taller than wide nothing may be left but the newlines
        return (Grid(rows, len(rest) // rows - 1),) if len(rest) > rows else ()

    def _laid_out(self, packing: _Packing, values: list[Tensor], newline: float) -> list[Tensor]:
        """Lay values of tiles, (tiles, N, c) an image, out as the model does with tokens: (size, c) an image."""
        core: Any = self.core
        mark = values[0].new_full(values[0].shape[-1:], newline)
        args = tuple(_like_newline(core, value, mark) for value in packing.args)
        kwargs = {name: _like_newline(core, value, mark) for name, value in packing.kwargs.items()}
        # the function of the class: the instance's own may be watched
        packed, _ = type(core).pack_image_features(core, values, *args, **kwargs)
        return list(packed)

    def _arranged(self, name: str, tiles: list[Tensor], packing: _Packing, newline: list[Tensor]) -> list[Tensor]:
        """A signal of all tiles, as one tensor an image over its prunable tokens."""
        letters = signal_of(name).shape.split()[1:]
        images = [torch.stack(list(part)) for part in _split(tiles, packing.tiles)]
        if "n" not in letters:
            return [image[0] for image in images]
        axis = letters.index("n") + 1
        rows = [image.movedim(axis, 1) for image in images]
        laid = self._laid_out(packing, [rearrange(row, "i n ... -> i n (...)") for row in rows], 0)
        out = []
        for row, values, fixed in zip(rows, laid, newline, strict=True):
            free = values[~fixed].view(-1, *(row.shape[2:] or (1,)))
            out.append(free.squeeze(1) if row.ndim == 2 else free.movedim(0, axis - 1))
        return out


class LlavaOnevisionAdapter(LlavaNextAdapter):
    """``LlavaOnevisionForConditionalGeneration``: as LLaVA-NeXT, with pooled frames of videos.

    Pictures of many tiles are scaled down by the model, and so are their signals. A video ends in one newline token,
    which stays.
    """

    @property
    def placeholders(self) -> Mapping[str, int]:
        """``<image>`` and ``<video>``."""
        return {"image": self.model.config.image_token_id, "video": self.model.config.video_token_id}

    def blocks(self, modality: str, output: Any, inputs: Mapping[str, Any], readings: Readings) -> list[Block]:
        """Images as in LLaVA-NeXT; one block a video."""
        if modality == "image":
            return super().blocks(modality, output, inputs, readings)
        videos = len(output.pooler_output)
        frames = frames_in(inputs)
        half = -(-self.side // 2)
        # the newline is there or is put there by the caller, as transformers' version has it
        size = half**2 * frames + 1
        fixed = torch.zeros(size, dtype=torch.bool, device=output.pooler_output.device)
        fixed[-1] = True
        signals = {name: self._pooled(name, values, videos) for name, values in readings.items()}
        return [
            Block(size, (Grid(half, half, frames),), fixed, {name: parts[i] for name, parts in signals.items()})
            for i in range(videos)
        ]

    def _pooled(self, name: str, frames: list[Tensor], videos: int) -> list[Tensor]:
        """A signal of all frames, pooled as tokens are, one tensor a video."""
        letters = signal_of(name).shape.split()[1:]
        each = len(frames) // videos
        stacked = torch.stack(frames)
        if "n" not in letters:
            return [stacked[i * each] for i in range(videos)]
        axis = letters.index("n") + 1
        rows = stacked.movedim(axis, 1)
        core: Any = self.core
        pooled = core.apply_pooling(rearrange(rows, "f n ... -> f n (...)"))
        pooled = pooled.reshape(*pooled.shape[:2], *rows.shape[2:])
        per_video = rearrange(pooled, "(v f) n ... -> v (f n) ...", f=each)
        return list(per_video.movedim(1, axis))


def _split(items: list[Tensor], sizes: list[int]) -> Iterator[list[Tensor]]:
    if sum(sizes) != len(items):
        raise UnsupportedError(f"the encoder read {len(items)} tiles where the model laid out {sum(sizes)}")
    start = 0
    for size in sizes:
        yield items[start : start + size]
        start += size


def _like_newline(core: Any, value: Any, mark: Tensor) -> Any:
    """Put ``mark`` where the model passed its newline embedding."""
    return mark if value is core.image_newline else value
