"""Mistakes planted in the theory's own algorithms and checks: each is told from the real thing by the test named here.

A property that is never seen to fail may be one that cannot. Every property below passes on what the package has, and
fails on the mistake next to it.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from scipy.stats import entropy

from tokenprune_theory import conformity, pmi
from tokenprune_theory.discrete import kl_divergence, specific_surprise
from tokenprune_theory.setfn import (
    TableFunction,
    Trace,
    Violation,
    brute_force_max,
    greedy,
    monotone_violation,
    path_violation,
    random_greedy,
    sieve_streaming,
    submodular_violation,
    tabulate,
)


def weights(*values: float) -> TableFunction:
    """A sum of weights."""
    return tabulate(lambda s: float(sum(values[i] for i in s)), len(values))


# sieve streaming


def keeps_half_whatever_comes_first(sieve):
    """Many small elements, then a large one: a sieve that is full by then is far from half of the best."""
    for values, k in (((1, 100), 1), ((1, 1, 50, 50), 2), ((1, 2, 4, 8, 16, 32), 2), ((3, 1, 1, 90), 1)):
        f = weights(*values)
        for stream in itertools.permutations(range(f.n)):
            assert sieve(f, k, 0.1, stream).value >= 0.4 * brute_force_max(f, k)[0]
            assert len(sieve(f, k, 0.1, stream).order) <= k
    # the first is as large as any, so that all guesses of the optimum are there from the start
    late = weights(50, 1, 1, 1, 50, 50, 50)
    assert sieve(late, 4, 0.1, tuple(range(7))).value >= 0.4 * 200


def takes_anything(f, k, epsilon, stream):
    order = tuple(stream)[:k]
    return Trace(order, tuple(f(order[: i + 1]) - f(order[:i]) for i in range(len(order))), 0)


def never_fills_up(f, k, epsilon, stream):
    return Trace(tuple(stream), tuple(f([i]) for i in stream), 0)


# random greedy


def picks_at_random_among_the_best(algorithm):
    """First pick uniform among the k best, and never one that is not among them."""
    f = weights(5, 4, 3, 1)
    rng = np.random.default_rng(0)
    first = Counter(algorithm(f, 3, rng).order[0] for _ in range(600))
    assert set(first) == {0, 1, 2}
    # three standard deviations of a third of 600
    assert all(abs(count - 200) <= 35 for count in first.values())


def keeps_its_guarantee_where_greedy_has_none(algorithm):
    """Element 0 is the best alone and spoils all others: greedy gets 1.1 of 4, random greedy 1/e of it on average."""
    f = tabulate(lambda s: 1.1 if 0 in s else float(len(s)), 5)
    assert not submodular_violation(f)
    assert monotone_violation(f)
    rng = np.random.default_rng(0)
    mean = np.mean([f(algorithm(f, 4, rng).order) for _ in range(300)])
    assert mean >= brute_force_max(f, 4)[0] / math.e


def greedy_in_its_place(f, k, rng):
    return greedy(f, k)


# brute force


def finds_the_best_of_at_most_k(search):
    """A function that falls: fewer elements are better, and of the empty set nothing is."""
    falling = tabulate(lambda s: 3.0 - len(s), 4)
    assert search(falling, 2) == (3.0, ())
    spoiled = weights(4, 3, -2, -5)
    assert search(spoiled, 3) == (7.0, (0, 1))
    assert search(weights(1, 2, 3), 2) == (5.0, (1, 2))


def exactly_k(f, k):
    best = max(itertools.combinations(range(f.n), k), key=f)
    return f(best), best


# gains that depend on the order


def sees_the_order_of_the_picks(check):
    """Gains that differ only by the order in which the same picks were made, at the first step where they can."""
    assert check(lambda i, s: float(s == (1, 0)), 3).size == 1
    assert check(lambda i, s: float(s == (0, 1)), 3).size == 1
    assert check(lambda i, s: float(i == 3 and s == (2, 0, 1)), 4).size == 1
    assert not check(lambda i, s: float(i), 3)
    # swapping the last two never changes the total; which pick was the first does, two picks later
    for n in (3, 4):
        assert check(lambda i, s: float(s[0]) if len(s) == 2 else 0.0, n).size > 0
    # a charge for the nearest earlier pick, which is what Algorithm 1 has
    d = [[0, 1, 2], [1, 0, 3], [2, 3, 0]]
    assert check(lambda i, s: -max((d[i][j] for j in s), default=0), 3).size > 0


def ignores_order(gain, n, tolerance=1e-10):
    return path_violation(lambda i, s: gain(i, tuple(sorted(s))), n, tolerance)


def swaps_after_sorted_picks_only(gain, n, tolerance=1e-10):
    pairs = [
        abs(gain(i, s) + gain(j, (*s, i)) - gain(j, s) - gain(i, (*s, j)))
        for size in range(n - 1)
        for s in itertools.combinations(range(n), size)
        for i, j in itertools.combinations([k for k in range(n) if k not in s], 2)
    ]
    return Violation(max(pairs), (), tolerance)


# the bound on the tail


def is_attained(bound):
    """As many tokens each for every text token: all scores are log T, which is the bound at the last rank."""
    for n, t in ((4, 2), (6, 2), (6, 3), (5, 5)):
        rows = np.full((n, t), 1e-9)
        rows[np.arange(n), np.arange(n) % t] = 1
        scores = np.sort(pmi.aggregate(rows / rows.sum(1, keepdims=True), "max"))[::-1]
        assert bound(n, t, n) == pytest.approx(scores[-1], abs=1e-6)
        assert bound(n, n * t, 1) == pytest.approx(math.log(n))


def looser_by_a_rank(n_visual, n_text, rank):
    return min(math.log(n_visual), math.log(n_text * n_visual / max(1, rank - 1)))


# specific surprise


def is_measured_from_the_marginal_of_its_prior(surprise):
    """Against scipy's relative entropy, for priors that are not uniform."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        rows, prior = rng.dirichlet(np.ones(4), size=3), rng.dirichlet(np.ones(3))
        assert surprise(rows, prior) == pytest.approx([entropy(row, prior @ rows) for row in rows], abs=1e-12)
        # its average under the prior is the mutual information
        joint = prior[:, None] * rows
        apart = prior[:, None] * (prior @ rows)
        assert float(prior @ surprise(rows, prior)) == pytest.approx(entropy(joint.ravel(), apart.ravel()), abs=1e-12)


