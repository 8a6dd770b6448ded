"""The table of all strategies on the model that ships is that of the rows that were collected."""

from __future__ import annotations

import csv
from typing import Any

import pytest

from experiments.embedded.page import PAGE, ROWS, collected, table
from experiments.marked import between


def test_the_page_is_what_was_measured() -> None:
    with ROWS.open(encoding="utf-8", newline="") as file:
        made = table(list(csv.DictReader(file)))
    said = between("rows").search(PAGE.read_text(encoding="utf-8"))
    assert said is not None
    assert said[2] == made, "run python -m experiments.embedded.page"


def row(strategy: str, keep: int, value: float, p: float | None = None, **more: Any) -> dict[str, Any]:
    known = {"task": "all", "family": "all", "metric": "accuracy", "low": value, "high": value, "n": 9}
    return {
        "strategy": strategy,
        "keep": keep,
        "value": value,
        "p_random": p,
        "layer_average_tokens": 8.0,
        **known,
        **more,
    }


def test_rows_above_and_below_random_are_told() -> None:
    rows = [row("full", 0, 1.0), row("wrong image", 0, 0.4), row("random", 8, 0.5)]
    rows += [row("good", 8, 0.9, 0.01), row("bad", 8, 0.1, 0.01), row("alike", 8, 0.6, 0.7)]
    rows += [row("good", 8, 0.2, metric="agreement"), row("good", 8, 0.3, task="scenes-gqa")]
    summary = {"incomplete": {}, "failed": {}, "rows": rows}
    told = [{name: "" if value is None else str(value) for name, value in one.items()} for one in collected(summary)]
    lines = table(told).splitlines()
    assert lines[4:] == [
        "| good | **90.0** (90-90) | 8.0 |",
        "| alike | 60.0 (60-60) | 8.0 |",
        "| random | 50.0 (50-50) | 8.0 |",
        "| bad | *10.0* (10-10) | 8.0 |",
    ]


def test_a_comparison_that_lacks_rows_is_refused() -> None:
    with pytest.raises(SystemExit, match="not all rows are there"):
        collected({"incomplete": {"mi-pruner@64": 3}, "failed": {}, "rows": []})
