"""Set functions: checks against their definitions, greedy algorithms against brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tokenprune_theory.setfn import (
    TableFunction,
    Violation,
    brute_force_max,
    conforti_cornuejols_bound,
    curvature,
    greedy,
    lattice_violation,
    lazy_greedy,
    modular_violation,
    monotone_violation,
    nemhauser_bound,
    path_violation,
    random_greedy,
    sieve_streaming,
    submodular_violation,
    submodularity_ratio,
    tabulate,
)


@st.composite
def tables(draw, n=(1, 4)):
    size = draw(st.integers(*n))
    return TableFunction(draw(arrays(np.int64, 2**size, elements=st.integers(-3, 3))).astype(np.float64))


@st.composite
def covers(draw):
    """Weighted coverage: monotone, submodular, with many ties."""
    sets = draw(st.lists(st.frozensets(st.integers(0, 5), max_size=4), min_size=2, max_size=6))
    weights = draw(st.lists(st.integers(0, 3), min_size=6, max_size=6))
    return tabulate(lambda s: float(sum(weights[e] for e in frozenset().union(*(sets[i] for i in s)))), len(sets))


def subsets(n):
    return [frozenset(c) for k in range(n + 1) for c in itertools.combinations(range(n), k)]


@given(tables())
def test_checks_are_the_definitions(f):
    every = subsets(f.n)
    outside = {s: [i for i in range(f.n) if i not in s] for s in every}
    gain = {(i, s): f(s | {i}) - f(s) for s in every for i in outside[s]}
    rises = [gain[i, b] - gain[i, a] for a in every for b in every if a < b for i in outside[b]]
    assert bool(submodular_violation(f)) == any(r > 0 for r in rises)
    assert bool(modular_violation(f)) == any(r != 0 for r in rises)
    assert monotone_violation(f).size == max((-g for g in gain.values()), default=-math.inf)
    assert lattice_violation(f).size == max(f(a | b) + f(a & b) - f(a) - f(b) for a in every for b in every)


@given(tables())
def test_witnesses_attain_the_violation(f):
    if f.n > 1:
        worst = submodular_violation(f)
        s, i, j = worst.witness
        assert worst.size == f([*s, i, j]) - f([*s, j]) - f([*s, i]) + f(s)
    loss = monotone_violation(f)
    s, i = loss.witness
    assert loss.size == f(s) - f([*s, i])
    a, b = lattice_violation(f).witness
    assert lattice_violation(f).size == f({*a, *b}) + f({*a} & {*b}) - f(a) - f(b)


@given(tables((2, 4)))
def test_gains_of_a_set_function_depend_on_no_path(f):
    assert not path_violation(lambda i, s: f([*s, i]) - f(s), f.n)


def test_gains_that_depend_on_the_path_are_found():
    worst = path_violation(lambda i, s: float(i == 1 and s == (0,)), 3)
    assert worst.size == 1
    assert worst.witness == ((), 0, 1)
    # every swap adds up, but what stands after two picks depends on which came first
    assert path_violation(lambda i, s: float(len(s) == 2 and s[0] < s[1]), 3).size == 1


def test_nan_is_a_violation():
    assert Violation(math.nan, ())
    assert submodular_violation(TableFunction(np.array([0, 1, math.nan, 1.0])))


@given(covers(), st.integers(1, 4))
def test_greedy_and_lazy_greedy_pick_alike(f, k):
    k = min(k, f.n)
    naive, lazy = greedy(f, k), lazy_greedy(f, k)
    assert naive.order == lazy.order
    assert naive.gains == lazy.gains
    assert lazy.evaluations <= f.n + k * f.n
    assert naive.evaluations == k * f.n - k * (k - 1) // 2
    assert naive.value == f(naive.order)


@given(covers(), st.integers(1, 4))
def test_guarantees(f, k):
    k = min(k, f.n)
    best, chosen = brute_force_max(f, k)
    assert best == max(f(c) for c in itertools.combinations(range(f.n), k))
    assert f(chosen) == best
    value = greedy(f, k).value
    assert value >= nemhauser_bound(k) * best - 1e-9
    assert value >= conforti_cornuejols_bound(curvature(f)) * best - 1e-9
    assert sieve_streaming(f, k, 0.1).value >= 0.4 * best - 1e-9
    assert len(sieve_streaming(f, k, 0.1).order) <= k
    assert submodularity_ratio(f, [(), greedy(f, k).order[:1]], k) == pytest.approx(1)


def test_curvature_of_modular_and_redundant_functions():
    total = tabulate(lambda s: float(len(s)), 4)
    assert curvature(total) == 0
    assert conforti_cornuejols_bound(0) == 1
    same = tabulate(lambda s: float(bool(s)), 4)
    assert curvature(same) == 1
    assert conforti_cornuejols_bound(1) == pytest.approx(1 - 1 / math.e)
    assert nemhauser_bound(2) == 0.75


def test_submodularity_ratio_of_a_synergy():
    both = tabulate(lambda s: float(len(s) == 2) + 0.25 * len(s), 2)
    assert submodularity_ratio(both, [()], 2) == pytest.approx(0.5 / 1.5)


def test_random_greedy_stops_at_losses():
    f = tabulate(lambda s: 1.0 - len(s) if s else 0.0, 3)
    loss = tabulate(lambda s: -float(len(s)), 3)
    assert random_greedy(loss, 3, np.random.default_rng(0)).order == ()
    assert random_greedy(f, 2, np.random.default_rng(0)).value <= 0


def test_random_greedy_mean_on_a_cut():
    """A directed cut, non-monotone: the mean keeps 1/e of the best."""
    edges = [(0, 1), (1, 2), (2, 0), (3, 0), (3, 1)]
    f = tabulate(lambda s: float(sum(a in s and b not in s for a, b in edges)), 4)
    assert monotone_violation(f)
    assert not submodular_violation(f)
    rng = np.random.default_rng(0)
    mean = np.mean([f(random_greedy(f, 2, rng).order) for _ in range(300)])
    assert mean >= brute_force_max(f, 2)[0] / math.e