def without_its_prior(rows, prior=None):
    return kl_divergence(rows, rows.mean(0))


PLANTED = {
    "sieve streaming takes anything": (keeps_half_whatever_comes_first, sieve_streaming, takes_anything),
    "sieve streaming never fills up": (keeps_half_whatever_comes_first, sieve_streaming, never_fills_up),
    "random greedy is greedy": (picks_at_random_among_the_best, random_greedy, greedy_in_its_place),
    "random greedy is greedy, by value": (
        keeps_its_guarantee_where_greedy_has_none,
        random_greedy,
        greedy_in_its_place,
    ),
    "brute force over exactly k": (finds_the_best_of_at_most_k, brute_force_max, exactly_k),
    "path check that ignores order": (sees_the_order_of_the_picks, path_violation, ignores_order),
    "path check of swaps after sorted picks only": (
        sees_the_order_of_the_picks,
        path_violation,
        swaps_after_sorted_picks_only,
    ),
    "tail bound looser by a rank": (is_attained, pmi.tail_bound, looser_by_a_rank),
    "specific surprise without its prior": (
        is_measured_from_the_marginal_of_its_prior,
        specific_surprise,
        without_its_prior,
    ),
}


@pytest.mark.parametrize("mistake", PLANTED)
def test_the_real_thing_passes(mistake):
    has_property, real, _ = PLANTED[mistake]
    has_property(real)


@pytest.mark.parametrize("mistake", PLANTED)
def test_the_planted_mistake_is_noticed(mistake):
    has_property, _, planted = PLANTED[mistake]
    with pytest.raises(AssertionError):
        has_property(planted)


def test_an_oracle_that_is_compared_before_the_first_pick_only_is_noticed(monkeypatch):
    """With comparisons cut to no pick, an objective whose oracle lies later would pass: the real check refuses it."""
    import torch

    import tokenprune as tp
    from tests.theory.test_objectives import TwoFacedLater

    batch = tp.Features(torch.eye(4, dtype=torch.float64)[None])
    scores = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64)

    def noticed():
        return bool(conformity.objective_violations(TwoFacedLater(), batch, scores)["oracle"])

    assert noticed()
    real = conformity._oracle
    monkeypatch.setattr(conformity, "_oracle", lambda path, depth: real(path, 0))
    assert not noticed()
