"""Where numbers come from: whatever decides an answer is noticed, and what a folder says is what its answers say."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tokenprune as tp
from tokenprune.core.errors import ConfigError, NonFiniteError, StoppedError, UnknownNameError
from tokenprune.data.items import Item, scene_items
from tokenprune.evaluation.answered import answered
from tokenprune.evaluation.compare import comparison
from tokenprune.evaluation.conditions import conditions
from tokenprune.evaluation.summary import summarize
from tokenprune.evaluation.verify import verify
from tokenprune.results.fingerprint import weights_fingerprint
from tokenprune.results.lines import read_results
from tokenprune.results.provenance import provenance
from tokenprune.results.schema import SCHEMAS, check_schema
from tokenprune.zoo.tiny import tiny_llava, tiny_processor

SIDE = 4
CONFIG = {"model": "tiny", "seed": 0}


@pytest.fixture(scope="module")
def items() -> list[Item]:
    return scene_items(["pope"], 4, seed=1)


@pytest.fixture(scope="module")
def filled(items: list[Item], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished folder; copy it before changing anything."""
    out = tmp_path_factory.mktemp("runs") / "out"
    run(out, items)
    return out


@pytest.fixture
def folder(filled: Path, tmp_path: Path) -> Path:
    shutil.copytree(filled, tmp_path / "out")
    return tmp_path / "out"


def run(out: Path, items: list[Item], model: Any = None, processor: Any = None, **options: Any) -> Any:
    model = model or tiny_llava(side=SIDE)
    processor = processor or tiny_processor(side=SIDE)
    given = {"strategies": ["divprune"], "budgets": (4, 2), "note": lambda text: None, **options}
    return comparison(model, processor, items, out, CONFIG, **given)


# --- what decides an answer ---------------------------------------------------------------------------------------


def weights(model: Any, processor: Any, items: list[Item]) -> list[Item]:
    """One row of the embedding table, which a sample of a few values of each tensor does not see."""
    with torch.no_grad():
        model.get_input_embeddings().weight[37] += 1
    return items


def picture_size(model: Any, processor: Any, items: list[Item]) -> list[Item]:
    processor.image_processor.image_mean = [0.4, 0.5, 0.5]
    return items


def template(model: Any, processor: Any, items: list[Item]) -> list[Item]:
    processor.chat_template = (processor.chat_template or processor.tokenizer.chat_template) + " "
    return items


def tokens(model: Any, processor: Any, items: list[Item]) -> list[Item]:
    processor.tokenizer.add_tokens(["zebra"])
    return items


def generation(model: Any, processor: Any, items: list[Item]) -> list[Item]:
    model.generation_config.repetition_penalty = 1.3
    return items


def right_answer(model: Any, processor: Any, items: list[Item]) -> list[Item]:
    question = items[0].question
    turned = replace(question, answer="no" if question.answer == "yes" else "yes")  # type: ignore[type-var]
    return [replace(items[0], question=turned), *items[1:]]


def one_pixel(model: Any, processor: Any, items: list[Item]) -> list[Item]:
    painted = items[-1].image().copy()
    painted.putpixel((0, 0), (1, 2, 3))
    return [replace(item, image=lambda: painted) if item.image_id == items[-1].image_id else item for item in items]


def config(model: Any, processor: Any, items: list[Item]) -> list[Item]:
    model.config.text_config.rms_norm_eps = 1e-3
    return items


