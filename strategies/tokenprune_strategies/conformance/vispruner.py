"""Replay of VisPruner's vectors."""

from __future__ import annotations

from torch import Tensor

import tokenprune as tp
from tokenprune.testing.conformance import Case
from tokenprune_strategies.vispruner import vispruner


def replay(case: Case) -> dict[str, Tensor]:
    """Select; the important tokens are the first picks."""
    encoder, keep, share = case.inputs["features"], case.hyper["visual_token_num"], case.hyper["important_ratio"]
    features = tp.Features(encoder, encoder=encoder, cls_attention=case.inputs["cls_attn"])
    selection = vispruner(share=share).select(features, keep)
    return {
        "kept_idx_sorted": selection.indices,
        "internal_order_idx": selection.order,
        "important_idx": selection.order[:, : int(keep * share)],
        "tokens": selection.gather(encoder),
    }
