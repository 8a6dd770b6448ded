"""HoliTom before the language model, whole."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tokenprune.core.reference import reading
from tokenprune_strategies.reference.videos import by_frame, cosine, peaks


@reading(attention="mean_attention@-1")
def holitom(
    attention: Tensor,
    visual: Tensor,
    frames: Tensor,
    keep: int,
    *,
    threshold: float = 0.8,
    share: float | None = None,
    beta: float = 0.6,
    longest: int = 1024,
) -> tuple[Tensor, Tensor]:
    """Average what stands still, keep the most attended of the rest: (N,), (N, d), (N,) -> (K,), (K, d)."""
    video, scores = by_frame(visual, frames), by_frame(attention, frames)
    n_frames, each = scores.shape
    still = cosine(video[:-1], video[1:]) > threshold
    cut, saved = windows(still, n_frames, longest)
    asked = keep / (n_frames * each) if share is None else share
    share = min(asked / ((n_frames * each - saved) / (n_frames * each)), 1.0)
    order: list[int] = []
    tokens: list[Tensor] = []
    for start, end in cut:
        stays = [p for p in range(each) if end - start > 1 and bool(still[start : end - 1, p].all())]
        for place, token in clusters(video[start:end, stays].mean(0), round(len(stays) * share), beta):
            order.append(start * each + stays[place])
            tokens.append(token)
        moves = [p for p in range(each) if p not in stays]
        for t in range(start, end):
            best = scores[t, moves].argsort(descending=True, stable=True)[: math.ceil(len(moves) * share)].tolist()
            order += [t * each + p for p in sorted(moves[i] for i in best)]
            tokens += [video[t, p] for p in sorted(moves[i] for i in best)]
    if not order:  # rounding left nothing
        order = [int(scores.argmax())]
        tokens = [video.flatten(0, 1)[order[0]]]
    return torch.tensor(order, device=visual.device), torch.stack(tokens)


def windows(still: Tensor, frames: int, longest: int) -> tuple[list[tuple[int, int]], int]:
    """The partition of the frames that saves most; of equally good ones that of the smallest last windows."""
    best: list[tuple[int, list[tuple[int, int]]]] = [(0, [])]
    for end in range(1, frames + 1):
        found = (best[end - 1][0], [*best[end - 1][1], (end - 1, end)])
        for start in range(end - 2, max(-1, end - longest - 1), -1):
            saved = best[start][0] + (end - start - 1) * int(still[start : end - 1].all(0).sum())
            if saved > found[0]:
                found = (saved, [*best[start][1], (start, end)])
        best.append(found)
    return best[frames][1], best[frames][0]


def clusters(means: Tensor, count: int, beta: float) -> list[tuple[int, Tensor]]:
    """Centres by place, each ``beta`` of itself and the rest of those that join it."""
    if not count:
        return []
    ranked, distance = peaks(means, min(7, count))
    centres = ranked[:count]
    joined: dict[int, list[int]] = {centre: [] for centre in centres}
    for i in range(len(means)):
        if i not in joined:
            joined[min(centres, key=lambda c: float(distance[i, c]))].append(i)
    return [
        (c, beta * means[c] + (1 - beta) * means[m].mean(0) if (m := joined[c]) else means[c]) for c in sorted(joined)
    ]
