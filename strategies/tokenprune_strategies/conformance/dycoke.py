"""Replay of DyCoke's vectors: before the language model, and while decoding."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenprune.components.layerwise.decoding import ChangedAttention
from tokenprune.core.schedule import LayerSchedule
from tokenprune.testing.conformance import Case
from tokenprune_strategies.conformance._video import features_of, per_frame, video_of
from tokenprune_strategies.dycoke import dycoke


def replay(case: Case) -> dict[str, Tensor]:
    """One of the two parts."""
    return _merging(case) if case.hyper["kind"] == "ttm" else _decoding(case)


def _merging(case: Case) -> dict[str, Tensor]:
    strategy = dycoke(share=case.hyper["merging_ratio"], faithful=True)
    selection = strategy.select(features_of(case), 1.0)
    return {
        "kept_idx_in_order": selection.sequence[0],
        "kept_idx_sorted": selection.indices[0],
        "tokens_per_frame": per_frame(case, selection.indices[0]),
        "tokens": video_of(case)[selection.sequence[0]],
    }


def _decoding(case: Case) -> dict[str, Tensor]:
    hyper = case.hyper
    found: dict[str, Tensor] = {}
    schedule = dycoke(hidden=hyper["prune_share"], similarity=hyper["similarity_threshold"])
    assert isinstance(schedule, LayerSchedule)
    assert schedule.decoding is not None
    rule = schedule.decoding.rule
    assert isinstance(rule, ChangedAttention)
    start, n = hyper["image_token_start_index"], hyper["image_token_length"]
    behind, before = start + n + hyper["text_after_image"], None
    for step, row in enumerate(case.inputs["attention"]):
        attention = row.mean(0)[None, start : start + n]
        shown = rule.visible(attention, before, torch.ones(1, n, dtype=torch.bool))[0]
        alike = rule.alike(attention, before)[0]
        # the new token and those decoded before it are always seen
        sequence = torch.ones(behind + step + 1, dtype=torch.bool)
        sequence[start : start + n] = shown
        found |= {
            f"kept_seq_step{step}": sequence.nonzero().flatten(),
            f"pruned_step{step}": torch.tensor(int(alike < rule.similarity)),
            f"similarity_step{step}": alike,
        }
        before = attention
    return found
