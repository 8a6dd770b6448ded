"""Replay of PruMerge's vectors, PruMerge+ among them; attention and keys are given as the encoder's tap sees them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import tokenprune as tp
from tokenprune.components.absorb import AbsorbNeighbours
from tokenprune.components.outliers import outlier_counts, outliers
from tokenprune.hf.adapters.encoder_attention import wide_attention
from tokenprune.testing.conformance import Case, Replayed
from tokenprune_strategies.prumerge import prumerge, prumerge_plus


def replay(case: Case) -> dict[str, Tensor | Replayed]:
    """Select and merge; without a ratio the count follows from the scores."""
    hyper, values, keys = case.hyper, case.inputs["features"], case.inputs["keys"]
    ratio, plus, n = hyper["ratio"], hyper["plus"], values.shape[1]
    attention = wide_attention(case.inputs["q_cls"].unsqueeze(1), keys)[:, 0, 1:]
    signals: dict[str, Any] = {"cls_wide_attention@-1": attention, "wide_keys@-1": keys[:, 1:]}
    features = tp.Features(values, encoder=values, **signals)
    options = {"neighbours": hyper["neighbours"], "faithful": True, "adaptive": ratio is None}
    strategy = prumerge_plus(ratio=ratio, **options) if plus else prumerge(**options)
    salient = 0 if ratio is None else int(n * ratio)
    keep = 1.0 if ratio is None else (2 * salient if plus else salient) + 1
    selection = strategy.select(features, keep)
    assert selection.merged is not None
    assert isinstance(strategy.merger, AbsorbNeighbours)
    _, rest, slots, near = strategy.merger.absorbed(features, selection.order)
    share = outliers(attention.reshape(1, -1), torch.ones(1, attention.numel(), dtype=torch.bool)).double().mean()
    salient = outlier_counts(attention, features.valid(), "batch")[0] if ratio is None else salient
    centres = selection.order[:, :-1]
    batch, count = centres.shape
    nearest = slots.unsqueeze(1).expand_as(near)[near].view(batch, count, hyper["neighbours"])
    return {
        "cls_attn": attention,
        "ratio": share,
        "topk_idx": centres[:, :salient],
        "centre_idx": centres,
        "rest_idx": rest[:, : int((rest >= 0).sum(1).max())],
        "cluster_idx": nearest.sort(-1).values,
        "tokens": Replayed(selection.merged.tokens, rounded=True),
        "n_tokens": torch.tensor(selection.merged.tokens.shape[1]),
    }
