"""Videos from files and from folders of frames: some frames of each, evenly spread."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tokenprune.core.errors import ConfigError
from tokenprune.data.images import MOST_PIXELS, open_image

__all__ = ["FRAMES", "VIDEO_ENDINGS", "Video", "open_video", "spread"]

FRAMES = 8
"""Frames that are read of a video where nobody says how many: what Video-LLaVA was trained with."""

VIDEO_ENDINGS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif")
"""Looked for, in this order, where a video is named without its ending."""

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tiff")


@dataclass(frozen=True)
class Video:
    """Frames of one video.

    Attributes
    ----------
    frames : tuple of Image
    indices : tuple of int
        Which of its frames these are.
    total : int
        How many it has.
    fps : float or None
        Frames a second of the whole; None where nobody knows.
    """

    frames: tuple[Image.Image, ...]
    indices: tuple[int, ...]
    total: int
    fps: float | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of a frame."""
        return self.frames[0].size


def spread(total: int, count: int) -> tuple[int, ...]:
    """Which frames stand for a video: the first, the last, and evenly between; some twice where there are fewer."""
    return tuple(int(i) for i in np.linspace(0, total - 1, count).astype(int))


def open_video(source: Path | Sequence[Path], frames: int = FRAMES) -> Video:
    """Read some frames of a video, evenly spread from the first to the last.

    Parameters
    ----------
    source : Path or sequence of Path
        A video file, a folder of pictures (in the order of the numbers in their names), or pictures in order.
    frames : int, default 8

    Raises
    ------
    ConfigError
        No such file, no video, no frames, a damaged one, or the package that decodes videos is missing.
    """
    if not isinstance(source, Path):
        return _of_pictures(source, frames)
    if source.is_dir():
        found = sorted((p for p in source.iterdir() if p.suffix.lower() in _PICTURES), key=_by_number)
        if not found:
            raise ConfigError(f"video {str(source)!r}: the folder holds no pictures")
        return _of_pictures(found, frames)
    if not source.exists():
        raise ConfigError(f"video {str(source)!r}: no such file")
    with _opened(source) as (container, stream):
        rate = stream.average_rate
        total = sum(1 for packet in container.demux(stream) if packet.size)
    read, there = _frames(source, spread(max(total, 1), frames))
    if there < total and len(read) < len(set(spread(total, frames))):
        # some packets hold no frame
        total = there
        read, _ = _frames(source, spread(max(total, 1), frames))
    if not read:
        raise ConfigError(f"video {str(source)!r} cannot be read: it holds no frames")
    indices = spread(total, frames)
    return Video(tuple(read[i] for i in indices), indices, total, float(rate) if rate else None)


def _by_number(path: Path) -> list[Any]:
    """Key that puts frame_10 behind frame_9."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)]


def _of_pictures(files: Sequence[Path], frames: int) -> Video:
    indices = spread(len(files), frames)
    opened = {i: open_image(files[i]) for i in dict.fromkeys(indices)}
    if len({picture.size for picture in opened.values()}) > 1:
        raise ConfigError(f"video {str(files[0].parent)!r}: its frames are pictures of different sizes")
    return Video(tuple(opened[i] for i in indices), indices, len(files))


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """A file's first video stream."""
    try:
        av = importlib.import_module("av")
    except ImportError as error:
        raise ConfigError(f"video {str(path)!r}: needs PyAV: pip install 'tokenprune-vlm[video]'") from error
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.video:
                raise ConfigError(f"video {str(path)!r} cannot be read: it has no pictures")
            stream = container.streams.video[0]
            if stream.width * stream.height > MOST_PIXELS:
                raise ConfigError(f"video {str(path)!r} has {stream.width} x {stream.height} pixels a frame; too many")
            yield container, stream
    except (av.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"video {str(path)!r} cannot be read: {error}") from error


def _frames(path: Path, wanted: Sequence[int]) -> tuple[dict[int, Image.Image], int]:
    """Frames by number as far as they are there, and how many were seen on the way to the last."""
    found: dict[int, Image.Image] = {}
    seen = 0
    with _opened(path) as (container, stream):
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            if seen in wanted:
                picture = frame.to_image()
                # phones store how they were held apart from the pixels
                turned = getattr(frame, "rotation", 0) % 360
                found[seen] = picture.rotate(turned, expand=True) if turned else picture
            seen += 1
            if seen > wanted[-1]:
                break
    return found, seen
