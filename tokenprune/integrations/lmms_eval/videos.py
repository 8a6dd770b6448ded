"""Frames of video files, spread evenly."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tokenprune.core.errors import ConfigError

__all__ = ["Clip", "clip_of", "spread"]


@dataclass(frozen=True)
class Clip:
    """Frames of a video.

    Attributes
    ----------
    frames : uint8 array, (t h w c)
    about : dict
        When they were, as processors are told: ``fps``, ``total_num_frames``, ``frames_indices``, ``duration``.
    """

    frames: NDArray[np.uint8]
    about: dict[str, Any]


def spread(total: int, n: int) -> list[int]:
    """Numbers of at most ``n`` of ``total`` frames, first and last among them, each once.

    >>> spread(10, 4)
    [0, 3, 6, 9]
    >>> spread(2, 8)
    [0, 1]
    """
    return sorted(set(np.linspace(0, total - 1, min(n, total)).round().astype(int).tolist()))


def clip_of(video: Any, n: int) -> Clip:
    """Read a video: a file, or frames that are given as pictures or as an array (t h w c).

    Raises
    ------
    ConfigError
        No such file, none that can be decoded, or something else.
    """
    if isinstance(video, str | Path):
        return _decoded(Path(video), n)
    if isinstance(video, np.ndarray) and video.ndim == 4 and len(video):
        return _chosen(list(video), n)
    if isinstance(video, Sequence) and video and all(isinstance(one, Image.Image) for one in video):
        return _chosen([np.asarray(one.convert("RGB")) for one in video], n)
    raise ConfigError(
        f"a video is a file, a list of pictures or an array (t h w c), got {type(video).__name__}: this task gives "
        "another kind, which cannot be read"
    )


def _chosen(frames: Sequence[Any], n: int) -> Clip:
    at = spread(len(frames), n)
    return Clip(np.stack([frames[i] for i in at]), _about(at, len(frames), 1.0))


def _about(at: list[int], total: int, fps: float) -> dict[str, Any]:
    return {"fps": fps, "total_num_frames": total, "frames_indices": at, "duration": total / fps}


def _decoded(path: Path, n: int) -> Clip:
    """Decode twice: containers lie about how many frames they hold, and all of them may not fit into memory."""
    try:
        av = importlib.import_module("av")
    except ImportError as error:
        raise ConfigError("videos are decoded by PyAV, which is not installed: pip install av") from error
    try:
        with av.open(str(path)) as file:
            total = sum(1 for _ in file.decode(video=0))
            rate = file.streams.video[0].average_rate
        if not total:
            raise ConfigError(f"video {str(path)!r} holds no frames")
        at = spread(total, n)
        wanted = set(at)
        with av.open(str(path)) as file:
            frames = [f.to_ndarray(format="rgb24") for i, f in enumerate(file.decode(video=0)) if i in wanted]
    except FileNotFoundError:
        raise ConfigError(f"video {str(path)!r}: no such file") from None
    except (OSError, ValueError, IndexError) as error:
        raise ConfigError(f"video {str(path)!r} cannot be decoded: {error}") from error
    return Clip(np.stack(frames), _about(at, total, float(rate or 1)))
