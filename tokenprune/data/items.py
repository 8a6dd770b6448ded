"""Questions to ask: scenes painted from a seed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Protocol

from PIL import Image

from tokenprune.core.errors import ConfigError, closest
from tokenprune.data.video import Video

__all__ = [
    "CLIPS",
    "NATURAL",
    "SCENES",
    "Item",
    "clip_items",
    "default_model",
    "notes_on",
    "painted_set",
    "scene_items",
]

SCENES = "scenes"
"""Name of the data set of painted scenes. Their tasks are named after the benchmarks whose questions they are like, but
not by that name alone: ``scenes-pope``."""

NATURAL = "natural"
"""Name of the data set of painted scenes that are like photographs: ``natural-pope``."""

CLIPS = "clips"
"""Name of the data set of painted clips. Their tasks are named after the sets whose question types they are like:
``clips-tgif``, ``clips-msvd`` and ``clips-msrvtt``."""

_SEES_CLIPS = ("embedded-video",)
"""Models that are asked about clips where nobody says about what."""


def default_model(given: str | None = None) -> str:
    """The model that was given; without one the embedded model where this installation has it, or random weights."""
    if given is not None:
        return given  # an empty name, too: it is refused where it is loaded
    return "embedded" if importlib.util.find_spec("tokenprune.zoo.embedded") is not None else "tiny"


def notes_on(model: str) -> list[str]:
    """What a reader of results on this model must know first."""
    if model.partition(":")[0] == "tiny":
        return [
            f"Model {model!r} has random weights: its answers are noise and accuracy says nothing. The table "
            "shows that everything runs, what it costs, and how often pruning changes what the model says ('as full')."
        ]
    return []


FRAMES_A_SECOND = 2.0
"""Of painted clips, and of others that nobody says it of."""


@lru_cache(maxsize=64)
def _painted(seed: int, index: int, style: str) -> Any:
    from tokenprune.data.scenes import scene

    return scene(seed, index, style=style)


def scene_items(families: Sequence[str] | None, n: int, seed: int, style: str = "plain") -> list[Item]:
    """Questions about painted scenes, balanced over sub-families.

    Parameters
    ----------
    families : sequence of str, optional
        Question types, as "pope" or "scenes-pope"; all by default.
    n : int
        Questions in all.
    seed : int
    style : {"plain", "natural"}, default "plain"
        Set of scenes.

    Raises
    ------
    ConfigError
        An unknown family; names the closest.
    UnknownNameError
        An unknown set of scenes.
    """
    from tokenprune.data.scenes import QUESTION_FAMILIES, samples

    data = SCENES if style == "plain" else style
    families = [family.removeprefix(f"{data}-") for family in families or QUESTION_FAMILIES]
    for family in families:
        if family not in QUESTION_FAMILIES:
            raise ConfigError(f"--families: no {family!r}; {closest(family, QUESTION_FAMILIES)}")

    def item(sample: Any) -> Item:
        def paint() -> Image.Image:
            image: Image.Image = _painted(seed, sample.scene, style).image
            return image

        name = f"{seed}-{sample.scene}" if data == SCENES else f"{data}-{seed}-{sample.scene}"
        return Item(sample.id, name, paint, sample.question, data)

    return [item(sample) for sample in samples(families, n, seed, style=style)]


def painted_set(model: str) -> str | None:
    """Name of the painted set that a model is asked about where nobody says about what; None for plain scenes."""
    return CLIPS if model in _SEES_CLIPS else None


@lru_cache(maxsize=64)
def _painted_clip(seed: int, index: int) -> Video:
    from tokenprune.data.scenes import clip

    shown = clip(seed, index)
    return Video(shown.frames, tuple(range(len(shown.frames))), len(shown.frames), FRAMES_A_SECOND)


def clip_items(families: Sequence[str] | None, n: int, seed: int) -> list[Item]:
    """Questions about painted clips, balanced over sub-families.

    Parameters
    ----------
    families : sequence of str, optional
        Question types, as "tgif" or "clips-tgif"; all by default.
    n : int
        Questions in all.
    seed : int

    Raises
    ------
    ConfigError
        An unknown family; names the closest.
    """
    from tokenprune.data.scenes import CLIP_FAMILIES, clip_samples

    families = [family.removeprefix(f"{CLIPS}-") for family in families or CLIP_FAMILIES]
    for family in families:
        if family not in CLIP_FAMILIES:
            raise ConfigError(f"--families: no {family!r}; {closest(family, CLIP_FAMILIES)}")
    return [
        Item(one.id, f"{CLIPS}-{seed}-{one.scene}", partial(_painted_clip, seed, one.scene), one.question, CLIPS)
        for one in clip_samples(families, n, seed)
    ]


class Question(Protocol):
    """What the runner reads of a question."""

    @property
    def text(self) -> str:
        """What is asked."""

    @property
    def answer(self) -> str:
        """The right one."""

    @property
    def family(self) -> str:
        """Question type."""

    @property
    def subfamily(self) -> str:
        """Part of the question type."""

    @property
    def choices(self) -> tuple[str, ...]:
        """All possible answers; empty for an open question."""

    @property
    def boxes(self) -> tuple[tuple[int, int, int, int], ...] | None:
        """What the question is about, in pixels: left, top, right, bottom; () if nothing is, None if nobody knows."""

    @property
    def binary(self) -> bool:
        """Whether the answer is yes or no."""

    @property
    def answers(self) -> tuple[str, ...]:
        """All right answers."""

    @property
    def prompt(self) -> str:
        """What is shown to a model: the text, and perhaps what form the answer shall have."""

    @property
    def metric(self) -> str:
        """Name of the metric that grades answers."""


@dataclass(frozen=True)
class Item:
    """A question about a picture.

    Attributes
    ----------
    id : str
    image_id : str
        Questions with the same one share the picture, and a cluster in the statistics.
    image : callable
        Paints or opens the picture, the pictures or the video.
    question : Question
    data : str
        Data set that it comes from, part of the name of its task; "" where the question's family says it all.
    """

    id: str
    image_id: str
    image: Callable[[], Any]
    question: Question
    data: str = ""

    @property
    def task(self) -> str:
        """What is asked, as in every file and table: "scenes-pope"."""
        return f"{self.data}-{self.question.family}" if self.data else self.question.family

    @property
    def family(self) -> str:
        """Part of the task, as in every file and table: "adversarial"."""
        return self.question.subfamily
