"""What scenes are made of: names, colours, words, and how common each thing is."""

from __future__ import annotations

from math import isqrt

from tokenprune.data.scenes.atlas import CATEGORIES

__all__ = [
    "COLORS",
    "IN_THEME",
    "KINDS",
    "NAMES",
    "NUMBERS",
    "OVERALL",
    "PLATES",
    "POPULAR",
    "QUESTION_FAMILIES",
    "SIZE",
    "THEMES",
    "WORDS",
    "plural",
]

QUESTION_FAMILIES: dict[str, tuple[str, ...]] = {
    "pope": ("random", "popular", "adversarial"),
    "gqa": ("color", "object", "count", "relation", "where"),
    "textvqa": ("word", "number"),
    "scienceqa": ("image", "text"),
    "mme": ("existence", "color", "count", "position", "ocr"),
}
"""Families of questions, named after the benchmarks whose question types they copy, and their sub-families."""

SIZE = 336
"""Width and height of a picture in pixels."""

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (219, 31, 31),
    "orange": (247, 135, 20),
    "yellow": (245, 222, 31),
    "green": (36, 158, 51),
    "blue": (38, 89, 224),
    "purple": (140, 51, 184),
    "white": (247, 247, 247),
    "black": (15, 15, 15),
}
PLATES = ("white", "yellow", "blue", "red", "green", "black")
NUMBERS = ("one", "two", "three", "four")
WORDS = [
    "stop",
    "open",
    "exit",
    "cafe",
    "bank",
    "taxi",
    "park",
    "zoo",
    "shop",
    "gym",
    "hotel",
    "music",
    "sale",
    "free",
    "slow",
    "wait",
    "push",
    "pull",
    "east",
    "west",
    "north",
    "south",
    "news",
    "post",
    "golf",
    "jazz",
    "beach",
    "lake",
    "farm",
    "milk",
    "sugar",
    "salt",
]

NAMES = tuple(c.name for c in CATEGORIES)
KINDS = tuple(dict.fromkeys(c.kind for c in CATEGORIES))
THEMES = tuple(dict.fromkeys(c.theme for c in CATEGORIES))

_IRREGULAR = {
    "butterfly": "butterflies",
    "fish": "fish",
    "leaf": "leaves",
    "sheep": "sheep",
    "strawberry": "strawberries",
}
_NOT_COUNTED = frozenset(["bread", "cheese", "corn", "grapes", "scissors", "bus", "cactus", "octopus"])


def plural(name: str) -> str | None:
    """Plural of an object's name; None where scenes do not count it."""
    return None if name in _NOT_COUNTED else _IRREGULAR.get(name, name + "s")


def _in_theme(theme: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    members = tuple(i for i, c in enumerate(CATEGORIES) if c.theme == theme)
    return members, tuple(360360 // (rank + 2) for rank in range(len(members)))


IN_THEME: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {theme: _in_theme(theme) for theme in THEMES}
"""Categories of a theme and their weights: the first is the most common (Zipf's law, flattened)."""

_FREQUENCY = {
    category: 10**9 * weight // sum(weights)
    for members, weights in IN_THEME.values()
    for category, weight in zip(members, weights, strict=True)
}
OVERALL: tuple[int, ...] = tuple(isqrt(_FREQUENCY[i]) for i in range(len(CATEGORIES)))
"""Weights of a stranger to the scene's theme."""

POPULAR: tuple[int, ...] = tuple(sorted(_FREQUENCY, key=lambda c: (-_FREQUENCY[c], c))[:16])
"""The most common categories."""
