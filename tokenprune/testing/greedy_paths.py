"""Whole pick sequences of an objective, by every route, against picks found from scratch."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from tokenprune.components.selectors import Greedy, Optimizer
from tokenprune.core.errors import TokenPruneError
from tokenprune.core.kinds import Objective, Problem, check_gains
from tokenprune.testing.instances import Instance, halves, row_of

__all__ = ["try_objective"]

CLOSE = 1e-6
"""How far gains may be from each other, as a share of those compared; features are float64."""
NOISE = 1e-9
"""The same, as a share of the largest gain: where differences of large numbers are small."""


Fail = Callable[[str, Instance], NoReturn]
"""Raises, naming what is wrong and the instance."""


class _Path:
    """Gains after any picks of a batch; each is computed once, from a fresh start."""

    def __init__(self, objective: Objective, instance: Instance, fail: Fail) -> None:
        self.objective, self.instance, self.fail = objective, instance, fail
        self.shape = tuple(instance.scores.shape)
        self.real = instance.features.valid()

    def start(self) -> Any:
        return self.objective.start(self.instance.features, self.instance.scores.clone())

    def state(self, picks: Sequence[Sequence[int]]) -> Any:
        """State after these picks of each row, -1 where a row has fewer."""
        state = self.start()
        for step in range(max((len(row) for row in picks), default=0)):
            state = self.objective.take(state, torch.tensor([row[step] if step < len(row) else -1 for row in picks]))
        return state

    def gains(self, state: Any) -> Tensor:
        gains = self.objective.gains(state)
        try:
            check_gains(self.objective, gains, self.shape)
        except TokenPruneError as error:
            self.fail(str(error), self.instance)
        if not bool(torch.isfinite(gains.masked_fill(~self.real, 0)).logical_or(gains == -math.inf).all()):
            self.fail(f"a gain is NaN or +infinity: {gains.tolist()}", self.instance)
        return gains.detach().double().clone()


def _near(a: float, b: float, scale: float) -> bool:
    return a == b or abs(a - b) <= CLOSE * max(abs(a), abs(b)) + NOISE * scale


def _scale(gains: Tensor, real: Tensor) -> float:
    finite = gains.masked_fill(~real | ~torch.isfinite(gains), 0)
    return float(finite.abs().max())


def try_objective(objective: Objective, instance: Instance, fail: Fail) -> None:
    """Try everything that selectors rely on, and everything that is declared."""
    path = _Path(objective, instance, fail)
    _pure(path)
    order = [_greedy(path, row) for row in range(path.shape[0])]
    _alone(path, order)
    _routes(path)
    _half(path)
    if not objective.uses_scores:
        other = objective.gains(objective.start(instance.features, instance.scores.flip(1) + 1))
        if not torch.equal(path.gains(path.start()), other.detach().double()):
            fail("uses_scores is False, and other scores give other gains", instance)
    draw = random.Random(path.shape[1])
    for row in range(path.shape[0]):
        real = path.real[row].nonzero().flatten().tolist()
        for picks in (order[row], real, real[::-1], draw.sample(real, len(real)), draw.sample(real, len(real))):
            _declared(path, row, picks)


def _pure(path: _Path) -> None:
    """The same twice, whatever was drawn between, and no state changed by picking from it."""
    scores = path.instance.scores.clone()
    start = path.objective.start(path.instance.features, scores)
    before = path.gains(start)
    if not torch.equal(scores, path.instance.scores):
        path.fail("start changes the scores that it was given", path.instance)
    torch.manual_seed(torch.initial_seed() + 1)
    if not torch.equal(path.gains(path.start())[path.real], before[path.real]):
        path.fail("gains of the same features differ from call to call", path.instance)
    first = path.real.to(torch.int8).argmax(1)
    path.objective.take(start, first)
    if not torch.equal(path.gains(start)[path.real], before[path.real]):
        path.fail("take changes the state that it was given", path.instance)
    nothing = path.gains(path.objective.take(path.start(), torch.full_like(first, -1)))
    if not torch.equal(nothing[path.real], before[path.real]):
        path.fail("take with -1 picks something", path.instance)


def _best(gains: Tensor, left: Sequence[int]) -> int:
    return max(left, key=lambda i: (float(gains[i]), -i))


def _greedy(path: _Path, row: int) -> list[int]:
    """Picks of one row while the others pick nothing: the other rows' gains must stay, the oracle's must agree."""
    real = path.real[row].nonzero().flatten().tolist()
    others = path.real.clone()
    others[row] = False
    start = path.start()
    before = path.gains(start)
    oracle = path.objective.oracle(start, row)
    state, picks = path.start(), list[int]()
    while len(picks) < len(real):
        gains = path.gains(state)
        if not torch.equal(gains[others], before[others]):
            path.fail(f"picks {picks} of row {row} change the gains of other rows", path.instance)
        left = [i for i in real if i not in picks]
        for i in left:
            if (one := oracle.gain(i)) != float(gains[row, i]):
                what = f"the oracle says {one} for token {i} after picks {picks} of row {row}, gains say"
                path.fail(f"{what} {float(gains[row, i])}", path.instance)
        picks.append(_best(gains[row], left))
        oracle.take(picks[-1])
        state = path.objective.take(state, torch.tensor([picks[-1] if b == row else -1 for b in range(path.shape[0])]))
    return picks


def _alone(path: _Path, order: list[list[int]]) -> None:
    """A row's gains without the other rows and without padding, after each prefix of its picks, and in a batch."""
    longest = max(map(len, order))
    turned = path.instance.scores.shape[0] - 1
    for size in range(longest):
        gains = path.gains(path.state([row[:size] for row in order]))
        for row, picks in enumerate(order):
            if len(picks) <= size:
                continue
            real = path.real[row].nonzero().flatten().tolist()
            where = {token: i for i, token in enumerate(real)}
            for padded in [False, True] if turned else [False]:
                single = _Path(path.objective, row_of(path.instance, row, padded=padded), path.fail)
                taken = picks[:size] if padded else [where[i] for i in picks[:size]]
                alone = single.gains(single.state([taken]))[0]
                scale = _scale(gains[row : row + 1], path.real[row : row + 1])
                for i in set(real) - set(picks[:size]):
                    here, there = float(gains[row, i]), float(alone[i if padded else where[i]])
                    if not _near(here, there, scale):
                        what = "other rows of the batch" if padded else "padding, or other rows,"
                        path.fail(
                            f"{what} decide the gain of token {i} in row {row} after {picks[:size]}: "
                            f"{here} among them, {there} alone",
                            path.instance,
                        )


