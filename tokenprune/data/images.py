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


def open_image(path: str | Path | BinaryIO | None) -> Image.Image:
    """Open a picture, a file or its bytes, as RGB; None paints a few rectangles.

    Raises
    ------
    ConfigError
        No such file, no picture, a damaged one, or one too large to be safely decoded.
    """
    if path is None:
        return picture(seed=0, size=336)
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                size = f"{image.width} x {image.height} pixels"
                raise ConfigError(f"image {str(path)!r} has {size}, and {MOST_PIXELS} at most are read; scale it down")
            # cameras store how they were held apart from the pixels
            return _as_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise ConfigError(f"image {str(path)!r}: no such file") from None
    except UnidentifiedImageError:
        raise ConfigError(f"image {str(path)!r} cannot be read: it is none of {', '.join(FORMATS)}") from None
    except ConfigError:
        raise
    # damaged pictures: Pillow raises SyntaxError and ValueError too
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ConfigError(f"image {str(path)!r} cannot be read: {error}") from error


def _as_rgb(image: Image.Image) -> Image.Image:
    """Three channels of eight bits; sixteen bits are scaled, where Pillow would cut them off and leave white."""
    if image.mode == "F":
        raise ConfigError("pixels are fractions (mode F), whose range nobody knows; save it with 8 bits a channel")
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.int64)
        if values.size and values.max() > 255:
            values = values >> 8
        image = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    return image.convert("RGB")


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
