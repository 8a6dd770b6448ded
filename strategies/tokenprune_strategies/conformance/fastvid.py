"""Replay of FastVID's vectors; newline rows of LLaVA-Video are taken out before and put back behind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import tokenprune as tp
from tokenprune.components.video.anchors import Form, SegmentAnchors
from tokenprune.testing.conformance import Case, Replayed
from tokenprune_strategies.conformance._video import video_of
from tokenprune_strategies.fastvid import fastvid

FORMS: dict[str, Form] = {"onevision": "onevision", "llava_video": "llava-video", "qwen": "qwen"}


def replay(case: Case) -> dict[str, Tensor | Replayed]:
    """Select and merge; segments and roles are what the selector hands on."""
    hyper = case.hyper
    form = FORMS[hyper["kind"]]
    attention, frames = case.inputs["frame_attention"], case.inputs["frame_features"]
    (n_frames, each), video = attention.shape, video_of(case)
    rows = len(video) // n_frames  # of a frame, newlines among them
    columns = each if rows == each else each // (rows - each)
    token = torch.arange(len(video)).view(n_frames, rows)
    places = (token if rows == each else token.view(n_frames, -1, columns + 1)[..., :-1]).flatten()
    strategy = fastvid(
        segments=hyper["c"],
        threshold=hyper["tau"],
        context=hyper["d_share"],
        every=hyper["p"],
        beta=hyper["beta"],
        form=form,
        faithful=form == "onevision",
    )
    assert isinstance(strategy.selector, SegmentAnchors)
    if "ignore" in hyper:
        strategy = replace(strategy, selector=replace(strategy.selector, alike=hyper["ignore"]))
    signals: dict[str, Any] = {"mean_attention@-1": attention.flatten().unsqueeze(0)}
    features = tp.Features(
        video[places].unsqueeze(0),
        **signals,
        grid=tp.Grid(1, each, n_frames),
        extra={"frame_features": frames.unsqueeze(0)},
    )
    selection = strategy.select(features, int(each * hyper["retention_ratio"]) * n_frames)
    assert selection.merged is not None
    assert selection.groups is not None
    assert selection.groups.segment is not None
    kept, groups = selection.indices[0], selection.groups
    segment = selection.groups.segment[0].view(n_frames, each)[:, 0]
    centre, salient = (groups.role(name)[0].view(n_frames, each) for name in ("centre", "salient"))
    ranked = attention.argsort(dim=1, descending=True, stable=True)
    values = video.clone()
    values[places[kept]] = selection.merged.tokens[0].to(video.dtype)
    whole = _with_newlines(places[kept], columns, each) if rows != each else places[kept]
    found: dict[str, Tensor | Replayed] = {
        "segment_sizes": torch.bincount(segment),
        "context_per_frame": centre.sum(1),
        "context_idx": places[centre.flatten().nonzero().flatten()],
        "kept_idx": whole,
        "kept_idx_without_newlines": places[kept],
        "tokens_per_frame": torch.bincount(whole // rows, minlength=n_frames),
        "tokens": Replayed(values[whole], rounded=True),
    }
    if len(set(salient.sum(1).tolist())) == 1:
        found["salient_idx"] = ranked[:, : int(salient[0].sum())]
    return found


def _with_newlines(kept: Tensor, columns: int, each: int) -> Tensor:
    """Put back the newline of every row of tokens that kept one; positions count newlines."""
    newline = kept // (columns + 1) * (columns + 1) + columns
    return torch.tensor(sorted({*kept.tolist(), *newline.tolist()}))
