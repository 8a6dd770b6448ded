"""The table's numbers, against ones counted by hand."""

from __future__ import annotations

from typing import Any

import pytest

from tokenprune.evaluation.metrics import f1_of_yes, is_correct, yes_rate
from tokenprune.evaluation.summary import summarize
from tokenprune.evaluation.table import ordered, p_value
from tokenprune.hf.cost import DecoderShape, kv_bytes, layer_average, prefill_flops
from tokenprune.report.pages import share


def line(strategy: str, sample: str, said: str, answer: str = "yes", keep: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "strategy": strategy,
        "keep": keep,
        "draw": 0,
        "sample": sample,
        "image": sample[0],
        "task": "pope",
        "family": "random",
        "binary": True,
        "answer": answer,
        "prediction": said,
        "correct": said == answer,
        "tokens": keep or 576,
        "layer_average_tokens": float(keep or 576),
        "flops": 10,
        "kv_bytes": 4,
        **more,
    }


def test_the_numbers_are_those_counted_by_hand() -> None:
    lines = [line("full", f"{i}", "yes") for i in range(4)]
    lines += [line("mine", f"{i}", said, keep=8) for i, said in enumerate(["yes", "yes", "yes", "no"])]
    for draw, says in enumerate((["yes", "no", "no", "no"], ["no", "no", "no", "no"])):
        lines += [line("random", f"{i}", said, keep=8, draw=draw) for i, said in enumerate(says)]
    rows = {(r.strategy, r.metric): r for r in summarize(lines) if r.task == "all"}
    assert rows["full", "accuracy"].value == 1
    assert rows["mine", "accuracy"].value == 0.75
    assert rows["mine", "relative"].value == 0.75
    assert rows["mine", "agreement"].value == 0.75
    assert rows["random", "accuracy"].value == 0.125
    assert rows["random", "accuracy"].n == 4
    assert rows["mine", "f1"].value == pytest.approx(6 / 7)
    assert rows["mine", "yes_rate"].value == 0.75
    assert rows["mine", "accuracy"].layer_average_tokens == 8
    assert rows["mine", "accuracy"].p_full == 1.0
    # mine - random is (.5, 1, 1, 0): 2 of the 8 sign patterns reach the observed sum
    assert rows["mine", "accuracy"].p_random == pytest.approx(2 / 8)
    assert rows["full", "accuracy"].p_full is None


def test_sub_families_add_up() -> None:
    lines = [line("full", f"{i}", "yes", family="random" if i % 2 else "popular", task="pope") for i in range(6)]
    lines += [line("full", f"g{i}", "red", "red", task="gqa", family="colour", binary=False) for i in range(3)]
    rows = [r for r in summarize(lines) if r.metric == "accuracy"]
    assert {(r.task, r.family): r.n for r in rows} == {
        ("all", "all"): 9,
        ("pope", "all"): 6,
        ("gqa", "all"): 3,
        ("pope", "random"): 3,
        ("pope", "popular"): 3,
        ("gqa", "colour"): 3,
    }
    assert not any(r.metric == "f1" and r.task in ("all", "gqa") for r in summarize(lines))


def test_the_table_is_ordered_by_budget_and_then_by_value() -> None:
    lines = [line("full", "0", "yes"), line("a", "0", "no", keep=8), line("b", "0", "yes", keep=8)]
    lines += [line("a", "0", "yes", keep=4), line("b", "0", "yes", keep=4)]
    assert ordered(summarize(lines)) == [("full", 0), ("b", 8), ("a", 8), ("a", 4), ("b", 4)]


def test_no_p_value_is_nought() -> None:
    assert [p_value(p) for p in (None, 1.0, 0.04649, 0.001, 0.00099, 0.0)] == [
        "-",
        "1.000",
        "0.046",
        "0.001",
        "<0.001",
        "<0.001",
    ]


@pytest.mark.parametrize(
    ("said", "answer", "choices", "right"),
    [
        ("Red.", "red", (), True),
        ("dark red", "red", (), False),
        ("yes , it is", "yes", ("yes", "no"), True),
        ("nothing", "no", ("yes", "no"), False),
        ("B. dog", "b", ("a", "b", "c"), True),
        ("", "red", (), False),
        ("light blue", "light blue", ("light", "light blue"), True),
        ("no parking", "no parking", ("no", "no parking"), True),
        ("no parking here", "no parking", ("no", "no parking"), True),
        ("no, it is not", "no", ("no", "no parking"), True),
        ("-3", "3", (), False),
        ("-3.", "-3", (), True),
        ("3-4", "3 4", (), True),
        ("two-way", "two way", (), True),
        ("...", "+", (), False),
        ("", "", (), False),
        ("", "?", ("?", "!"), False),
    ],
)
def test_answers_are_compared_after_normalising(said: str, answer: str, choices: tuple[str, ...], right: bool) -> None:
    assert is_correct(said, answer, choices) is right


def test_f1_and_yes_rate() -> None:
    assert f1_of_yes(["yes", "no", "Yes."], ["yes", "yes", "no"]) == pytest.approx(0.5)
    assert f1_of_yes(["no"], ["no"]) == 0
    assert yes_rate(["yes", "no", "no", "no"]) == 0.25


