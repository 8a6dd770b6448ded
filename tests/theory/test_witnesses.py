"""Existential claims: hypothesis finds a counterexample by itself, and the frozen ones are counterexamples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import find, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from tokenprune.testing import channels, embeddings, gains_instances, joints, naive_bayes
from tokenprune_theory import models, pmi, violations
from tokenprune_theory.assumptions import find_assumption
from tokenprune_theory.discrete import Joint, specific_surprise
from tokenprune_theory.sequence import gain, select, sequence_value, static_heap
from tokenprune_theory.setfn import TableFunction, lattice_violation, submodular_violation

SEARCH = settings(database=None, derandomize=True, max_examples=3000, deadline=None)
CLEAR = 1e-6
"""Violations below this might be rounding."""


def rows(*counts):
    table = np.array(counts, dtype=np.float64)
    return table / table.sum(1, keepdims=True)


def counts(*cells):
    """Joint of three bits (t, v0, v1) from cells given as "tvv" repeated."""
    table = np.zeros((2, 2, 2))
    for cell in cells:
        table[tuple(int(b) for b in cell)] += 1
    return table / table.sum()


def three(p):
    return Joint(p, ("t", "v0", "v1"))


def max_exceeds_sum(p):
    table = pmi.table_of_channel(p)
    return bool((table.max(1) > table.sum(1) + CLEAR).any())


def opposite(first, second):
    """Two scores rank the first two rows in opposite ways."""

    def predicate(p):
        a, b = first(p), second(p)
        return (a[0] - a[1] > CLEAR and b[1] - b[0] > CLEAR) or (a[1] - a[0] > CLEAR and b[0] - b[1] > CLEAR)

    return predicate


def top(p):
    return pmi.aggregate(p, "max")


def lse(p):
    return pmi.aggregate(p, "lse")


def negative_estimate(p):
    """(39) below the gain, which is not negative, and below 0."""
    joint = three(p)
    estimate = joint.mutual_information("v1", "t") - joint.mutual_information("v1", "v0")
    return joint.mutual_information("v1", "t", "v0") > -1e-12 > -CLEAR > estimate


def path_matters(instance):
    _, d = instance
    zero = np.zeros(len(d))
    return abs(sequence_value(zero, d, 0, (0, 1, 2)) - sequence_value(zero, d, 0, (1, 2, 0))) > CLEAR


def stale_from_empty(instance):
    c, d = instance
    lazy, naive = (select(c, d, 0.5, 2, method=m).order for m in ("lazy from empty", "naive"))
    return set(lazy) != set(naive)


def counter_keeps_another_set(instance):
    c, d = instance
    k = len(c) - 1
    by_counter, by_index = (select(c, d, 0.5, k, method="lazy", counter=x).order for x in (True, False))
    return set(by_counter) != set(by_index)


def scores(visual, picks):
    """Of token 2, by Eqn 22 with text e1, e2, written out."""
    x = visual.numpy()
    d = pmi.self_pmi(pmi.cosines(x, x), 0.5)
    c = pmi.cross_pmi(pmi.cosines(x, np.eye(2)) / 0.5).max(1)
    charge = max((d[2, j] for j in picks), default=0.0)
    assert gain(c, d, 0.5, 2, picks) == 0.5 * c[2] - 0.5 * charge
    return 0.5 * c[2] - 0.5 * charge


def first_score_rises(visual):
    return scores(visual, [0]) > scores(visual, []) + CLEAR


def later_score_rises(visual):
    return scores(visual, [0, 1]) > scores(visual, [0]) or scores(visual, [1, 0]) > scores(visual, [1])


def definitions_differ(values):
    """Diminishing returns over all pairs of sets, and the lattice inequality, each written out."""
    n = len(values).bit_length() - 1
    f = dict(enumerate(values))
    sets = range(2**n)
    rises = any(
        f[b | 1 << i] - f[b] > f[a | 1 << i] - f[a]
        for a in sets
        for b in sets
        if a & b == a
        for i in range(n)
        if not b >> i & 1
    )
    lattice = any(f[a | b] + f[a & b] > f[a] + f[b] for a in sets for b in sets)
    table = TableFunction(np.array(values, dtype=np.float64))
    assert rises == bool(submodular_violation(table))
    assert lattice == bool(lattice_violation(table))
    return rises != lattice


def estimate_negative_under_independence(instance):
    joint = models.naive_bayes(*instance)
    return violations.negative_estimate(joint) > 1e-12


def relevance_negative_gain(instance):
    c, d = instance
    return select(c, d, 0.5, len(c)).gains[-1] < -CLEAR


def static_differs(instance):
    c, d = instance
    return set(static_heap(c, 2)) != set(select(c, d, 0.5, 2).order)


def asymmetric(visual):
    x = visual.numpy()
    d = pmi.self_pmi(pmi.cosines(x, x), 1.0)
    return bool((np.abs(d - d.T) > CLEAR).any())


def wrong_marginal(visual):
    x = visual.numpy()
    q = np.exp(pmi.log_marginal(pmi.log_rows(pmi.cosines(x, x))))
    return bool((np.abs(q - 1 / len(x)) > CLEAR).any())


def weighted_above_max(visual):
    x = visual.numpy()
    d = pmi.self_pmi(pmi.cosines(x, x), 0.5)[:, 1]
    return bool((np.exp(d) / len(x) * d > d + CLEAR).any())


CASES = {
    "max-below-sum": (channels(2, 2), max_exceeds_sum, rows((1, 1), (1, 2))),
    "renyi-ladder": (channels(2, 2), opposite(top, specific_surprise), rows((1, 1), (1, 3))),
    "lse-dependence": (channels(2, 2), opposite(specific_surprise, lse), rows((1, 3), (1, 1))),
    "max-lse-order": (channels(2, 3), opposite(top, lse), rows((1, 1, 2), (1, 1, 1))),
    "mi-submodular": (
        joints((2, 2, 2)),
        lambda p: violations.information_submodular(three(p)) > CLEAR,
        counts("010", "100", "111"),
    ),
    "estimator-sign": (joints((2, 2, 2)), negative_estimate, counts("010", "100", "100", "111")),
    "path-dependence": (
        gains_instances(3, symmetric=True),
        path_matters,
        (np.zeros(3), np.array([[0.0, 1, 2], [1, 0, 3], [2, 3, 0]])),
    ),
    "gains-fall": (
        embeddings(3, 2, dtype=torch.float64),
        first_score_rises,
        torch.tensor([[1.0, 0], [0, 1], [0, -1]], dtype=torch.float64),
    ),
    "gains-positive": (
        gains_instances(2),
        relevance_negative_gain,
        (np.zeros(2), np.array([[0.0, 0.0], [0.5, 0.0]])),
    ),
    "heap-at-start": (
        gains_instances(3),
        stale_from_empty,
        (np.array([0.777, 0.277, 0.320]), np.array([[0, 0, 0], [-2.939, 0, 0], [-1.714, 0, 0]])),
    ),
    "heap-ties": (
        gains_instances(4),
        counter_keeps_another_set,
        (np.zeros(4), np.array([[0, 0, 0, 0], [0, 0, 0, 0], [1.0, 0, 0, 0], [0, 1.0, 0, 0]])),
    ),
    "static-heap": (
        gains_instances(3),
        static_differs,
        (np.zeros(3), np.array([[0, 0, 0], [0.5, 0, 0], [0.0, 0, 0]])),
    ),
    "self-symmetric": (
        embeddings(3, 2, dtype=torch.float64),
        asymmetric,
        torch.tensor([[1.0, 0], [1, 0], [0, 1]], dtype=torch.float64),
    ),
    "uniform-marginal": (
        embeddings(3, 2, dtype=torch.float64),
        wrong_marginal,
        torch.tensor([[1.0, 0], [1, 0], [0, 1]], dtype=torch.float64),
    ),
    "max-over-mean-selected": (
        embeddings(2, 2, dtype=torch.float64),
        weighted_above_max,
        torch.tensor([[1.0, 0], [0, 1]], dtype=torch.float64),
    ),
}


LONG = {"heap-ties", "static-heap"}


@pytest.mark.parametrize("claim", [pytest.param(id, marks=[pytest.mark.slow] * (id in LONG)) for id in CASES])
def test_a_counterexample_is_found(claim):
    strategy, predicate, _ = CASES[claim]
    assert predicate(find(strategy, predicate, settings=SEARCH))


@pytest.mark.parametrize("claim", CASES)
def test_the_frozen_counterexample_is_one(claim):
    _, predicate, frozen = CASES[claim]
    assert predicate(frozen)


NONE = {
    "definitions-agree": (
        st.sampled_from([4, 8]).flatmap(lambda size: st.lists(st.integers(0, 2), min_size=size, max_size=size)),
        definitions_differ,
    ),
    "gains-fall": (embeddings(3, 2, dtype=torch.float64), later_score_rises),
    "estimator-sign": (naive_bayes(n=3), estimate_negative_under_independence),
}
"""Where the statement holds, under its assumption, a search for the very same thing comes up empty."""


@pytest.mark.parametrize("claim", NONE)
def test_within_the_assumption_no_counterexample_is_found(claim):
    strategy, predicate = NONE[claim]
    with pytest.raises(NoSuchExample):
        find(strategy, predicate, settings=settings(SEARCH, max_examples=300))


def test_counterexamples_to_a_weaker_reading_are_outside_the_assumption():
    """What `find` shrinks to: pairs of tokens that share more with each other than with the text."""
    strategy, predicate, frozen = CASES["estimator-sign"]
    for p in (find(strategy, predicate, settings=SEARCH), frozen):
        assert find_assumption("independence").missed(three(p))


def test_max_and_lse_never_disagree_on_two_by_two():
    """The 2 × 2 case is the exception: here the search must come up empty."""
    with pytest.raises(NoSuchExample):
        find(channels(2, 2), opposite(top, lse), settings=settings(SEARCH, max_examples=500))


def test_numbers_of_the_small_counterexamples():
    """What the documents print, worked out by hand."""
    table = pmi.table_of_channel(rows((1, 1), (1, 2)))
    assert table[0] == pytest.approx([math.log(6 / 5), math.log(6 / 7)])
    assert table[0].sum() == pytest.approx(math.log(36 / 35))
    f = models.information(three(counts("010", "100", "111")))
    third = math.log(3) - 2 / 3 * math.log(2)
    assert f((0, 1)) == pytest.approx(third)
    assert f((0,)) == pytest.approx(2 * third - math.log(3) + 0 * f((1,)), abs=1e-12)
    d = pmi.self_pmi(np.eye(2), 0.5)
    assert d[0, 1] == pytest.approx(math.log(2 / (1 + math.e**2)))
    assert lse(rows((99, 1), (81, 19)))[0] == pytest.approx(math.log(1.2))
