"""Pictures from files."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from tokenprune.core.errors import ConfigError

__all__ = ["FORMATS", "MOST_PIXELS", "open_image", "picture"]

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""Formats that are read; others that Pillow knows are programs (EPS), or not meant for what comes from outside."""

MOST_PIXELS = 100_000_000
"""A picture with more is refused before it is decoded."""


def open_image(
    path: str | Path | BinaryIO | None, *, name: str | None = None, most_pixels: int = MOST_PIXELS
) -> Image.Image:
    """Open a picture, a file or its bytes, as RGB; None paints a few rectangles.

    Parameters
    ----------
    path : str, Path or file, optional
    name : str, optional
        What errors call it; the path by default.
    most_pixels : int, default MOST_PIXELS
        A picture with more is refused before it is decoded.

    Raises
    ------
    ConfigError
        No such file, no picture, a damaged one, or one too large to be safely decoded.
    """
    if path is None:
        return picture(seed=0, size=336)
    called = str(path) if name is None else name
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > most_pixels:
                size = f"{image.width} x {image.height} pixels"
                raise ConfigError(f"image {called!r} has {size}, and {most_pixels} at most are read; scale it down")
            # cameras store how they were held apart from the pixels
            return ImageOps.exif_transpose(image).convert("RGB")
    except FileNotFoundError:
        raise ConfigError(f"image {called!r}: no such file") from None
    except UnidentifiedImageError:
        raise ConfigError(f"image {called!r} cannot be read: it is none of {', '.join(FORMATS)}") from None
    except ConfigError:
        raise
    # damaged pictures: Pillow raises SyntaxError and ValueError too
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ConfigError(f"image {called!r} cannot be read: {error}") from error


def picture(seed: int = 0, size: int = 64) -> Image.Image:
    """A few coloured rectangles on a plain ground."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.full((size, size, 3), 200, dtype=torch.uint8)
    for _ in range(4):
        top, left = (int(v) for v in torch.randint(0, size * 3 // 4, (2,), generator=generator))
        edge = int(torch.randint(size // 8, size // 3, (1,), generator=generator))
        color = torch.randint(0, 256, (3,), generator=generator, dtype=torch.uint8)
        image[top : top + edge, left : left + edge] = color
    return Image.fromarray(image.numpy())