def _retraced(
    path: _Path, picks: Tensor, counts: Sequence[int], context: list[list[int]], route: str, available: Tensor
) -> None:
    """Each row's picks must be best at each step by gains made from scratch, ties to the lowest index."""
    if tuple(picks.shape) != (path.shape[0], max(counts)) or picks.dtype != torch.long:
        path.fail(f"{route} returned {picks.dtype} picks of shape {tuple(picks.shape)}", path.instance)
    for step in range(max(counts)):
        done = [context[b] + picks[b, :step].tolist() for b in range(path.shape[0])]
        active = [step < count for count in counts]
        gains = path.gains(path.state([[i for i in row if i >= 0] for row in done]))
        for row, running in enumerate(active):
            pick = int(picks[row, step])
            if not running:
                if pick != -1:
                    path.fail(f"{route} picks {pick} in row {row} behind its count {counts[row]}", path.instance)
                continue
            left = [i for i in available[row].nonzero().flatten().tolist() if i not in done[row]]
            best = _best(gains[row], left)
            if pick == best:
                continue
            value, most = (float(gains[row, pick]) if pick in left else math.nan), float(gains[row, best])
            if value == most or not _near(value, most, _scale(gains[row : row + 1], path.real[row : row + 1])):
                path.fail(
                    f"{route} picks token {pick} in row {row} after {done[row]} where token {best} is next: "
                    f"gains {value} and {most}",
                    path.instance,
                )


