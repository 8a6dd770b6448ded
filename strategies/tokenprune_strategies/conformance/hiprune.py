"""Replay of HiPrune's vectors; attention is made from the given queries and keys, as adapters make it."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

import tokenprune as tp
from tokenprune.components.anchors import AnchorsAndBuffers
from tokenprune.core.kinds import Problem
from tokenprune.hf.adapters.encoder_attention import attention_mean
from tokenprune.testing.conformance import Case, Replayed
from tokenprune_strategies.hiprune import hiprune


def replay(case: Case) -> dict[str, Tensor | Replayed]:
    """Select; images of a call share the budget there."""
    hyper, visual = case.hyper, case.inputs["features"]
    strategy = hiprune(alpha=hyper["alpha"], faithful=True)
    assert isinstance(strategy.selector, AnchorsAndBuffers)
    scores = {name: _received(case, name) for name in ("object", "deep")}
    given: dict[str, Any] = {"mean_attention@9/24": scores["object"], "mean_attention": scores["deep"]}
    features = tp.Features(visual, grid=tp.Grid(*hyper["grid"]), **given)
    budget = hyper["retention"] // len(visual)
    selection = strategy.select(features, budget)
    problem = Problem(features, scores["deep"], (budget,) * len(visual), features.valid())
    anchors, local = strategy.selector.rounds(problem)
    order = selection.order
    registers = [row[~near[row]] for row, near in zip(order, local, strict=True)]
    return {
        "object_scores": scores["object"],
        "deep_scores": scores["deep"],
        "anchor_idx": anchors,
        "local_idx": pad_sequence([near.nonzero().flatten() for near in local], True, -1),
        "register_idx": pad_sequence(registers, True, -1),
        "kept_idx": selection.indices,
        "tokens": selection.gather(visual),
    }


def _received(case: Case, name: str) -> Tensor:
    queries, keys = case.inputs[f"q_{name}"], case.inputs[f"k_{name}"]
    return attention_mean(queries, keys, queries.shape[-1] ** -0.5, skip=1)
