"""Random tokens, whole."""

from __future__ import annotations

import torch
from torch import Tensor


def random(visual: Tensor, keep: int, *, seed: int = 0, row: int = 0) -> Tensor:
    """Draw a number for each token and keep the largest: (N, d) -> (K,). ``row`` counts images of one batch."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(row + 1, len(visual), generator=generator, dtype=torch.float64)[row].to(visual.device)
    return drawn.argsort(descending=True, stable=True)[:keep]
