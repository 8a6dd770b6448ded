"""Replay of MMTok's vectors."""

from __future__ import annotations

import torch
from torch import Tensor

import tokenprune as tp
from tokenprune.components.objectives import FacilityLocation
from tokenprune.testing.conformance import Case
from tokenprune_strategies.mmtok import mmtok


def replay(case: Case) -> dict[str, Tensor]:
    """Select among tokens that are not padding, and evaluate what was selected."""
    visual, n = case.inputs["vision"][None], len(case.inputs["vision"])
    extra = {}
    if "padding_idx" in case.inputs:
        extra["candidates"] = torch.ones(1, n, dtype=torch.bool)
        extra["candidates"][0, case.inputs["padding_idx"].long()] = False
    features = tp.Features(visual, case.inputs["text"][None], encoder=case.inputs["vision_clip"][None], extra=extra)
    alpha, tau_text, tau_visual = (case.hyper[name] for name in ("alpha", "tv_temp", "vv_temp"))
    strategy = mmtok(alpha=alpha, tau_text=tau_text, tau_visual=tau_visual, faithful=True)
    selection = strategy.select(features, min(n, case.hyper["target_vision_tokens"]))
    coverage = FacilityLocation(alpha, tau_text, tau_visual)
    state = coverage.start(features, torch.zeros(1, n))
    for pick in selection.order.unbind(1):
        state = coverage.take(state, pick)
    return {
        "kept_idx_sorted": selection.indices[0],
        "greedy_order_idx": selection.order[0],
        "coverage_objective": coverage.value(state),
    }
