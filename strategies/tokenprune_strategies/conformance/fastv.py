"""Replay of FastV's vectors."""

from __future__ import annotations

import torch
from torch import Tensor

import tokenprune as tp
from tokenprune.testing.conformance import Case
from tokenprune_strategies.conformance._sequence import spliced
from tokenprune_strategies.fastv import fastv


def replay(case: Case) -> dict[str, Tensor]:
    """Select by the last row; positions are kept, so the kept positions of the sequence are its position ids."""
    start, n = case.hyper["image_start"], case.hyper["N"]
    hidden, attention = case.inputs["hidden_states"], case.inputs["attn_last_row"]
    features = tp.Features(hidden[None, start : start + n], attention=attention[None, :, None, start : start + n])
    selection = fastv().select(features, case.hyper["keep"])
    assert selection.scores is not None
    keep = spliced(torch.arange(hidden.shape[0]), start, n, selection.indices[0] + start)
    return {
        "keep_indexs": keep,
        "kept_visual": selection.indices[0],
        "topk_order": selection.order[0],
        "scores": selection.scores[0],
        "hidden_out": hidden[keep],
    }
