"""What a model is shown: a picture, a picture in tiles, or frames of a video, and where tokens lie on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from tokenprune.core.budget import Unit
from tokenprune.core.errors import ConfigError, UnsupportedError
from tokenprune.core.features import Grid
from tokenprune.core.strategy import AnyStrategy
from tokenprune.data.video import Video
from tokenprune.evaluation.batch import QuestionBatch
from tokenprune.hf.adapters.base import PIXELS, Block, adapter_for
from tokenprune.hf.chat import prompt_inputs
from tokenprune.hf.encoded import Encoded, observed

__all__ = ["WHOLE", "Area", "Panel", "Seen", "see_picture", "see_video", "seen_picture"]

Area = tuple[float, float, float, float]
"""Left, top, right and bottom edge, as shares of a picture."""

WHOLE: Area = (0.0, 0.0, 1.0, 1.0)

_GAP = 6
"""Pixels between frames or tiles."""


@dataclass(frozen=True)
class Panel:
    """A stretch of tokens, and the part of the picture that they cover.

    Attributes
    ----------
    grid : Grid
        Of one frame.
    area : Area
    name : str
        What the stretch is, where there are several: "frame 2", "tile 1".
    """

    grid: Grid
    area: Area = WHOLE
    name: str = ""


@dataclass(frozen=True)
class Seen:
    """A prompt with one visual input.

    Attributes
    ----------
    picture : Image
        What the encoder received: a picture, or its tiles or frames side by side.
    size : (width, height)
        Of the picture that was given, which boxes refer to.
    panels : tuple of Panel
        Stretches of prunable tokens, in the order of the tokens.
    inputs : dict
        Of the model.
    encoded : Encoded or None
        The picture, where it was encoded beforehand.
    pixels : dict
        Inputs with pixels, for strategies that act inside the encoder.
    signals : mapping of str to Tensor
        What the encoder told, over prunable tokens.
    unit : str or None
        What a budget is of, where it is not the model's own.
    kind : str
        "picture", "tiles" or "video".
    """

    picture: Image.Image
    size: tuple[int, int]
    panels: tuple[Panel, ...]
    inputs: dict[str, Any]
    encoded: Encoded | None
    pixels: dict[str, Any]
    signals: Mapping[str, Tensor]
    unit: Unit | None = None
    kind: str = "picture"

    @property
    def n(self) -> int:
        """Prunable tokens."""
        return sum(panel.grid.size for panel in self.panels)


def see_picture(
    model: Any, processor: Any, image: Image.Image, question: str, strategies: Sequence[AnyStrategy] = ()
) -> Seen:
    """Show a picture; one that the model cuts into tiles is seen tile by tile.

    Parameters
    ----------
    model, processor
    image : Image
    question : str
        As it is shown.
    strategies : sequence of AnyStrategy
        Whose signals are read while the picture is encoded.

    Raises
    ------
    UnsupportedError
        Where the picture's tokens lie is not known.
    """
    pictures = QuestionBatch(model, processor, [image], ["picture"], [question], strategies=strategies)
    shown, pixels = pictures.shown(0), pictures.shown(0, True).inputs
    if pictures.grids is None:
        return _tiles(model, processor, pictures, image.size)
    grids = pictures.grids[0]
    assert pictures.blocks is not None
    names = ["thumbnail", "picture"] if len(grids) == 2 else [""] * len(grids)
    panels = tuple(Panel(grid, name=name) for grid, name in zip(grids, names, strict=True))
    signals = pictures.blocks[0].signals
    return Seen(seen_picture(processor, image), image.size, panels, shown.inputs, shown.encoded, pixels, signals)


def _tiles(model: Any, processor: Any, pictures: QuestionBatch, size: tuple[int, int]) -> Seen:
    """Each tile as the encoder got it, in the order of the tokens."""
    inputs = pictures.shown(0).inputs
    blocks = observed(pictures.adapter, pictures.signals, inputs).seen.blocks.get("image", [])
    pixels = next((inputs[name] for name in PIXELS["image"] if name in inputs), None)
    unit = None if len(pictures.units) == 1 else "sample"
    told = all(len(block.grids) == 1 for block in blocks) and isinstance(pixels, Tensor) and pixels.ndim >= 4
    if not told or pixels.flatten(0, -4).shape[0] != len(blocks):  # type: ignore[union-attr]
        raise UnsupportedError(
            f"{type(model).__name__} does not say where its visual tokens lie in this picture (cut into tiles?)"
        )
    assert isinstance(pixels, Tensor)
    tiles = [_undone(tile, processor.image_processor) for tile in pixels.flatten(0, -4)]
    picture, areas = _side_by_side(tiles)
    panels = tuple(
        Panel(block.grids[0], area, f"tile {i}") for i, (block, area) in enumerate(zip(blocks, areas, strict=True), 1)
    )
    return Seen(picture, size, panels, inputs, None, inputs, _joined(blocks), unit, "tiles")  # type: ignore[arg-type]


def see_video(model: Any, processor: Any, frames: Sequence[Image.Image], question: str) -> Seen:
    """Show the frames of a video.

    Parameters
    ----------
    model, processor
    frames : sequence of Image
        All of one size.
    question : str

    Raises
    ------
    UnsupportedError
        The model reads no videos.
    ConfigError
        There is no frame, or frames differ in size.
    """
    if len({frame.size for frame in frames}) != 1:
        sizes = sorted({f"{frame.width} x {frame.height}" for frame in frames})
        raise ConfigError(f"frames: a video has frames of one size, and these have {', '.join(sizes) or 'none'}")
    adapter = adapter_for(model)
    if "video" not in adapter.placeholders:
        raise UnsupportedError(f"{type(model).__name__} reads no videos; give a single picture")
    whole = Video(tuple(frames), tuple(range(len(frames))), len(frames))
    made = prompt_inputs(processor, [whole], [question])
    inputs = {
        name: value.to(model.device, model.dtype if value.is_floating_point() else value.dtype)
        if isinstance(value, Tensor)
        else value
        for name, value in made.items()
    }
    with torch.no_grad():
        blocks = observed(adapter, adapter.available, inputs).seen.blocks.get("video", [])
    if not blocks or not all(block.grids for block in blocks):
        raise UnsupportedError(f"{type(model).__name__} does not say where its visual tokens lie in this video")
    grids = [Grid(g.height, g.width) for block in blocks for g in block.grids for _ in range(g.frames)]
    each = len(frames) / len(grids)  # some join two frames to one
    picture, areas = _side_by_side([frames[int(i * each)].convert("RGB") for i in range(len(grids))])
    panels = tuple(Panel(grid, area, f"frame {i}") for i, (grid, area) in enumerate(zip(grids, areas, strict=True), 1))
    return Seen(picture, frames[0].size, panels, inputs, None, inputs, _joined(blocks), "sample", "video")


def _joined(blocks: Sequence[Block]) -> dict[str, Tensor]:
    """Signals that every block has for each of its tokens, one after another."""
    shared = set.intersection(*(set(block.signals) for block in blocks)) if blocks else set()
    found = {}
    for name in shared:
        parts = [block.signals[name] for block in blocks]
        if all(part.shape[-1] == block.free for part, block in zip(parts, blocks, strict=True)):
            found[name] = torch.cat(parts, -1)
    return found


def _side_by_side(pictures: Sequence[Image.Image]) -> tuple[Image.Image, list[Area]]:
    """Pictures of one size in rows, and where each then lies."""
    width, height = pictures[0].size
    columns = min(len(pictures), 4) if len(pictures) <= 8 else ceil(sqrt(len(pictures)))
    rows = ceil(len(pictures) / columns)
    across, down = columns * (width + _GAP) - _GAP, rows * (height + _GAP) - _GAP
    whole = Image.new("RGB", (across, down), "white")
    areas = []
    for i, picture in enumerate(pictures):
        x, y = i % columns * (width + _GAP), i // columns * (height + _GAP)
        whole.paste(picture, (x, y))
        areas.append((x / across, y / down, (x + width) / across, (y + height) / down))
    return whole, areas


def seen_picture(processor: Any, image: Image.Image) -> Image.Image:
    """Return what the encoder receives as a picture: cropped, resized, normalisation undone.

    Parameters
    ----------
    processor
    image : Image
        Returned where the encoder takes something else than one picture of three channels.
    """
    steps = processor.image_processor
    made = steps(images=[image], return_tensors="pt")
    pixel_values = next((made[name] for name in PIXELS["image"] if name in made), None)
    if not isinstance(pixel_values, Tensor) or pixel_values.ndim != 4 or pixel_values.shape[:2] != (1, 3):
        return image
    return _undone(pixel_values[0], steps)


def _undone(pixels: Tensor, steps: Any) -> Image.Image:
    """A picture from what an image processor made of it, (3, H, W)."""
    pixels = pixels.float().cpu()
    if steps.do_normalize:
        pixels = pixels * torch.tensor(steps.image_std).view(3, 1, 1) + torch.tensor(steps.image_mean).view(3, 1, 1)
    if steps.do_rescale:
        pixels = pixels / steps.rescale_factor
    return Image.fromarray(pixels.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy())
