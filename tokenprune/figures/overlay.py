"""Which patches were kept, drawn over the picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont

from tokenprune.features import Grid

__all__ = ["dimmed", "sheet"]


def dimmed(image: Image.Image, kept: Sequence[int], grid: Grid, side: int = 224, strength: float = 0.8) -> Image.Image:
    """Return the picture with pruned patches faded towards white.

    Parameters
    ----------
    image : Image
    kept : sequence of int
        Raster positions of kept tokens.
    grid : Grid
    side : int, default 224
        Pixels along each side of what is returned.
    strength : float, default 0.8
        How far pruned patches fade, in [0, 1].
    """
    mask = torch.zeros(grid.height * grid.width, dtype=torch.uint8)
    mask[list(kept)] = 255
    cells = Image.fromarray(mask.view(grid.height, grid.width).numpy())
    picture = image.convert("RGB").resize((side, side))
    faded = Image.blend(picture, Image.new("RGB", picture.size, "white"), strength)
    return Image.composite(picture, faded, cells.resize((side, side), Image.Resampling.NEAREST))


def sheet(
    cells: Sequence[Sequence[Image.Image]],
    columns: Sequence[str],
    rows: Sequence[str],
    captions: Sequence[Sequence[str]],
    title: str = "",
) -> Image.Image:
    """Lay pictures out as a table: one column a strategy, one row a budget, a caption under each.

    Parameters
    ----------
    cells : sequence of rows of Image, all of one size
    columns, rows : sequence of str
        Headings.
    captions : sequence of rows of str
        The model's answer under each picture.
    title : str
    """
    width, height = cells[0][0].size
    font = ImageFont.load_default(size=14)
    margin, head, foot, gap = 90, 52, 24, 8
    page = Image.new(
        "RGB",
        (margin + len(columns) * (width + gap), head + len(rows) * (height + foot + gap)),
        "white",
    )
    draw = ImageDraw.Draw(page)
    draw.text((8, 6), title, fill="black", font=font)
    for c, name in enumerate(columns):
        draw.text((margin + c * (width + gap), 28), name, fill="black", font=font)
    for r, name in enumerate(rows):
        top = head + r * (height + foot + gap)
        draw.text((8, top + height // 2), name, fill="black", font=font)
        for c, cell in enumerate(cells[r]):
            left = margin + c * (width + gap)
            page.paste(cell, (left, top))
            draw.text((left, top + height + 3), captions[r][c][: width // 7], fill="black", font=font)
    return page
