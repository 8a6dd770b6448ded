"""Pictures from files."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image, ImageOps

from tokenprune.core.errors import ConfigError

__all__ = ["open_image", "picture"]


def open_image(path: str | Path | None) -> Image.Image:
    """Open a picture as RGB; None paints a few rectangles.

    Raises
    ------
    ConfigError
        No such file, no picture, a damaged one, or one too large to be safely decoded.
    """
    if path is None:
        return picture(seed=0, size=336)
    try:
        with Image.open(path) as image:
            # cameras store how they were held apart from the pixels
            return ImageOps.exif_transpose(image).convert("RGB")
    except FileNotFoundError:
        raise ConfigError(f"image {str(path)!r}: no such file") from None
    # damaged pictures: Pillow raises SyntaxError and ValueError too
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ConfigError(f"image {str(path)!r} cannot be read: {error}") from error


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
