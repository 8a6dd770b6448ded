"""Shares of yes from lines of results, against counts made another way."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.hallucination.page import as_markdown, charts
from tokenprune.core.errors import ConfigError
from tokenprune.evaluation.hallucination import YesRow, yes_rows
from tokenprune.evaluation.summary import summarize


def line(sample: int, said: str, truth: str, strategy: str = "full", keep: int = 0, draw: int = 0) -> dict[str, Any]:
    return {
        "strategy": strategy,
        "keep": keep,
        "draw": draw,
        "sample": f"q{sample}",
        "image": f"i{sample // 2}",
        "task": "pope",
        "family": "random",
        "binary": True,
        "answer": truth,
        "prediction": said,
        "correct": said.split(",")[0].lower() == truth,
        "tokens": 4,
        "layer_average_tokens": 4.0,
        "flops": 1.0,
        "kv_bytes": 1.0,
    }


def by_key(rows: list[YesRow]) -> dict[tuple[str, int, str], YesRow]:
    return {(row.strategy, row.keep, row.kind): row for row in rows}


pairs = st.lists(
    st.tuples(st.sampled_from(["Yes", "yes, it is", "no", "No.", ""]), st.sampled_from(["yes", "no"])), min_size=1
)


@given(pairs)
def test_shares_add_up_and_agree_with_the_table(asked: list[tuple[str, str]]) -> None:
    lines = [line(i, said, truth) for i, (said, truth) in enumerate(asked)]
    found = by_key(yes_rows(lines))
    said_yes = [said.lower().startswith("yes") for said, _ in asked]
    absent = [y for y, (_, truth) in zip(said_yes, asked, strict=True) if truth == "no"]
    there = [y for y, (_, truth) in zip(said_yes, asked, strict=True) if truth == "yes"]
    assert found["full", 0, "yes"].value == pytest.approx(sum(said_yes) / len(said_yes))
    assert found["full", 0, "yes"].value == pytest.approx(
        next(row.value for row in summarize(lines) if row.metric == "yes_rate")
    )
    assert (("full", 0, "false yes") in found) == bool(absent)
    if absent:
        assert found["full", 0, "false yes"].value == pytest.approx(sum(absent) / len(absent))
    if there:
        assert found["full", 0, "missed"].value == pytest.approx(1 - sum(there) / len(there))


def test_what_pruning_changes_is_tested_against_the_unpruned_model() -> None:
    plain = [line(i, "no", "no") for i in range(40)] + [line(40 + i, "yes", "yes") for i in range(40)]
    blind = [{**one, "prediction": "yes", "strategy": "blind", "keep": 8} for one in plain]
    timid = [{**one, "prediction": "no", "strategy": "timid", "keep": 8} for one in plain]
    # three draws of random, of which one is blind
    random = [{**one, "strategy": "random", "keep": 8, "draw": d} for d in (0, 1) for one in plain]
    random += [{**one, "strategy": "random", "draw": 2} for one in blind]
    found = by_key(yes_rows(plain + blind + timid + random))
    assert found["blind", 8, "false yes"].change == 1
    assert found["blind", 8, "false yes"].p_full is not None
    assert found["blind", 8, "false yes"].p_full < 0.01
    assert found["blind", 8, "missed"].change == 0
    assert found["blind", 8, "missed"].p_full == 1
    assert found["timid", 8, "false yes"].change == 0
    assert found["timid", 8, "missed"].value == 1
    assert found["random", 8, "false yes"].value == pytest.approx(1 / 3)
    assert found["full", 0, "yes"].change is None
    rows = [*found.values()]
    table = as_markdown(rows).splitlines()
    assert next(row for row in table if row.startswith("| blind")).count("\\*") == 2
    drawn = charts(rows)
    assert [chart is not None for chart in drawn] == [True, True, True]


def test_open_questions_have_no_yes() -> None:
    with pytest.raises(ConfigError, match="families pope"):
        yes_rows([{**line(0, "red", "red"), "binary": False}])
