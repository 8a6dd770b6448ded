"""A comparison from end to end on a tiny model: files, resuming, reference rows, costs of what ran."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tokenprune as tp
from tests.support.llava import SIDE, N
from tokenprune.cli import main
from tokenprune.core.errors import ConfigError, PluginError
from tokenprune.core.features import Grid
from tokenprune.data.items import Item, scene_items
from tokenprune.evaluation.batch import box_overlap
from tokenprune.evaluation.compare import answers_in, compare
from tokenprune.evaluation.conditions import Condition, conditions
from tokenprune.report.comparison import write_report
from tokenprune.results.store import read_results
from tokenprune.zoo.tiny import tiny_llava

CONFIG = {"model": "tiny", "seed": 0}


@pytest.fixture(scope="module")
def items() -> list[Item]:
    return scene_items(None, 9, seed=3)


def test_every_row_answers_every_question_once(model: Any, processor: Any, items: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = {"strategies": ["mi-pruner", "fastv"], "budgets": (9, 4), "batch_size": 4}
    rows = compare(model, processor, items, tmp_path, CONFIG, **options)
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    keys = [(line["strategy"], line["keep"], line["draw"], line["sample"]) for line in lines]
    # full, wrong image; at each budget oracle, three random draws, two strategies
    assert len(keys) == len(set(keys)) == len(items) * (2 + 2 * 6)
    tokens = {(line["strategy"], line["keep"]): line["layer_average_tokens"] for line in lines}
    assert tokens["full", 0] == tokens["wrong image", 0] == N
    assert tokens["mi-pruner", 4] == tokens["oracle", 4] == tokens["random", 4] == 4
    assert 4 < tokens["fastv", 4] < N
    flops = {(line["strategy"], line["keep"]): line["flops"] for line in lines if line["sample"] == items[0].id}
    assert flops["mi-pruner", 4] < flops["mi-pruner", 9] < flops["fastv", 9] < flops["full", 0]
    summary = json.loads((tmp_path / "summary.json").read_text())
    fields = {"strategy", "keep", "task", "family", "metric", "value", "low", "high", "n"}
    assert all(fields | {"layer_average_tokens", "flops", "kv_bytes"} <= row.keys() for row in summary["rows"])
    assert len(summary["rows"]) == len(rows)
    page = write_report(tmp_path, rows, {"model": "<tiny>"}, ["note & warning"]).read_text()
    assert "&lt;tiny&gt;" in page
    assert "note &amp; warning" in page
    assert "src=" not in page.replace('src="data:', "")


def test_a_stopped_run_goes_on_and_gives_the_same(model: Any, processor: Any, items: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = {"strategies": ["mi-pruner"], "budgets": (9,), "batch_size": 4}
    compare(model, processor, items, tmp_path / "whole", CONFIG, **options)
    whole = (tmp_path / "whole" / "results.jsonl").read_text()
    part = tmp_path / "part"
    compare(model, processor, items, part, CONFIG, **options)
    (part / "results.jsonl").write_text(whole[: len(whole) // 2])
    steps: list[int] = []
    compare(model, processor, items, part, CONFIG, progress=lambda done, total, what: steps.append(done), **options)
    again = (part / "results.jsonl").read_text()
    assert sorted(again.splitlines()) == sorted(whole.splitlines())
    assert steps[0] > 0
    asked: list[str] = []
    compare(model, processor, items, part, CONFIG, progress=lambda done, total, what: asked.append(what), **options)
    assert asked == ["done"]


def test_the_wrong_image_is_another_one(model: Any, processor: Any, items: Any, tmp_path: Path) -> None:
    compare(model, processor, items, tmp_path, CONFIG, strategies=["random"], budgets=(4,), batch_size=9)
    said: dict[str, list[str]] = {}
    for line in map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines()):
        if line["keep"] == 0:
            said.setdefault(line["strategy"], []).append(line["prediction"])
    assert said["full"] != said["wrong image"]


def test_a_batch_about_one_picture_gets_a_strangers(model: Any, processor: Any, items: Any, tmp_path: Path) -> None:
    # batches of one question: the wrong picture has to come from elsewhere
    compare(model, processor, items, tmp_path, CONFIG, strategies=["random"], budgets=(4,), batch_size=1)
    said: dict[str, list[str]] = {}
    for line in map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines()):
        if line["keep"] == 0:
            said.setdefault(line["strategy"], []).append(line["prediction"])
    assert sum(a != b for a, b in zip(said["full"], said["wrong image"], strict=True)) > len(items) / 2
    alone = [item for item in items if item.image_id == items[0].image_id]
    rows = compare(model, processor, alone, tmp_path / "alone", CONFIG, strategies=["random"], budgets=(4,))
    assert {row.strategy for row in rows} == {"full", "wrong image", "oracle", "random"}


def test_the_wrong_image_does_not_depend_on_batches(model: Any, processor: Any, items: Any, tmp_path: Path) -> None:
    said = []
    for size in (2, 9):
        out = tmp_path / str(size)
        compare(model, processor, items, out, CONFIG, strategies=["random"], budgets=(4,), batch_size=size)
        said.append({r["sample"]: r["prediction"] for r in read_results(out) if r["strategy"] == "wrong image"})
    assert len(said[0]) == len(items)
    assert said[0] == said[1]


def test_a_strategy_that_was_changed_is_asked_again(model: Any, processor: Any, items: Any, tmp_path: Path) -> None:
    """Edit, run again: the table is of what the name stands for now, and earlier answers stay in the file."""

    def asked(strategy: Any) -> tuple[list[str], list[str], float]:
        steps: list[str] = []
        notes: list[str] = []
        rows = compare(
            model,
            processor,
            items,
            tmp_path,
            CONFIG,
            strategies=[{"label": "mine", "strategy": strategy}],
            budgets=(4,),
            note=notes.append,
            progress=lambda done, total, what: steps.append(what),
        )
        (same,) = (r.value for r in rows if (r.strategy, r.metric, r.task) == ("mine", "agreement", "all"))
        return steps, notes, same

    assert "mine@4" in asked("divprune")[0]
    assert asked("divprune")[0] == ["done"]
    steps, notes, _ = asked(tp.build("mi-pruner", lam=1.0))
    assert "mine@4" in steps
    assert "full" not in steps
    assert notes == [f"mine is not what it was when {str(tmp_path)!r} was filled: it is asked again"]
    assert len([line for line in read_results(tmp_path) if line["strategy"] == "mine"]) == 2 * len(items)
    assert len([x for x in answers_in(tmp_path, {i.id for i in items}) if x["strategy"] == "mine"]) == len(items)
    # and back again: what it answered is still there
    assert asked("divprune")[0] == ["done"]
    described = json.loads((tmp_path / "strategies.json").read_text())
    assert "divprune" in described["mine"]["strategy"]


def test_other_weights_are_another_configuration(processor: Any, items: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = {"strategies": ["random"], "budgets": (4,)}
    first = tiny_llava(side=SIDE)
    compare(first, processor, items[:2], tmp_path, CONFIG, **options)
    with torch.no_grad():
        first.lm_head.weight.mul_(2)
    with pytest.raises(ConfigError, match="weights: "):
        compare(first, processor, items[:2], tmp_path, CONFIG, **options)


def test_asking_for_less_leaves_the_table_as_it_was(model: Any, processor: Any, items: Any, tmp_path: Path) -> None:
    wide = compare(model, processor, items, tmp_path, CONFIG, strategies=["mi-pruner", "divprune"], budgets=(9, 4))
    assert compare(model, processor, items, tmp_path, CONFIG, strategies=["divprune"], budgets=(4,)) == wide
    # a row that was stopped half-way and is not asked for is no part of it
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    (tmp_path / "results.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    cut = json.loads(lines[-1])
    other = "divprune" if cut["strategy"] == "mi-pruner" else "mi-pruner"
    less = compare(model, processor, items, tmp_path, CONFIG, strategies=[other], budgets=(9,))
    assert {(r.strategy, r.keep) for r in wide} - {(r.strategy, r.keep) for r in less} == {
        (cut["strategy"], cut["keep"])
    }


def test_budgets_beyond_a_picture_keep_it_whole(model: Any, processor: Any, items: Any, tmp_path: Path) -> None:
    notes: list[str] = []
    for match in ("kept", "layer-average"):
        compare(
            model,
            processor,
            items,
            tmp_path / match,
            CONFIG,
            strategies=["mi-pruner", "fastv"],
            budgets=(1000, N),
            match=match,  # type: ignore[arg-type]
            note=notes.append,
        )
        left = {(r["strategy"], r["keep"]): r["layer_average_tokens"] for r in read_results(tmp_path / match)}
        assert set(left.values()) == {N}
    assert notes == [f"budgets [1000]: the first picture has {N} visual tokens; a picture with no more stays whole"] * 2


def test_questions_that_cannot_be_asked(model: Any, processor: Any, items: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no questions"):
        compare(model, processor, [], tmp_path / "out", CONFIG)
    with pytest.raises(ConfigError, match="more than one question"):
        compare(model, processor, [*items, items[0]], tmp_path / "out", CONFIG)
    assert not (tmp_path / "out").exists()


def test_a_broken_strategy_is_left_out_where_nobody_named_it(monkeypatch: Any) -> None:
    real, names = tp.build, [*tp.list_strategies("mi-*"), "sick"]

    def build(name: Any) -> Any:
        if name == "sick":
            raise PluginError("strategy 'sick' cannot be made")
        return real(name)

    monkeypatch.setattr("tokenprune.evaluation.conditions.list_strategies", lambda pattern="*": names)
    monkeypatch.setattr("tokenprune.evaluation.conditions.build", build)
    notes: list[str] = []
    labels = {row.label for row in conditions(None, [8], notes.append)}
    assert {"mi-pruner", "mi-attention"} < labels
    assert "sick" not in labels
    assert notes == ["sick is left out: strategy 'sick' cannot be made"]
    with pytest.raises(PluginError):
        conditions(["sick"], [8])


def test_labels_are_taken_once() -> None:
    for label in ("mine", "full", "oracle"):
        row = {"label": label, "strategy": "divprune"}
        with pytest.raises(ConfigError, match=f"two rows are called '{label}'"):
            conditions([row, row], [8])


def test_names_and_wildcards() -> None:
    labels = [row.label for row in conditions(["mi*", "fastv", "random"], [8])]
    assert labels == [
        "full",
        "wrong image",
        "oracle",
        "random",
        "random",
        "random",
        "mi-attention",
        "mi-pruner",
        "fastv",
    ]
    with pytest.raises(ConfigError, match="mi-pruner"):
        conditions(["nothing*"], [8])


def test_overlap_is_the_area_covered_in_pixels() -> None:
    overlap = box_overlap([(0, 0, 6, 4), (5, 0, 8, 4)], Grid(2, 2), (8, 8))
    assert overlap.tolist() == [16, 12, 0, 0]
    assert box_overlap([], Grid(2, 2), (8, 8)).sum() == 0


def test_the_oracle_keeps_the_queried_object() -> None:
    wanted = torch.tensor([[0.0, 3, 0, 5], [0, 0, 0, 0]], dtype=torch.float64)
    strategy = Condition("oracle", "oracle", 2).for_batch(wanted)
    assert strategy is not None
    features = tp.Features(torch.randn(2, 4, 3))
    assert strategy.select(features, 2).row(0) == [1, 3]
    drawn = tp.build("random").select(features, 2)
    assert strategy.select(features, 2).row(1) == drawn.row(1), "where nothing is wanted it draws as random does"


def test_random_draws_are_the_strategy_at_three_seeds_under_one_identity() -> None:
    rows = [row for row in conditions(["random"], [8]) if row.label == "random"]
    features = tp.Features(torch.randn(2, 36, 3))
    drawn = [row.for_batch(torch.zeros(2, 36)) for row in rows]
    for seed, strategy in enumerate(drawn):
        assert strategy is not None
        assert torch.equal(
            strategy.select(features, 8).indices, tp.build("random", seed=seed).select(features, 8).indices
        )
    assert len({row.identity for row in rows}) == 1, "the three are one row of the table"
    assert drawn[0] is rows[0].strategy


def test_a_random_draw_follows_from_the_picture_and_not_from_its_name(
    model: Any, processor: Any, items: Any, tmp_path: Path
) -> None:
    """Every picture under another name, so in another place and batch: the same tokens are left, so the same said."""
    rows = [{"label": f"seed {seed}", "strategy": f"random:seed={seed}"} for seed in range(3)]
    named = [replace(item, image_id=f"{len(items) - i} {item.image_id}") for i, item in enumerate(items)]
    said = []
    for out, asked, size in ((tmp_path / "a", items, 4), (tmp_path / "b", named, 9), (tmp_path / "c", named, 1)):
        compare(model, processor, asked, out, CONFIG, strategies=rows, budgets=(4,), batch_size=size)
        lines = [line for line in read_results(out) if line["strategy"] not in ("full", "wrong image")]
        said.append({(x["strategy"], x["draw"], x["sample"]): x["prediction"] for x in lines})
    assert said[0] == said[1] == said[2]
    drawn = [[said[0]["random", draw, item.id] for item in items] for draw in range(3)]
    assert drawn == [[said[0][f"seed {seed}", 0, item.id] for item in items] for seed in range(3)]
    assert len({str(one) for one in drawn}) == 3, "other tokens are left at another seed"
    oracle = [said[0].get(("oracle", 0, item.id)) for item in items]
    assert any(oracle)


def test_the_command_writes_and_resumes(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    words = ["tokenprune", "compare", "--out", str(tmp_path / "out"), "--model", "tiny", "--limit", "2"]
    words += ["--strategies", "mi-pruner", "--budgets", "64"]
    for _ in range(2):
        monkeypatch.setattr("sys.argv", words)
        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code
    assert "mi-pruner" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", [*words, "--seed", "5"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "seed: 0 there, 5 now" in capsys.readouterr().err
