"""Scenes by seed and index, and balanced samples of their questions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from PIL import Image

from tokenprune.core.errors import BudgetError, UnknownNameError, closest
from tokenprune.data.scenes.draws import Draws, key_number
from tokenprune.data.scenes.painter import Painting, paint
from tokenprune.data.scenes.placement import Arrangement, SceneObject, Sign, draw_arrangement
from tokenprune.data.scenes.questions import Question, ask
from tokenprune.data.scenes.styles import PLAIN, Style, style_named
from tokenprune.data.scenes.world import QUESTION_FAMILIES

__all__ = ["Sample", "Scene", "named_subfamilies", "samples", "scene", "spread_questions", "subfamilies"]

PER_SCENE = 8
"""Questions that a sample asks about one picture at most."""


@dataclass(frozen=True)
class Scene:
    """A picture that can be asked about. The picture is painted when it is first looked at.

    Attributes
    ----------
    split : str
    seed, index : int
    arrangement : Arrangement
    questions : tuple of Question
        One of each sub-family that the arrangement allows.
    style : Style
        The set that it belongs to.
    """

    split: str
    seed: int
    index: int
    arrangement: Arrangement
    questions: tuple[Question, ...]
    style: Style = PLAIN

    @cached_property
    def painting(self) -> Painting:
        """The pixels, and what is seen where."""
        number = key_number(self.split, self.seed, self.index, f"{self.style.prefix}paint")
        return paint(self.arrangement, Draws(number), self.style.natural)

    @cached_property
    def image(self) -> Image.Image:
        """The picture: RGB; 336 x 336 where the set is "plain"."""
        return Image.fromarray(self.painting.image)

    @property
    def objects(self) -> tuple[SceneObject, ...]:
        """Objects with name, colour and box."""
        return self.arrangement.objects

    @property
    def signs(self) -> tuple[Sign, ...]:
        """Signs with text, colour and box."""
        return self.arrangement.signs


@dataclass(frozen=True)
class Sample:
    """A question and the scene it is about.

    Attributes
    ----------
    id : str
        The same for the same split, seed, scene and sub-family.
    scene : int
        Index of the scene.
    question : Question
    """

    id: str
    scene: int
    question: Question


def scene(seed: int, index: int, split: str = "test", style: str = PLAIN.name) -> Scene:
    """Return a scene.

    Parameters
    ----------
    seed, index : int
        Any integers. Every pair has its own scene.
    split : {"test", "validation", "train"}, default "test"
        Generators of two splits never share a seed.
    style : {"plain", "natural"}, default "plain"
        Set of scenes.

    Raises
    ------
    ConfigError
        Unknown split.
    UnknownNameError
        Unknown set of scenes.
    """
    kind = style_named(style)
    arrangement = draw_arrangement(
        Draws(key_number(split, seed, index, f"{kind.prefix}layout")), kind, kind.size(index)
    )
    questions = (
        ask(family, sub, arrangement, Draws(key_number(split, seed, index, f"{kind.prefix}{family}/{sub}")))
        for family, subs in QUESTION_FAMILIES.items()
        for sub in subs
    )
    return Scene(split, seed, index, arrangement, tuple(q for q in questions if q is not None), kind)


def subfamilies(families: Iterable[str] | None = None) -> tuple[tuple[str, str], ...]:
    """Sub-families by name.

    Parameters
    ----------
    families : iterable of str, optional
        Each "gqa" (all its sub-families) or "gqa/color"; default all.

    Returns
    -------
    tuple of (family, sub-family)
        In the order of ``QUESTION_FAMILIES``, each once.

    Raises
    ------
    UnknownNameError
    """
    return named_subfamilies(QUESTION_FAMILIES, families)


def named_subfamilies(
    there: Mapping[str, Sequence[str]], families: Iterable[str] | None = None
) -> tuple[tuple[str, str], ...]:
    """The same among any families of questions."""
    known = {f"{family}/{sub}": (family, sub) for family, subs in there.items() for sub in subs}
    if families is None:
        return tuple(known.values())
    wanted: set[str] = set()
    for name in families:
        if name not in known and name not in there:
            raise UnknownNameError(f"no family of questions {name!r}; {closest(name, [*there, *known])}")
        wanted |= {key for key in known if name in (key, key.split("/")[0])}
    return tuple(pair for key, pair in known.items() if key in wanted)


def samples(
    families: Iterable[str] | None = None,
    n: int = 200,
    seed: int = 0,
    split: str = "test",
    per_scene: int = PER_SCENE,
    style: str = PLAIN.name,
) -> list[Sample]:
    """Questions spread evenly over sub-families, several to a picture.

    Parameters
    ----------
    families : iterable of str, optional
        As in :func:`subfamilies`; default all.
    n : int, default 200
        How many questions. Sub-families differ by at most one question.
    seed : int, default 0
    split : str, default "test"
    per_scene : int, default 8
        Questions about one picture at most.
    style : {"plain", "natural"}, default "plain"
        Set of scenes.

    Returns
    -------
    list of Sample
        By scene, then in the order of ``QUESTION_FAMILIES``. No two of a scene are of one sub-family.

    Raises
    ------
    UnknownNameError
        Unknown family, or set of scenes.
    BudgetError
        ``n`` or ``per_scene`` is below one, or ``families`` is empty.
    """
    wanted = subfamilies(families)
    if n < 1 or per_scene < 1 or not wanted:
        raise BudgetError(f"n={n} questions, {per_scene} a scene, of {len(wanted)} sub-families: each is at least 1")
    prefix = style_named(style).prefix.replace("/", "-")

    def found(index: int) -> Sequence[Question]:
        return scene(seed, index, split, style).questions

    return spread_questions(wanted, n, per_scene, found, f"{prefix}{split}-{seed}")


def spread_questions(
    wanted: Sequence[tuple[str, str]],
    n: int,
    per_scene: int,
    asked: Callable[[int], Sequence[Question]],
    prefix: str,
) -> list[Sample]:
    """Choose from the questions of scene 0, 1, ... until each sub-family has its share.

    Parameters
    ----------
    wanted : sequence of (family, sub-family)
    n, per_scene : int
        As of :func:`samples`.
    asked : callable
        From the index of a scene to its questions.
    prefix : str
        Of the samples' ids.
    """
    left = _quotas(wanted, n)
    found: list[Sample] = []
    index = 0
    while any(left.values()):
        able = [q for q in asked(index) if left.get((q.family, q.subfamily))]
        # what is furthest from its quota comes first, so that rare questions are not crowded out
        able.sort(key=lambda q: -left[q.family, q.subfamily])
        for question in sorted(able[:per_scene], key=lambda q: wanted.index((q.family, q.subfamily))):
            left[question.family, question.subfamily] -= 1
            found.append(Sample(f"{prefix}-{index}-{question.family}-{question.subfamily}", index, question))
        index += 1
    return found


def _quotas(wanted: Sequence[tuple[str, str]], n: int) -> dict[tuple[str, str], int]:
    each, rest = divmod(n, len(wanted))
    return {pair: each + (i < rest) for i, pair in enumerate(wanted)}
