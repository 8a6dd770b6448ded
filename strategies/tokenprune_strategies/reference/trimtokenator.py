"""TrimTokenator, whole."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tokenprune.core.features import working_precision


def trimtokenator(visual: Tensor, text: Tensor, keep: int, *, share: float = 0.8, squared: bool = True) -> Tensor:
    """Drop what is far from the text, then spread out: (N, d), (T, d) -> (K,)."""
    v, t = working_precision(visual), working_precision(text)
    distance = (v.unsqueeze(1) - t).norm(dim=-1)
    alignment = -(distance.square() if squared else distance).mean(1)
    near: Tensor = alignment.argsort(descending=True, stable=True)[: max(keep, int(share * len(v)))].sort().values
    unit = normalize(v[near], dim=-1)
    cosine = unit @ unit.T
    gain, total = -cosine.mean(1), torch.zeros_like(cosine[0])
    taken = torch.zeros_like(total, dtype=torch.bool)
    picks: list[Tensor] = []
    for _ in range(keep):
        pick = gain.masked_fill(taken, -math.inf).argmax()
        taken[pick] = True
        picks.append(pick)
        total = total + cosine[pick]
        gain = -total / len(picks)
    return near[torch.stack(picks)]