CHANGES: dict[str, Callable[[Any, Any, list[Item]], list[Item]]] = {
    "model.weights": weights,
    "processor.image_processor": picture_size,
    "processor.chat_template": template,
    "processor.tokenizer": tokens,
    "model.generation_config": generation,
    "questions.text": right_answer,
    "questions.pictures": one_pixel,
    "model.config": config,
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_refused_and_named(what: str, folder: Path, items: list[Item]) -> None:
    model, processor = tiny_llava(side=SIDE), tiny_processor(side=SIDE)
    changed = CHANGES[what](model, processor, items)
    before = {file: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(ConfigError, match=rf"{what}: '\w.* there, .* now.*--new-segment"):
        run(folder, changed, model, processor)
    assert {file: file.read_bytes() for file in folder.iterdir()} == before


@pytest.mark.parametrize(("package", "name"), [("torch", "torch"), ("transformers", "transformers")])
def test_other_versions_are_refused(package: str, name: str, folder: Path, items: list[Item], monkeypatch: Any) -> None:
    from tokenprune.results import provenance as module

    real = module.metadata.version
    monkeypatch.setattr(module.metadata, "version", lambda p: "0.0.1" if p == package else real(p))
    with pytest.raises(ConfigError, match=rf"software\.{name}: '.*' there, '0\.0\.1' now"):
        run(folder, items)


def test_a_new_segment_keeps_both_apart(folder: Path, items: list[Item]) -> None:
    model = tiny_llava(side=SIDE)
    weights(model, None, items)
    first = (folder / "results.jsonl").read_bytes()
    found = run(folder, items, model, new_segment=True)
    assert found.folder == folder / "segments" / found.summary["run"]
    assert (folder / "results.jsonl").read_bytes() == first
    assert {line["run"] for line in read_results(found.folder)} == {found.summary["run"]}
    # each is gone on with where it is, without being told
    steps: list[str] = []
    again = run(folder, items, model, progress=lambda done, total, what: steps.append(what))
    assert (again.folder, steps) == (found.folder, ["done"])
    assert run(folder, items).folder == folder
    assert [verdict.faults for verdict in verify(folder)] == [[], []]
    assert json.loads((folder / "summary.json").read_text())["run"] != found.summary["run"]


def test_every_line_names_the_run(folder: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    assert {line["run"] for line in read_results(folder)} == {summary["run"]}
    assert summary["provenance"] == json.loads((folder / "config.json").read_text())
    assert summary["environment"]["data"] == "scenes"
    assert summary["environment"]["questions"] == 4
    assert {row["task"] for row in summary["rows"]} == {"all", "scenes-pope"}


def test_the_record_is_the_same_in_another_process(items: list[Item]) -> None:
    import subprocess
    import sys

    code = "import json; from tokenprune.data.items import scene_items\n"
    code += "from tokenprune.results.provenance import provenance\n"
    code += "from tokenprune.zoo.tiny import tiny_llava, tiny_processor\n"
    code += f"record = provenance({{}}, tiny_llava(side={SIDE}), tiny_processor(side={SIDE}), "
    code += "scene_items(['pope'], 4, seed=1))\nprint(json.dumps(record))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    mine = provenance({}, tiny_llava(side=SIDE), tiny_processor(side=SIDE), items)
    assert json.loads(told) == json.loads(json.dumps(mine))


def test_every_byte_of_the_weights_counts() -> None:
    model = tiny_llava(side=SIDE)
    seen = {weights_fingerprint(model)}
    table = model.get_input_embeddings().weight
    for place in torch.randperm(table.numel(), generator=torch.Generator().manual_seed(0))[:20].tolist():
        with torch.no_grad():
            table.view(-1)[place] += 1
        seen.add(weights_fingerprint(model))
    assert len(seen) == 21


# --- a set with keys ----------------------------------------------------------------------------------------------


def lines_of(folder: Path) -> list[str]:
    return (folder / "results.jsonl").read_text().splitlines()


def write(folder: Path, lines: list[str]) -> None:
    (folder / "results.jsonl").write_text("".join(f"{line}\n" for line in lines))


def test_equal_lines_count_once_whatever_their_order(folder: Path, items: list[Item]) -> None:
    before = json.loads((folder / "summary.json").read_text())
    lines = lines_of(folder)
    shuffled = [*lines, lines[0], lines[7]]
    random.Random(0).shuffle(shuffled)
    write(folder, shuffled)
    assert run(folder, items).summary == before
    assert [verdict.faults for verdict in verify(folder)] == [[]]


def test_budgets_and_names_count_once(tmp_path: Path, items: list[Item]) -> None:
    once = run(tmp_path / "once", items, budgets=(4, 2))
    twice = run(tmp_path / "twice", items, budgets=(4, 2, 4), strategies=["divprune", "div*", "divprune"])
    assert twice.rows == once.rows
    assert sorted(lines_of(tmp_path / "once")) == sorted(lines_of(tmp_path / "twice"))


def test_two_answers_to_one_question_are_an_error(folder: Path, items: list[Item]) -> None:
    lines = lines_of(folder)
    other = json.dumps({**json.loads(lines[4]), "prediction": "something else"})
    write(folder, [*lines, other])
    with pytest.raises(ConfigError, match=rf"lines 5 and {len(lines) + 1}: two answers .*prediction is"):
        run(folder, items)
    assert "two answers" in verify(folder)[0].faults[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"flops": float("nan")}, "NaN is no number"),
        ({"correct": 2}, "correct"),
        ({"keep": -1}, "keep: -1 is less than the minimum"),
        ({"keep": "4"}, "keep: '4' is not of type 'integer'"),
        ({"sample": None}, "sample"),
        ({"run": "0" * 12}, "an answer of run 000000000000"),
    ],
)
def test_lines_that_are_not_what_they_should_be(change: dict[str, Any], reason: str, folder: Path, items: Any) -> None:
    lines = lines_of(folder)
    write(folder, [*lines[:3], json.dumps({**json.loads(lines[3]), **change}), *lines[4:]])
    with pytest.raises(ConfigError, match=reason) as caught:
        run(folder, items)
    assert "results.jsonl" in str(caught.value)
    if "run" not in change:
        assert "line 4" in str(caught.value)


