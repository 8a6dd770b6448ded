"""Replay of DART's vectors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import tokenprune as tp
from tokenprune.components.layerwise.pivots import PivotQuota
from tokenprune.testing.conformance import Case
from tokenprune_strategies.dart import dart


def replay(case: Case) -> dict[str, Tensor]:
    """Select on given states, which went through the final norm already."""
    hyper = case.hyper
    start, n = hyper["image_start"], hyper["N"]
    after = start + n
    states, keys = case.inputs["last_layer_state"], case.inputs["keys"].transpose(0, 1).flatten(1)
    places = torch.arange(states.shape[0])
    features = tp.Features(
        states[None, start:after],
        states[None, after:],
        llm_keys=keys[None, start:after],
        extra={
            "text_keys": keys[None, after:],
            "visual_positions": places[None, start:after],
            "text_positions": places[None, after:],
        },
    )
    budget = hyper.get("budget")
    keep = math.floor(n * (1 - hyper["reduction_ratio"])) if budget is None else int(budget)
    strategy = dart(image_pivots=hyper["pivot_image_token"], text_pivots=hyper["pivot_text_token"], faithful=True)
    selection = strategy.select(features, keep)
    selector = strategy.events[0].strategy.selector
    assert isinstance(selector, PivotQuota)
    assert selection.scores is not None
    image, text = selector.pivots(features, selection.scores, (int(selection.counts[0]),), features.valid())
    pivots = torch.cat([image + start, text + after], dim=1)[0]
    return {
        "kept_visual": selection.indices[0],
        "kept_seq": selection.indices[0] + start,
        "pivot_image": image[0] + start,
        "pivot_text": text[0] + after,
        "pivot_order": pivots[selector.sequence(features, image, text)[0]],
        "picks": selection.order[0, image.shape[1] :].view(len(pivots), -1) + start,
    }
