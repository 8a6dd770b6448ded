"""Intervals cover, tests reject what differs and nothing else."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.core.errors import ConfigError
from tokenprune.evaluation import statistics
from tokenprune.evaluation.statistics import bootstrap_interval, paired_p_value, ratio_interval


def interval(*given: Any, **options: Any) -> tuple[float, float]:
    found = bootstrap_interval(*given, **options)
    assert found is not None
    return found


def test_the_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        values = (generator.random(120) < 0.7).astype(float)
        low, high = interval(values.tolist(), range(120), draws=400, seed=trial)
        covered += low <= 0.7 <= high
    assert 180 <= covered <= 199


def test_questions_about_one_image_count_as_one() -> None:
    values = [1.0, 0.0] * 20
    apart = interval(values, range(40))
    together = interval(values, [i % 2 for i in range(40)])
    assert together[1] - together[0] > apart[1] - apart[0]


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=30))
def test_the_interval_lies_between_the_extremes_and_around_the_mean(values: list[float]) -> None:
    low, high = interval(values, range(len(values)), draws=500)
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


def test_one_image_has_no_interval() -> None:
    assert bootstrap_interval([1, 0, 1], ["a"] * 3) is None
    assert ratio_interval([1, 0, 1], ["a"] * 3, [1, 1, 1], ["a"] * 3) is None


@pytest.mark.parametrize(("values", "clusters"), [([], []), ([1.0, 0.0], ["a"])])
def test_values_without_clusters_are_refused(values: list[float], clusters: list[str]) -> None:
    calls: tuple[Callable[[], object], ...] = (
        lambda: bootstrap_interval(values, clusters),
        lambda: ratio_interval(values, clusters, [1.0], ["a"]),
        lambda: paired_p_value(values, values, clusters),
    )
    for call in calls:
        with pytest.raises(ConfigError, match="values and clusters"):
            call()


def test_what_is_equal_has_a_ratio_of_one_whatever_is_drawn() -> None:
    values = [1.0, 0.0] * 20
    assert ratio_interval(values, range(40), values, range(40)) == (1.0, 1.0)
    assert ratio_interval([v / 2 for v in values], range(40), values, range(40)) == (0.5, 0.5)


def test_the_ratio_of_unlike_answers_is_uncertain_around_its_value() -> None:
    a, b = [1.0, 0.0, 0.0, 1.0] * 10, [1.0, 1.0, 0.0, 1.0] * 10
    found = ratio_interval(a, range(40), b, range(40))
    assert found is not None
    assert 0.4 < found[0] < 2 / 3 < found[1] < 0.9
    # a base that is never right in many a resample, and one about other images
    rare = ratio_interval([1.0, 0.0, 0.0], range(3), [1.0, 0.0, 0.0], range(3))
    assert rare == (1.0, 1.0)
    apart = ratio_interval([1.0, 1.0], ["a", "b"], [1.0, 1.0], ["c", "d"])
    assert apart == (1.0, 1.0)


def test_numbers_do_not_depend_on_how_many_draws_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(2)
    a, b = (generator.integers(0, 4, 300) / 3 for _ in range(2))
    clusters = [i % 100 for i in range(300)]
    found = []
    for piece in (10**9, 1000, 1):
        monkeypatch.setattr(statistics, "PIECE", piece)
        found.append(
            (
                bootstrap_interval(a.tolist(), clusters),
                ratio_interval(a.tolist(), clusters, b.tolist(), clusters),
                paired_p_value(a.tolist(), b.tolist(), clusters, draws=2000),
            )
        )
    assert found[0] == found[1] == found[2]


def test_many_images_take_little_memory() -> None:
    values = [1.0, 0.0, 0.0] * 2000
    tracemalloc.start()
    paired_p_value(values, [0.0] * 6000, range(6000))
    bootstrap_interval(values, range(6000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 * 2**20
