"""Questions to ask: scenes painted from a seed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from PIL import Image

from tokenprune.core.errors import ConfigError, closest

__all__ = ["NATURAL", "SCENES", "Item", "default_model", "notes_on", "scene_items"]

SCENES = "scenes"
"""Name of the data set of painted scenes. Their tasks are named after the benchmarks whose questions they are like, but
not by that name alone: ``scenes-pope``."""

NATURAL = "natural"
"""Name of the data set of painted scenes that are like photographs: ``natural-pope``."""


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
        Paints or opens the picture.
    question : Question
    data : str
        Data set that it comes from, part of the name of its task; "" where the question's family says it all.
    """

    id: str
    image_id: str
    image: Callable[[], Image.Image]
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
