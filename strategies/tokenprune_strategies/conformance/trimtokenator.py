"""Replay of TrimTokenator's consistency vectors (there is no official code)."""

from __future__ import annotations

import torch
from torch import Tensor

import tokenprune as tp
from tokenprune.components.selectors import Prefilter
from tokenprune.core.kinds import Problem
from tokenprune.testing.conformance import Case
from tokenprune_strategies.trimtokenator import trimtokenator


def replay(case: Case) -> dict[str, Tensor]:
    """Select; the survivors of stage 1 are read off the selector."""
    features = tp.Features(case.inputs["vis"][None], case.inputs["text"][None])
    survivors, keep, n = case.hyper["n1"], case.hyper["n2"], features.n_visual
    # half a token more keeps the share's rounding down at the count that is meant
    strategy = trimtokenator(share=min(1, (survivors + 0.5) / n))
    selection = strategy.select(features, keep)
    assert isinstance(strategy.selector, Prefilter)
    assert selection.scores is not None
    problem = Problem(features, selection.scores, (keep,), torch.ones(1, n, dtype=torch.bool))
    return {
        "align": selection.scores[0],
        "stage1": strategy.selector.survivors(problem)[0],
        "greedy_order": selection.order[0],
        "kept": selection.indices[0],
    }
