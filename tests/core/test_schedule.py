"""Schedules: where events act, how many tokens each layer processes, and what is refused."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tokenprune as tp
from tokenprune.components.layerwise.attention import AttentionRows
from tokenprune.components.layerwise.recycle import Recycle
from tokenprune.components.layerwise.rules import Interpolated, Logistic, PivotsAndQuotas, Share
from tokenprune.core.errors import ConfigError, UnsupportedError
from tokenprune.core.layer_kinds import LayerContext
from tokenprune.core.schedule import LayerEvent, LayerSchedule

METHODS = ("fastv", "sparsevlm", "dart", "apet", "autoprune")


def schedule(name: str, **options: object) -> LayerSchedule:
    built = tp.build(name, **options)
    assert isinstance(built, LayerSchedule)
    return built


@pytest.mark.parametrize(
    ("name", "averages"),
    [
        ("fastv", {192: 216.0, 128: 156.0, 64: 96.0, 32: 66.0}),
        ("dart", {192: 219.75, 128: 159.75, 64: 99.75, 32: 69.75}),
        ("sparsevlm", {192: 206.5, 128: 145.4, 64: 82.3}),
        ("apet", {192: 192.0, 128: 128.0, 64: 64.0, 32: 32.0}),
        ("autoprune", {192: 209.9, 128: 145.9, 64: 81.9, 32: 49.9}),
    ],
)
def test_published_budgets_mean_these_layer_averages(name: str, averages: dict[int, float]) -> None:
    for keep, average in averages.items():
        assert schedule(name).layer_average(576, 32, keep) == pytest.approx(average, abs=0.06)


def test_published_counts_at_published_sizes() -> None:
    assert schedule("sparsevlm").tokens_per_layer(576, 32, 192) == (576,) * 3 + (309,) * 4 + (204,) * 9 + (113,) * 16
    assert schedule("sparsevlm", version="v2").tokens_per_layer(576, 32, 128)[3::4] == (238,) + (108,) * 3 + (60,) * 4
    assert schedule("apet").tokens_per_layer(576, 32, 128) == (192,) * 16 + (64,) * 16
    assert schedule("fastv").tokens_per_layer(576, 40, 192) == (576,) * 2 + (192,) * 38
    assert schedule("autoprune").tokens_per_layer(576, 32, 64)[:2] == (576, 160)


@given(
    st.sampled_from(METHODS), st.integers(4, 80), st.integers(1, 48), st.integers(1, 300), st.sampled_from(["v1", "v2"])
)
def test_tokens_never_grow_and_all_layers_are_counted(name: str, n: int, layers: int, keep: int, version: str) -> None:
    options = {"version": version} if name == "sparsevlm" else {}
    chosen = schedule(name, **options)
    keep = min(keep, n)
    if layers == 1:
        with pytest.raises(UnsupportedError, match="1 layers"):
            chosen.placed(1)
        return
    counts = chosen.tokens_per_layer(n, layers, keep)
    assert len(counts) == layers
    assert n >= counts[0]
    assert all(a >= b >= 1 for a, b in pairwise(counts))
    assert chosen.tokens_per_layer(n, layers, n) == (n,) * layers


@given(st.integers(1, 120), st.lists(st.integers(0, 31), min_size=1, max_size=5, unique=True))
def test_scaled_layers_ascend_and_leave_a_layer_to_run(n_layers: int, layers: list[int]) -> None:
    events = tuple(LayerEvent(layer, tp.Strategy(AttentionRows())) for layer in sorted(layers))
    made = LayerSchedule("s", events, reference_layers=32)
    if n_layers == 1:
        with pytest.raises(UnsupportedError):
            made.placed(1)
        return
    placed = [layer for layer, _ in made.placed(n_layers)]
    assert placed == sorted(set(placed))
    assert 0 <= placed[0] <= placed[-1] <= n_layers - 2
    assert len(placed) == min(len(layers), n_layers - 1)
    if n_layers == 32 and max(layers) < 31:
        assert placed == sorted(layers)


def test_layers_that_do_not_exist_are_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"'fastv' acts after layers \[6\].*4 layers"):
        schedule("fastv", k=7).placed(4)
    with pytest.raises(UnsupportedError, match="not in this order"):
        schedule("sparsevlm", layers=(2, 1)).placed(4)
    with pytest.raises(ConfigError, match="one to three"):
        schedule("sparsevlm", layers=())
    with pytest.raises(ConfigError, match="no version 'v'"):
        schedule("sparsevlm", version="v")


def test_an_event_cannot_read_what_nobody_measures() -> None:
    event = LayerEvent(0, tp.Strategy(AttentionRows(raters="raters")))
    with pytest.raises(ConfigError, match=r"\['raters'\], which no earlier event measures"):
        LayerSchedule("s", (event,))
    with pytest.raises(ConfigError, match="normed"):
        LayerEvent(0, tp.Strategy(AttentionRows(), merger=Recycle(AttentionRows())), normed=True)


def test_signals_from_before_the_model_are_asked_for_and_no_others() -> None:
    assert schedule("fastv").requires == frozenset()
    assert schedule("sparsevlm").requires == frozenset()
    assert schedule("autoprune").requires == {"cls_attention"}
    assert schedule("apet").requires == {"visual", "encoder"}


def test_a_single_event_selects_on_given_features() -> None:
    attention = torch.tensor([[0.1, 0.5, 0.2, 0.5]]).view(1, 1, 1, 4)
    features = tp.Features(torch.ones(1, 4, 2), attention=attention)
    assert schedule("fastv").select(features, 2).row(0) == [1, 3]
    with pytest.raises(UnsupportedError, match=r"several places.*attach"):
        schedule("sparsevlm").select(features, 2)


def context(keep: int, present: int, layer: int = 0, layers: tuple[int, ...] = (0, 1, 2)) -> LayerContext:
    return LayerContext((keep,), (present,), (present,), 32, layers, layer)


def test_rows_are_met_exactly_and_interpolated_between() -> None:
    rule = Interpolated(((64, (66, 30, 17)), (128, (303, 110, 36))), 576)
    for which, (low, high) in enumerate(zip((66, 30, 17), (303, 110, 36), strict=True)):
        assert rule.counts(context(64, 576, which)) == (low,)
        assert rule.counts(context(128, 576, which)) == (high,)
        assert low < rule.counts(context(96, 576, which))[0] < high
        assert rule.counts(context(32, 288, which)) == (int(low / 2 + 0.5),)
        assert rule.counts(context(576, 576, which)) == (576,)
    # a shallow model acts less often: the last entries count
    assert rule.counts(context(64, 576, 4, (4,))) == (17,)


def test_pivots_come_on_top_of_equal_quotas() -> None:
    rule = PivotsAndQuotas(4, 8)
    assert [rule.counts(context(k, 576))[0] for k in (192, 128, 64, 32, 20, 7, 576)] == [196, 132, 68, 36, 20, 4, 576]
    assert rule.counts(context(40, 42)) == (36,)


@given(st.integers(40, 700), st.floats(0.02, 0.6), st.floats(0, 3), st.integers(8, 40))
def test_logistic_counts_average_to_the_budget(n: int, ratio: float, information: float, n_layers: int) -> None:
    keep = max(2, int(ratio * n))
    rule = Logistic(Share(2.5), Recycle(AttentionRows()))
    start = min(int(2.5 * keep), n)
    shares = rule.shares(information, start, keep, n_layers)
    assert list(shares) == sorted(shares, reverse=True)
    # tokens are whole, and a flat curve moves all layers by one at a time
    assert abs(rule.total(shares, start) / n_layers - keep) <= 1
    assert rule.steepness(information) == max(0.4 - 0.2 * information, 0)
