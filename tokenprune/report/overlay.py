"""Which patches were kept, drawn over the picture, and such pictures laid out as a table."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from PIL import Image, ImageChops, ImageDraw

from tokenprune.core.errors import FeatureError
from tokenprune.core.features import Grid
from tokenprune.report.lettering import Lettering
from tokenprune.report.seen import WHOLE, Panel

__all__ = ["Cell", "dimmed", "sheet"]

_FONT, _SMALL = 14, 12
_GAP = 8


def dimmed(
    image: Image.Image,
    kept: Sequence[int],
    panels: Grid | Sequence[Panel],
    side: int = 240,
    strength: float = 0.8,
) -> Image.Image:
    """Return the picture with pruned patches faded towards white.

    Parameters
    ----------
    image : Image
        What the tokens cover, edge to edge.
    kept : sequence of int
        Raster positions of kept tokens.
    panels : Grid or sequence of Panel
        Stretches of tokens, one after another. Where several lie over one part of the picture (a thumbnail, then the
        picture itself), what any of them kept is left as it is. A grid is one that covers everything.
    side : int, default 240
        Pixels along the longer side of what is returned; the other follows from the last grid where that covers
        everything, else from the picture.
    strength : float, default 0.8
        How far pruned patches fade, in [0, 1].

    Raises
    ------
    FeatureError
        A position outside the grid.
    """
    panels = (Panel(panels),) if isinstance(panels, Grid) else tuple(panels)
    ends = list(accumulate(panel.grid.size for panel in panels))
    outside = [place for place in kept if not 0 <= place < ends[-1]]
    if outside:
        shapes = " and ".join(f"{panel.grid.height} x {panel.grid.width}" for panel in panels)
        raise FeatureError(f"kept token {outside[0]} lies outside a grid of {shapes} tokens")
    last = panels[-1]
    shape = (last.grid.width, last.grid.height) if last.area == WHOLE else image.size
    size = (max(1, side * shape[0] // max(shape)), max(1, side * shape[1] // max(shape)))
    marked = torch.zeros(ends[-1], dtype=torch.uint8)
    marked[list(kept)] = 255
    mask = Image.new("L", size)
    for end, panel in zip(ends, panels, strict=True):
        grid = panel.grid
        cells = marked[end - grid.size : end].view(grid.height, grid.width).numpy()
        x0, y0, x1, y1 = (round(edge * size[i % 2]) for i, edge in enumerate(panel.area))
        part = Image.new("L", size)
        part.paste(
            Image.fromarray(cells).resize((max(1, x1 - x0), max(1, y1 - y0)), Image.Resampling.NEAREST), (x0, y0)
        )
        mask = ImageChops.lighter(mask, part)
    picture = image.convert("RGB").resize(size)
    faded = Image.blend(picture, Image.new("RGB", size, "white"), strength)
    return Image.composite(picture, faded, mask)


@dataclass(frozen=True)
class Cell:
    """One picture of a sheet.

    Attributes
    ----------
    picture : Image
    caption : str
        What stands under it: the model's answer. Up to two lines, cut where it is longer.
    note : str
        A small grey line under that.
    color : str
        Of the caption.
    """

    picture: Image.Image
    caption: str = ""
    note: str = ""
    color: str = "black"


def sheet(
    cells: Sequence[Sequence[Cell | None]], columns: Sequence[str], rows: Sequence[str], title: str = ""
) -> Image.Image:
    """Lay pictures out as a table: one column a strategy, one row a budget, a caption under each.

    Parameters
    ----------
    cells : sequence of rows of Cell or None
        Pictures of one size; None leaves a place empty.
    columns, rows : sequence of str
        Headings.
    title : str
        Above everything; wrapped to the width of the page.
    """
    font, small = Lettering(_FONT), Lettering(_SMALL)
    width, height = next(cell.picture.size for row in cells for cell in row if cell is not None)
    line, foot = _FONT + 4, 2 * (_FONT + 4) + _SMALL + 6
    margin = 2 * _GAP + int(max((font.width(name) for name in rows), default=0))
    page_width = max(margin + len(columns) * (width + _GAP), 320)
    heading = _wrapped(title, font, page_width - 2 * _GAP, lines=6)
    top = _GAP + line * (len(heading) + 1)
    page = Image.new("RGB", (page_width, top + len(rows) * (height + foot + _GAP)), "white")
    draw = ImageDraw.Draw(page)
    for i, words in enumerate(heading):
        font.draw(draw, (_GAP, _GAP // 2 + i * line), words, "black")
    for c, name in enumerate(columns):
        font.draw(draw, (margin + c * (width + _GAP), top - line - 2), _cut(name, font, width), "black")
    for r, name in enumerate(rows):
        y = top + r * (height + foot + _GAP)
        font.draw(draw, (_GAP, y + height // 2 - line // 2), name, "black")
        for c, cell in enumerate(cells[r]):
            if cell is None:
                continue
            x = margin + c * (width + _GAP)
            page.paste(cell.picture, (x, y))
            below = y + height + 2
            for words in _wrapped(cell.caption, font, width, lines=2):
                font.draw(draw, (x, below), words, cell.color)
                below += line
            small.draw(draw, (x, below + 1), cell.note, "#777777")
    return page


_LONGEST = 2000
"""No line has more characters than that."""

_WORD = re.compile(r" ?(?:[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef]|[^ \u2e80-\u9fff\uf900-\ufaff\uff00-\uffef]+)")
"""What a line may not be broken within: a word, or a character of a script that puts no spaces between words."""


def _wrapped(text: str, font: Lettering, width: int, lines: int) -> list[str]:
    """Break text between words; what does not fit ends with three dots."""
    out: list[str] = []
    words = _WORD.findall(" ".join(text.split()))
    while words and len(out) < lines:
        taken = 1
        while taken < len(words) and font.width("".join(words[: taken + 1]).strip()) <= width:
            taken += 1
        out.append(_cut("".join(words[:taken]).strip(), font, width))
        words = words[taken:]
    if words:
        out[-1] = _cut(out[-1] + " ...", font, width)
    return out


def _cut(text: str, font: Lettering, width: int) -> str:
    if len(text) <= _LONGEST and font.width(text) <= width:
        return text
    fits = bisect_left(range(min(len(text), _LONGEST)), True, key=lambda n: font.width(text[: n + 1] + "...") > width)
    return text[:fits].rstrip() + "..."
