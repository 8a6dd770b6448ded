"""VidCom2, whole."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tokenprune_strategies.reference.videos import by_frame


def vidcom2(
    visual: Tensor,
    frames: Tensor,
    keep: int,
    *,
    temperature: float = 0.01,
    share: float | None = None,
    faithful: bool = False,
) -> Tensor:
    """Keep what is unlike its video and its frame: (N, d), (N,) -> (K,)."""
    video = by_frame(visual, frames)
    n_frames, each, width = video.shape
    steady = video.flatten(0, 1).var(0, unbiased=False).argsort(stable=True)[: max(1, width // 2)]
    unit = normalize(video[..., steady], dim=-1, eps=1e-12)
    to_video = closeness(unit, unit.mean((0, 1)))
    alike = to_video + closeness(unit, unit.mean(1, keepdim=True))
    weight = (-to_video.mean(1) / temperature).softmax(0)
    base = keep / (n_frames * each) if share is None else share
    kept = []
    for t in range(n_frames):
        scale = min(float(base * (1 + weight[t] - weight.mean())), 1.0)
        ranked = alike[t].argsort(stable=True)[: max(1, round(scale * each))]
        kept += [t * each + i for i in ranked.tolist()]
    overall = alike.flatten().argsort(stable=True).tolist()
    picked = [i for i in overall if i in kept]
    if not faithful:  # the least unlike go, or the most unlike of the others come, as the budget wants
        picked = (picked + [i for i in overall if i not in kept])[:keep]
    return torch.tensor(picked, device=visual.device)


def closeness(x: Tensor, centre: Tensor) -> Tensor:
    """Sum of Gaussians of five widths of the distance to a centre."""
    squared = (x - centre).square().sum(-1)
    return torch.stack([(-squared / (2 * width)).exp() for width in (1 / 8, 1 / 4, 1 / 2, 1, 2)]).sum(0)
