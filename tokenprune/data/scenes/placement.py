"""Where everything is: objects and signs at integer positions, none touching another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

from tokenprune.data.scenes.atlas import CATEGORIES, CELL
from tokenprune.data.scenes.draws import Draws
from tokenprune.data.scenes.styles import PLAIN, UNIT, Style
from tokenprune.data.scenes.world import COLORS, IN_THEME, NAMES, OVERALL, PLATES, SIZE, THEMES, WORDS

__all__ = ["UNIT", "UPRIGHT", "Arrangement", "Box", "Rotation", "SceneObject", "Sign", "draw_arrangement"]

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are excluded."""

_TRIES = 14
_GAP = 2 * UNIT


@dataclass(frozen=True)
class Rotation:
    """A turn by ``2 atan(step / 128)``: its cosine and sine are fractions, so no rounding is a matter of the machine.

    Attributes
    ----------
    step : int
        Positive turns clockwise.
    """

    step: int = 0

    @property
    def scaled(self) -> tuple[int, int]:
        """Cosine and sine times 2**14."""
        square = self.step * self.step
        return ((16384 - square) << 14) // (16384 + square), (self.step << 22) // (16384 + square)


UPRIGHT = Rotation()


def _box(x: int, y: int, half_width: int, half_height: int) -> Box:
    left, top = (x - half_width) // UNIT, (y - half_height) // UNIT
    right, bottom = -((-x - half_width) // UNIT), -((-y - half_height) // UNIT)
    return max(left, 0), max(top, 0), right, bottom


@dataclass(frozen=True)
class SceneObject:
    """An object of a scene.

    Attributes
    ----------
    category : int
        Index among the categories.
    color : str or None
        Its tint; None leaves the sprite's own colours.
    x, y : int
        Centre, in units.
    size : int
        Side of its square sprite, in units.
    rotation : Rotation
    mirrored : bool
    shade : tuple of int
        The tint as painted: the colour, a little off.
    gain : int
        Brightness in parts of 256.
    """

    category: int
    color: str | None
    x: int
    y: int
    size: int
    rotation: Rotation = UPRIGHT
    mirrored: bool = False
    shade: tuple[int, int, int] = (255, 255, 255)
    gain: int = 256

    @property
    def name(self) -> str:
        """Name of its category."""
        return NAMES[self.category]

    @property
    def half(self) -> tuple[int, int]:
        """Half width and half height of the turned picture, in units."""
        width, height = CATEGORIES[self.category].extent
        cosine, sine = self.rotation.scaled
        sine = abs(sine)
        scale = 2 * CELL << 14
        return (
            -(-self.size * (cosine * width + sine * height) // scale),
            -(-self.size * (sine * width + cosine * height) // scale),
        )

    @property
    def box(self) -> Box:
        """Pixels that hold it."""
        return _box(self.x, self.y, *self.half)


@dataclass(frozen=True)
class Sign:
    """A plate with a word or a number.

    Attributes
    ----------
    text : str
        In lower case; it is painted in capitals.
    color : str
        Of the plate.
    x, y, width, height : int
        Centre and size of the plate, in units.
    pitch, letter : int
        Distance from letter to letter and height of a letter, in units.
    font : int
    """

    text: str
    color: str
    x: int
    y: int
    width: int
    height: int
    pitch: int
    letter: int
    font: int

    @property
    def is_number(self) -> bool:
        """Whether it shows digits."""
        return self.text.isdigit()

    @property
    def half(self) -> tuple[int, int]:
        """Half width and half height, in units."""
        return (self.width + 1) // 2, (self.height + 1) // 2

    @property
    def box(self) -> Box:
        """Pixels that hold it."""
        return _box(self.x, self.y, *self.half)


@dataclass(frozen=True)
class Arrangement:
    """Everything in a scene but its background.

    Attributes
    ----------
    theme : str
        Where most of its objects belong.
    objects : tuple of SceneObject
    signs : tuple of Sign
    size : tuple of int
        Width and height of the picture, in pixels.
    """

    theme: str
    objects: tuple[SceneObject, ...]
    signs: tuple[Sign, ...]
    size: tuple[int, int] = (SIZE, SIZE)

    @cached_property
    def counts(self) -> Counter[int]:
        """How many objects of each category there are."""
        return Counter(o.category for o in self.objects)

    def of(self, category: int) -> tuple[SceneObject, ...]:
        """Objects of a category."""
        return tuple(o for o in self.objects if o.category == category)

    def single(self) -> tuple[SceneObject, ...]:
        """Objects that are the only one of their category."""
        return tuple(o for o in self.objects if self.counts[o.category] == 1)


def _draw_categories(draws: Draws, theme: str, style: Style) -> list[int]:
    members, weights = IN_THEME[theme]
    number = draws.between(*style.objects)
    found: list[int] = []
    if draws.chance(45):
        found += [draws.weighted(members, weights)] * draws.between(2, 4)
    while len(found) < number:
        local = draws.chance(65)
        found.append(draws.weighted(members, weights) if local else draws.weighted(range(len(OVERALL)), OVERALL))
    draws.shuffle(found)
    return found


def _draw_sign(draws: Draws, color: str) -> Sign:
    text = str(draws.between(10, 999)) if draws.chance(50) else draws.pick(WORDS)
    letter = draws.between(17 * UNIT, 26 * UNIT)
    pitch = letter * draws.between(66, 82) // 100
    width = pitch * len(text) + letter * 4 // 5
    widest = 98 * UNIT
    if width > widest:
        pitch, letter, width = pitch * widest // width, letter * widest // width, widest
    return Sign(text, color, 0, 0, width, letter * 31 // 20, pitch, letter, draws.below(3))


def _draw_object(draws: Draws, category: int, style: Style) -> SceneObject:
    color = draws.pick(tuple(COLORS)) if draws.chance(70) else None
    base = COLORS[color] if color else (255, 255, 255)
    red, green, blue = (min(max(c + draws.between(-13, 13), 0), 255) for c in base)
    return SceneObject(
        category,
        color,
        0,
        0,
        draws.pick(style.lengths),
        Rotation(draws.between(-19, 19)),
        draws.chance(50),
        (red, green, blue),
        draws.between(230, 276),
    )


P = TypeVar("P", SceneObject, Sign)


def _placed(place: Callable[[tuple[int, int]], tuple[int, int] | None], parts: Sequence[P]) -> tuple[P, ...]:
    found = ((part, place(part.half)) for part in parts)
    return tuple(replace(part, x=at[0], y=at[1]) for part, at in found if at is not None)


def draw_arrangement(draws: Draws, style: Style = PLAIN, size: tuple[int, int] | None = None) -> Arrangement:
    """Draw a scene: objects, most of one theme, some repeated, and signs.

    What finds no free place after some tries is left out; there is always at least one object.

    Parameters
    ----------
    draws : Draws
    style : Style, default PLAIN
        How many, how large, how close.
    size : tuple of int, optional
        Width and height of the picture in pixels; by default the style's first.
    """
    size = size or style.sizes[0]
    theme = draws.pick(THEMES)
    categories = _draw_categories(draws, theme, style)
    taken: list[tuple[int, int, int, int]] = []
    kept = 100  # of the distance at which two would touch: nothing comes closer to a sign

    def place(half: tuple[int, int]) -> tuple[int, int] | None:
        if any(2 * (h + UNIT) > side * UNIT for h, side in zip(half, size, strict=True)):
            return None
        for _ in range(_TRIES):
            x, y = (draws.between(h + UNIT, side * UNIT - h - UNIT) for h, side in zip(half, size, strict=True))
            if all(
                _apart(x - u, half[0] + w, near) or _apart(y - v, half[1] + h, near) for u, v, w, h, near in around()
            ):
                taken.append((x, y, *half))
                return x, y
        return None

    def around() -> Iterator[tuple[int, int, int, int, int]]:
        return ((*one, 100 if i < len(signs) else kept) for i, one in enumerate(taken))

    signs: tuple[Sign, ...] = ()
    plates = draws.sample(PLATES, draws.weighted(range(len(style.signs)), style.signs))
    signs = _placed(place, [_draw_sign(draws, color) for color in plates])
    kept = style.apart
    objects = _placed(place, [_draw_object(draws, category, style) for category in categories])
    if not objects:
        signs = ()
        taken.clear()
        smallest = [replace(_draw_object(draws, categories[0], style), size=style.lengths[0])]
        objects = _placed(place, smallest)
    return Arrangement(theme, objects, signs, size)


def _apart(distance: int, touching: int, kept: int) -> bool:
    return abs(distance) > touching * kept // 100 + (_GAP if kept == 100 else 0)