@pytest.mark.parametrize("text", [b'{"keep": 1, "keep": 2}', b"\xff\xfe", b"[" * 100_000, b"\x00\x00"])
def test_bytes_that_are_no_line(text: bytes, folder: Path, items: list[Item]) -> None:
    with (folder / "results.jsonl").open("ab") as file:
        file.write(text + b"\n")
    with pytest.raises(ConfigError, match=r"results\.jsonl', line \d+, is damaged"):
        run(folder, items)


def test_rows_without_all_answers_are_named(folder: Path, items: list[Item]) -> None:
    keep = [line for line in lines_of(folder) if json.loads(line)["strategy"] != "divprune"]
    cut = [line for line in lines_of(folder) if json.loads(line)["strategy"] == "divprune"]
    write(folder, [*keep, cut[0]])
    label, at = (json.loads(cut[0])[name] for name in ("strategy", "keep"))
    found = run(folder, items, strategies=["random"])
    assert found.summary["incomplete"] == [{"strategy": label, "keep": at, "answered": 1, "of": len(items)}]
    assert not any(row.strategy == label for row in found.rows)
    assert [(row.answered, row.of) for row in answered(folder).incomplete] == [(1, 4)]
    # what was cut is asked, and all is as it was
    assert run(folder, items).summary["incomplete"] == []


def test_numbers_do_not_depend_on_the_order_of_lines(folder: Path) -> None:
    lines = read_results(folder)
    want = set(summarize(lines))
    for seed in range(5):
        random.Random(seed).shuffle(lines)
        assert set(summarize(lines)) == want


# --- labels -------------------------------------------------------------------------------------------------------


def test_rows_of_the_scale_are_taken() -> None:
    for label in ("full", "wrong image", "oracle", "random"):
        with pytest.raises(ConfigError, match="are always there"):
            conditions([{"label": label, "strategy": "divprune"}], [8])
    for row in ({"label": "\x1b[2J", "strategy": "divprune"}, {"label": " ", "strategy": "divprune"}, {"label": "x"}):
        with pytest.raises(ConfigError, match="label"):
            conditions([row], [8])


def test_a_plugin_cannot_be_a_row_of_the_scale(monkeypatch: Any) -> None:
    monkeypatch.setattr(
        "tokenprune.evaluation.conditions.list_strategies", lambda pattern="*": ["divprune", "full", "oracle"]
    )
    told: list[str] = []
    rows = conditions(None, [8], told.append)
    assert [(row.label, row.kind) for row in rows if row.label in ("full", "oracle")] == [
        ("full", "full"),
        ("oracle", "oracle"),
    ]
    assert [text.partition(" is left out")[0] for text in told] == ["full", "oracle"]
    with pytest.raises(ConfigError, match=r"'full'.*give the strategy another name"):
        conditions(["full"], [8])


def test_no_oracle_where_nobody_knows_where_to_look(tmp_path: Path, items: list[Item]) -> None:
    blind = [replace(item, question=replace(item.question, boxes=None)) for item in items]  # type: ignore[type-var]
    notes: list[str] = []
    found = run(tmp_path / "none", blind, note=notes.append)
    assert not any(row.strategy == "oracle" for row in found.rows)
    assert any(re.match("oracle at [0-9, ]*4.* left out: of no question", note) for note in notes)
    # where some are known, it is asked those
    found = run(tmp_path / "some", [items[0], *blind[1:]])
    [n] = {row.n for row in found.rows if row.strategy == "oracle" and row.task == "all"}
    assert n == 1
    assert found.summary["incomplete"] == []


def test_again_asks_again_and_keeps_what_was(folder: Path, items: list[Item]) -> None:
    steps: list[str] = []
    before = len(read_results(folder))
    run(folder, items, again=["divprune"], progress=lambda done, total, what: steps.append(what))
    assert {step for step in steps if step != "done"} == {"divprune@4", "divprune@2"}
    assert len(read_results(folder)) == before + 2 * len(items)
    assert [verdict.faults for verdict in verify(folder)] == [[]]
    steps.clear()
    run(folder, items, progress=lambda done, total, what: steps.append(what))
    assert steps == ["done"]
    with pytest.raises(UnknownNameError, match="divprune"):
        run(folder, items, again=["divprume"])


# --- failures -----------------------------------------------------------------------------------------------------


class Broken(tp.Scorer):
    """Raises from the second call on."""

    calls = 0

    def score(self, features: tp.Features) -> torch.Tensor:
        type(self).calls += 1
        if self.calls > 1:
            raise RuntimeError("bad day\nwith a second line")
        return features.visual.sum(-1)


