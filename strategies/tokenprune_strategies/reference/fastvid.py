"""FastVID, whole."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from tokenprune.core.features import working_precision
from tokenprune.core.reference import reading
from tokenprune_strategies.reference.videos import by_frame, cosine, peaks

Form = Literal["onevision", "llava-video", "qwen"]


@reading(attention="mean_attention@-1")
def fastvid(
    attention: Tensor,
    visual: Tensor,
    frames: Tensor,
    keep: int,
    *,
    segments: int = 8,
    threshold: float = 0.9,
    context: float = 0.4,
    every: int = 4,
    beta: float = 0.6,
    form: Form = "onevision",
) -> tuple[Tensor, Tensor]:
    """Salient tokens of each frame, and peaks of anchor frames for the rest: (N,), (N, d), (N,) -> (K,), (K, d)."""
    video, scores = by_frame(visual, frames), by_frame(attention, frames)
    n_frames, each = scores.shape
    feature = video.mean(1)
    made: dict[int, Tensor] = {}
    for start, end in cut(cosine(feature[:-1], feature[1:]), segments, threshold):
        plan = quotas(feature, start, end, max(1, keep // n_frames), each, context, every, form)
        salient = {t: set(scores[t].argsort(descending=True, stable=True)[:s].tolist()) for t, (s, _) in plan.items()}
        free = {t: [p for p in range(each) if p not in salient.get(t, ())] for t in range(start, end)}
        made |= {t * each + p: video[t, p] for t, places in salient.items() for p in places}
        anchors = {}
        for t, (_, count) in plan.items():
            if count and free[t]:
                ranked, _ = peaks(video[t, free[t]], min(4, len(free[t])))
                anchors[t] = sorted(free[t][i] for i in ranked[:count])
        for t, centres in anchors.items():
            others = [(u, p) for u in free for p in free[u] if form == "onevision" or u != t or p not in centres]
            joined: dict[int, list[Tensor]] = {p: [] for p in centres}
            for u, p in others:
                alike = [float(cosine(video[u, p], video[t, c])) for c in centres]
                joined[centres[alike.index(max(alike))]].append(video[u, p])
            for p, members in joined.items():
                own = max(1 / (len(members) + 1), beta)
                made[t * each + p] = (
                    own * video[t, p] + (1 - own) * torch.stack(members).mean(0) if members else video[t, p]
                )
    order = sorted(made)
    return torch.tensor(order, device=visual.device), working_precision(torch.stack([made[i] for i in order]))


def cut(alike: Tensor, least: int, threshold: float) -> list[tuple[int, int]]:
    """Segments end where frames are least alike, and wherever they are less alike than a threshold."""
    ends = set(alike.argsort(stable=True)[: max(0, least - 1)].tolist())
    ends |= {t for t, value in enumerate(alike.tolist()) if value < threshold}
    starts = [0, *(t + 1 for t in sorted(ends))]
    return list(zip(starts, [*starts[1:], len(alike) + 1], strict=True))


def quotas(
    feature: Tensor, start: int, end: int, budget: int, each: int, context: float, every: int, form: Form
) -> dict[int, tuple[int, int]]:
    """Salient tokens and centres of each frame; anchors are the last frame and every so many before it."""
    if form == "onevision":
        centres = int(budget * context)
        anchors = range(end - 1, start - 1, -every)
        share = min(centres * (end - start) // math.ceil((end - start) / every), each - budget + centres)
        return {t: (budget - centres, share if t in anchors else 0) for t in range(start, end)}
    keeps = [
        t
        for t in range(start, end)
        if form != "qwen" or t == end - 1 or float(cosine(feature[t], feature[t + 1])) < 0.95
    ]
    total = budget * (end - start)
    of_centres = max(int(total * context), form == "qwen")
    last_first = keeps[::-1][::every]
    found = {}
    for rank, t in enumerate(keeps):
        mine, most = 0, each // 2 if form == "qwen" else each
        if t in last_first:
            quotient, rest = divmod(of_centres, len(last_first))
            mine = min(most, quotient + (last_first.index(t) < rest))
        quotient, rest = divmod(total - int(of_centres), len(keeps))
        found[t] = (min(quotient + (rank < rest), each - mine), mine)
    return found
