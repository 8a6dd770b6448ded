"""Exact information measures against independent programs: dit, scipy.stats, and sums written out."""

from __future__ import annotations

import itertools
import math

import dit
import numpy as np
import pytest
from hypothesis import given, settings
from scipy.stats import entropy

from tokenprune.testing import channels, joints
from tokenprune_theory.discrete import Joint, kl_divergence, log_sum_exp, renyi_divergence, specific_surprise

THREE = ((1, 3), (1, 3), (1, 3))


def as_dit(joint: Joint) -> dit.Distribution:
    outcomes = [o for o in itertools.product(*map(range, joint.p.shape)) if joint.p[o] > 0]
    return dit.Distribution(outcomes, [float(joint.p[o]) for o in outcomes])


@settings(max_examples=30)
@given(joints(THREE))
def test_dit_agrees(p):
    joint = Joint(p, ("x", "y", "z"))
    other = as_dit(joint)
    bit = math.log(2)
    assert joint.entropy(("x", "y", "z")) == pytest.approx(bit * dit.shannon.entropy(other), abs=1e-12)
    assert joint.conditional_entropy("x", "y") == pytest.approx(
        bit * dit.shannon.conditional_entropy(other, [0], [1]), abs=1e-12
    )
    assert joint.mutual_information("x", "y") == pytest.approx(
        bit * dit.shannon.mutual_information(other, [0], [1]), abs=1e-12
    )
    assert joint.mutual_information("x", "y", "z") == pytest.approx(
        bit * dit.multivariate.coinformation(other, [[0], [1]], [2]), abs=1e-12
    )


@given(joints(), channels(zeros=True))
def test_scipy_agrees(p, rows):
    joint = Joint(p, ("x", "y"))
    assert joint.entropy("x") == pytest.approx(entropy(p.sum(1)), abs=1e-12)
    assert joint.entropy(("x", "y")) == pytest.approx(entropy(p.ravel()), abs=1e-12)
    q = rows.mean(0)
    assert specific_surprise(rows) == pytest.approx([entropy(row, q) for row in rows], abs=1e-12)
    assert kl_divergence(rows[0], rows[-1]) == pytest.approx(entropy(rows[0], rows[-1]), abs=1e-12)


@given(joints(THREE))
def test_sums_written_out(p):
    joint = Joint(p, ("x", "y", "z"))
    expected = conditional = 0.0
    for x, y, z in itertools.product(*map(range, p.shape)):
        if p[x, y, z] > 0:
            given_z = p[:, :, z].sum()
            conditional += p[x, y, z] * math.log(p[x, y, z] * given_z / (p[x, :, z].sum() * p[:, y, z].sum()))
    for x, y in itertools.product(*map(range, p.shape[:2])):
        if (pxy := p[x, y].sum()) > 0:
            expected += pxy * math.log(pxy / (p[x].sum() * p[:, y].sum()))
    assert joint.mutual_information("x", "y") == pytest.approx(expected, abs=1e-12)
    assert joint.mutual_information(("x",), ("y",), ("z",)) == pytest.approx(conditional, abs=1e-12)


@given(channels(2, (2, 5)))
def test_renyi_is_its_formula_and_continuous_at_one(rows):
    p, q = rows
    for order in (0.5, 2.0, 3.0):
        assert renyi_divergence(p, q, order) == pytest.approx(
            math.log((p**order * q ** (1 - order)).sum()) / (order - 1), abs=1e-12
        )
    assert renyi_divergence(p, q, 1 + 1e-7) == pytest.approx(float(kl_divergence(p, q)), abs=1e-5)
    assert renyi_divergence(p, q, math.inf) == pytest.approx(math.log((p / q).max()), abs=1e-12)


def test_pmi_of_empty_cells_and_symbols():
    table = Joint(np.array([[0.5, 0.0, 0.0], [0.25, 0.25, 0.0]]), ("x", "y")).pmi("x", "y")
    assert table[0, 1] == -math.inf
    assert np.isnan(table[:, 2]).all()
    assert table[1, 1] == pytest.approx(math.log(2))


def test_pmi_follows_the_names_asked_for():
    joint = Joint(np.array([[0.5, 0.1, 0.1], [0.1, 0.1, 0.1]]), ("x", "y"))
    assert joint.pmi("y", "x") == pytest.approx(joint.pmi("x", "y").T)


@pytest.mark.parametrize(
    ("p", "names"),
    [
        (np.array([0.5, 0.6]), ("x",)),
        (np.array([1.5, -0.5]), ("x",)),
        (np.ones((1, 1)), ("x",)),
        (np.ones((1, 1)), ("x", "x")),
    ],
)
def test_what_is_no_joint_is_refused(p, names):
    with pytest.raises(ValueError, match="must be"):
        Joint(p, names)


def test_unknown_variables_are_named():
    with pytest.raises(ValueError, match="no variable 'z'; known: x, y"):
        Joint(np.full((2, 2), 0.25), ("x", "y")).entropy("z")


def test_log_sum_exp_of_extremes():
    assert log_sum_exp(np.array([700.0, 700.0]), axis=0) == pytest.approx(700 + math.log(2))
    assert log_sum_exp(np.array([[-math.inf, -math.inf], [0.0, -math.inf]]), axis=1).tolist() == [-math.inf, 0.0]
    assert log_sum_exp(np.zeros((2, 3)), axis=1, keepdims=True).shape == (2, 1)