def test_a_broken_strategy_costs_its_own_rows(tmp_path: Path, items: list[Item]) -> None:
    Broken.calls = 0
    rows = [{"label": "mine", "strategy": {"scorer": Broken(), "selector": "top-k"}}, "divprune"]
    found = run(tmp_path, items, strategies=rows, batch_size=2)
    assert {(one.strategy, one.keep) for one in found.failed} == {("mine", 4), ("mine", 2)}
    assert all(one.reason == "RuntimeError: bad day" for one in found.failed)
    assert {row.strategy for row in found.rows} == {"full", "wrong image", "oracle", "random", "divprune"}
    assert "bad day" in (tmp_path / "failures.txt").read_text()
    assert [row["strategy"] for row in found.summary["failed"]] == ["mine", "mine"]
    assert [verdict.faults for verdict in verify(tmp_path)] == [[]]
    # mended, it is asked what it has not answered, and the story is gone
    Broken.calls = -1000
    found = run(tmp_path, items, strategies=rows, batch_size=2)
    assert found.failed == []
    assert not (tmp_path / "failures.txt").exists()


def test_a_model_of_no_numbers_has_no_table(tmp_path: Path, items: list[Item]) -> None:
    model = tiny_llava(side=SIDE)
    with torch.no_grad():
        model.lm_head.weight[3] = float("nan")
    with pytest.raises(NonFiniteError, match="logits"):
        run(tmp_path, items, model)
    assert not (tmp_path / "summary.json").exists()


def test_a_stop_says_how_far_it_came(tmp_path: Path, items: list[Item]) -> None:
    def stop(done: int, total: int, what: str) -> None:
        if what == "divprune@4":
            raise KeyboardInterrupt

    with pytest.raises(StoppedError, match=r"stopped at 24 of 48 answers; the same command goes on"):
        run(tmp_path, items, progress=stop)
    done = len(read_results(tmp_path))
    run(tmp_path, items)
    assert done == 24
    assert [verdict.faults for verdict in verify(tmp_path)] == [[]]


# --- verify -------------------------------------------------------------------------------------------------------


def test_verify_finds_every_changed_number(folder: Path) -> None:
    [verdict] = verify(folder)
    assert verdict.faults == []
    assert verdict.answers == len(lines_of(folder))
    file = folder / "summary.json"
    honest = json.loads(file.read_text())
    numbers = [(i, name) for i, row in enumerate(honest["rows"]) for name, v in row.items() if isinstance(v, float)]
    for i, name in random.Random(0).sample(numbers, 25):
        changed = json.loads(json.dumps(honest))
        changed["rows"][i][name] = 0.5 if changed["rows"][i][name] != 0.5 else 0.25
        file.write_text(json.dumps(changed))
        assert any(f"{name} is" in fault for fault in verify(folder)[0].faults), (i, name)
    for damaged, reason in (
        ({**honest, "rows": honest["rows"][1:]}, "summary.json lacks"),
        ({**honest, "run": "0" * 12}, "run is"),
        ({**honest, "rows": [*honest["rows"], {**honest["rows"][0], "strategy": "ghost"}]}, "no answers give"),
        ({k: v for k, v in honest.items() if k != "incomplete"}, "'incomplete' is a required property"),
    ):
        file.write_text(json.dumps(damaged))
        assert any(reason in fault for fault in verify(folder)[0].faults), reason


def test_verify_finds_another_record_and_unknown_labels(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "device": "abacus"}))
    assert any("an answer of run" in fault for fault in verify(folder)[0].faults)
    (folder / "config.json").write_text(json.dumps(config))
    described = json.loads((folder / "strategies.json").read_text())
    del described["divprune"]
    (folder / "strategies.json").write_text(json.dumps(described))
    assert any("divprune" in fault for fault in verify(folder)[0].faults)
    (folder / "summary.json").unlink()
    assert any("the same command goes on" in fault for fault in verify(folder)[0].faults)
    with pytest.raises(ConfigError, match="no such folder"):
        verify(folder / "nowhere")


def test_verify_misses_the_record_of_a_segment(folder: Path) -> None:
    (folder / "segments" / "0123456789ab").mkdir(parents=True)
    whole, begun = verify(folder)
    assert whole.faults == []
    assert (begun.folder.name, begun.run, len(begun.faults)) == ("0123456789ab", "", 1)
    assert "config.json" in begun.faults[0]


def test_schemas_are_schemas() -> None:
    from jsonschema import Draft202012Validator

    for file in SCHEMAS.glob("*.json"):
        Draft202012Validator.check_schema(json.loads(file.read_text()))
    with pytest.raises(ConfigError, match=r"here is not what the schema 'summary' says: .*environment"):
        check_schema("summary", {}, "here")
