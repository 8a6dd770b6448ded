"""What "N tokens" means: counted by hand, predicted, and as it really ran."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenprune as tp
from tokenprune.components.layerwise.attention import AttentionRows
from tokenprune.core.errors import BudgetError, ConfigError, UnreachableBudgetError
from tokenprune.core.matching import checked_match, matched_keep
from tokenprune.core.schedule import LayerEvent, LayerSchedule
from tokenprune.data.items import scene_items
from tokenprune.diagnostics.doctor import diagnose
from tokenprune.diagnostics.mask_out import mask_out
from tokenprune.evaluation.compare import compare
from tokenprune.hf.chat import prompt_inputs
from tokenprune.hf.cost import DecoderShape, kv_bytes, layer_average, prefill_flops
from tokenprune.zoo.tiny import picture, tiny_llava, tiny_processor

N, LAYERS = 576, 32
"""LLaVA-1.5-7B."""

STILL = [name for name in tp.list_strategies() if "frames" not in tp.build(name).requires]
"""What a model that reads no videos can run; the others run on videos in ``tests/hf/test_video_models.py``."""

NOT_NEUTRAL = ("visionzip", "trim", "prumerge", "prumerge-plus")
"""What makes a token more even with everything kept, for pictures."""

BUDGETED = [name for name in tp.list_strategies() if tp.build(name).uses_budget]

INSIDE = ("apet", "autoprune", "dart", "fastv", "pyramiddrop", "sparsevlm")


@pytest.mark.parametrize(
    ("name", "published"),
    [
        # full layers, then what is left: (2 * 576 + 30 * M) / 32
        ("fastv", {192: (192, 216.0), 128: (128, 156.0), 64: (64, 96.0), 32: (32, 66.0)}),
        # four pivots on top
        ("dart", {192: (196, 219.75), 128: (132, 159.75), 64: (68, 99.75), 32: (36, 69.75)}),
        # (3 * 576 + 4 * n1 + 9 * n2 + 16 * n3) / 32
        ("sparsevlm", {192: (113, 206.5), 128: (39, 145.40625), 64: (18, 82.25)}),
        # 1.5 and 0.5 times the budget, 16 layers each
        ("apet", {192: (96, 192.0), 128: (64, 128.0), 64: (32, 64.0), 32: (16, 32.0)}),
        # 8 layers each on all, on (M/N)^(1/3), (M/N)^(2/3) and M/N of them; the published 1/2, 1/4, 1/8 at 72
        ("pyramiddrop", {72: (72, 270.0), 64: (64, (576 + 276 + 133 + 64) / 4)}),
        ("mi-pruner", {192: (192, 192.0), 128: (128, 128.0), 64: (64, 64.0), 32: (32, 32.0)}),
        ("visionzip", {192: (192, 192.0), 64: (64, 64.0)}),
    ],
)
def test_what_published_budgets_mean(name: str, published: dict[int, tuple[int, float]]) -> None:
    strategy = tp.build(name)
    for keep, (left, average) in published.items():
        assert strategy.tokens_per_layer(N, LAYERS, keep)[-1] == left
        assert strategy.layer_average(N, LAYERS, keep) == average


@pytest.mark.parametrize("keep", [192, 128, 64, 32])
def test_autoprune_counts_what_layers_leave_so_it_processes_more(keep: int) -> None:
    counts = tp.build("autoprune").tokens_per_layer(N, LAYERS, keep)
    # the counts after each layer average to the budget; after the last one as many are left as it was given, or fewer
    after = sum(counts[1:]) + counts[-1]
    assert after / LAYERS == pytest.approx(keep, abs=0.2)
    assert sum(counts) / LAYERS == pytest.approx(keep + (N - counts[-1]) / LAYERS, abs=0.2)
    assert counts[1] == int(2.5 * keep)


def test_budgets_that_match_are_those_solved_by_hand() -> None:
    solved = {target: matched_keep(tp.build("fastv"), target, N, LAYERS) for target in (192, 128, 64)}
    # M = (32 * target - 2 * 576) / 30 = 166.4, 98.1, 29.9
    assert solved == {192: 166, 128: 98, 64: 30}
    third = {target: matched_keep(tp.build("fastv", k=3), target, N, LAYERS) for target in (192, 128, 64)}
    # M = (32 * target - 3 * 576) / 29
    assert third == {192: 152, 128: 82, 64: 11}
    # four pivots and eight quotas: 4 + 8 * 20 = 164 tokens, 4 + 8 * 12 = 100, 4 + 8 * 3 = 28
    dart = tp.build("dart")
    assert [matched_keep(dart, target, N, LAYERS) for target in (192, 128, 64)] == [160, 96, 24]
    assert [dart.layer_average(N, LAYERS, keep) for keep in (160, 96, 24)] == [189.75, 129.75, 62.25]
    # its own budget is a layer average already
    assert [matched_keep(tp.build("apet"), target, N, LAYERS) for target in (192, 128, 64, 32)] == [192, 128, 64, 32]


@pytest.mark.parametrize(
    ("name", "smallest"),
    [("fastv", "36.9"), ("dart", "39.8"), ("sparsevlm", "57.9")],  # (2 * 576 + 30) / 32, (2 * 576 + 30 * 4) / 32
)
def test_what_cannot_be_matched_names_the_smallest_average(name: str, smallest: str) -> None:
    with pytest.raises(UnreachableBudgetError, match=rf"'{name}' cannot process 32 of 576 .* average is {smallest}"):
        matched_keep(tp.build(name), 32, N, LAYERS)


@pytest.mark.parametrize("name", ["fastv", "dart"])
def test_a_first_layer_that_would_count_from_the_end_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: k must be at least 1"):
        tp.build(name, k=0)


def test_no_budget_reaches_what_counts_by_itself() -> None:
    strategy = tp.build("prunevid")
    assert not strategy.uses_budget
    assert strategy.own_counts
    with pytest.raises(UnreachableBudgetError, match="'prunevid' keeps follows from the visual input"):
        matched_keep(strategy, 128, N, LAYERS)


def test_targets_are_budgets() -> None:
    strategy = tp.build("fastv")
    assert matched_keep(strategy, 1 / 3, N, LAYERS) == matched_keep(strategy, 192, N, LAYERS)
    with pytest.raises(BudgetError, match="has only 576"):
        matched_keep(strategy, 577, N, LAYERS)
    assert checked_match("layer-average") == "layer-average"
    with pytest.raises(ConfigError, match="'layer-average'"):
        checked_match("layer-averages")


@given(st.sampled_from(BUDGETED), st.integers(4, 90), st.integers(3, 40), st.floats(0.02, 1))
@settings(max_examples=30)
def test_no_other_budget_comes_nearer(name: str, n: int, n_layers: int, ratio: float) -> None:
    strategy = tp.build(name)
    averages = [strategy.layer_average(n, n_layers, keep) for keep in range(1, n + 1)]
    target = max(1, round(ratio * n))
    if averages[0] > target:
        with pytest.raises(UnreachableBudgetError):
            matched_keep(strategy, target, n, n_layers)
        return
    got = averages[matched_keep(strategy, target, n, n_layers) - 1]
    # whole tokens make the curve of autoprune's averages rise unevenly, by less than one token
    slack = 1 if name == "autoprune" else 0
    assert abs(got - target) <= min(abs(average - target) for average in averages) + slack
    if name not in INSIDE:
        assert matched_keep(strategy, target, n, n_layers) == target
    assert matched_keep(strategy, n, n, n_layers) == n


@pytest.fixture(scope="module")
def tiny() -> tuple[Any, Any, Any]:
    model, processor = tiny_llava(side=12, layers=6), tiny_processor(side=12)
    inputs = prompt_inputs(processor, [picture(1), picture(2)], ["what color is the dog ?", "how many birds ?"])
    return model, processor, inputs


def ran(tiny: tuple[Any, Any, Any], strategy: tp.AnyStrategy, keep: int) -> tp.Run:
    model, processor, inputs = tiny
    with torch.no_grad(), tp.attach(model, strategy, keep, processor=processor) as run:
        model(**inputs)
    return run


# a budget of all tokens is among them, and drops nothing
@pytest.mark.filterwarnings("ignore::tokenprune.core.errors.NothingPrunedWarning")
@pytest.mark.parametrize("name", STILL)
@pytest.mark.parametrize("keep", [1, 37, 144])
def test_what_ran_is_what_was_predicted(tiny: tuple[Any, Any, Any], name: str, keep: int) -> None:
    # with gain 0 autoprune's counts do not follow what it measures
    strategy = tp.build(name, gain=0.0) if name == "autoprune" else tp.build(name)
    predicted = strategy.tokens_per_layer(144, 6, keep)
    assert ran(tiny, strategy, keep).history[-1].layer_tokens == (predicted, predicted)


@pytest.mark.parametrize("keep", [20, 60])
def test_what_autoprune_measures_moves_tokens_between_layers_only(tiny: tuple[Any, Any, Any], keep: int) -> None:
    for counts in ran(tiny, tp.build("autoprune"), keep).history[-1].layer_tokens:
        assert (sum(counts[1:]) + counts[-1]) / 6 <= keep + 1
        predicted = tp.build("autoprune").layer_average(144, 6, keep)
        assert layer_average(counts) == pytest.approx(predicted, abs=keep / 6 + 1)


@pytest.mark.parametrize("name", ["fastv", "dart", "apet", "mi-pruner"])
def test_matched_budgets_make_rows_comparable(tiny: tuple[Any, Any, Any], name: str) -> None:
    strategy = tp.build(name)
    keep = matched_keep(strategy, 80, 144, 6)
    step = strategy.layer_average(144, 6, keep + 8) - strategy.layer_average(144, 6, keep)
    for counts in ran(tiny, strategy, keep).history[-1].layer_tokens:
        assert layer_average(counts) == pytest.approx(80, abs=step / 2 if name == "dart" else 0.5)


@pytest.mark.parametrize("name", STILL)
def test_bytes_of_the_cache_are_those_that_the_cache_holds(tiny: tuple[Any, Any, Any], name: str) -> None:
    model, processor, _ = tiny
    one = prompt_inputs(processor, [picture(1)], ["what color is the dog ?"])
    with torch.no_grad(), tp.attach(model, name, 30, processor=processor) as run:
        cache = model(**one, use_cache=True).past_key_values
    words = int((one["input_ids"] != model.config.image_token_id).sum())
    tokens = [count + words for count in run.history[-1].layer_tokens[0]]
    held = [t for layer in cache.layers for t in (layer.keys, layer.values)]
    shape = DecoderShape.of(model.config.get_text_config())
    assert kv_bytes(shape, tokens, 4) == sum(t.numel() * t.element_size() for t in held)


@pytest.mark.slow
def test_compare_matches_layer_averages_and_names_what_it_cannot(tmp_path: Path) -> None:
    model, processor, items = tiny_llava(side=6, layers=4), tiny_processor(side=6), scene_items(None, 3, 0)
    options: dict[str, Any] = {"strategies": ["fastv", "mi-pruner"], "budgets": (18, 6), "note": (notes := []).append}
    rows = compare(model, processor, items, tmp_path / "matched", {}, match="layer-average", **options)
    found = {(row.strategy, row.keep): row for row in rows if (row.task, row.metric) == ("all", "accuracy")}
    # one full layer of four: (36 + 3 * 12) / 4 = 18; at best (36 + 3) / 4
    assert (found["fastv", 18].kept_tokens, found["fastv", 18].layer_average_tokens) == (12, 18)
    assert (found["mi-pruner", 18].kept_tokens, found["mi-pruner", 18].layer_average_tokens) == (18, 18)
    assert found["fastv", 18].kv_bytes == found["mi-pruner", 18].kv_bytes
    assert ("fastv", 6) not in found
    assert ("mi-pruner", 6) in found
    assert len(notes) == 1
    assert notes[0].startswith("fastv at 6 is left out:")
    assert "smallest average is 9.8" in notes[0]
    summary = json.loads((tmp_path / "matched" / "summary.json").read_text())
    assert [(row["strategy"], row["keep"]) for row in summary["unmatched"]] == [("fastv", 6)]
    config = json.loads((tmp_path / "matched" / "config.json").read_text())
    assert config["asked"] == {"match": "layer-average"}
    with pytest.raises(ConfigError, match="match: 'layer-average' there, 'kept' now"):
        compare(model, processor, items, tmp_path / "matched", {}, **options)
    rows = compare(model, processor, items, tmp_path / "kept", {}, **options)
    assert {row.kept_tokens for row in rows if row.strategy == "fastv"} == {18, 6}
    assert {row.layer_average_tokens for row in rows if row.strategy == "fastv"} == {22.5, 13.5}


def test_prefill_of_a_seven_billion_model_by_hand() -> None:
    """FastV at "128": two layers on 576 tokens, 30 on 128; 40 more of text."""
    shape = DecoderShape(layers=32, width=4096, heads=32, kv_heads=32, head_width=128, hidden=11008)
    counts = tp.build("fastv").tokens_per_layer(N, LAYERS, 128)

    def layer(n: int) -> int:
        return 8 * n * 4096**2 + 4 * n**2 * 4096 + 6 * n * 4096 * 11008

    tokens = [count + 40 for count in counts]
    assert prefill_flops(shape, tokens) == 2 * layer(616) + 30 * layer(168)
    assert kv_bytes(shape, tokens, 2) == (2 * 616 + 30 * 168) * 2 * 4096 * 2


@pytest.mark.parametrize("name", STILL)
def test_laws_hold_wherever_a_strategy_acts(tiny: tuple[Any, Any, Any], name: str) -> None:
    model, processor, inputs = tiny
    found = diagnose(model, processor, name, 30, inputs)
    assert found.healthy
    laws = {"keep all = plain", "drop = mask out", "hooks gone"}
    # what merges is not what was there; visionzip's [CLS] is not even with everything kept
    merging = {"apet": {"drop = mask out"}, "autoprune": {"drop = mask out"}, "sparsevlm": {"drop = mask out"}}
    # in a pyramid each layer counts positions of its own, which no mask makes
    merging["pyramiddrop"] = {"drop = mask out"}
    # what is left in the encoder has been computed with fewer neighbours
    merging["flowcut"] = {"drop = mask out"}
    merging |= {each: {"keep all = plain", "drop = mask out"} for each in NOT_NEUTRAL}
    assert set(found.laws) == laws - merging.get(name, set())
    strategy = tp.build(name)
    if name != "autoprune":
        assert found.layer_tokens == tuple(2 * count for count in strategy.tokens_per_layer(144, 6, 30))
    assert found.as_dict()["layer_average_tokens"] == sum(found.layer_tokens) / 6


@pytest.mark.parametrize("name", ["fastv", "mi-pruner", "divprune"])
def test_masking_other_tokens_out_is_told_apart(tiny: tuple[Any, Any, Any], name: str) -> None:
    model, _, inputs = tiny
    strategy = tp.build(name)
    prefills = [ran(tiny, strategy, keep).history[-1] for keep in (30, 29)]
    with torch.no_grad():
        one, other = (mask_out(model, inputs, prefill, strategy.positions) for prefill in prefills)
    assert (one - other).abs().amax() > 1e-3 * one.std()


def test_neutral_strategies_say_so() -> None:
    neutral = {name: tp.build(name).neutral for name in tp.list_strategies()}
    assert {name for name, is_neutral in neutral.items() if not is_neutral} == {
        "fastvid", "holitom", "prunevid", *NOT_NEUTRAL
    }  # fmt: skip
    assert not tp.build("holov", faithful=True).neutral  # pick order
    assert not tp.build("apet", faithful=True).neutral  # overwritten tokens
    assert not tp.build("sparsevlm", faithful=True).neutral  # always drops one
    assert not tp.build("autoprune", faithful=True).neutral
    assert tp.build("dart", faithful=True).neutral
    assert not tp.build("mi-attention", form="visionzip").neutral
    event = LayerEvent(0, tp.Strategy(AttentionRows()))
    assert LayerSchedule("s", (event,)).neutral
    assert not LayerSchedule("s", (event,), before=tp.build("visionzip")).neutral  # type: ignore[arg-type]
