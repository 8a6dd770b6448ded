"""Upper bounds on what greedy sequences can reach, where there is no set function: they hold for the data at hand."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from tokenprune.core.errors import ConfigError
from tokenprune.core.kinds import Objective, PairTable, Problem, overridden
from tokenprune.core.optimality import Optimality, retraced, rounding

__all__ = ["dispersion_optimality", "sequence_optimality", "stands"]

SEQUENCE = (
    "any sequence of as many tokens: after t picks a token is charged at least its t-th smallest redundancy, and in "
    "every cell of a partition all but one token at least the smallest one within it; tokens are assigned to steps in "
    "the best way. The share is counted from the least that a sequence can get"
)
DISPERSION = (
    "of as many tokens two lie nearest to the same pick of all but the last, so no farther apart than twice the "
    "largest angle to a pick; angles between tokens are a metric"
)


def stands(objective: Objective) -> None:
    """Raise where a subclass changed the gains that the bound of its parent is a bound of.

    Raises
    ------
    ConfigError
    """
    if overridden(objective, "optimality", {"requires", "run", "oracle", "start", "resume", "columns"}):
        raise ConfigError(f"{objective!r} changes what the bound of its parent stands for: override optimality, too")


def sequence_optimality(
    objective: Objective,
    problem: Problem,
    picks: Tensor,
    bonus: Tensor,
    table: PairTable,
    charged: Tensor | None,
    price: float,
) -> Optimality:
    """Sum of ``bonus_i - price * max_j D_ij`` along a sequence, j over the tokens before i and those of a context.

    Parameters
    ----------
    objective, problem, picks
        As :meth:`~tokenprune.core.kinds.Objective.optimality` is given them.
    bonus : Tensor, (B, N)
    table : PairTable
        D, entry [candidate, selected].
    charged : Tensor, (B, N), or None
        What the context charges for already, -inf in rows without one; None without a context.
    price : float
        Not negative.
    """
    counts = (picks >= 0).sum(1)
    *_, (gains, value, _) = retraced(objective, problem, picks)
    redundancy = table.dense().double()
    found = []
    for row, count in enumerate(counts.tolist()):
        places = problem.available[row].nonzero().flatten()
        among = redundancy[row][places][:, places]
        before = None if charged is None else charged[row, places].double()
        found.append(_range(bonus[row, places].double(), among, before, price, count))
    bound, floor = torch.tensor(found, dtype=torch.float64, device=value.device).view(-1, 2).unbind(1)
    slack = rounding(gains, torch.stack([bound.abs(), floor.abs(), value.abs()]).amax(0), counts)
    return Optimality(value, (bound + slack).maximum(value), (floor - slack).minimum(value), repr(objective), SEQUENCE)


def _range(bonus: Tensor, among: Tensor, charged: Tensor | None, price: float, count: int) -> tuple[float, float]:
    """The most and the least that a sequence of ``count`` tokens can get: (n,), (n, n), (n,)."""
    n = len(bonus)
    if not count:
        return 0.0, 0.0
    own = torch.eye(n, dtype=torch.bool, device=among.device)
    before = torch.full_like(bonus, -math.inf) if charged is None else charged
    highest = among.masked_fill(own, -math.inf).amax(1).maximum(before)
    first = bonus - price * before.where(before > -math.inf, 0)
    least = torch.minimum(first, bonus - price * highest.where(highest > -math.inf, 0))
    # after t picks a token is charged at least the t-th smallest entry of its row, itself apart
    lowest = among.masked_fill(own, math.inf).sort(1).values[:, : count - 1].maximum(before.unsqueeze(1))
    worth = torch.cat([first.unsqueeze(1), bonus.unsqueeze(1) - price * lowest], 1)
    alike = torch.minimum(among, among.T)
    reaches = [_assigned(worth)]
    for cells in sorted({max(1, count // 4), max(1, count // 2), count, min(n, 2 * count)} - {n}):
        cell = _cells(alike, cells)
        # all but the first of a cell are charged at least the smallest entry within it
        within = among.masked_fill(cell.unsqueeze(1) != cell, math.inf).masked_fill(own, math.inf).amin(1)
        crowded = torch.minimum(worth, (bonus - price * within).unsqueeze(1))
        leader = torch.full((cells, count), -math.inf, dtype=worth.dtype, device=worth.device)
        leader = leader.scatter_reduce(0, cell.unsqueeze(1).expand_as(worth), worth, "amax")
        reaches.append(_assigned(torch.cat([leader, crowded])))
    return min(reaches), float(least.topk(count, largest=False).values.sum())


def _cells(alike: Tensor, cells: int) -> Tensor:
    """A partition whose least alike pairs are as alike as complete linkage makes them: (n, n) -> (n,), from 0."""
    # here, so that choosing tokens does not wait for SciPy
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    apart = (alike.max() - alike).cpu().numpy()
    np.fill_diagonal(apart, 0)
    label = fcluster(linkage(squareform(apart, checks=False), "complete"), cells, "maxclust") - 1
    return torch.from_numpy(label).long().to(alike.device)


def _assigned(worth: Tensor) -> float:
    """Largest sum of one row for each column, a different one each; -inf and +inf bounds stand as large numbers."""
    from scipy.optimize import linear_sum_assignment

    table = worth.nan_to_num(neginf=-1e300, posinf=1e300).cpu().numpy()
    rows, columns = linear_sum_assignment(table, maximize=True)
    return float(table[rows, columns].sum())


def dispersion_optimality(objective: Objective, problem: Problem, picks: Tensor) -> Optimality:
    """Smallest angle between picks, in radians, of an objective whose gain is 1 - cosine to the nearest pick."""
    counts = (picks >= 0).sum(1)
    started = torch.zeros_like(counts, dtype=torch.bool)
    if problem.context is not None:
        started = (problem.context >= 0).any(1)
    value = torch.full((len(picks),), math.pi, dtype=torch.float64, device=picks.device)
    radius = value.clone()
    for step, (gains, _, left) in enumerate(retraced(objective, problem, picks)):
        angles = torch.acos((1 - gains.double()).clamp(-1, 1))
        alone = ~started & (step == 0)
        farthest = angles.masked_fill(~left, 0).amax(1)
        radius = farthest.where((step == counts - 1) & ~alone, radius)
        if step < picks.shape[1]:
            pick = picks[:, step]
            own = angles.gather(1, pick.clamp_min(0).unsqueeze(1)).squeeze(1)
            value = value.minimum(own).where((pick >= 0) & ~alone, value)
    # a cosine is rounded by a few units; next to 1 the angle moves by the root of that
    slack = 2 * math.sqrt(8 * torch.finfo(gains.dtype).eps) * (radius < 0.1) + 64 * torch.finfo(gains.dtype).eps
    bound = (2 * radius + slack).clamp_max(math.pi)
    # a single token is as far from others as any
    bound = bound.where((counts > 1) | started, value)
    return Optimality(value, bound.maximum(value), torch.zeros_like(value), repr(objective), DISPERSION)
