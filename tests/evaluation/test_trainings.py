"""Comparing strategies over trainings and pictures: what is known of the bootstrap, and what ought to win."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from tokenprune.core.errors import ConfigError
from tokenprune.evaluation.statistics import bootstrap_interval, over_trainings, ranked

tables = st.tuples(st.integers(2, 4), st.integers(1, 4), st.integers(2, 6)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.integers(0, 3).map(float))
)


def sizes_of(sums: np.ndarray) -> np.ndarray:
    return np.full((sums.shape[0], sums.shape[2]), 3.0)


@given(tables)
@settings(max_examples=20, deadline=None)
def test_laws_of_any_comparison(sums: np.ndarray) -> None:
    found = ranked(sums, sizes_of(sums), draws=60)
    strategies = sums.shape[1]
    np.testing.assert_allclose(found.mean, sums.mean((0, 2)) / 3)
    assert (found.low <= found.high).all()
    np.testing.assert_allclose(found.best.sum(), 1)
    np.testing.assert_allclose(found.rank.sum(), strategies * (strategies + 1) / 2)
    np.testing.assert_allclose(found.wins + found.wins.T, np.ones((strategies, strategies)))
    np.testing.assert_allclose(found.p, found.p.T)
    assert ((found.p > 0) & (found.p <= 1)).all()
    # the order in which strategies are given does not matter
    back = ranked(sums[:, ::-1], sizes_of(sums), draws=60)
    np.testing.assert_allclose(back.rank[::-1], found.rank)
    np.testing.assert_allclose(back.p[::-1, ::-1], found.p)


def test_equal_trainings_leave_the_pictures() -> None:
    """The interval over pictures alone, which scipy makes."""
    values = np.random.default_rng(0).integers(0, 2, 40).astype(float)
    found = ranked(np.tile(values, (3, 1, 1)), np.ones((3, 40)), draws=8000)
    expected = bootstrap_interval(values.tolist(), list(range(40)), draws=8000)
    assert expected is not None
    np.testing.assert_allclose((found.low[0], found.high[0]), expected, atol=0.026)


def test_equal_pictures_leave_the_trainings() -> None:
    """All 27 ways to draw three trainings with replacement, one by one."""
    accuracies = np.array([0.2, 0.5, 0.9])
    found = ranked(np.tile(accuracies[:, None, None], (1, 1, 5)), np.ones((3, 5)), draws=5000)
    every = [np.mean(draw) for draw in itertools.product(accuracies, repeat=3)]
    expected = np.quantile(every, (0.025, 0.975), method="inverted_cdf")
    np.testing.assert_allclose((found.low[0], found.high[0]), expected)


def test_what_is_better_everywhere_is_best_for_sure_and_what_is_better_once_is_not() -> None:
    generator = np.random.default_rng(1)
    base = generator.integers(0, 2, (5, 60)).astype(float)
    once = base.copy()
    once[0] = 2  # one lucky training
    sums = np.stack([base + 1, base, once], 1)
    found = ranked(sums, np.full((5, 60), 3.0))
    assert found.best[0] > 0.95
    assert found.wins[0, 1] == 1
    assert found.p[0, 1] < 0.01
    assert found.p[2, 1] > 0.05  # 0.67 of resamples hold that training, which is no proof
    twins = ranked(np.stack([base, base], 1), np.full((5, 60), 3.0))
    assert twins.wins[0, 1] == 0.5
    assert twins.p[0, 1] == 1


def test_the_correction_is_that_of_benjamini_and_hochberg() -> None:
    sums = np.random.default_rng(2).random((4, 4, 30))
    found = ranked(sums, np.full((4, 30), 3.0), draws=400)
    upper = np.triu_indices(4, 1)
    above, below = found.wins[upper], found.wins.T[upper]
    raw = np.minimum(1, 2 * (np.minimum(above, below) * 400 + 1) / 401)
    np.testing.assert_allclose(found.p[upper], stats.false_discovery_control(raw))


def test_bad_tables_are_refused() -> None:
    with pytest.raises(ConfigError, match="two trainings and two pictures"):
        ranked(np.ones((1, 2, 5)), np.ones((1, 5)))
    with pytest.raises(ConfigError, match="got shapes"):
        ranked(np.ones((2, 2, 5)), np.ones((2, 4)))
    with pytest.raises(ConfigError, match="values of each training"):
        ranked(np.ones((2, 2, 5)), np.zeros((2, 5)))


@given(tables)
@settings(max_examples=20, deadline=None)
def test_laws_of_one_difference(sums: np.ndarray) -> None:
    """Its mean lies in its interval's order, and turning the sign turns everything round."""
    flat, sizes = sums[:, 0] - 1.5, sizes_of(sums)
    found, turned = over_trainings(flat, sizes, draws=80), over_trainings(-flat, sizes, draws=80)
    assert found.mean == pytest.approx(flat.sum() / sizes.sum())
    assert found.low <= found.high
    assert (turned.mean, turned.low, turned.high) == pytest.approx((-found.mean, -found.high, -found.low))
    assert turned.p == found.p
    assert 0 < found.p <= 1


def test_one_difference_is_as_sure_as_the_two_that_are_ranked() -> None:
    generator = np.random.default_rng(3)
    right = generator.random((4, 2, 60)) < np.array([0.8, 0.6])[None, :, None]
    sums, sizes = right.astype(float), np.ones((4, 60))
    both, one = ranked(sums, sizes, draws=4000), over_trainings(sums[:, 0] - sums[:, 1], sizes, draws=4000)
    assert one.mean == pytest.approx(both.mean[0] - both.mean[1])
    assert one.p == pytest.approx(both.p[0, 1], abs=0.01)


def test_a_training_that_differs_widens_the_interval() -> None:
    values = np.tile(np.random.default_rng(0).integers(0, 2, 50).astype(float), (4, 1))
    alike = over_trainings(values, np.ones((4, 50)))
    unlike = over_trainings(values + np.array([[-1], [0], [0], [1]]), np.ones((4, 50)))
    assert unlike.high - unlike.low > 1.5 * (alike.high - alike.low)


def test_one_difference_needs_trainings_and_pictures() -> None:
    for shape in ((1, 5), (5, 1), (4,)):
        with pytest.raises(ConfigError, match="trainings, pictures"):
            over_trainings(np.ones(shape), np.ones(shape))
    with pytest.raises(ConfigError, match="values of each training"):
        over_trainings(np.zeros((2, 3)), np.array([[1.0, 1, 1], [0, 0, 0]]))
