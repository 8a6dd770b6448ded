"""Rows of a comparison say where counts are not the budget's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tokenprune.data.items import scene_items
from tokenprune.evaluation.compare import compare
from tokenprune.zoo.tiny import tiny_llava, tiny_model, tiny_processor


@pytest.mark.filterwarnings("ignore::tokenprune.core.errors.UnusedBudgetWarning")
def test_counts_that_follow_from_the_data_are_told(tmp_path: Path) -> None:
    model, processor = tiny_model("qwen2_vl"), tiny_processor("qwen2_vl")
    notes: list[str] = []
    options: dict[str, Any] = {"strategies": ["evs", "prunevid", "vidcom2"], "budgets": (8,), "note": notes.append}
    rows = compare(model, processor, scene_items(None, 2, 0), tmp_path, {}, **options)
    left = {row.strategy: row.kept_tokens for row in rows if (row.task, row.metric) == ("all", "accuracy")}
    assert left["vidcom2"] == 8 != left["prunevid"]
    assert left["evs"] == left["full"]
    assert f"evs at 8 keeps counts of its own (aimed at): {left['evs']:.1f} tokens are left" in notes
    assert f"prunevid at 8 keeps counts of its own (free): {left['prunevid']:.1f} tokens are left" in notes
    told = json.loads((tmp_path / "summary.json").read_text())["own_counts"]
    assert [(row["strategy"], row["budget"], row["left"]) for row in told] == [
        ("evs", "aimed at", left["evs"]),
        ("prunevid", "free", left["prunevid"]),
    ]


def test_rows_that_a_model_cannot_run_say_why(tmp_path: Path) -> None:
    notes: list[str] = []
    options: dict[str, Any] = {"strategies": ["evs", "vidcom2", "random"], "budgets": (4, 2), "note": notes.append}
    compare(tiny_llava(side=6), tiny_processor(side=6), scene_items(None, 2, 0), tmp_path, {}, **options)
    assert notes == ["evs, vidcom2 at 4, 2 are left out: it compares the frames of videos, and the model reads none"]


@pytest.mark.filterwarnings("ignore::tokenprune.core.errors.UnusedBudgetWarning")
def test_no_budget_matches_what_counts_by_itself(tmp_path: Path) -> None:
    model, processor = tiny_model("qwen2_vl"), tiny_processor("qwen2_vl")
    notes: list[str] = []
    options: dict[str, Any] = {"strategies": ["prunevid", "vidcom2"], "budgets": (8,), "note": notes.append}
    rows = compare(model, processor, scene_items(None, 2, 0), tmp_path, {}, match="layer-average", **options)
    assert "prunevid" not in {row.strategy for row in rows}
    assert notes[0].startswith("prunevid at 8 is left out: how many tokens strategy 'prunevid' keeps follows from")
