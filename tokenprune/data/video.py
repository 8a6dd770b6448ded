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
from PIL import Image, ImageSequence

from tokenprune.core.errors import ConfigError
from tokenprune.data.images import FORMATS, MOST_PIXELS, open_image

__all__ = ["FRAMES", "VIDEO_ENDINGS", "Video", "is_animated", "open_video", "spread"]

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


def spread(total: int, count: int, *, repeat: bool = True) -> tuple[int, ...]:
    """Which frames stand for a video: the first, the last, and evenly between, rounded down as harnesses do.

    Parameters
    ----------
    total : int
        Frames that there are.
    count : int
        Frames that are taken.
    repeat : bool, default True
        Whether there are always so many, some of them twice where the video has fewer; each once otherwise.

    Examples
    --------
    >>> spread(10, 4)
    (0, 3, 6, 9)
    >>> spread(2, 4)
    (0, 0, 0, 1)
    >>> spread(2, 4, repeat=False)
    (0, 1)
    """
    taken = count if repeat else min(count, total)
    return tuple(int(i) for i in np.linspace(0, total - 1, taken).astype(int))


def is_animated(path: Path) -> bool:
    """Whether a file is a picture that moves (GIF, WebP, PNG)."""
    try:
        with Image.open(path, formats=("GIF", "WEBP", "PNG")) as image:
            return getattr(image, "n_frames", 1) > 1
    except (OSError, SyntaxError, ValueError):
        return False  # whoever opens it says what is wrong


def open_video(source: Path | Sequence[Path], frames: int = FRAMES, *, repeat: bool = True) -> Video:
    """Read some frames of a video, evenly spread from the first to the last.

    Parameters
    ----------
    source : Path or sequence of Path
        A video file, a picture that moves, a folder of pictures (in the order of the numbers in their names), or
        pictures in order.
    frames : int, default 8
    repeat : bool, default True
        As of :func:`spread`.

    Raises
    ------
    ConfigError
        No such file, no video, no frames, a damaged one, or the package that decodes videos is missing.
    """
    if not isinstance(source, Path):
        return _of_pictures(source, frames, repeat)
    if source.is_dir():
        found = sorted((p for p in source.iterdir() if p.suffix.lower() in _PICTURES), key=_by_number)
        if not found:
            raise ConfigError(f"video {str(source)!r}: the folder holds no pictures")
        return _of_pictures(found, frames, repeat)
    if not source.exists():
        raise ConfigError(f"video {str(source)!r}: no such file")
    if is_animated(source):
        return _of_moving(source, frames, repeat)
    with _opened(source) as (container, stream):
        rate = stream.average_rate
        total = sum(1 for packet in container.demux(stream) if packet.size)
    read, there = _frames(source, spread(max(total, 1), frames, repeat=repeat))
    if there < total and len(read) < len(set(spread(total, frames, repeat=repeat))):
        # some packets hold no frame
        total = there
        read, _ = _frames(source, spread(max(total, 1), frames, repeat=repeat))
    if not read:
        raise ConfigError(f"video {str(source)!r} cannot be read: it holds no frames")
    indices = spread(total, frames, repeat=repeat)
    return Video(tuple(read[i] for i in indices), indices, total, float(rate) if rate else None)


def _by_number(path: Path) -> list[Any]:
    """Key that puts frame_10 behind frame_9."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)]


def _of_moving(path: Path, frames: int, repeat: bool) -> Video:
    """Of a picture that moves, which needs no package that decodes videos."""
    open_image(path)  # says what is wrong with it
    read: dict[int, Image.Image] = {}
    milliseconds = 0.0
    try:
        with Image.open(path, formats=FORMATS) as film:
            total = getattr(film, "n_frames", 1)
            indices = spread(total, frames, repeat=repeat)
            for i, frame in enumerate(ImageSequence.Iterator(film)):
                milliseconds += frame.info.get("duration", 0)
                if i in indices:
                    read[i] = frame.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise ConfigError(f"video {str(path)!r} cannot be read: {error}") from error
    return Video(tuple(read[i] for i in indices), indices, total, 1000 * total / milliseconds if milliseconds else None)


def _of_pictures(files: Sequence[Path], frames: int, repeat: bool) -> Video:
    indices = spread(len(files), frames, repeat=repeat)
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
