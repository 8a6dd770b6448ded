"""Text on pictures in whatever script it is: each run of characters in the first font that has them."""

from __future__ import annotations

import io
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

from matplotlib import font_manager, get_data_path
from matplotlib.ft2font import FT2Font
from PIL import ImageDraw, ImageFont

from tokenprune.core.errors import FontWarning

__all__ = ["Lettering"]

Font = ImageFont.FreeTypeFont

_MISSING = "\N{REPLACEMENT CHARACTER}"
"""Stands for a character that no font on this machine has."""

_NO_FONT = ""


@dataclass(frozen=True)
class Lettering:
    """One size of letters.

    Parameters
    ----------
    size : int
        In pixels.
    """

    size: int

    def width(self, text: str) -> float:
        """How wide a line is, in pixels."""
        return sum(font.getlength(run) for font, run in self._runs(text))

    def draw(self, onto: ImageDraw.ImageDraw, place: tuple[float, float], text: str, color: str) -> None:
        """Draw a line whose upper left corner is at a place.

        Warns
        -----
        FontWarning
            No font on this machine has a character: it is drawn as a question mark in a box.
        """
        x, y = place
        base = y + self._font(None).getmetrics()[0]
        for font, run in self._runs(text):
            onto.text((x, base), run, fill=color, font=font, anchor="ls")
            x += font.getlength(run)
        if missing := [character for character in dict.fromkeys(text) if _source_of(character) == _NO_FONT]:
            codes = ", ".join(f"{character!r} (U+{ord(character):04X})" for character in missing[:3])
            warnings.warn(
                f"no font on this machine draws {codes}{' and more' if len(missing) > 3 else ''} in {text!r}; a mark "
                "stands in its place. Install one for that script where the system keeps its fonts: Noto Sans CJK, "
                "say, for Chinese, Japanese and Korean",
                FontWarning,
                stacklevel=2,
            )

    def _runs(self, text: str) -> Iterator[tuple[Font, str]]:
        """A text in stretches of one font each; spaces and marks go with what precedes them."""
        shown: list[tuple[str | None, str]] = []
        for character in text:
            if shown and (character.isspace() or unicodedata.category(character) in ("Mn", "Me", "Cf")):
                shown.append((shown[-1][0], character))
                continue
            source = _source_of(character)
            shown.append((_source_of(_MISSING), _MISSING) if source == _NO_FONT else (source, character))
        for source, run in groupby(shown, key=lambda one: one[0]):
            yield self._font(source), "".join(character for _, character in run)

    def _font(self, source: str | None) -> Font:
        return _loaded(source, self.size)


@lru_cache(maxsize=64)
def _loaded(source: str | None, size: int) -> Font:
    """A font from a file; None is Pillow's own."""
    if source is not None:
        return ImageFont.truetype(source, size)
    own = ImageFont.load_default(size)
    assert isinstance(own, Font)
    return own


@lru_cache(maxsize=1024)
def _has(source: str | None) -> frozenset[int]:
    """Characters that a font can draw; none where it is not one that Pillow reads at any size."""
    try:
        kept: Any = _loaded(source, 16).path  # Pillow keeps its own font in memory
        return frozenset(FT2Font(io.BytesIO(kept.getvalue()) if source is None else source).get_charmap())
    except (OSError, RuntimeError, ValueError):
        return frozenset()


@lru_cache(maxsize=4096)
def _source_of(character: str) -> str | None:
    """The first font that has a character: Pillow's, matplotlib's, one of the machine's; else :data:`_NO_FONT`."""
    code = ord(character)
    return next((source for source in _sources() if code in _has(source)), _NO_FONT)


@lru_cache(maxsize=1)
def _sources() -> Sequence[str | None]:
    """Fonts by files, upright and regular ones first."""
    whole = str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))
    plain = sorted(
        font_manager.fontManager.ttflist,
        key=lambda font: (font.style != "normal", str(font.weight) != "400", font.fname),
    )
    return (None, *dict.fromkeys([whole, *(font.fname for font in plain)]))
