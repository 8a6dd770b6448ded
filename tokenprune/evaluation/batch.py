"""Pictures of a batch of questions, as any model takes them: encoded once, exchanged, and where their tokens lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from tokenprune.core.budget import Unit
from tokenprune.core.errors import UnsupportedError
from tokenprune.core.features import Grid
from tokenprune.core.strategy import AnyStrategy
from tokenprune.data.video import Video
from tokenprune.hf.adapters.base import FROM_PIXELS, PIXELS, Block, adapter_for
from tokenprune.hf.attach import attach
from tokenprune.hf.chat import Pictures, prompt_inputs
from tokenprune.hf.encoded import Encoded, observed, takes_encoded
from tokenprune.hf.sources import signals_for

__all__ = ["Box", "QuestionBatch", "Shown", "box_overlap", "first_of", "grey"]

Box = tuple[int, int, int, int]
"""Left, top, right and bottom edge in pixels of a picture."""


def box_overlap(boxes: Sequence[Box], grid: Grid, size: tuple[int, int]) -> Tensor:
    """Area of each token's patch that some box covers, in pixels: (N,).

    Parameters
    ----------
    boxes : sequence of (x0, y0, x1, y1)
        Pixels of the picture.
    grid : Grid
    size : (width, height) of the picture
    """
    height, width = size[1] / grid.height, size[0] / grid.width
    top = torch.arange(grid.height, dtype=torch.float64) * height
    left = torch.arange(grid.width, dtype=torch.float64) * width
    covered = torch.zeros(grid.height, grid.width, dtype=torch.float64)
    for x0, y0, x1, y1 in boxes:
        rows = (torch.minimum(top + height, torch.tensor(float(y1))) - top.clamp_min(y0)).clamp_min(0)
        columns = (torch.minimum(left + width, torch.tensor(float(x1))) - left.clamp_min(x0)).clamp_min(0)
        covered = torch.maximum(covered, rows[:, None] * columns[None])
    return covered.flatten()


def first_of(pictures: Pictures) -> Image.Image:
    """A picture, the first of several, or the first frame of a video."""
    if isinstance(pictures, Video):
        return pictures.frames[0]
    return pictures if isinstance(pictures, Image.Image) else pictures[0]


def grey(pictures: Pictures) -> Pictures:
    """What stands in for a picture, or for a video as long as the given one, that says nothing."""
    blank = Image.new("RGB", first_of(pictures).size, "grey")
    return replace(pictures, frames=(blank,) * len(pictures.frames)) if isinstance(pictures, Video) else blank


@dataclass(frozen=True)
class Shown:
    """Prompts with pictures, ready for ``generate``.

    Attributes
    ----------
    inputs : dict
        ``input_ids`` and all else.
    encoded : Encoded or None
        The pictures, where they were encoded beforehand; ``attach`` takes it too.
    prunable : tuple of int
        Visual tokens of each prompt that a strategy chooses among.
    staying : tuple of int
        Other tokens of each prompt, padding not counted: text, and visual tokens that always stay, such as the ends of
        rows and a frame's [CLS].
    """

    inputs: dict[str, Any]
    encoded: Encoded | None
    prunable: tuple[int, ...]
    staying: tuple[int, ...]


class QuestionBatch:
    """Pictures and questions about them, a question each.

    A picture that several questions are about is encoded once, unless the model cuts pictures into tiles or takes no
    pictures encoded beforehand.

    Parameters
    ----------
    model, processor
        As :func:`tokenprune.zoo.loading.load_model` returns them.
    pictures : sequence of Image, of sequence of Image or of Video
        What each question is about; where some are about several pictures or videos, nobody knows where tokens lie.
    names : sequence of str
        Equal for the same picture.
    questions : sequence of str
    others : sequence of Image
        Pictures that no question is about, to be shown in the place of others.
    strategies : sequence of AnyStrategy
        Whose signals to read while pictures are encoded, besides those that are read as a rule.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        pictures: Sequence[Pictures],
        names: Sequence[str],
        questions: Sequence[str],
        others: Sequence[Pictures] = (),
        strategies: Sequence[AnyStrategy] = (),
    ) -> None:
        self.model, self.processor, self.questions = model, processor, tuple(questions)
        self.adapter = adapter_for(model)
        # a video is one unit, also where a model shows its frames as pictures of their own
        video = any(isinstance(shown, Video) for shown in pictures)
        self.unit: Unit = "sample" if video and self.adapter.frames_apart else "image"
        if video and "frames" not in self.adapter.layouts:
            raise UnsupportedError(
                f"{type(model).__name__} reads no videos; give some frames of each as pictures: a column 'images' with "
                "a list of files"
            )
        self.signals = self.adapter.available | FROM_PIXELS | signals_for(self.adapter, strategies)
        self.sizes = tuple(first_of(picture).size for picture in pictures)
        distinct = dict(zip(names, pictures, strict=True))
        self.place = [list(distinct).index(name) for name in names]
        self.pool = [*distinct.values(), *others]
        # a lifetime of this object, not of the process
        self.shown = lru_cache(maxsize=None)(self._shown)
        self._prompts = lru_cache(maxsize=None)(self._prompted)
        self._probed = lru_cache(maxsize=None)(self._probe)

    @cached_property
    def _seen(self) -> Encoded:
        """Each picture of the pool, encoded."""
        inputs = self._ready(self.pool, [self.questions[0]] * len(self.pool))
        with torch.no_grad():
            return observed(self.adapter, self.signals, inputs)

    @property
    def blocks(self) -> list[Block] | None:
        """How each picture of the pool fills placeholders; None where a picture is more than one piece."""
        if not all(isinstance(picture, Image.Image) for picture in self.pool):
            return None
        blocks = self._seen.seen.blocks.get("image", [])
        return blocks if len(blocks) == len(self.pool) else None

    @cached_property
    def grids(self) -> list[tuple[Grid, ...]] | None:
        """Where the prunable tokens of each question's picture lie, each grid over all of it; None where unknown."""
        if self.blocks is None or not all(block.grids for block in self.blocks):
            return None
        return [self.blocks[i].grids for i in self.place]

    @cached_property
    def units(self) -> tuple[int, ...]:
        """Prunable tokens of each unit that a strategy chooses from, in order: pictures, or their tiles."""
        if self.blocks is not None:
            return tuple(self.blocks[i].free for i in self.place)
        return tuple(size for _, size in self._probed(0))

    def overlap(self, boxes: Sequence[Sequence[Box]]) -> Tensor:
        """Overlap of each unit's tokens with each question's boxes, (U, N) in pixels; 0 where places are not known."""
        found = torch.zeros(len(self.units), max(self.units), dtype=torch.float64)
        for row, grids in enumerate(self.grids or ()):
            covered = torch.cat([box_overlap(boxes[row], grid, self.sizes[row]) for grid in grids])
            found[row, : len(covered)] = covered
        return found

    def _shown(self, shift: int, pixels: bool = False) -> Shown:
        """The questions, each with the picture ``shift`` places further on among the distinct ones.

        With ``pixels`` the model encodes pictures itself, for strategies that act inside its encoder.
        """
        inputs, encoded = self._prompts(shift)
        if pixels and encoded is not None:
            inputs, encoded = self._ready([self.pool[i] for i in self._chosen(shift)], self.questions), None
        if self.blocks is not None:
            prunable = [self.blocks[i].free for i in self._chosen(shift)]
        else:
            prunable = [
                sum(size for row, size in self._probed(shift) if row == mine) for mine in range(len(self.place))
            ]
        staying = [n - free for n, free in zip(inputs["attention_mask"].sum(1).tolist(), prunable, strict=True)]
        return Shown(inputs, encoded, tuple(prunable), tuple(staying))

    def _chosen(self, shift: int) -> list[int]:
        """Place in the pool of each question's picture, ``shift`` further on."""
        return [(i + shift) % len(self.pool) for i in self.place]

    def _prompted(self, shift: int) -> tuple[dict[str, Any], Encoded | None]:
        """Inputs of ``generate``, and the pictures where they were encoded beforehand."""
        chosen = self._chosen(shift)
        inputs = self._ready([self.pool[i] for i in chosen], self.questions)
        if self.blocks is None or not takes_encoded(self.model):
            return inputs, None
        encoded = self._seen.pick(chosen)
        # grids and sizes stay: models count positions with them
        pixels = {name for names in PIXELS.values() for name in names}
        kept = {name: value for name, value in inputs.items() if name not in pixels}
        return {**kept, "mm_encoder_outputs": encoded.outputs}, encoded

    def _probe(self, shift: int) -> list[tuple[int, int]]:
        """Question and prunable tokens of each unit, found out by pruning; the choice does not matter here."""
        with torch.no_grad(), attach(self.model, "random", 1.0, unit=self.unit, processor=self.processor) as run:
            self.model(**self._prompts(shift)[0])
        prefill = run.history[-1]
        return [(row, len(places)) for row, places in zip(prefill.rows, prefill.places, strict=True)]

    def _ready(self, pictures: Sequence[Pictures], questions: Sequence[str]) -> dict[str, Any]:
        """A processor's outputs on the model's device, in its precision."""
        inputs: Mapping[str, Any] = prompt_inputs(self.processor, pictures, questions)
        return {
            name: value.to(self.model.device, self.model.dtype if value.is_floating_point() else value.dtype)
            if isinstance(value, Tensor)
            else value
            for name, value in inputs.items()
        }
