"""Intervals cover, tests reject what differs and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.evaluation.statistics import bootstrap_interval, paired_p_value


def test_the_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        values = (generator.random(120) < 0.7).astype(float)
        low, high = bootstrap_interval(values.tolist(), range(120), draws=400, seed=trial)
        covered += low <= 0.7 <= high
    assert 180 <= covered <= 199


def test_questions_about_one_image_count_as_one() -> None:
    values = [1.0, 0.0] * 20
    apart = bootstrap_interval(values, range(40))
    together = bootstrap_interval(values, [i % 2 for i in range(40)])
    assert together[1] - together[0] > apart[1] - apart[0]


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=30))
def test_the_interval_lies_between_the_extremes_and_around_the_mean(values: list[float]) -> None:
    low, high = bootstrap_interval(values, range(len(values)), draws=500)
    assert min(values) <= low <= high <= max(values)
    assert low - 1e-12 <= sum(values) / len(values) <= high + 1e-12 or len(values) < 5


def test_a_small_paired_test_is_the_sign_test() -> None:
    # five differences of +1: both tails hold one of 32 sign patterns each
    assert paired_p_value([1] * 5, [0] * 5, range(5)) == pytest.approx(2 / 32)
    assert paired_p_value([1, 0, 1], [1, 0, 1], range(3)) == 1.0
    assert paired_p_value([1, 0], [0, 1], range(2)) == 1.0


def test_a_large_paired_test_finds_a_difference_and_only_that() -> None:
    generator = np.random.default_rng(1)
    a = (generator.random(400) < 0.8).astype(float)
    b = (generator.random(400) < 0.6).astype(float)
    assert paired_p_value(a.tolist(), b.tolist(), range(400)) < 0.001
    assert paired_p_value(a.tolist(), a.tolist(), range(400)) == 1.0
    same = [
        paired_p_value(
            (generator.random(100) < 0.7).astype(float).tolist(),
            (generator.random(100) < 0.7).astype(float).tolist(),
            range(100),
            draws=300,
        )
        for _ in range(60)
    ]
    assert sum(p < 0.05 for p in same) <= 9


def test_clusters_that_agree_are_weaker_evidence() -> None:
    a, b = [1.0] * 8, [0.0] * 8
    assert paired_p_value(a, b, [0, 0, 0, 0, 1, 1, 1, 1]) > paired_p_value(a, b, range(8))
