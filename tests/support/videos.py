"""Videos as features: scenes that change, with places that stand still and others that move."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import tokenprune as tp

STRATEGIES: dict[str, Any] = {
    **{name: name for name in tp.list_strategies() if "frames" in tp.build(name).requires},
    "vidcom2 (authors' counts)": {"strategy": "vidcom2", "faithful": True},
    "dycoke (published share)": {"strategy": "dycoke", "share": 0.7, "hidden": None},
    "dycoke (as published)": {"strategy": "dycoke", "share": 0.5, "hidden": None, "faithful": True},
    "fastvid (llava-video)": {"strategy": "fastvid", "form": "llava-video"},
    "fastvid (qwen)": {"strategy": "fastvid", "form": "qwen"},
    "holitom (inner)": {"strategy": "holitom", "inner": 0.5},
    "prunevid (merging only)": {"strategy": "prunevid", "share": None},
}
"""Strategies that compare frames, and options that change how they work."""


ATTENTION = "mean_attention@-1"


def quiet(spec: Any) -> tp.Strategy:
    """What acts in front of the language model."""
    built = tp.build(spec)
    if isinstance(built, tp.Strategy):
        return built
    before = built.before  # type: ignore[attr-defined]
    assert isinstance(before, tp.Strategy)
    return before


def video(grid: tp.Grid, seed: int = 0, *, scenes: int = 3, noise: float = 0.1, width: int = 16) -> Tensor:
    """(T n, d) float64: every place has a token a scene; the first half of the places moves within it."""
    draw = torch.Generator().manual_seed(seed)
    each = grid.height * grid.width
    base = torch.randn(scenes, each, width, generator=draw, dtype=torch.float64)
    frames = []
    for t in range(grid.frames):
        frame = base[t * scenes // grid.frames].clone()
        frame += noise * torch.randn(each, width, generator=draw, dtype=torch.float64)
        moving = each // 2
        frame[:moving] += torch.randn(moving, width, generator=draw, dtype=torch.float64)
        frames.append(frame)
    return torch.cat(frames)


def features(grids: list[tp.Grid], seed: int = 0, dtype: torch.dtype = torch.float64) -> tp.Features:
    """A row for each grid, with attention that patches receive; rows of different sizes are padded."""
    rows = [video(grid, seed + b) for b, grid in enumerate(grids)]
    draw = torch.Generator().manual_seed(seed + 100)
    received = [torch.rand(grid.size, generator=draw, dtype=torch.float64) for grid in grids]
    pad = torch.nn.utils.rnn.pad_sequence
    sizes = torch.tensor([grid.size for grid in grids])
    mask = torch.arange(int(sizes.max())) < sizes.unsqueeze(1)
    return tp.Features(
        pad(rows, batch_first=True).to(dtype),
        visual_mask=mask,
        grid=grids,
        **{ATTENTION: pad(received, batch_first=True).to(dtype)},
    )
