"""What a strategy looks like in drawings: the same colour in every report, whatever else is in it.

``assets/looks.txt`` gives a place to each strategy that ships, and is only ever added to: a name's place decides its
colour, its marker and whether its line is dashed. Names that are not there share the colours that the list leaves, by
their digest. Rows that give the others their scale are black and grey.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from importlib import resources
from typing import Final, NamedTuple

__all__ = ["COLORS", "MARKERS", "OTHERS", "Style", "listed", "styles"]

COLORS: Final = (
    "#0072b2 #d55e00 #009e73 #cc79a7 #b800ff #a31f66 #146600 #1fadf5 #0a33ff #ff5cff #99ad00 #d600ad #7033c2 #8f4714 "
    "#527aff #ff0070 #527066 #ff7a66 #ada385 #858500 #ad66d6 #5c8fad #8f5c99 #cc0033 #a37a66 #b88fff #ff33c2 #5c527a "
    "#99a3c2 #991f99 #14b8a3 #a3525c #7047f5 #e08f0a #00853d #00a300 #0052c2 #00b866 #eb1feb #eb7ad6 #cc297a #a33dcc "
    "#667acc #ff3d3d #996629 #5c5c33"
).split()
"""Each as far as can be from those before it, for usual and for red-green-blind eyes; seen on white and on black."""

OTHERS: Final = COLORS[10::3]
"""Colours kept for names that the list does not have: far from each other, too."""

_LISTED: Final = [color for color in COLORS if color not in OTHERS]

MARKERS: Final = ("o", "s", "^", "D", "v", "P")

_SCALE: Final = {"full": ("#1c1d21", "o"), "wrong image": ("#8a8d96", "s"), "oracle": ("#5d6068", "D")}
_SCALE_DRAWN: Final = {"random": ("#7f7f7f", "v")}


class Style(NamedTuple):
    """How a line looks: colour, marker, and the lengths of dashes and gaps (none: solid)."""

    color: str
    marker: str
    dash: tuple[int, ...] = ()


_DASHES: Final = ((), (5, 2), (2, 2), (7, 2, 2, 2))


@cache
def listed() -> tuple[str, ...]:
    """Names that have a place of their own, in the order in which they got it."""
    text = resources.files("tokenprune.report").joinpath("assets", "looks.txt").read_text(encoding="utf-8")
    return tuple(text.split())


def styles(names: Sequence[str]) -> dict[str, Style]:
    """A look for each name.

    A listed name always has the same. Of others that choose the same look, the one that comes first in the alphabet
    keeps it, and the next takes the next that is free.
    """
    places = {name: place for place, name in enumerate(listed())}
    looks: dict[str, Style] = {}
    taken: set[tuple[int, int]] = set()
    strangers = 0
    for name in sorted(set(names)):
        if name in _SCALE:
            looks[name] = Style(*_SCALE[name], (6, 4))
        elif name in _SCALE_DRAWN:
            looks[name] = Style(*_SCALE_DRAWN[name])
        elif name in places:
            ring, slot = divmod(places[name], len(_LISTED))
            looks[name] = _look(_LISTED, slot, ring)
        else:
            ring, strangers = strangers // len(OTHERS), strangers + 1  # every colour once before any comes again
            start = int.from_bytes(sha256(name.encode("utf-8", "surrogatepass")).digest()[:4], "big")
            slots = [(start + step) % len(OTHERS) for step in range(len(OTHERS))]
            slot = next(slot for slot in slots if (ring, slot) not in taken)
            taken.add((ring, slot))
            looks[name] = _look(OTHERS, slot, ring)
    return looks


def _look(colors: Sequence[str], slot: int, ring: int) -> Style:
    """Neighbours differ in marker; a second round of colours is dashed, and has other markers than the first."""
    marker = MARKERS[(slot + ring // len(_DASHES)) % len(MARKERS)]
    return Style(colors[slot], marker, _DASHES[ring % len(_DASHES)])
