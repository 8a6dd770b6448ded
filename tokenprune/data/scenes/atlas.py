"""The sprites: emoji, letters and a sign plate, at three sizes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from einops import rearrange, reduce
from numpy.typing import NDArray
from PIL import Image

__all__ = ["CATEGORIES", "CELL", "CHARACTERS", "FONTS", "LEVELS", "Category", "glyph_sprite", "plate_sprite", "texels"]


@dataclass(frozen=True)
class Category:
    """A kind of object.

    Attributes
    ----------
    name : str
    codepoint : str
        Hexadecimal, of its emoji.
    kind : str
        "animal", "food", ...
    theme : str
        Where it is found: "farm", "sea", ...
    extent : tuple of int
        Width and height of the picture within its cell (centred).
    colors : tuple of str
        Named colours that make up a good part of it when it is not tinted.
    """

    name: str
    codepoint: str
    kind: str
    theme: str
    extent: tuple[int, int]
    colors: tuple[str, ...]


_ASSETS = resources.files(__package__) / "assets"
_INDEX = json.loads((_ASSETS / "atlas.json").read_text("utf-8"))

CELL: int = _INDEX["cell"]
CHARACTERS: str = _INDEX["characters"]
FONTS: int = len(_INDEX["fonts"])
CATEGORIES: tuple[Category, ...] = tuple(
    Category(c["name"], c["codepoint"], c["kind"], c["theme"], tuple(c["extent"]), tuple(c["colors"]))
    for c in _INDEX["categories"]
)
LEVELS = (64, 32, 16)
"""Side of a sprite at each size; a small object is drawn from a small one, so that it does not flicker."""


def glyph_sprite(font: int, character: str) -> int:
    """Sprite of a character; the categories' sprites come first."""
    return len(CATEGORIES) + font * len(CHARACTERS) + CHARACTERS.index(character)


def plate_sprite() -> int:
    """Sprite of a sign's plate: the last."""
    return len(CATEGORIES) + FONTS * len(CHARACTERS)


@cache
def texels() -> tuple[NDArray[np.uint8], tuple[int, ...]]:
    """Colours of all sprites, multiplied by their opacity: (texels, 4), and where each level starts.

    Texel (row, column) of sprite s at level l is ``starts[l] + (s * LEVELS[l] + row) * LEVELS[l] + column``.
    """
    with (_ASSETS / "atlas.png").open("rb") as file:
        sheet = np.asarray(Image.open(file)).astype(np.int64)
    sprites = rearrange(sheet, "(row y) (column x) c -> (row column) y x c", y=CELL, x=CELL)
    sprites = sprites[: plate_sprite() + 1]
    sprites[..., :3] = (sprites[..., :3] * sprites[..., 3:] + 127) // 255
    tables, starts, start = [], [], 0
    for level in LEVELS:
        step = CELL // level
        blocks = reduce(sprites, "s (y i) (x j) c -> s y x c", "sum", i=step, j=step)
        tables.append(((blocks + step * step // 2) // (step * step)).astype(np.uint8).reshape(-1, 4))
        starts.append(start)
        start += len(tables[-1])
    return np.concatenate(tables), tuple(starts)
