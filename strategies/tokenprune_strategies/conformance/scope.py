"""Replay of SCOPE's vectors; images of a call share the budget there."""

from __future__ import annotations

from torch import Tensor

import tokenprune as tp
from tokenprune.testing.conformance import Case
from tokenprune_strategies.scope import scope


def replay(case: Case) -> dict[str, Tensor]:
    """Select; scores are the sums over heads."""
    hyper, encoder = case.hyper, case.inputs["features"]
    features = tp.Features(encoder, encoder=encoder, cls_attention=case.inputs["cls_attn"])
    strategy = scope(alpha=hyper["alpha"], combine=hyper["combined"])
    selection = strategy.select(features, hyper["token_num"] // len(encoder))
    assert selection.scores is not None
    return {
        "selection_order_idx": selection.order,
        "kept_idx_sorted": selection.indices,
        "tokens": selection.gather(encoder),
        "cls_attn_sum": selection.scores,
    }
