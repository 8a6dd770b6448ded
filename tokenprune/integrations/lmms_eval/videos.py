"""Videos that tasks hand over, as arrays of frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tokenprune.core.errors import ConfigError
from tokenprune.data.video import open_video, spread

__all__ = ["Clip", "clip_of"]


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


def clip_of(video: Any, n: int) -> Clip:
    """Read a video: a file, or frames that are given as pictures or as an array (t h w c).

    Raises
    ------
    ConfigError
        No such file, none that can be decoded, or something else.
    """
    if isinstance(video, str | Path):
        found = open_video(Path(video), n, repeat=False)
        return _clip(found.frames, found.indices, found.total, found.fps or 1.0)
    if isinstance(video, np.ndarray) and video.ndim == 4 and len(video):
        return _chosen(list(video), n)
    if isinstance(video, Sequence) and video and all(isinstance(one, Image.Image) for one in video):
        return _chosen([one.convert("RGB") for one in video], n)
    raise ConfigError(
        f"a video is a file, a list of pictures or an array (t h w c), got {type(video).__name__}: this task gives "
        "another kind, which cannot be read"
    )


def _chosen(frames: Sequence[Any], n: int) -> Clip:
    at = spread(len(frames), n, repeat=False)
    return _clip([frames[i] for i in at], at, len(frames), 1.0)


def _clip(frames: Sequence[Any], at: Sequence[int], total: int, fps: float) -> Clip:
    about = {"fps": fps, "total_num_frames": total, "frames_indices": list(at), "duration": total / fps}
    return Clip(np.stack([np.asarray(frame) for frame in frames]), about)
