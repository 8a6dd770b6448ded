"""Replay of CDPruner's vectors."""

from __future__ import annotations

from torch import Tensor

import tokenprune as tp
from tokenprune.testing.conformance import Case
from tokenprune_strategies.cdpruner import cdpruner


def replay(case: Case) -> dict[str, Tensor]:
    """Select; all images of a batch are asked the same text."""
    visual, text = case.inputs["features"], case.inputs["text_embeds"]
    features = tp.Features(
        visual, joint_visual=case.inputs["image_embeds"], joint_text=text.expand(len(visual), *text.shape[-2:])
    )
    selection = cdpruner(faithful=True).select(features, case.hyper["visual_token_num"])
    assert selection.scores is not None
    return {
        "kept_idx_sorted": selection.indices,
        "greedy_order_idx": selection.order,
        "relevance": selection.scores,
    }