def _routes(path: _Path) -> None:
    objective, instance = path.objective, path.instance
    optimizers: list[Optimizer] = ["vectorized", "naive"]
    if objective.non_increasing_gains:
        optimizers.append("lazy")
    sizes = [int(c) for c in path.real.sum(1)]
    for held in (0, 1, 2):
        if min(sizes) <= held:
            continue
        # ragged: the last row brings one pick fewer, and every row asks for all it has left
        context = [
            path.real[b].nonzero().flatten().tolist()[::-1][: max(0, held - (b == 1))] for b in range(len(sizes))
        ]
        available = path.real.clone()
        for row, picks in enumerate(context):
            available[row, picks] = False
        counts = tuple(int(c) for c in available.sum(1))
        width = max(map(len, context))
        past = torch.tensor([row + [-1] * (width - len(row)) for row in context]).view(len(sizes), -1).long()
        given = past if width else None
        resumed = path.gains(objective.resume(path.start(), past)) if width else None
        if resumed is not None and not torch.equal(resumed[available], path.gains(path.state(context))[available]):
            path.fail(f"resume after {context} gives other gains than taking the picks one by one", instance)
        for optimizer in optimizers:
            problem = Problem(instance.features, instance.scores.clone(), counts, available, given)
            found = Greedy(objective, optimizer).select(problem)
            _retraced(path, found, counts, context, f"greedy selection ({optimizer})", available)
        state = path.start() if given is None else objective.resume(path.start(), past)
        ran = objective.run(state, available.clone(), counts, False)
        if ran is not None:
            _retraced(path, ran, counts, context, "run", available)


def _half(path: _Path) -> None:
    """As models have it: signals in half precision, scores in float32. What is picked must be there, and all of it."""
    for low, _ in halves(path.instance, list(path.instance.features)):
        counts = tuple(int(c) for c in path.real.sum(1))
        problem = Problem(low.features, path.instance.scores.float(), counts, path.real.clone())
        for row, picks in enumerate(Greedy(path.objective).select(problem).tolist()):
            kept = [i for i in picks if i >= 0]
            if sorted(kept) != path.real[row].nonzero().flatten().tolist():
                path.fail(f"in half precision row {row} picks {kept}", path.instance)


def _declared(path: _Path, row: int, picks: list[int]) -> None:
    """Declared properties along one sequence of picks of one row, to its end."""
    objective = path.objective
    single = _Path(objective, row_of(path.instance, row, padded=True), path.fail)
    state = single.start()
    first = single.gains(state)[0]
    scale = _scale(first[None], single.real)
    before, taken = first, list[int]()

    def wrong(name: str, token: int, was: float, now: float) -> None:
        path.fail(
            f"declares {name}, and the gain of token {token} in row {row} is {now} after picks {taken}, {was} before",
            path.instance,
        )

    for pick in picks[:-1]:
        for token in [i for i in picks if i not in taken]:
            if objective.monotone and float(before[token]) < -NOISE * scale:
                wrong("monotone", token, 0.0, float(before[token]))
        previous, state = state, objective.take(state, torch.tensor([pick]))
        gains = single.gains(state)[0]
        taken.append(pick)
        for token in [i for i in picks if i not in taken]:
            was, now = float(before[token]), float(gains[token])
            rises = now > was and not _near(was, now, scale)
            if objective.modular and float(first[token]) != now:
                wrong("modular", token, float(first[token]), now)
            if objective.non_increasing_gains and len(taken) > 1 and now > was:
                wrong("non_increasing_gains", token, was, now)
            if objective.submodular and rises:
                wrong("submodular", token, was, now)
            if objective.submodular or objective.monotone:
                swapped = single.gains(objective.take(previous, torch.tensor([token])))[0]
                one, other = float(before[pick]) + now, float(before[token]) + float(swapped[pick])
                if math.isfinite(one) and math.isfinite(other) and not _near(one, other, scale + abs(one)):
                    path.fail(
                        f"declares a set function, and picks {[*taken, token]} are worth {one} at the end, "
                        f"{[*taken[:-1], token, pick]} {other}",
                        path.instance,
                    )
        before = gains
