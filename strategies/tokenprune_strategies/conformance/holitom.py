"""Replay of HoliTom's vectors: before the language model (with LLaVA-Video's newlines, too) and inside it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import tokenprune as tp
from tokenprune.components.mergers import nearest_centre
from tokenprune.components.video.windows import StaticWindows
from tokenprune.testing.conformance import Case, Replayed
from tokenprune_strategies.conformance._sequence import spliced
from tokenprune_strategies.conformance._video import features_of
from tokenprune_strategies.holitom import holitom


def replay(case: Case) -> dict[str, Tensor | Replayed]:
    """One of the two stages."""
    return _outer(case) if case.hyper["kind"] == "outer" else _inner(case)


def _outer(case: Case) -> dict[str, Tensor | Replayed]:
    hyper = case.hyper
    strategy = holitom(
        threshold=hyper["tau"],
        share=hyper["retain_ratio"],
        beta=hyper["beta"],
        longest=hyper["max_window_size"],
    )
    assert isinstance(strategy, tp.Strategy)
    selector = strategy.selector
    assert isinstance(selector, StaticWindows)
    signals = {"mean_attention@-1": case.inputs["attention"].flatten()[None]}
    selection = strategy.select(features_of(case, **signals), 1)
    assert selection.merged is not None
    assert selection.groups is not None
    windows, saved = selector.windows(case.inputs["video"])
    each, kept = hyper["tokens_per_frame"], selection.order[0]
    static, tokens = selection.groups.role("static")[0][kept], selection.merged.tokens[0]
    if hyper["mm_newline_position"] == "grid":
        tokens = _with_newlines(kept, tokens, each, case.inputs["newline"])
    return {
        "windows": torch.tensor([(start, end - 1) for start, end in windows]),
        "static_reduced": torch.tensor(saved),
        "retain_ratio_effective": torch.tensor(selector.raised(hyper["retain_ratio"], saved, hyper["T"] * each)),
        "frame_of_token": kept // each,
        "position_of_token": kept % each,
        "is_static": static.long(),
        "tokens": Replayed(tokens, rounded=True),
    }


def _with_newlines(kept: Tensor, tokens: Tensor, each: int, newline: Tensor) -> Tensor:
    """Tokens of each frame by position, and a newline behind every row of a frame that kept one."""
    columns = math.isqrt(each)
    order = kept.argsort(dim=-1, stable=True)
    rows = []
    for i, place in enumerate(order.tolist()):
        rows.append(tokens[place])
        following = order[i + 1] if i + 1 < len(order) else None
        if following is None or int(kept[following]) // columns != int(kept[place]) // columns:
            rows.append(newline)
    return torch.stack(rows)


def _inner(case: Case) -> dict[str, Tensor | Replayed]:
    hyper, sequence = case.hyper, case.inputs["seq"]
    start, n = hyper["image_start"], hyper["N"]
    schedule = holitom(inner=hyper["r"], layer=1)
    assert not isinstance(schedule, tp.Strategy)
    (event,) = schedule.events
    visual = sequence[None, start : start + n]
    attention = case.inputs["attention"][None, :, None, start : start + n]
    selection, _ = event.decide(tp.Features(visual, attention=attention), schedule.begin((n,), (n,), 4))
    assert selection.merged is not None
    kept = selection.indices[0]
    dropped = torch.ones(n, dtype=torch.bool)
    dropped[kept] = False
    return {
        "kept_visual": kept,
        "kept_by_attention": selection.order[0],
        "merged_into": kept[nearest_centre(visual, kept[None])[0][dropped]],
        "position_ids": spliced(torch.arange(len(sequence)), start, n, kept + start),
        "seq_out": Replayed(spliced(sequence, start, n, selection.merged.tokens[0]), rounded=True),
    }
