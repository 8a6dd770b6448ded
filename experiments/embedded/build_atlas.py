"""Cut the sprites out of the fonts: ``python -m experiments.embedded.build_atlas NotoColorEmoji.ttf DEJAVU_FOLDER``.

Rewrites ``atlas.png`` from the categories that ``atlas.json`` lists, and their extents there; the colours that an
untinted sprite could be named by (a seventh of it or more) are kept by hand. Pictures depend on the fonts' versions
(Noto Color Emoji 2.042 and DejaVu 2.37 made the one that ships), so a new atlas is a new benchmark.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import tokenprune.data.scenes as scenes
from tokenprune.data.scenes.atlas import CATEGORIES, CELL, CHARACTERS

ASSETS = Path(scenes.__file__).with_name("assets")
FACES = ("DejaVuSans-Bold", "DejaVuSansMono-Bold", "DejaVuSerif-Bold")
COLUMNS = 16


def emoji(font: Any, codepoint: str) -> NDArray[np.uint8]:
    """Picture of an emoji, cut to its content and centred in a square."""
    canvas = Image.new("RGBA", (180, 180), (0, 0, 0, 0))
    # a variation selector asks for the coloured form of old symbols
    text = chr(int(codepoint, 16)) + ("\ufe0f" if len(codepoint) == 4 else "")
    ImageDraw.Draw(canvas).text((16, 16), text, font=font, embedded_color=True)
    cut = canvas.crop(canvas.getchannel("A").getbbox())
    side = max(cut.size)
    square = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    square.paste(cut, ((side - cut.width) // 2, (side - cut.height) // 2))
    # scaled with colours multiplied by opacity, or dark fringes appear
    pixels = np.asarray(square).astype(np.float32) / 255
    pixels[..., :3] *= pixels[..., 3:]
    scaled = [
        np.asarray(Image.fromarray(pixels[..., k]).resize((CELL, CELL), Image.Resampling.LANCZOS)) for k in range(4)
    ]
    result = np.stack(scaled, -1).clip(0, 1)
    alpha = result[..., 3:]
    result[..., :3] = np.where(alpha > 1e-3, result[..., :3] / alpha.clip(1e-3), 0)
    return (result.clip(0, 1) * 255).round().astype(np.uint8)


def letter(font: Any, character: str) -> NDArray[np.uint8]:
    """White letter that fills the cell's height; narrow ones stay narrow."""
    canvas = Image.new("L", (320, 320), 0)
    ImageDraw.Draw(canvas).text((160, 160), character, font=font, fill=255, anchor="ms")
    left, top, right, bottom = canvas.getbbox() or (0, 0, 1, 1)
    width, centre = max(right - left, 78), (left + right) / 2
    cut = canvas.crop((int(centre - width / 2), top, int(centre + width / 2 + 1), bottom))
    sprite = np.full((CELL, CELL, 4), 255, np.uint8)
    sprite[..., 3] = np.asarray(cut.resize((CELL, CELL), Image.Resampling.LANCZOS))
    return sprite


def plate() -> NDArray[np.uint8]:
    """White rectangle with round corners."""
    canvas = Image.new("LA", (256, 256), (255, 0))
    ImageDraw.Draw(canvas).rounded_rectangle((2, 2, 253, 253), 28, fill=(255, 255))
    pixels = np.asarray(canvas.resize((CELL, CELL), Image.Resampling.LANCZOS))
    return np.dstack([pixels[..., 0]] * 3 + [pixels[..., 1]])


def extent_of(sprite: NDArray[np.uint8]) -> list[int]:
    """Width and height of the smallest centred rectangle that holds a sprite."""
    rows, columns = np.nonzero(sprite[..., 3] > 127)
    middle = CELL // 2
    return [int(2 * max(middle - line.min(), line.max() + 1 - middle)) for line in (columns, rows)]


def main() -> None:
    """Write the atlas."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("emoji_font", type=Path)
    parser.add_argument("dejavu", type=Path)
    parser.add_argument("--out", type=Path, default=ASSETS)
    arguments = parser.parse_args()
    font = ImageFont.truetype(str(arguments.emoji_font), 109)
    things = [emoji(font, category.codepoint) for category in CATEGORIES]
    faces = [ImageFont.truetype(str(arguments.dejavu / f"{face}.ttf"), 176) for face in FACES]
    sprites = [*things, *(letter(face, character) for face in faces for character in CHARACTERS), plate()]
    sheet = np.zeros((-(-len(sprites) // COLUMNS) * CELL, COLUMNS * CELL, 4), np.uint8)
    for i, sprite in enumerate(sprites):
        row, column = divmod(i, COLUMNS)
        sprite = np.where(sprite[..., 3:] > 0, sprite, 0)
        sheet[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] = sprite
    Image.fromarray(sheet).save(arguments.out / "atlas.png", optimize=True)
    index = json.loads((ASSETS / "atlas.json").read_text("utf-8"))
    for entry, sprite in zip(index["categories"], things, strict=True):
        entry["extent"] = extent_of(sprite)
    head = json.dumps({key: value for key, value in index.items() if key != "categories"})[:-1]
    lines = ",\n".join(f"  {json.dumps(entry)}" for entry in index["categories"])
    (arguments.out / "atlas.json").write_text(f'{head}, "categories": [\n{lines}\n]}}\n', "utf-8")


if __name__ == "__main__":
    main()
