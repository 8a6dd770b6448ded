"""CDPruner, whole."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tokenprune.core.features import working_precision


def cdpruner(
    visual: Tensor,
    text: Tensor,
    keep: int,
    *,
    relevance_sign: Literal[1, -1] | None = None,
    joint_visual: Tensor | None = None,
    joint_text: Tensor | None = None,
) -> Tensor:
    """Greedy MAP of a determinantal point process, by incremental Cholesky: (N, d), (T, d) -> (K,)."""
    joint = joint_visual is not None and joint_text is not None
    sign = (-1 if joint else 1) if relevance_sign is None else relevance_sign
    seen, words = (joint_visual, joint_text) if joint else (visual, text)
    seen, words = (normalize(working_precision(x), dim=-1) for x in (seen, words) if x is not None)
    relevance = sign * (seen @ words.T).mean(1)
    span = relevance.max() - relevance.min()
    quality = ((relevance - relevance.min() + 1e-6) / (span if span > 0 else 1)).double()
    v = normalize(visual.double(), dim=-1)
    ridge = 1e-10 * torch.eye(len(v), dtype=v.dtype, device=v.device)  # positive definite beyond the rank of v
    kernel = quality.unsqueeze(1) * (v @ v.T + ridge) * quality
    variance, floor = kernel.diagonal().clone(), 1e-10 * quality.square()
    factor = kernel.new_zeros(keep, len(v))
    taken = torch.zeros(len(v), dtype=torch.bool, device=v.device)
    picks: list[Tensor] = []
    for step in range(keep):
        pick = variance.masked_fill(taken, -math.inf).argmax()
        taken[pick] = True
        picks.append(pick)
        factor[step] = (kernel[pick] - factor[:step, pick] @ factor[:step]) / variance[pick].sqrt()
        variance = torch.maximum(variance - factor[step].square(), floor)
    return torch.stack(picks)
