"""PruneVid before the language model, whole."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenprune_strategies.reference.videos import by_frame, cosine, peaks


def prunevid(
    visual: Tensor, frames: Tensor, keep: int, *, threshold: float = 0.8, temporal: float = 0.25, spatial: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Average static places over segments of frames, and cluster in space: (N, d), (N,) -> (K,), (K, d); no budget."""
    video = by_frame(visual, frames)
    n_frames, each = video.shape[:2]
    labels = refined(clustered(video.mean(1), max(1, int(n_frames * temporal)))[1])
    order: list[int] = []
    tokens: list[Tensor] = []

    def add(start: int, end: int, places: list[int]) -> None:
        means = video[start:end, places].mean(0)
        centres, labels = list(range(len(places))), list(range(len(places)))
        if len(places) > 14:
            centres, labels = clustered(means, max(1, int(len(places) * spatial)))
        for number, centre in enumerate(centres):
            order.append(start * each + places[centre])
            tokens.append(means[[i for i, label in enumerate(labels) if label == number]].mean(0))

    for start, end in runs(labels):
        pairs = [(a, b) for a in range(start, end) for b in range(start, end) if a != b]
        alike = torch.stack([cosine(video[a], video[b]) for a, b in pairs]).mean(0) if pairs else None
        static = [p for p in range(each) if alike is not None and float(alike[p]) > threshold]
        add(start, end, static)
        for t in range(start, end):
            add(t, t + 1, [p for p in range(each) if p not in static])
    return torch.tensor(order, device=visual.device), torch.stack(tokens)


def clustered(x: Tensor, count: int) -> tuple[list[int], list[int]]:
    """Centres, highest peak first, and the number of the centre that each joins."""
    ranked, distance = peaks(x, min(7, len(x)))
    centres = ranked[:count]
    labels = [min(range(count), key=lambda c: float(distance[i, centres[c]])) for i in range(len(x))]
    for number, centre in enumerate(centres):
        labels[centre] = number
    return centres, labels


def runs(labels: list[int]) -> list[tuple[int, int]]:
    """Stretches of equal labels."""
    starts = [t for t in range(len(labels)) if t == 0 or labels[t] != labels[t - 1]]
    return list(zip(starts, [*starts[1:], len(labels)], strict=True))


def refined(labels: list[int]) -> list[int]:
    """Each label keeps its longest runs, of two frames at least; the rest joins the longer run beside it."""
    most = {label: max(b - a for a, b in runs(labels) if labels[a] == label) for label in labels}
    kept = [-1] * len(labels)
    for a, b in runs(labels):
        if b - a == most[labels[a]] > 1:
            kept[a:b] = labels[a:b]
    for a, b in runs(kept):
        if kept[a] == -1:
            left = next((a - s for s, e in runs(kept) if e == a), 0)
            right = next((e - b for s, e in runs(kept) if s == b), 0)
            kept[a:b] = [kept[a - 1] if left and left >= right else kept[b] if right else 0] * (b - a)
    return kept
