"""Replay of DivPrune's vectors."""

from __future__ import annotations

from torch import Tensor

import tokenprune as tp
from tokenprune.testing.conformance import Case
from tokenprune_strategies.divprune import divprune


def replay(case: Case) -> dict[str, Tensor]:
    """Select; the reference rounds the ratio half to even, as ``round`` does."""
    features = case.inputs["features"]
    keep = round(case.hyper["ratio"] * features.shape[0])
    selection = divprune(faithful=True).select(tp.Features(features[None]), keep)
    return {"selection_order_idx": selection.order[0], "kept_idx_sorted": selection.indices[0]}
