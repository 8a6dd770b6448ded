"""Intervals cover, tests reject what differs and nothing else."""

from __future__ import annotations

import itertools
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


# --- by hand ------------------------------------------------------------------------------------------------------


def by_hand_totals(values: list[float], clusters: list[int], all_clusters: list[int]) -> tuple[Any, Any]:
    sums = [sum(v for v, c in zip(values, clusters, strict=True) if c == one) for one in all_clusters]
    return np.array(sums), np.array([float(clusters.count(one)) for one in all_clusters])


def by_hand_interval(values: list[float], clusters: list[int], draws: int, level: float) -> tuple[float, float]:
    every = sorted(set(clusters))
    sums, sizes = by_hand_totals(values, clusters, every)
    chosen = np.random.default_rng(0).integers(0, len(every), size=(draws, len(every)))
    means = sums[chosen].sum(1) / sizes[chosen].sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def by_hand_ratio(a: list[float], b: list[float], clusters: list[int], draws: int) -> tuple[float, float]:
    every = sorted(set(clusters))
    chosen = np.random.default_rng(0).integers(0, len(every), size=(draws, len(every)))
    x, y = (by_hand_totals(values, clusters, every)[0][chosen].sum(1) for values in (a, b))
    low, high = np.quantile((x / y)[y > 0], [0.025, 0.975])
    return float(low), float(high)


def by_hand_p(a: list[float], b: list[float], clusters: list[int], draws: int) -> float:
    every = sorted(set(clusters))
    sums, _ = by_hand_totals([x - y for x, y in zip(a, b, strict=True)], clusters, every)
    sums = sums[sums != 0]
    if not len(sums):
        return 1.0
    observed = abs(sums.sum()) - 1e-9
    if 2 ** len(sums) <= draws:
        signs = np.array(list(itertools.product([1, -1], repeat=len(sums))))
        return float(np.mean(np.abs(signs @ sums) >= observed))
    signs = 2 * np.random.default_rng(0).integers(0, 2, size=(draws, len(sums))) - 1
    return (1 + int((np.abs(signs @ sums) >= observed).sum())) / (1 + draws)


@pytest.mark.parametrize("seed", range(12))
def test_the_library_gives_the_numbers_that_plain_resampling_gives(seed: int) -> None:
    """Clusters of unequal size, thirds (means over three draws), few and many clusters."""
    generator = np.random.default_rng(seed)
    n = int(generator.integers(4, 90))
    clusters = generator.integers(0, max(2, n // 3), n).tolist()
    a, b = ((generator.integers(0, 4, n) / 3).tolist() for _ in range(2))
    for level in (0.95, 0.5):
        found = interval(a, clusters, level=level)
        assert found == pytest.approx(by_hand_interval(a, clusters, 2000, level), rel=1e-14)
    assert ratio_interval(a, clusters, b, clusters) == pytest.approx(by_hand_ratio(a, b, clusters, 2000), rel=1e-14)
    for draws in (200, 10_000):
        assert paired_p_value(a, b, clusters, draws=draws) == by_hand_p(a, b, clusters, draws)


def test_an_interval_says_which_level_it_has() -> None:
    values = (np.random.default_rng(3).random(60) < 0.6).astype(float).tolist()
    wide, usual, narrow = (interval(values, range(60), level=level) for level in (0.99, 0.95, 0.9))
    assert interval(values, range(60)) == usual
    assert wide[0] < usual[0] < narrow[0] < narrow[1] < usual[1] < wide[1]


def test_a_large_picture_weighs_as_many_questions_as_it_has() -> None:
    """Clusters of unequal size: the mean of every resample is over its questions, and a share stays one."""
    values, clusters = [1.0] * 20 + [0.0], ["crowded"] * 20 + ["empty"]
    low, high = interval(values, clusters)
    assert (low, high) == (0.0, 1.0)
    middle = [20 / 21]
    generator = np.random.default_rng(0).integers(0, 2, size=(2000, 2))
    want = {0.0, 1.0, *middle}
    drawn = {(20 * int((row == 0).sum())) / (20 * int((row == 0).sum()) + int((row == 1).sum())) for row in generator}
    assert drawn == want
    assert max(interval(values * 3, [f"{c}{i}" for i in range(3) for c in clusters])) <= 1.0


def test_no_p_value_is_0_and_none_is_above_1() -> None:
    for n, draws in ((5, 10_000), (40, 500), (1, 100)):
        p = paired_p_value([1.0] * n, [0.0] * n, range(n), draws=draws)
        assert p == (max(2 / 2**n, 1 / (draws + 1)) if n > 1 else 1.0)


def test_order_and_names_of_clusters_do_not_matter() -> None:
    generator = np.random.default_rng(5)
    a, b = ((generator.integers(0, 2, 40)).astype(float).tolist() for _ in range(2))
    clusters = [f"picture {i % 13:02}" for i in range(40)]
    order = generator.permutation(40).tolist()
    turned = [[values[i] for i in order] for values in (a, b, clusters)]
    assert interval(a, clusters) == interval(turned[0], turned[2])
    assert ratio_interval(a, clusters, b, clusters) == ratio_interval(turned[0], turned[2], turned[1], turned[2])
    assert paired_p_value(a, b, clusters) == paired_p_value(turned[0], turned[1], turned[2])
