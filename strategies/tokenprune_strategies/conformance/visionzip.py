"""Replay of VisionZip's vectors; [CLS] is position 0 there, patch p is position p + 1."""

from __future__ import annotations

import torch
from torch import Tensor

import tokenprune as tp
from tokenprune.components.mergers import nearest_centre
from tokenprune.testing.conformance import Case, Replayed
from tokenprune_strategies.visionzip import visionzip


def replay(case: Case) -> dict[str, Tensor | Replayed]:
    """Select and merge; the assignment is read off the same function that the merger uses."""
    hidden, keys = case.inputs["hidden"], case.inputs["metric"]
    dominant, contextual = case.hyper["dominant"], case.hyper["contextual"]
    features = tp.Features(
        hidden[:, 1:],
        encoder=hidden[:, 1:],
        encoder_cls=hidden[:, 0],
        keys=keys[:, 1:],
        cls_attention=case.inputs["cls_attn"],
    )
    # half a token more keeps the share's rounding down at the count that is meant
    strategy = visionzip(share=min(1, (dominant + 0.5) / (dominant + contextual)))
    selection = strategy.select(features, dominant + contextual)
    assert selection.merged is not None
    patches, centres = selection.order[:, : dominant - 1], selection.order[:, dominant - 1 : -1]
    cls = torch.zeros_like(selection.order[:, :1])
    return {
        "tokens": Replayed(selection.merged.tokens, rounded=True),
        "dominant_idx_topk_order": torch.cat([cls, patches + 1], dim=1),
        "dominant_idx_sorted": torch.cat([cls, patches.sort(1).values + 1], dim=1),
        "context_target_idx": centres + 1,
        "context_assign": _rest(nearest_centre(features["keys"], centres), selection.order[:, :-1]),
    }


def _rest(values: Tensor, taken: Tensor) -> Tensor:
    """Entries of (B, N) at all positions but ``taken`` (B, K), ascending."""
    free = torch.ones_like(values, dtype=torch.bool).scatter(1, taken, False)
    return values[free].view(len(values), -1)
