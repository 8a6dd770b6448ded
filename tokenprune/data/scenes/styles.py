"""Sets of scenes by name: what pictures are like. Those of one name stay as they are for good."""

from __future__ import annotations

from dataclasses import dataclass

from tokenprune.core.errors import UnknownNameError, closest
from tokenprune.data.scenes.world import SIZE

__all__ = ["NATURAL", "PLAIN", "STYLES", "UNIT", "Style", "style_named"]

UNIT = 16
"""Positions and lengths are integers in this part of a pixel."""


def _lengths(shortest: int, longest: int) -> tuple[int, ...]:
    """Sides from one to the other, in units; each is a thirty-second longer than the one before."""
    found = [shortest * UNIT]
    while found[-1] * 33 // 32 <= longest * UNIT:
        found.append(found[-1] * 33 // 32)
    return tuple(found)


@dataclass(frozen=True)
class Style:
    """What pictures of a set are like.

    Attributes
    ----------
    name : str
    sizes : tuple of (width, height)
        Pixels; a scene has the one that its index stands for.
    lengths : tuple of int
        Sides of objects, in units, each as likely as the others.
    objects : tuple of int
        Fewest and most.
    signs : tuple of int
        Weights of none, one, two, ... signs.
    apart : int
        Per cent of the distance at which two objects would touch that they keep at least; below 100 a smaller one may
        cover part of a larger one.
    natural : bool
        Whether the ground has a 1/f spectrum, clutter lies on it, and things cast shadows.
    """

    name: str
    sizes: tuple[tuple[int, int], ...]
    lengths: tuple[int, ...]
    objects: tuple[int, int]
    signs: tuple[int, ...]
    apart: int = 100
    natural: bool = False

    @property
    def prefix(self) -> str:
        """Before the purpose of a generator's key, so that styles share no draws."""
        return "" if self is PLAIN else f"{self.name}/"

    def size(self, index: int) -> tuple[int, int]:
        """Width and height of a scene."""
        return self.sizes[index % len(self.sizes)]


PLAIN = Style("plain", ((SIZE, SIZE),), _lengths(22, 60), (3, 9), (35, 40, 25))
"""Few things on soft grounds, none touching another."""

NATURAL = Style(
    "natural",
    ((336, 336), (448, 252), (252, 448), (336, 224), (224, 336), (504, 224)),
    (*_lengths(16, 32), *_lengths(16, 32), *_lengths(33, 64), *_lengths(66, 128)),
    (4, 12),
    (25, 35, 25, 15),
    apart=75,
    natural=True,
)
"""What makes photographs hard: 1/f grounds, clutter, shadows, things in part behind others, sides from 16 to 128 pixels
(half are shorter than 32, a quarter longer than 66), and pictures of six shapes."""

STYLES = {style.name: style for style in (PLAIN, NATURAL)}


def style_named(name: str) -> Style:
    """Return a set of scenes.

    Raises
    ------
    UnknownNameError
        With the closest.
    """
    if name not in STYLES:
        raise UnknownNameError(f"no set of scenes {name!r}; {closest(name, STYLES)}")
    return STYLES[name]
