"""DyCoke before the language model, whole."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenprune.core.errors import FeatureError
from tokenprune.core.features import working_precision
from tokenprune_strategies.reference.videos import by_frame, cosine


def dycoke(
    visual: Tensor, frames: Tensor, keep: int, *, share: float | None = None, faithful: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """Of four frames one whole and of the others what changes: (N, d), (N,) -> (K,), if faithful also (K, d)."""
    video = by_frame(visual, frames)
    n_frames, each = video.shape[:2]
    if faithful and n_frames < 5:
        raise FeatureError("the published code needs five frames")
    compared: dict[int, int] = {}
    for t in range(0, n_frames - 1, 2):
        compared[t + 1] = t
    for t in range(0, n_frames - 4 if faithful else n_frames, 4):
        if t + 2 < n_frames:
            compared[t + 2] = t
    stay = range(n_frames - n_frames % 2 if faithful else n_frames)
    if share is not None:
        quotas = [int((1 - share) * each)] * len(compared)
    else:  # what the whole frames leave of the budget
        left = max(0, keep - each * sum(t not in compared for t in stay))
        quota, rest = divmod(left, max(1, len(compared)))
        quotas = [min(each, quota + (i < rest and not faithful)) for i in range(len(compared))]
    size = dict(zip(sorted(compared), quotas, strict=True))
    order = []
    for t in stay:
        places = list(range(each))
        if t in compared:
            places = cosine(video[t], video[compared[t]]).argsort(stable=True)[: size[t]].tolist()
        order += [t * each + i for i in places]
    picks = torch.tensor(order, device=visual.device)
    return (picks, working_precision(visual)[picks]) if faithful else picks
