"""Replay of EVS's vectors; the count is vLLM's, in floating point and then cut off."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenprune.testing.conformance import Case
from tokenprune_strategies.conformance._video import features_of, per_frame, video_of
from tokenprune_strategies.evs import evs


def replay(case: Case) -> dict[str, Tensor]:
    """Select; a budget below one frame is raised by the strategy itself."""
    hyper = case.hyper
    count = int(hyper["T"] * hyper["tokens_per_frame"] * (1 - hyper["pruning_rate"]))
    kept = evs().select(features_of(case), max(1, count)).indices[0]
    found = {"kept_idx": kept, "tokens_per_frame": per_frame(case, kept), "tokens": video_of(case)[kept]}
    if "mrope_kept" in case.outputs:
        found["mrope_kept"] = _positions(case)[kept]
    return found


def _positions(case: Case) -> Tensor:
    """Time, row and column of every token as Qwen2.5-VL counts them, (T n, 3)."""
    hyper = case.hyper
    height, width = (hyper[side] // hyper["spatial_merge_size"] for side in "HW")
    seconds = hyper["tokens_per_second"] * hyper["video_second_per_grid"]
    times = torch.tensor([int(frame * seconds) for frame in range(hyper["T"])])
    return torch.cartesian_prod(times, torch.arange(height), torch.arange(width))
