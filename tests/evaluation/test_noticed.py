"""Small mistakes in reports that would otherwise pass: the wrong column, the wrong base, intervals too narrow."""

from __future__ import annotations

import numpy as np
import pytest

from tests.evaluation.test_summary import line
from tokenprune.evaluation.statistics import bootstrap_interval, paired_p_value
from tokenprune.evaluation.summary import summarize


def test_each_cost_is_in_its_own_column() -> None:
    costs = {"tokens": 8, "layer_average_tokens": 40.5, "flops": 300, "kv_bytes": 7}
    [row] = [
        r for r in summarize([line("mine", "a", "yes", keep=8, **costs)]) if (r.task, r.metric) == ("all", "accuracy")
    ]
    assert (row.kept_tokens, row.layer_average_tokens, row.flops, row.kv_bytes) == (8, 40.5, 300, 7)


def test_the_share_of_full_is_of_full() -> None:
    lines = [line("full", f"{i}", "yes") for i in range(4)]
    lines += [line("wrong image", f"{i}", "yes" if i == 0 else "no") for i in range(4)]
    lines += [line("mine", f"{i}", "yes" if i < 2 else "no", keep=8) for i in range(4)]
    rows = {(r.strategy, r.metric): r.value for r in summarize(lines) if r.task == "all"}
    assert rows["mine", "relative"] == 0.5


def test_a_mean_over_clusters_of_unequal_size_weighs_them() -> None:
    """Nine questions about one picture, all right, and one about each of two others, both wrong."""
    values, clusters = [1.0] * 9 + [0.0, 0.0], ["a"] * 9 + ["b", "c"]
    low, high = bootstrap_interval(values, clusters) or (np.nan, np.nan)
    # of the resamples of three pictures 8 of 27 never hold the first, and 1 of 27 holds nothing else
    assert low == 0
    assert high == 1
    narrow = bootstrap_interval(values, clusters, level=0.5) or (np.nan, np.nan)
    assert narrow == (0.0, 18 / 19)


def test_a_p_value_is_never_0() -> None:
    ones = [1.0] * 40
    assert paired_p_value(ones, [0.0] * 40, range(40), draws=99) == pytest.approx(1 / 100)


def test_a_95_percent_interval_is_one() -> None:
    """Against the normal approximation, which is close for 400 values; that of 90 % is a sixth narrower."""
    values = np.random.default_rng(0).normal(size=400)
    low, high = bootstrap_interval(values.tolist(), range(400), draws=8000) or (np.nan, np.nan)
    half = 1.96 * values.std() / 20
    assert high - low == pytest.approx(2 * half, rel=0.06)
