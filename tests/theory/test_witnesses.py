"""Existential claims: hypothesis finds a counterexample by itself, and the frozen ones are counterexamples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import find, settings
from hypothesis import strategies as st

from tokenprune.testing import channels, embeddings, gains_instances, joints
from tokenprune_theory import models, pmi, violations
from tokenprune_theory.discrete import Joint, specific_surprise
from tokenprune_theory.sequence import gain, select, sequence_value, static_heap
from tokenprune_theory.setfn import lattice_violation

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
    joint = three(p)
    return joint.mutual_information("v1", "t") - joint.mutual_information("v1", "v0") < -CLEAR


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


def first_gain_rises(instance):
    c, d = instance
    return gain(c, d, 0.5, 1, [0]) > gain(c, d, 0.5, 1, []) + CLEAR


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
    "gains-fall": (gains_instances(2), first_gain_rises, (np.zeros(2), pmi.self_pmi(np.eye(2), 0.5))),
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
    "definitions-agree": (
        st.lists(st.integers(0, 2), min_size=4, max_size=4),
        lambda v: bool(lattice_violation(models.TableFunction(np.array(v, dtype=np.float64)))),
        [0, 0, 0, 1],
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


def test_max_and_lse_never_disagree_on_two_by_two():
    """The 2 × 2 case is the exception: here the search must come up empty."""
    from hypothesis.errors import NoSuchExample

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
