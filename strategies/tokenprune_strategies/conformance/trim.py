"""Replay of TRIM's vectors; the joint space is made with the given weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import tokenprune as tp
from tokenprune.testing.conformance import Case, Replayed
from tokenprune_strategies.trim import trim


def replay(case: Case) -> dict[str, Tensor | Replayed]:
    """Select and merge; a share of -1 stands for a count that follows from the scores."""
    hyper, encoder = case.hyper, case.inputs["features"]
    normed = torch.nn.functional.layer_norm(
        encoder, encoder.shape[-1:], case.inputs["ln_weight"], case.inputs["ln_bias"], 1e-5
    )
    joint: dict[str, Any] = {
        "joint_visual": normed @ case.inputs["projection"].mT,
        "joint_text": case.inputs["text_embed"].unsqueeze(1),
    }
    # the text itself is not read where its place in the joint space is given
    features = tp.Features(encoder, encoder=encoder, **joint)
    adaptive = hyper["k"] < 0
    keep = 1.0 if adaptive else int(encoder.shape[1] * hyper["k"]) + 1
    selection = trim(adaptive=adaptive, faithful=True).select(features, keep)
    assert selection.merged is not None
    assert selection.scores is not None
    tokens = selection.merged.tokens
    return {
        "joint_visual": joint["joint_visual"],
        "scores": selection.scores,
        "kept_idx": selection.merged.source[:, :-1],
        "tokens": Replayed(tokens, rounded=True),
        "tokens_fp16": Replayed(tokens.half(), half=True),
        "n_tokens": torch.tensor(tokens.shape[1]),
    }
