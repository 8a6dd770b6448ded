"""SCOPE, whole."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tokenprune.core.features import working_precision


def scope(
    cls_attention: Tensor,
    encoder: Tensor,
    keep: int,
    *,
    alpha: float = 1.0,
    combine: Literal["multi", "add"] = "multi",
) -> Tensor:
    """Greedy: what a pick adds to the coverage of all patches, times its attention: (H, N), (N, e) -> (K,)."""
    e = normalize(working_precision(encoder), dim=-1)
    covers = (e @ e.T).clamp_min(0)
    weight = working_precision(cls_attention).sum(0).to(covers.dtype) ** alpha
    best = torch.zeros_like(weight)
    taken = torch.zeros_like(weight, dtype=torch.bool)
    picks: list[Tensor] = []
    for _ in range(keep):
        rise = (covers - best.unsqueeze(1)).clamp_min(0).sum(0, dtype=torch.float64).to(covers.dtype)
        gain = rise * weight if combine == "multi" else rise + weight
        pick = gain.masked_fill(taken, -math.inf).argmax()
        taken[pick] = True
        picks.append(pick)
        best = torch.maximum(best, covers[:, pick])
    return torch.stack(picks)