def test_what_only_some_draws_add_up_to_is_left_out() -> None:
    """Of the second draw one question of a picture is missing: MME counts pairs."""
    asked = [(0, "0"), (0, "1"), (1, "0"), (1, "1")]
    lines = [line("random", n, "yes", draw=d, keep=8, metric="mme", image="0", family="count") for d, n in asked]
    assert {r.metric: r.value for r in summarize(lines)}["mme"] == 200
    some = {r.metric for r in summarize(lines[:3])}
    assert "mme" not in some
    assert {"f1", "yes_rate"} <= some


def test_costs_against_hand_derived_values() -> None:
    # LLaVA-1.5-7B: 32 layers, d 4096, 32 heads of 128, feed-forward 11008
    shape = DecoderShape(layers=32, width=4096, heads=32, kv_heads=32, head_width=128, hidden=11008)
    n = 100
    by_hand = 2 * n * (4 * 4096 * 4096 + 3 * 4096 * 11008) + 4 * n * n * 4096
    assert shape.layer_flops(n) == by_hand
    assert prefill_flops(shape, [n, 2 * n]) == by_hand + shape.layer_flops(2 * n)
    # 0.5 MiB a token in half precision is the number users know
    assert kv_bytes(shape, [1] * 32, 2) == 2**19
    assert layer_average([576, 576] + [128] * 30) == 156.0


def test_as_good_as_full_is_1_for_sure() -> None:
    lines = [line("full", f"{i:02}", "yes" if i % 2 else "no", image=f"{i}") for i in range(40)]
    lines += [{**one, "strategy": "mine", "keep": 8} for one in lines]
    lines += [line("worse", f"{i:02}", "yes" if i % 4 == 1 else "no", image=f"{i}", keep=8) for i in range(40)]
    rows = {(r.strategy, r.metric): r for r in summarize(lines) if (r.task, r.family) == ("all", "all")}
    assert (rows["mine", "relative"].value, rows["mine", "relative"].low, rows["mine", "relative"].high) == (1, 1, 1)
    assert rows["mine", "accuracy"].low < 0.5 < rows["mine", "accuracy"].high
    worse = rows["worse", "relative"]
    assert worse.low < worse.value == 0.5 < worse.high < 1


def test_one_image_has_no_interval_and_no_right_answer_of_full_no_ratio() -> None:
    lines = [line("full", f"0{i}", "no") for i in range(3)]
    lines += [line("mine", f"0{i}", "yes" if i else "no", keep=8) for i in range(3)]
    rows = {(r.strategy, r.metric): r for r in summarize(lines) if (r.task, r.family) == ("all", "all")}
    accuracy = rows["mine", "accuracy"]
    assert accuracy.low == accuracy.value == accuracy.high
    assert ("mine", "relative") not in rows
    assert "[" in share(0.5, 0.4, 0.6)
    assert share(accuracy.value, accuracy.low, accuracy.high) == "66.7%"


def test_costs_stand_where_they_belong() -> None:
    """Every mean under its own name; draws count each."""
    costs = {"tokens": 7, "layer_average_tokens": 30.5, "flops": 100, "kv_bytes": 2000}
    lines = [line("mine", f"{i}", "yes", keep=8, **costs) for i in range(3)]
    lines.append(line("mine", "3", "no", keep=8, **{name: 2 * value for name, value in costs.items()}))
    row = next(r for r in summarize(lines) if r.metric == "accuracy" and r.task == "all")
    assert (row.kept_tokens, row.layer_average_tokens, row.flops, row.kv_bytes) == (8.75, 38.125, 125, 2500)


def test_of_full_is_of_full() -> None:
    """And agreement with it; the wrong image's answers are no measure of anything but themselves."""
    lines = [line("full", f"{i}", "yes" if i else "no") for i in range(4)]
    lines += [line("wrong image", f"{i}", "yes" if i > 2 else "no") for i in range(4)]
    lines += [line("mine", f"{i}", "yes" if i > 1 else "no", keep=8) for i in range(4)]
    rows = {(r.strategy, r.metric): r for r in summarize(lines) if r.task == "all"}
    assert rows["mine", "relative"].value == pytest.approx(2 / 3)
    assert rows["wrong image", "relative"].value == pytest.approx(1 / 3)
    assert rows["mine", "agreement"].value == 0.75
    assert rows["wrong image", "accuracy"].p_full is not None
    assert rows["wrong image", "accuracy"].p_random is None
    assert rows["full", "accuracy"].p_random is None


def test_intervals_count_pictures() -> None:
    """Questions about one picture go together, in the summary too: four pictures of one answer each, ten times."""
    lines = [line("full", f"{i:02}", "yes" if i % 4 else "no", image=f"{i % 4}") for i in range(40)]
    accuracy = next(r for r in summarize(lines) if r.metric == "accuracy" and r.task == "all")
    alone = [line("full", f"{i}", "yes" if i else "no", image=f"{i}") for i in range(4)]
    few = next(r for r in summarize(alone) if r.metric == "accuracy" and r.task == "all")
    assert (accuracy.low, accuracy.high) == (few.low, few.high)
    assert (accuracy.n, few.n) == (40, 4)
