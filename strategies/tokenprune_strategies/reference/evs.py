"""EVS, whole."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenprune_strategies.reference.videos import by_frame, cosine


def evs(visual: Tensor, frames: Tensor, keep: int) -> Tensor:
    """Keep what is unlike the same place one frame earlier, a whole frame at least: (N, d), (N,) -> (K,)."""
    video = by_frame(visual, frames)
    novelty = torch.cat([torch.full_like(video[:1, :, 0], 255), 1 - cosine(video[1:], video[:-1])]).flatten()
    return novelty.argsort(descending=True, stable=True)[: max(keep, video.shape[1])]
