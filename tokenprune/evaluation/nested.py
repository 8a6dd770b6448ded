"""Nested selection: where picks do not depend on how many follow, one selection serves all budgets."""

from __future__ import annotations

from collections.abc import Container

import torch

from tokenprune.core.budget import Budget, Keep, Unit
from tokenprune.core.features import Features
from tokenprune.core.selection import Selection
from tokenprune.core.strategy import AnyStrategy, Strategy
from tokenprune.evaluation.memoised import same_value

__all__ = ["NestedSelection"]


class NestedSelection(AnyStrategy):
    """A strategy whose smaller budgets are beginnings of larger ones: one selection for the same features.

    Parameters
    ----------
    strategy : Strategy
        Its selector is ``nested``, and it merges nothing.
    """

    def __init__(self, strategy: Strategy) -> None:
        self.strategy, self.name = strategy, strategy.name
        self.positions, self.text = strategy.positions, strategy.text
        self.known: tuple[Features, Selection] | None = None

    @property
    def requires(self) -> frozenset[str]:
        """As the strategy."""
        return self.strategy.requires

    def reads(self, given: Container[str] = ()) -> frozenset[str]:
        """As the strategy."""
        return self.strategy.reads(given)

    def select(self, features: Features, keep: Keep | Budget, *, unit: Unit | None = None) -> Selection:
        """The first picks of what was selected before, where that was of the same features and no fewer."""
        budget = Budget.of(keep, unit)
        if budget.unit == "frame" or budget.adaptive is not None:
            return self.strategy.select(features, budget)
        counts = torch.tensor(budget.counts(features.counts()), device=features.device)
        if self.known is None or not (_same(self.known[0], features) and bool((self.known[1].counts >= counts).all())):
            self.known = (features, self.strategy.select(features, budget))
        whole = self.known[1]
        order = whole.order[:, : int(counts.max())]
        order = order.masked_fill(torch.arange(order.shape[1], device=order.device) >= counts.unsqueeze(1), -1)
        return Selection.from_order(order, features.n_visual, whole.scores, valid=features.visual_mask)


def _same(a: Features, b: Features) -> bool:
    masks = ((a.visual_mask, b.visual_mask), (a.text_mask, b.text_mask))
    return (
        sorted(a) == sorted(b)
        and a.grids == b.grids
        and all(same_value(a[name], b[name]) for name in a)
        and all(same_value(mine, other) for mine, other in masks)
    )
