"""How far picks are from the best that as many tokens could reach: an upper bound, computed on request.

Greedy selection says nothing of how good its picks are. For a submodular objective every prefix of the picks bounds
what any set can reach (Nemhauser, Wolsey and Fisher 1978; Minoux 1978): after picks S, no token adds more than its
gain now, so k tokens add no more than the k largest gains do. The smallest of these bounds holds for these features;
it is often far better than the 1 - 1/e that holds for all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tokenprune.core.errors import ConfigError
from tokenprune.core.indexing import as_mask

if TYPE_CHECKING:
    from tokenprune.core.kinds import Objective, Problem

__all__ = ["Optimality", "largest_sum", "retraced", "rounding", "submodular_optimality", "top_optimality"]

MODULAR = "gains do not depend on the picks, so that the largest are the best"
SUBMODULAR = "gains of a submodular objective are largest at the start; since it may fall, later picks bound nothing"
ONLINE = "online bound of a monotone submodular objective, the smallest over all prefixes of the picks"


@dataclass(frozen=True, eq=False)
class Optimality:
    """What picks are worth, and what no picks of as many tokens exceed.

    Attributes
    ----------
    value : float64 Tensor, (B,)
        What the objective gives the picks.
    bound : float64 Tensor, (B,)
        No picks of as many tokens get more.
    floor : float64 Tensor, (B,)
        No picks get less; 0 where gains are not negative, -inf where nothing is known.
    measure : str
        The objective whose value this is.
    basis : str
        What the bound rests on.
    """

    value: Tensor
    bound: Tensor
    floor: Tensor
    measure: str
    basis: str

    @property
    def ratio(self) -> Tensor:
        """Share of what can be reached that the picks are certain to reach, (B,) in [0, 1]; NaN without a floor.

        ``value / bound`` where the floor is 0; elsewhere both are measured from the floor. 1 says: optimal.
        """
        room = self.bound - self.floor
        some = room > 1e-12 * self.bound.abs().maximum(self.floor.abs())
        share = torch.where(some, (self.value - self.floor) / room.where(some, 1), 1).clamp(0, 1)
        return share.masked_fill(self.floor.isinf(), torch.nan)

    @property
    def gap(self) -> Tensor:
        """By how much the best picks can be better at most, (B,)."""
        return self.bound - self.value

    def __repr__(self) -> str:
        shares = ", ".join("no share known" if share != share else f"{share:.1%}" for share in self.ratio.tolist())
        return f"Optimality(at least {shares} of the best {self.measure})"


def largest_sum(values: Tensor, counts: Tensor) -> Tensor:
    """Sum of the largest ``counts`` values of each row: (B, N), (B,) -> (B,)."""
    most = int(counts.max()) if len(counts) else 0
    inside = torch.arange(most, device=values.device) < counts.unsqueeze(1)
    return values.topk(most, dim=1).values.where(inside, 0).sum(1)


def retraced(objective: Objective, problem: Problem, picks: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield gains (B, N), the total so far (B,) and candidates left (B, N), before each pick and after the last."""
    state = objective.start(problem.features, problem.scores)
    if problem.context is not None:
        state = objective.resume(state, problem.context)
    total = torch.zeros(len(picks), dtype=torch.float64, device=picks.device)
    n = problem.available.shape[1]
    for step in range(picks.shape[1] + 1):
        gains = objective.gains(state)
        yield gains, total, problem.available & ~as_mask(picks[:, :step], n)
        if step < picks.shape[1]:
            pick = picks[:, step]
            own = gains.double().gather(1, pick.clamp_min(0).unsqueeze(1)).squeeze(1)
            total = total + own.where(pick >= 0, 0)
            state = objective.take(state, pick)


def submodular_optimality(objective: Objective, problem: Problem, picks: Tensor) -> Optimality:
    """Value of picks under a submodular objective, and an upper bound on the best.

    Parameters
    ----------
    objective : Objective
    problem : Problem
        What the picks were chosen for. With a context, value and bound are of what is added to it.
    picks : int64 Tensor, (B, K)
        In the order picked, -1 as padding.

    Raises
    ------
    ConfigError
        The objective does not declare that it is submodular: nothing bounds the best picks then.
    """
    counts = (picks >= 0).sum(1)
    steps = retraced(objective, problem, picks)
    if objective.modular or not objective.monotone:
        if not (objective.modular or objective.submodular):
            raise ConfigError(f"no bound on the best picks is known for {objective!r}: it is not declared submodular")
        first, value, left = next(steps)
        for _, value, _ in steps:  # noqa: B007  (the last total is the value)
            pass
        gains = first.double()
        bound = largest_sum(gains.masked_fill(~left, -math.inf), counts)
        if objective.modular:
            floor = -largest_sum((-gains).masked_fill(~left, -math.inf), counts)
            return Optimality(value, bound.maximum(value), floor.minimum(value), repr(objective), MODULAR)
        slack = rounding(first, largest_sum(gains.abs().masked_fill(~left, 0), counts), counts)
        nothing = torch.full_like(value, -math.inf)
        return Optimality(value, (bound + slack).maximum(value), nothing, repr(objective), SUBMODULAR)
    reaches = []
    for gains, value, left in steps:
        # a set may hold tokens that are picked already, which then add nothing
        more = largest_sum(gains.double().clamp_min(0).masked_fill(~left, 0), counts)
        reaches.append(value + more + rounding(gains, value.abs() + more, counts))
    bound = torch.stack(reaches).amin(0).maximum(value)
    return Optimality(value, bound, torch.zeros_like(value), repr(objective), ONLINE)


def rounding(gains: Tensor, size: Tensor, counts: Tensor) -> Tensor:
    """What rounding every gain once may hide, of sums of this size."""
    return (counts + 1) * torch.finfo(gains.dtype).eps * size


def top_optimality(problem: Problem, picks: Tensor) -> Optimality:
    """The same for the sum of the scores, which the largest make as large as can be."""
    counts = (picks >= 0).sum(1)
    scores = problem.scores.double()
    value = scores.gather(1, picks.clamp_min(0)).where(picks >= 0, 0).sum(1)
    bound = largest_sum(scores.masked_fill(~problem.available, -math.inf), counts)
    floor = -largest_sum((-scores).masked_fill(~problem.available, -math.inf), counts)
    return Optimality(value, bound.maximum(value), floor.minimum(value), "sum of scores", MODULAR)
