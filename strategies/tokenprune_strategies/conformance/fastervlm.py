"""Replay of FasterVLM's vectors; rows are images, or the crops of one tiled picture, thumbnail first."""

from __future__ import annotations

import torch
from torch import Tensor

import tokenprune as tp
from tokenprune.testing.conformance import Case
from tokenprune_strategies.fastervlm import fastervlm

CROP = 336
"""Pixels along a side of a crop."""


def replay(case: Case) -> dict[str, Tensor]:
    """Select; tiles are read row by row over the tiled picture."""
    visual = case.inputs["features"]
    features = tp.Features(visual, cls_attention=case.inputs["cls_attn"])
    selection = fastervlm().select(features, case.hyper["visual_token_num"])
    assert selection.scores is not None
    found = {
        "scores": selection.scores,
        "topk_order_idx": selection.order,
        "kept_idx_sorted": selection.indices,
        "tokens": selection.gather(visual),
    }
    if case.hyper.get("anyres"):
        crop, patch = _read(selection.indices, case.hyper["side"], case.hyper["image_size"][0] // CROP)
        found |= {"source_crop": crop, "source_patch": patch, "tokens": visual[crop, patch].unsqueeze(0)}
    return found


def _read(kept: Tensor, side: int, across: int) -> tuple[Tensor, Tensor]:
    """Crop and patch of each kept token: the thumbnail, then the tiles, ``across`` of them side by side."""
    crop = torch.arange(len(kept)).unsqueeze(1).expand_as(kept).flatten()
    patch = kept.flatten()
    down, right = (crop - 1) // across, (crop - 1) % across
    row, column = down * side + patch // side, right * side + patch % side
    place = torch.where(crop == 0, patch, side * side + row * across * side + column)
    order = place.argsort(stable=True)
    return crop[order], patch[order]
