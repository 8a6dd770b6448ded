"""SCOPE, whole."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tokenprune.core.features import working_precision


def scope(
    cls_attention: Tensor, encoder: Tensor, keep: int, *, alpha: float = 1.0, combine: Literal["multi", "add"] = "multi"
) -> Tensor:
    """Cover all patches, the salient ones first: (H, N), (N, e) -> (K,)."""
    weight = working_precision(cls_attention).sum(0) ** alpha
    v = normalize(working_precision(encoder), dim=-1)
    cosine = (v @ v.T).clamp_min(0)
    covered = torch.zeros_like(weight)
    taken = torch.zeros_like(weight, dtype=torch.bool)
    picks: list[Tensor] = []
    for _ in range(keep):
        rise = (cosine - covered.unsqueeze(1)).clamp_min(0).sum(0)
        gain = rise * weight if combine == "multi" else rise + weight
        pick = gain.masked_fill(taken, -math.inf).argmax()
        taken[pick] = True
        picks.append(pick)
        covered = torch.maximum(covered, cosine[:, pick])
    return torch.stack(picks)
