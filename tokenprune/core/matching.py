"""Budgets at which different strategies process equally many visual tokens, averaged over layers.

What a budget counts differs: a strategy that acts before the language model processes it in every layer, one that acts
after some layers processes all tokens before those and less than the budget, the budget or more after them.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Literal, get_args

from tokenprune.core.budget import Budget
from tokenprune.core.errors import ConfigError, UnreachableBudgetError, closest
from tokenprune.core.strategy import AnyStrategy

__all__ = ["Match", "asked_keep", "checked_match", "matched_keep"]

Match = Literal["kept", "layer-average", "share"]
"""What is equal between strategies at one budget: ``kept``, the number that each is asked for (what it means is the
strategy's own affair, as published); ``layer-average``, the visual tokens that layers process on average; ``share``,
what each is asked for in per cent of a picture's tokens, where pictures differ in how many they have."""


def checked_match(match: str) -> Match:
    """Return what was given, if it is one of :data:`Match`.

    Raises
    ------
    ConfigError
        With the closest one.
    """
    for known in get_args(Match):
        if match == known:
            return known  # type: ignore[no-any-return]
    raise ConfigError(f"match: no {match!r}; {closest(match, get_args(Match))}")


def asked_keep(match: Match, strategy: AnyStrategy, budget: int, n_visual: int, n_layers: int) -> int | float:
    """What a strategy is asked for at a budget, for a unit of ``n_visual`` tokens; never more than these.

    Raises
    ------
    UnreachableBudgetError
        No budget of the strategy has this average.
    """
    if match == "share":
        return budget / 100
    few = min(budget, n_visual)
    return few if match == "kept" else matched_keep(strategy, few, n_visual, n_layers)


def matched_keep(strategy: AnyStrategy, target: int | float, n_visual: int, n_layers: int) -> int:
    """Solve for the budget at which layers process ``target`` visual tokens on average.

    Parameters
    ----------
    strategy : AnyStrategy
        One that acts before the language model gets the target itself.
    target : int or float
        A count, or a ratio of ``n_visual``.
    n_visual : int
        Visual tokens of a unit.
    n_layers : int
        Decoder layers of the model.

    Returns
    -------
    int
        The budget whose average comes nearest (the smaller average of two equally near); of those that share it the
        target, or else the smallest. Budgets are whole, so an average is met to half a step: FastV after 2 of 32
        layers moves in steps of 30/32, DART, which keeps eight equal quotas, in steps of 7.5.

    Raises
    ------
    BudgetError
        The target is not a count or ratio of ``n_visual``.
    UnreachableBudgetError
        A budget of one token already processes more; the message names the smallest average.

    Examples
    --------
    >>> import tokenprune as tp
    >>> matched_keep(tp.build("fastv"), 128, n_visual=576, n_layers=32)
    98
    """
    wanted = Budget(target).counts([n_visual])[0]

    def average(keep: int) -> float:
        return strategy.layer_average(n_visual, n_layers, keep)

    def first(at_least: float) -> int:
        return min(n_visual, 1 + bisect_left(range(1, n_visual + 1), at_least, key=average))

    smallest = average(1)
    if smallest > wanted:
        raise UnreachableBudgetError(
            f"strategy {strategy.name!r} cannot process {wanted} of {n_visual} visual tokens on average over "
            f"{n_layers} layers: its smallest average is {smallest:.1f}, because its first layers see more"
        )
    above = first(wanted)
    below = max(1, above - 1)
    best = min(average(below), average(above), key=lambda value: abs(value - wanted))
    return wanted if average(wanted) == best else first(best)
