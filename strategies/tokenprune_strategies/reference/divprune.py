"""DivPrune, whole."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tokenprune.core.features import working_precision


def divprune(visual: Tensor, keep: int, *, faithful: bool = False) -> Tensor:
    """Again and again the token farthest from its nearest pick: (N, d) -> (K,)."""
    v = normalize(working_precision(visual), dim=-1)
    distance = 1 - v @ v.T
    # the first pick is the token whose nearest neighbour is farthest
    nearest = distance.clone().fill_diagonal_(math.inf).amin(1)
    picks: list[Tensor] = []
    taken = torch.zeros(len(v), dtype=torch.bool, device=v.device)
    for _ in range(keep):
        pick = nearest.masked_fill(taken, -math.inf).argmax()
        taken[pick] = not faithful
        nearest = torch.minimum(nearest, distance[pick]) if picks else distance[pick]
        picks.append(pick)
    return torch.stack(picks)
