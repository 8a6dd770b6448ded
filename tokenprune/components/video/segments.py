"""Cutting a video into segments: at low similarity, at frames that save most, along clusters of frames."""

from __future__ import annotations

from itertools import groupby, pairwise

import torch
from torch import Tensor

from tokenprune.components.density import density_peaks
from tokenprune.components.video.frames import same_place
from tokenprune.core.errors import FeatureError

__all__ = [
    "Segment",
    "clustered_segments",
    "cut_segments",
    "longest_runs",
    "most_static_windows",
    "runs_of",
    "static_places",
]

Segment = tuple[int, int]
"""First frame, and the one after the last."""


def runs_of(labels: list[int]) -> list[Segment]:
    """Segments of equal labels."""
    found, start = [], 0
    for _, run in groupby(labels):
        length = len(list(run))
        found.append((start, start + length))
        start += length
    return found


def cut_segments(frames: Tensor, least: int, threshold: float, *, faithful: bool = False) -> list[Segment]:
    """Cut where consecutive frames are least alike, and wherever they are less alike than a threshold (DySeg).

    Parameters
    ----------
    frames : Tensor, (T, e)
        A feature of each frame.
    least : int
        Segments that there are at least, from 1 (as many as frames, where there are fewer).
    threshold : float
        Cosine below which there always is a cut.
    faithful : bool, default False
        Raise where there are fewer frames than segments, as the published code does.
    """
    between = len(frames) - 1
    if faithful and least - 1 > between:
        raise FeatureError(f"{between + 1} frames cannot be cut into {least} segments, as the published code tries to")
    similarity = same_place(frames[1:], frames[:-1])
    cut = similarity < threshold
    cut[similarity.argsort(dim=-1, stable=True)[: max(0, least - 1)]] = True
    ends = [0, *(t + 1 for t, here in enumerate(cut.tolist()) if here), len(frames)]
    return list(pairwise(ends))


def static_places(video: Tensor, threshold: float) -> Tensor:
    """Bool (T - 1, n): places that look the same in the next frame: (T, n, d)."""
    return same_place(video[1:], video[:-1]) > threshold


def most_static_windows(static: Tensor, longest: int) -> tuple[list[Segment], int]:
    """Cut a video into windows whose static places save most tokens when they are averaged (HoliTom).

    A window of w frames saves (w - 1) tokens at each place that is static throughout. Of equally good partitions the
    one with the smallest last windows is taken.

    Parameters
    ----------
    static : bool Tensor, (T - 1, n)
    longest : int
        Frames of a window at most.

    Returns
    -------
    windows : list of Segment
    saved : int
    """
    frames, static = len(static) + 1, static.cpu()  # a number is looked at for every pair of frames
    best, start = [0] * (frames + 1), [0] * (frames + 1)
    for end in range(1, frames + 1):
        best[end], start[end] = best[end - 1], end - 1
        still = torch.ones(static.shape[1:], dtype=torch.bool, device=static.device)
        for width in range(2, min(end, longest) + 1):
            still = still & static[end - width]
            value = best[end - width] + (width - 1) * int(still.sum())
            if value > best[end]:
                best[end], start[end] = value, end - width
    windows, end = [], frames
    while end:
        windows.append((start[end], end))
        end = start[end]
    return windows[::-1], best[frames]


def longest_runs(labels: list[int]) -> list[int]:
    """Give every label its longest runs only, and what lies between to a neighbour (PruneVid).

    Runs shorter than their label's longest, and labels that never last two frames, are taken out; from the left, each
    such stretch gets the label of the longer of the runs beside it (relabelled so far), the left one of equally long
    ones. Where nothing is left all frames get label 0.
    """
    runs = runs_of(labels)
    longest = {label: max(b - a for a, b in runs if labels[a] == label) for label in set(labels)}
    kept: list[int | None] = [None] * len(labels)
    for a, b in runs:
        if b - a == longest[labels[a]] > 1:
            kept[a:b] = labels[a:b]
    at = 0
    while at < len(kept):
        if kept[at] is not None:
            at += 1
            continue
        end = next((t for t in range(at, len(kept)) if kept[t] is not None), len(kept))
        left, right = _run_length(kept, at - 1, -1), _run_length(kept, end, 1)
        label = kept[at - 1] if left and left >= right else kept[end] if right else 0
        kept[at:end] = [label] * (end - at)
        at = end
    return [0 if label is None else label for label in kept]


def _run_length(labels: list[int | None], at: int, step: int) -> int:
    """Length of the run that begins at a frame and goes on in a direction; 0 outside and where nothing is left."""
    if not 0 <= at < len(labels) or labels[at] is None:
        return 0
    label, length = labels[at], 0
    while 0 <= at < len(labels) and labels[at] == label:
        length, at = length + 1, at + step
    return length


def clustered_segments(video: Tensor, share: float, neighbours: int) -> tuple[list[int], list[int]]:
    """Cluster frames by the mean of their tokens, then keep whole runs of each cluster (PruneVid).

    Parameters
    ----------
    video : Tensor, (T, n, d)
    share : float
        Clusters for each frame, rounded down, at least one.
    neighbours : int
        Frames that a density is made of (all, where there are fewer).

    Returns
    -------
    clusters, refined : list of int
        Label of each frame before and after :func:`longest_runs`.
    """
    frames = len(video)
    clusters = max(1, int(frames * share))
    labels = density_peaks(video.mean(1), clusters, neighbours=min(neighbours, frames))[1].tolist()
    return labels, longest_runs(labels)
