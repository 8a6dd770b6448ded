"""Exact optima of small instances by integer programming (SciPy's HiGHS): the judge of bounds on the best picks."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from tokenprune_theory.discrete import Array

__all__ = ["best_coverage", "best_sequence"]


def best_coverage(table: Array, k: int) -> float:
    """Largest sum over rows r of max_{j in S} table_rj over sets of k columns, (R, N) not negative.

    Variables: whether a column is chosen, and which share of a row each chosen column serves.
    """
    rows, n = table.shape
    served = rows * n
    gain = np.concatenate([np.zeros(n), -table.ravel()])
    chosen = np.concatenate([np.ones(n), np.zeros(served)])
    once = np.hstack([np.zeros((rows, n)), np.kron(np.eye(rows), np.ones(n))])
    only_chosen = np.hstack([-np.tile(np.eye(n), (rows, 1)), np.eye(served)])
    constraints = [
        LinearConstraint(chosen, k, k),
        LinearConstraint(once, -np.inf, 1),
        LinearConstraint(only_chosen, -np.inf, 0),
    ]
    whole = np.concatenate([np.ones(n), np.zeros(served)])
    return -_solved(gain, constraints, whole, Bounds(0, 1))


def best_sequence(bonus: Array, pairs: Array, price: float, k: int) -> float:
    """Largest sum of ``bonus_i - price * max_j pairs_ij`` over sequences of k tokens, j over the tokens before i.

    Variables: whether token i is chosen, whether it comes first, by how much it is charged more than the lowest entry
    of the table, and whether i comes before j. The first token is charged nothing.
    """
    n = len(bonus)
    before = {couple: 3 * n + at for at, couple in enumerate(itertools.permutations(range(n), 2))}
    chosen, first, excess = range(n), range(n, 2 * n), range(2 * n, 3 * n)
    size = 3 * n + len(before)
    low = float(pairs.min())
    room = float(pairs.max()) - low
    lines: list[Array] = []
    least: list[float] = []

    def at_least(value: float, **terms: Iterable[int]) -> None:
        line = np.zeros(size)
        line[list(terms.get("plus", ()))] = 1
        line[list(terms.get("minus", ()))] = -1
        lines.append(line)
        least.append(value)

    for places, total in ((chosen, k), (first, 1)):
        at_least(total, plus=places)
        at_least(-total, minus=places)
    for i in range(n):
        at_least(0, plus=[chosen[i]], minus=[first[i]])
    for (i, j), earlier in before.items():
        at_least(0, plus=[chosen[i]], minus=[earlier])
        at_least(0, plus=[chosen[j]], minus=[earlier])
        at_least(-1, minus=[earlier, first[j]])
        if i < j:
            # of two that are chosen, one is before the other, and not both
            at_least(-1, plus=[earlier, before[j, i]], minus=[chosen[i], chosen[j]])
            at_least(-1, minus=[earlier, before[j, i]])
        at_least(float(pairs[j, i]) - low - room, plus=[excess[j]])
        lines[-1][earlier] = -room
    for h, i, j in itertools.permutations(range(n), 3):
        at_least(-1, plus=[before[h, j]], minus=[before[h, i], before[i, j]])
    value = np.concatenate([bonus - price * low, np.full(n, price * low), np.full(n, -price), np.zeros(len(before))])
    whole = np.ones(size)
    whole[list(excess)] = 0
    top = np.ones(size)
    top[list(excess)] = room
    return -_solved(-value, [LinearConstraint(np.array(lines), np.array(least), np.inf)], whole, Bounds(0, top))


def _solved(gain: Array, constraints: list[LinearConstraint], whole: Array, bounds: Bounds) -> float:
    found = milp(gain, constraints=constraints, integrality=whole, bounds=bounds)
    if not found.success:
        raise RuntimeError(f"the integer program was not solved: {found.message}")
    return float(found.fun)
