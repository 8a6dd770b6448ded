"""Upper bounds on what greedy sequences can reach, where there is no set function: they hold for the data at hand."""

from __future__ import annotations

import math

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from tokenprune.core.errors import ConfigError
from tokenprune.core.kinds import Objective, PairTable, Problem, overridden
from tokenprune.core.optimality import Optimality, replayed, rounding

__all__ = ["dispersion_optimality", "sequence_optimality", "stands"]

SEQUENCE = (
    "any sequence of as many tokens: after t picks a token is charged at least its t-th smallest redundancy, and "
    "tokens are assigned to steps in the best way; the share is counted from the least that a sequence can get"
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
    most = max(1, int(counts.max()))
    *_, (gains, value, _) = replayed(objective, problem, picks)
    lowest, highest = _charges(table, problem.available, max(most - 1, 1))
    before = torch.full_like(bonus, -math.inf) if charged is None else charged
    value_of = bonus.double()
    # the first token of a sequence is charged for the context alone, and for nothing without one
    steps = [before.double(), *(torch.maximum(low, before).double() for low in lowest.unbind(2))][:most]
    worth = torch.stack([value_of - price * step.where(step > -math.inf, 0) for step in steps], dim=2)
    rows = list(zip(problem.available, counts.tolist(), strict=True))
    best = [_assigned(table[mask][:, :count]) for table, (mask, count) in zip(worth, rows, strict=True)]
    bound = torch.stack(best).to(value.device)
    dearest = torch.maximum(highest, before).double()
    least = torch.minimum(worth[:, :, 0], value_of - price * dearest.where(dearest > -math.inf, 0))
    worst = [row[mask].topk(count, largest=False).values.sum() for row, (mask, count) in zip(least, rows, strict=True)]
    floor = torch.stack(worst)
    slack = rounding(gains, torch.stack([bound.abs(), floor.abs(), value.abs()]).amax(0), counts)
    return Optimality(value, (bound + slack).maximum(value), (floor - slack).minimum(value), repr(objective), SEQUENCE)


def _charges(table: PairTable, available: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """The smallest entries of each candidate's row, ascending (B, N, steps), and the largest (B, N); itself apart."""
    lowest, highest = [], []
    for rows, block in table.blocks():
        place = torch.arange(block.shape[1], device=block.device) + (rows.start or 0)
        others = available.unsqueeze(1).expand(block.shape).clone()
        others[:, torch.arange(block.shape[1], device=block.device), place] = False
        # where fewer others are than steps, the rest of a row is charged like its dearest
        top = block.masked_fill(~others, -math.inf).amax(2)
        low = block.where(others, top.unsqueeze(2)).topk(min(steps, block.shape[2]), dim=2, largest=False).values
        lowest.append(low)
        highest.append(top)
    return torch.cat(lowest, 1), torch.cat(highest, 1)


def _assigned(worth: Tensor) -> Tensor:
    """Largest sum of one token for each step, a different one each: (n, steps) -> ()."""
    table = worth.cpu().numpy()
    tokens, steps = linear_sum_assignment(table, maximize=True)
    return torch.tensor(float(table[tokens, steps].sum()), dtype=torch.float64)


def dispersion_optimality(objective: Objective, problem: Problem, picks: Tensor) -> Optimality:
    """Smallest distance 1 - cosine between picks, of an objective whose gain is the distance to the nearest pick."""
    counts = (picks >= 0).sum(1)
    started = torch.zeros_like(counts, dtype=torch.bool)
    if problem.context is not None:
        started = (problem.context >= 0).any(1)
    value = torch.full((len(picks),), 2.0, dtype=torch.float64, device=picks.device)
    radius = value.clone()
    for step, (gains, _, left) in enumerate(replayed(objective, problem, picks)):
        distances = gains.double()
        alone = ~started & (step == 0)
        farthest = distances.masked_fill(~left, 0).amax(1)
        radius = farthest.where((step == counts - 1) & ~alone, radius)
        if step < picks.shape[1]:
            pick = picks[:, step]
            own = distances.gather(1, pick.clamp_min(0).unsqueeze(1)).squeeze(1)
            value = value.minimum(own).where((pick >= 0) & ~alone, value)
    angle = torch.acos((1 - radius - 4 * torch.finfo(gains.dtype).eps).clamp(-1, 1))
    bound = 1 - torch.cos((2 * angle).clamp_max(math.pi))
    # a single token is as far from others as any
    bound = bound.where((counts > 1) | started, value)
    return Optimality(value, bound.maximum(value), torch.zeros_like(value).minimum(value), repr(objective), DISPERSION)
