"""What replays of methods for videos share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import tokenprune as tp
from tokenprune.testing.conformance import Case


def video_of(case: Case, name: str = "video") -> Tensor:
    """The video, (T n, d)."""
    video = case.inputs[name]
    return video.flatten(0, 1) if video.ndim == 3 else video


def grid_of(case: Case) -> tp.Grid:
    """Its frames; where only their size is recorded, as one row of tokens."""
    hyper = case.hyper
    frames, each = hyper["T"], hyper["tokens_per_frame"]
    return tp.Grid(1, each, frames)


def features_of(case: Case, **signals: Any) -> tp.Features:
    """One video as features."""
    return tp.Features(video_of(case).unsqueeze(0), grid=grid_of(case), **signals)


def per_frame(case: Case, kept: Tensor) -> Tensor:
    """Kept tokens of each frame."""
    return torch.bincount(kept // case.hyper["tokens_per_frame"], minlength=case.hyper["T"])
