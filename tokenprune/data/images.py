"""Pictures from files."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
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
        No such file, no picture, a damaged one, one too large to be safely decoded, or one of numbers without a scale.

    Notes
    -----
    Grey pictures of 16 bits (scans, depth, X-rays) are scaled from their whole range, 0 to 65535. Those of floating
    point numbers are taken as 0 to 1 if none is larger than 1, else as 0 to 255.
    """
    if path is None:
        return picture(seed=0, size=336)
    called = str(path) if name is None else name
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > most_pixels:
                size = f"{image.width} x {image.height} pixels"
                raise ConfigError(f"it has {size}, and {most_pixels} at most are read; scale it down")
            # cameras store how they were held apart from the pixels
            return _eight_bits(ImageOps.exif_transpose(image)).convert("RGB")
    except FileNotFoundError:
        raise ConfigError(f"image {called!r}: no such file") from None
    except UnidentifiedImageError:
        raise ConfigError(f"image {called!r} cannot be read: it is none of {', '.join(FORMATS)}") from None
    except ConfigError as error:
        raise ConfigError(f"image {called!r}: {error}") from error
    # damaged pictures: Pillow raises SyntaxError and ValueError too
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ConfigError(f"image {called!r} cannot be read: {error}") from error


def _eight_bits(image: Image.Image) -> Image.Image:
    """A grey picture of more than eight bits, scaled to them; Pillow would cut its values off at 255."""
    if image.mode[0] not in "IF":
        return image
    values = np.asarray(image).astype(np.float64)
    low, high = float(values.min()), float(values.max())
    most = 65535.0 if image.mode[0] == "I" else 1.0 if high <= 1 else 255.0
    if not (low >= 0 and high <= most):  # also where they are no numbers
        raise ConfigError(
            f"its values go from {low:g} to {high:g}, and no scale for them is known: 16-bit pictures go from 0 to "
            "65535, those of floating point numbers from 0 to 1 or to 255"
        )
    return Image.fromarray(np.rint(values * (255 / most)).astype(np.uint8))


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
