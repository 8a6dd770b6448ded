"""Replay of PruneVid's vectors: merging before the language model, and pruning inside it."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor

import tokenprune as tp
from tokenprune.components.video.clusters import SegmentStaticClusters, always_alike
from tokenprune.components.video.segments import clustered_segments, runs_of
from tokenprune.core.schedule import LayerSchedule
from tokenprune.testing.conformance import Case, Replayed
from tokenprune_strategies.conformance._video import features_of
from tokenprune_strategies.prunevid import prunevid


def replay(case: Case) -> dict[str, Tensor | Replayed]:
    """One of the two stages."""
    return _merge(case) if case.hyper["kind"] == "merge" else _inside(case)


def _merge(case: Case) -> dict[str, Tensor | Replayed]:
    hyper, video = case.hyper, case.inputs["video"]
    temporal, neighbours = hyper["temporal_segment_ratio"], hyper["k"]
    strategy = prunevid(threshold=hyper["tau"], temporal=temporal, spatial=hyper["cluster_ratio"], share=None)
    assert isinstance(strategy, tp.Strategy)
    assert isinstance(strategy.selector, SegmentStaticClusters)
    assert (strategy.selector.neighbours, strategy.selector.least) == (neighbours, hyper["min_to_merge"])
    selection = strategy.select(features_of(case), 1.0)
    assert selection.merged is not None
    assert selection.groups is not None
    assert selection.groups.segment is not None
    assert selection.groups.members is not None
    order, segments, members = selection.order[0], selection.groups.segment[0], selection.groups.members[0]
    row = torch.zeros(len(segments), dtype=torch.long)  # of the output, for each kept position
    row[order] = torch.arange(len(order))
    assignment = torch.zeros_like(row)
    assignment[members[:, 0]] = row[members[:, 1]]
    static = selection.groups.role("static")[0][order]
    segment = segments[order]
    labels, refined = clustered_segments(video, temporal, neighbours)
    windows = runs_of(refined)
    return {
        "frame_clusters": torch.tensor(labels),
        "frame_clusters_refined": torch.tensor(refined),
        "window_sizes": torch.tensor([end - start for start, end in windows]),
        "static_sizes": torch.bincount(segment[static], minlength=len(windows)),
        "dynamic_sizes": torch.bincount(segment[~static], minlength=len(windows)),
        "static_mask": torch.stack([always_alike(video[a:b], hyper["tau"]) for a, b in windows]).long(),
        "assignment": assignment.view(hyper["T"], -1),
        "tokens": Replayed(selection.merged.tokens[0], rounded=True),
    }


def _inside(case: Case) -> dict[str, Tensor | Replayed]:
    hyper, attention = case.hyper, case.inputs["attention"]
    sizes = zip(hyper["static_sizes"], hyper["dynamic_sizes"], hyper["window_sizes"], strict=True)
    parts = list(chain.from_iterable([static, *[moving // frames] * frames] for static, moving, frames in sizes))
    part = torch.repeat_interleave(torch.arange(len(parts)), torch.tensor(parts))
    schedule = prunevid(share=hyper["alpha"])
    assert isinstance(schedule, LayerSchedule)
    features = tp.Features(torch.ones(1, hyper["N"], 1), attention=attention[None], extra={"part": part[None]})
    selection = schedule.events[0].strategy.select(features, 1.0)
    return {"kept_visual": selection.indices[0], "kept_by_window": selection.order[0]}
