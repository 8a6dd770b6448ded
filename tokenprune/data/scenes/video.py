"""Short clips in which one thing appears, disappears or moves, with questions about what happens.

They are for video models (Video-LLaVA's layout: eight frames, each a picture). The embedded model is none: it takes one
picture, and "appears" is not among its words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from PIL import Image

from tokenprune.data.scenes.draws import Draws, key_number
from tokenprune.data.scenes.painter import Painting, paint_clip
from tokenprune.data.scenes.placement import Arrangement, Box, SceneObject, draw_arrangement
from tokenprune.data.scenes.questions import LETTERS, Question
from tokenprune.data.scenes.styles import UNIT
from tokenprune.data.scenes.world import NAMES, SIZE

__all__ = ["EVENTS", "FRAMES", "VIDEO_SUBFAMILIES", "Clip", "clip"]

FRAMES = 8
"""Frames of a clip."""
VIDEO_SUBFAMILIES = ("event", "actor", "direction")
"""Sub-families of the family "video"."""

_STEPS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
EVENTS = ("appears", "disappears", *(f"moves {way}" for way in _STEPS))


@dataclass(frozen=True)
class Clip:
    """Frames that can be asked about. They are painted when they are first looked at.

    Attributes
    ----------
    split : str
    seed, index : int
    event : str
        "appears", "disappears", "moves left", "moves right", "moves up" or "moves down".
    actor : str
        Name of the one thing that does so; no other thing has it.
    arrangements : tuple of Arrangement
        One a frame; where the actor is there, it is the last object.
    boxes : tuple of (box or None)
        The actor in each frame; None where it is not there.
    questions : tuple of Question
        Of the family "video"; their boxes are all boxes of the actor, in order.
    """

    split: str
    seed: int
    index: int
    event: str
    actor: str
    arrangements: tuple[Arrangement, ...]
    boxes: tuple[Box | None, ...]
    questions: tuple[Question, ...]

    @cached_property
    def paintings(self) -> tuple[Painting, ...]:
        """Pixels of each frame; background and noise stay the same."""
        return paint_clip(self.arrangements, Draws(key_number(self.split, self.seed, self.index, "video/paint")))

    @cached_property
    def frames(self) -> tuple[Image.Image, ...]:
        """The pictures: RGB, 336 x 336."""
        return tuple(Image.fromarray(painting.image) for painting in self.paintings)


def _path(draws: Draws, thing: SceneObject, event: str) -> list[SceneObject | None]:
    """Place the actor in each frame."""
    if not event.startswith("moves"):
        turn = draws.between(2, FRAMES - 2)
        return [thing if (frame >= turn) == (event == "appears") else None for frame in range(FRAMES)]
    dx, dy = _STEPS[event.removeprefix("moves ")]
    # a sixth of the picture at least, so that the way is clear
    step = draws.between(SIZE * UNIT // 42, SIZE * UNIT // 14)
    half_width, half_height = thing.half
    width, height = half_width + UNIT, half_height + UNIT
    reach = step * (FRAMES - 1)
    x = min(max(thing.x, width + reach * (dx < 0)), SIZE * UNIT - width - reach * (dx > 0))
    y = min(max(thing.y, height + reach * (dy < 0)), SIZE * UNIT - height - reach * (dy > 0))
    return [replace(thing, x=x + dx * step * i, y=y + dy * step * i) for i in range(FRAMES)]


def _apart(a: Box, b: Box) -> bool:
    return a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1]


def _event_question(draws: Draws, actor: str, event: str, others: Sequence[str], boxes: tuple[Box, ...]) -> Question:
    """Ask what happens; wrong options are other events of the actor and, once, the same event of another thing."""
    wrong = [f"the {actor} {other}" for other in draws.sample([e for e in EVENTS if e != event], 2)]
    right = f"the {actor} {event}"
    options = [right, f"the {draws.pick(others)} {event}", *wrong]
    draws.shuffle(options)
    listed = " ".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True))
    text = f"What happens in the video? {listed}"
    return Question(text, LETTERS[options.index(right)], "video", "event", LETTERS, boxes)


def clip(seed: int, index: int, split: str = "test") -> Clip:
    """Return a clip.

    Parameters
    ----------
    seed, index : int
        Any integers. Every pair has its own clip.
    split : {"test", "validation", "train"}, default "test"

    Raises
    ------
    ConfigError
        Unknown split.
    """
    draws = Draws(key_number(split, seed, index, "video/layout"))
    arrangement = draw_arrangement(draws)
    thing = draws.pick(arrangement.objects)
    event = draws.pick(EVENTS)
    places = _path(draws, thing, event)
    seen = tuple(place.box for place in places if place is not None)
    # nothing of the actor's name, and nothing in its way, stays
    rest = tuple(
        o for o in arrangement.objects if o.category != thing.category and all(_apart(o.box, box) for box in seen)
    )
    signs = tuple(sign for sign in arrangement.signs if all(_apart(sign.box, box) for box in seen))
    arrangements = tuple(Arrangement(arrangement.theme, rest + ((place,) if place else ()), signs) for place in places)
    others = sorted({o.name for o in rest}) or [name for name in NAMES if name != thing.name]
    verb, _, way = event.partition(" ")
    questions = [
        _event_question(draws, thing.name, event, others, seen),
        Question(f"Which object {verb} in the video?", thing.name, "video", "actor", (), seen),
    ]
    if way:
        text = f"Which way does the {thing.name} move, left, right, up or down?"
        questions.append(Question(text, way, "video", "direction", (), seen))
    boxes = tuple(place.box if place else None for place in places)
    return Clip(split, seed, index, event, thing.name, arrangements, boxes, tuple(questions))
