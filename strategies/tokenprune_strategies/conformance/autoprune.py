"""Replay of AutoPrune's vectors."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

import tokenprune as tp
from tokenprune.components.layerwise.attention import pseudo_information
from tokenprune.components.layerwise.rules import Logistic
from tokenprune.core.indexing import gather_tokens
from tokenprune.core.schedule import LayerSchedule
from tokenprune.testing.conformance import Case, Replayed
from tokenprune_strategies.autoprune import autoprune


def replay(case: Case) -> dict[str, Tensor | Replayed]:
    """Replay the schedule alone, or all layers."""
    hyper = case.hyper
    schedule = autoprune(slope=hyper["k0"], gain=hyper["gamma"], midpoint=hyper["x0"], faithful=True)
    rule = schedule.events[1].rule
    assert isinstance(rule, Logistic)
    return _shares(case, rule) if hyper["kind"] == "schedule" else _layers(case, schedule, rule)


def _shares(case: Case, rule: Logistic) -> dict[str, Tensor | Replayed]:
    hyper, information = case.hyper, float(case.inputs["mi"])
    start = hyper["tokens_after_layer0"]
    shares = rule.shares(information, start, hyper["target"], hyper["n_layers"])
    return {
        "keep_percent": torch.tensor(shares, dtype=torch.float64),
        "dynamic_k": torch.tensor(rule.steepness(information), dtype=torch.float64),
        "total_tokens": torch.tensor(rule.total(shares, start)),
    }


def _layers(case: Case, schedule: LayerSchedule, rule: Logistic) -> dict[str, Tensor | Replayed]:
    hyper, given = case.hyper, case.inputs
    n, n_layers = hyper["N"], hyper["n_layers"]
    visual, text = given["vis_embed"][None], given["text_embed"][None]
    origin = torch.arange(n)
    context = schedule.begin((hyper["target"],), (n,), n_layers)
    got: dict[str, Tensor | Replayed] = {}
    counts = []
    for layer, event in schedule.placed(n_layers):
        attention = given[f"attn_{layer}"][None]
        extra = {"density_noise": given[f"noise_{layer}"][None]} if f"noise_{layer}" in given else None
        cls = given["clip_attn"][None, None] if layer == 0 else None
        features = tp.Features(visual, text, attention=attention, cls_attention=cls, extra=extra)
        selection, context = event.decide(features, replace(context, layer=layer))
        if layer == 0:
            assert selection.scores is not None
            rows = torch.ones(attention.shape[::2], dtype=torch.bool)
            got["joint0"] = selection.scores[0]
            got["mi0"] = pseudo_information(attention, rows)[0] / rows.shape[1]
        kept = selection.indices[0]
        left = len(selection.sequence[0])
        counts.append([visual.shape[1], len(kept), left])
        got[f"kept_{layer}"] = kept
        origin = torch.cat([origin[kept], torch.full((left - len(kept),), -1)])
        visual = gather_tokens(visual, selection.sequence) if selection.merged is None else selection.merged.tokens
    information = float(context.measured["information"])
    shares = rule.shares(information, counts[0][2], hyper["target"], n_layers)
    return got | {
        "mi1": context.measured["information"][0],
        "dynamic_k": torch.tensor(rule.steepness(information), dtype=torch.float64),
        "keep_percent": torch.tensor(shares, dtype=torch.float64),
        "counts": torch.tensor(counts),
        "ids_last": origin,
        "position_ids_last": torch.arange(hyper["image_start"] + len(origin) + text.shape[1]),
        "vis_last": Replayed(visual[0], rounded=True),
    }
