"""Budgets that decide themselves inside models: attach, prepare and compile keep the same tokens, and say how many."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import tokenprune as tp
from tokenprune.core.errors import NotCompiledWarning, UnsupportedError
from tokenprune.data.items import scene_items
from tokenprune.evaluation.compare import comparison
from tokenprune.hf.encoded import takes_encoded
from tokenprune.report.comparison import write_report
from tokenprune.zoo.tiny import tiny_inputs, tiny_llava, tiny_model, tiny_processor

RULES: dict[str, dict[str, Any]] = {
    "captured-mass": {"name": "captured-mass", "share": 0.5},
    "gain-threshold": {"name": "gain-threshold", "threshold": 0.1},
    "redundancy-knee": {"name": "redundancy-knee"},
    "fitted": {"name": "fitted", "weights": [0.5, -0.2, 0.3], "means": [0.5, 1, 1]},
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_all_ways_to_run_a_budget_keep_the_same(name: str, rule: str, shared: bool) -> None:
    model, inputs = tiny_model(name), tiny_inputs(name, "image", 3)
    # a ceiling above the budget counts where the budget is an average
    ceiling = 20 if shared or rule == "fitted" else None
    options: dict[str, Any] = {"floor": 2, "ceiling": ceiling, "shared": shared, "bucket": 1 if shared else 4}
    budget = tp.Budget(9, clip=True, adaptive=RULES[rule], **options)
    with tp.attach(model, "mi-pruner", budget, text="all") as run:
        said = model.generate(**inputs, max_new_tokens=4)
    counts = run.selections[0].counts.tolist()
    assert all(2 <= n <= (ceiling or 9) for n in counts)
    assert sum(counts) == run.tokens_after
    if shared:
        assert run.tokens_after == sum(min(9, len(places)) for places in run.history[0].places)
    if takes_encoded(model):
        shorter = tp.prepare(model, "mi-pruner", budget, text="all", **inputs)
        assert torch.equal(model.generate(**shorter, max_new_tokens=4)[:, -4:], said[:, -4:])
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotCompiledWarning)
        compiled = tp.compile(model, "mi-pruner", budget, text="all", bucket=8)
    for _ in range(2):  # the second call finds its programs made
        assert torch.equal(compiled.generate(**inputs, max_new_tokens=4), said)


def test_programs_are_few_where_counts_are_rounded() -> None:
    """Questions that need other budgets run through the programs of a bucket."""
    model = tiny_model("llava")
    rule = tp.Budget(16, adaptive={"name": "captured-mass", "share": 0.3}, bucket=16)
    compiled = tp.compile(model, "mi-pruner", rule, text="all", bucket=32)
    for seed in range(3):
        inputs = tiny_inputs("llava", "image", 1, seed=seed)
        compiled.generate(**inputs, max_new_tokens=2)
    assert sum(built.stage == "select" for built in compiled.built) == 1


def test_what_acts_elsewhere_refuses_a_rule() -> None:
    for strategy in ("fastv", "flowcut"):
        with (
            pytest.raises(UnsupportedError, match="adaptive"),
            tp.attach(tiny_model("llava"), strategy, tp.Budget(4, adaptive="captured-mass")),
        ):
            pass


def test_compare_shows_how_many_tokens_were_kept(tmp_path: Path) -> None:
    mix = {"scorer": "pmi", "selector": {"name": "adaptive", "rule": "captured-mass"}}
    notes: list[str] = []
    found = comparison(
        tiny_llava(side=6),
        tiny_processor(side=6),
        scene_items(None, 9, seed=3),
        tmp_path,
        {},
        strategies=[{"label": "half", "strategy": mix}],
        budgets=(30,),
        note=notes.append,
    )
    assert not found.failed, found.failed
    (row,) = json.loads((tmp_path / "summary.json").read_text())["own_counts"]
    lines = list(map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines()))
    kept = sorted(line["tokens"] for line in lines if line["strategy"] == "half")
    told = row["by_task"]["all"]
    assert (told["least"], told["most"], told["n"]) == (kept[0], kept[-1], len(kept))
    assert told["mean"] == pytest.approx(sum(kept) / len(kept)) == pytest.approx(row["left"])
    assert set(row["by_task"]) == {"all", *(line["task"] for line in lines)}
    page = write_report(tmp_path, found.rows, {}, kept=found.summary["own_counts"]).read_text()
    assert "How many tokens were kept" in page
