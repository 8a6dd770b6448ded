"""Budgets that decide themselves, in fixed shapes: counts are read back first, and the rest is a fixed budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from tokenprune.core.adaptive import Adaptive
from tokenprune.core.budget import Budget
from tokenprune.core.kinds import Problem
from tokenprune.core.strategy import AnyStrategy, Strategy
from tokenprune.hf.adapters.base import Observation
from tokenprune.hf.compiled.plan import Plan
from tokenprune.hf.compiled.stages import unit_features
from tokenprune.hf.request import Request

__all__ = ["adaptive", "settled"]


def adaptive(strategy: AnyStrategy) -> Adaptive | None:
    """The selector that decides how many tokens stay, where there is one and nothing is made of the others."""
    if not isinstance(strategy, Strategy) or strategy.merges:
        return None
    return strategy.selector if isinstance(strategy.selector, Adaptive) else None


@torch.no_grad()
def settled(request: Request, plan: Plan, sizes: Observation, given: Mapping[str, Tensor]) -> Request:
    """The same request with the budgets that its rule found for these prompts; the picks are the same.

    Parameters
    ----------
    request : Request
    plan, sizes, given
        As in :func:`~tokenprune.hf.compiled.stages.assemble`.
    """
    strategy = request.strategy
    selector = adaptive(strategy)
    assert selector is not None
    assert isinstance(strategy, Strategy)
    features = unit_features(request, plan, sizes, given)
    with torch.autocast(features.device.type, enabled=False):
        scores = strategy.scores(features)
        asked = request.budget.counts(plan.sizes)
        counts = selector.counts(Problem(features, scores, asked, features.valid(), sizes=plan.sizes))
    fixed = replace(strategy, selector=selector.fill)
    return replace(request, strategy=fixed, budget=Budget(counts, request.budget.unit))
