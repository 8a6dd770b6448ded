"""Budgets that decide themselves: how many picks are worth keeping, for each unit or for a batch that shares them.

A rule looks at the picks in their order and says what each is worth, never more than the pick before it. A unit keeps
picks while they are worth more than the rule's threshold. A batch that shares ``sum(K)`` tokens keeps the picks that
are worth most, wherever they are, which is the same as one threshold for all units at which the tokens are spent
(water-filling), and the largest total worth that so many tokens can have.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from tokenprune.core.budget import Budget, Keep
from tokenprune.core.errors import BudgetError, ConfigError, FeatureError, NonFiniteError, OptionTypeError
from tokenprune.core.features import Features
from tokenprune.core.groups import Picks
from tokenprune.core.kinds import Component, Objective, Problem, Selector, check_count, check_gains
from tokenprune.core.ranking import TopK

__all__ = ["Adaptive", "BudgetRule", "Evidence", "pick_gains", "water_fill"]


def pick_gains(objective: Objective, problem: Problem, order: Tensor) -> Tensor:
    """Gain of each pick at the moment it was picked: order (B, K), -1 as padding -> (B, K), -inf at padding."""
    state = objective.start(problem.features, problem.scores)
    if problem.context is not None:
        state = objective.resume(state, problem.context)
    found = []
    for index in order.unbind(1):
        gains = objective.gains(state)
        check_gains(objective, gains, tuple(problem.available.shape))
        found.append(gains.gather(1, index.clamp_min(0).unsqueeze(1)))
        state = objective.take(state, index)
    gains = torch.cat(found, dim=1)
    return gains.masked_fill(order < 0, -math.inf)


@dataclass(frozen=True)
class Evidence:
    """What a rule may look at.

    Attributes
    ----------
    problem : Problem
        Features, scores, and the budgets that were asked for (``counts``).
    order : int64 Tensor, (B, K)
        Picks in order, up to the ceiling of each unit; -1 as padding.
    fill : Selector
        What picked them.
    """

    problem: Problem
    order: Tensor
    fill: Selector

    @property
    def features(self) -> Features:
        """Features of the units."""
        return self.problem.features

    @cached_property
    def scores(self) -> Tensor:
        """Score of each pick, (B, K); 0 at padding."""
        return self.problem.scores.gather(1, self.order.clamp_min(0)).masked_fill(self.order < 0, 0)

    @cached_property
    def rank(self) -> Tensor:
        """1, 2, 3 ... of the picks, (K,)."""
        return torch.arange(1, self.order.shape[1] + 1, device=self.order.device, dtype=torch.float64)

    def gains(self, objective: Objective | None = None) -> Tensor:
        """Gain of each pick, (B, K), -inf at padding: of ``objective``, or of what the picks were made by.

        Raises
        ------
        ConfigError
            The picks were made by no objective, and none is given.
        """
        own = objective or getattr(self.fill, "objective", None)
        if own is not None:
            return pick_gains(own, self.problem, self.order)
        if isinstance(self.fill, TopK):
            return self.scores.masked_fill(self.order < 0, -math.inf)
        raise ConfigError(
            f"{type(self.fill).__name__} picks by no objective, whose gains this rule reads: give the rule one "
            "(objective=...), or use a selector 'greedy' or 'top-k'"
        )


class BudgetRule(Component):
    """What each pick is worth, given those before it.

    Attributes
    ----------
    scales : bool
        The budget asked for enters the worth (twice the budget keeps about twice as many); otherwise it only caps.
    uses_scores : bool
        False where a strategy may leave out the scorer.
    """

    kind = "budgets"
    scales: ClassVar[bool] = False
    uses_scores: ClassVar[bool] = True

    @property
    @abstractmethod
    def least(self) -> float:
        """A pick is kept while it is worth more than this."""

    @abstractmethod
    def worth(self, evidence: Evidence) -> Tensor:
        """Worth of each pick, (B, K), in any floating precision; what stands at padding is ignored.

        Where a pick is worth more than one before it, it counts as that one: picks are kept from the first on.
        """


def water_fill(worth: Tensor, total: int, floors: Tensor, ceilings: Tensor) -> Tensor:
    """Share ``total`` tokens so that the sum of worth is largest.

    Exact: worth does not rise along a row, so that the best picks of all rows are beginnings of rows.

    Parameters
    ----------
    worth : Tensor, (B, K)
        Does not rise along a row.
    total : int
        Between the sums of floors and ceilings.
    floors, ceilings : int64 Tensor, (B,)
        Fewest and most tokens of each row, ceilings at most K.

    Returns
    -------
    int64 Tensor, (B,)
        Counts with that sum. Between picks of equal worth the earlier pick comes first, then the lower row.

    Raises
    ------
    BudgetError
        No counts within floors and ceilings have that sum.
    """
    low, high = int(floors.sum()), int(ceilings.sum())
    if not low <= total <= high:
        raise BudgetError(f"{total} tokens cannot be shared by units that keep {low} at least and {high} at most")
    rank = torch.arange(worth.shape[1], device=worth.device)
    given = rank < floors.unsqueeze(1)
    open_ = (rank < ceilings.unsqueeze(1)) & ~given
    # pick by pick, rows within: a stable sort then leaves ties in that order
    flat = worth.masked_fill(~open_, -math.inf).t().flatten()
    # what may be kept comes before what may not, whatever it is worth
    kept = torch.zeros_like(flat, dtype=torch.bool)
    candidates = open_.t().flatten().nonzero().flatten()
    best = candidates[flat[candidates].argsort(descending=True, stable=True)[: total - low]]
    kept[best] = True
    return floors + kept.view(worth.shape[1], worth.shape[0]).sum(0)


@dataclass(frozen=True)
class Adaptive(Selector):
    """As many of another selector's picks as a rule finds worth keeping.

    Parameters
    ----------
    rule : BudgetRule
        See ``tokenprune list budgets``.
    fill : Selector, default ``TopK()``
        Picks in order. One whose smaller budgets are beginnings of larger ones (``nested``) picks once.
    floor : int or float, default 1
        Fewest tokens a unit keeps, a count or a ratio; units that have fewer keep all.
    ceiling : int or float, optional
        Most tokens a unit keeps. By default the budget asked for; all of the unit's where the batch shares its tokens
        or the rule scales with the budget.
    shared : bool, default False
        Whether the units of a batch share their budgets: B units of budget K keep B K tokens together, those worth
        most. What a unit keeps then depends on its batch.
    bucket : int, default 1
        Counts are rounded up to multiples of this (at most the ceiling): programs of fixed shape are then few.
    """

    rule: BudgetRule
    fill: Selector = TopK()  # noqa: RUF009  (immutable)
    floor: Keep = 1
    ceiling: Keep | None = None
    shared: bool = False
    bucket: int = 1
    own_counts = True
    neutral = False

    def __post_init__(self) -> None:
        if not isinstance(self.rule, BudgetRule):
            raise OptionTypeError(f"Adaptive.rule must be a BudgetRule, got {self.rule!r}")
        if not isinstance(self.fill, Selector) or self.fill.own_counts:
            raise OptionTypeError(f"Adaptive.fill must be a selector that keeps what it is asked, got {self.fill!r}")
        if not isinstance(self.shared, bool):
            raise OptionTypeError(f"Adaptive.shared must be True or False, got {self.shared!r}")
        check_count(self, "bucket", 1)
        for name in ("floor", "ceiling"):
            value = getattr(self, name)
            if value is not None:
                if not isinstance(value, int | float):
                    raise OptionTypeError(f"Adaptive.{name} must be a count or a ratio, got {value!r}")
                Budget(value)
        if self.shared and self.bucket > 1:
            raise ConfigError("Adaptive.bucket rounds counts up, and a batch that shares its tokens has none to add")

    @property
    def uses_scores(self) -> bool:  # type: ignore[override]
        """Where the picks or the rule do."""
        return self.fill.uses_scores or self.rule.uses_scores

    @property
    def uses_budget(self) -> bool:  # type: ignore[override]
        """Not where the ceiling is fixed and the rule does not scale."""
        return self.ceiling is None or self.shared or self.rule.scales

    @property
    def distinct(self) -> bool:  # type: ignore[override]
        """As ``fill``."""
        return self.fill.distinct

    @property
    def gives_groups(self) -> bool:  # type: ignore[override]
        """As ``fill``."""
        return self.fill.gives_groups

    def select(self, problem: Problem) -> Tensor:
        """The picks that are worth keeping."""
        return self.choose(problem).order

    def choose(self, problem: Problem) -> Picks:
        """The same, with what else ``fill`` knows of them."""
        floors, ceilings = self.bounds(problem)
        whole = self.fill.choose(replace(problem, counts=ceilings))
        counts = self._counts(problem, whole.order, floors, ceilings)
        if not self.fill.nested:
            return self.fill.choose(replace(problem, counts=counts))
        order = whole.order[:, : max(counts)]
        limit = torch.tensor(counts, device=order.device).unsqueeze(1)
        order = order.masked_fill(torch.arange(order.shape[1], device=order.device) >= limit, -1)
        return replace(whole, order=order)

    def counts(self, problem: Problem) -> tuple[int, ...]:
        """How many tokens each unit keeps."""
        floors, ceilings = self.bounds(problem)
        return self._counts(problem, self.fill.select(replace(problem, counts=ceilings)), floors, ceilings)

    def bounds(self, problem: Problem) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Fewest and most tokens of each unit.

        Raises
        ------
        BudgetError
            The floor is above what a unit may keep, though the unit has as many tokens.
        """
        sizes = problem.size()
        floors = Budget(self.floor, clip=True).counts(sizes)
        if self.ceiling is not None:
            ceilings = Budget(self.ceiling, clip=True).counts(sizes)
        else:
            ceilings = tuple(sizes) if self.shared or self.rule.scales else problem.counts
        for low, high, size in zip(floors, ceilings, sizes, strict=True):
            if low > high:
                raise BudgetError(
                    f"Adaptive.floor={self.floor!r} is {low} tokens of {size}, more than the {high} that a unit may "
                    "keep at most: lower the floor, or raise the budget or the ceiling"
                )
        return floors, ceilings

    def _counts(
        self, problem: Problem, order: Tensor, floors: tuple[int, ...], ceilings: tuple[int, ...]
    ) -> tuple[int, ...]:
        worth = self.rule.worth(Evidence(problem, order, self.fill))
        if not isinstance(worth, Tensor) or worth.shape != order.shape:
            got = tuple(worth.shape) if isinstance(worth, Tensor) else type(worth).__name__
            raise FeatureError(f"{self.rule!r} must return a worth for each pick, {tuple(order.shape)}, got {got}")
        worth = worth.masked_fill(order < 0, -math.inf)
        if bool(worth.isnan().any()):
            raise NonFiniteError(f"{self.rule!r}: the worth of a pick is NaN")
        worth = worth.cummin(1).values
        if self.shared:
            low, high = (torch.tensor(bound, device=worth.device) for bound in (floors, ceilings))
            total = min(max(sum(problem.counts), sum(floors)), sum(ceilings))
            return tuple(water_fill(worth, total, low, high).tolist())
        wanted = (worth > self.rule.least).sum(1).tolist()
        rounded = [-(-n // self.bucket) * self.bucket for n in wanted]
        return tuple(min(max(n, low), high) for n, low, high in zip(rounded, floors, ceilings, strict=True))
