"""Journals that survive, tasks that read back, samples that become results."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.harness import write_samples
from tests.support.own_data import Write
from tokenprune.cli import main
from tokenprune.core.errors import ConfigError
from tokenprune.data.images import open_image
from tokenprune.data.items import scene_items
from tokenprune.data.own import load_data
from tokenprune.data.scenes.export import export
from tokenprune.evaluation.compare import compare
from tokenprune.evaluation.metrics import graded
from tokenprune.integrations.lmms_eval.imported import import_samples
from tokenprune.integrations.lmms_eval.journal import Journal, key_of, record_in
from tokenprune.integrations.lmms_eval.scoring import doc_to_text, doc_to_visual, process_results
from tokenprune.integrations.lmms_eval.tasks import write_tasks
from tokenprune.results.provenance import provenance, short
from tokenprune.results.store import read_results
from tokenprune.zoo.tiny import tiny_llava, tiny_processor

SIDE = 6


# --- the journal --------------------------------------------------------------------------------------------------


def test_every_fact_is_part_of_a_key() -> None:
    facts = {"run": "r", "strategy": "s", "task": "t", "document": 1, "prompt": "p", "generation": {"a": 1}}
    own = key_of(**facts)
    assert own == key_of(**dict(reversed(facts.items())))
    for name in facts:
        assert key_of(**{**facts, name: "other"}) != own
        assert key_of(**{key: value for key, value in facts.items() if key != name}) != own


def test_what_one_process_wrote_any_number_goes_on_with(tmp_path: Path) -> None:
    record = {"weights": "abc"}
    with Journal(tmp_path, record, 0) as first, Journal(tmp_path, record, 1) as second:
        first.add([{"key": "a", "text": "ja\u2028, \U0001f600"}, {"key": "b", "text": ""}])
        second.add([{"key": "c", "text": "x"}])
        assert first.get("c") is None  # read when a journal is opened
    with (tmp_path / "rank-1.jsonl").open("ab") as file:
        file.write(b'{"key": "d", "te')  # killed meanwhile
    with Journal(tmp_path, record, 0) as alone:
        assert [(alone.get(key) or {}).get("text") for key in "abcd"] == ["ja\u2028, \U0001f600", "", "x", None]
    with Journal(tmp_path, record, 1) as again:
        again.add([{"key": "d", "text": "whole"}])
    with Journal(tmp_path, record, 7) as later:
        assert later.get("d") == {"key": "d", "text": "whole"}
    assert record_in(tmp_path, short(record)) == record
    with pytest.raises(ConfigError, match="knows no run 'none'"):
        record_in(tmp_path, "none")


def test_two_runs_do_not_write_into_one_file(tmp_path: Path) -> None:
    with Journal(tmp_path, {}, 0), pytest.raises(ConfigError, match="in use by another run"):
        Journal(tmp_path, {}, 0)
    with Journal(tmp_path, {}, 0):
        pass


def test_a_damaged_journal_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "rank-3.jsonl").write_text('{"key": "a"}\n{"key": \n')
    with pytest.raises(ConfigError, match=r"rank-3.jsonl', line 2"):
        Journal(tmp_path, {}, 0)
    (tmp_path / "rank-3.jsonl").write_text('{"name": "a"}\n')
    with pytest.raises(ConfigError, match="has no key"):
        Journal(tmp_path, {}, 0)
    (tmp_path / "rank-3.jsonl").unlink()
    Journal(tmp_path, {}, 0).close()  # what failed left no lock behind


# --- tasks --------------------------------------------------------------------------------------------------------


def test_a_task_of_ones_own_asks_and_grades_as_compare_does(tmp_path: Path) -> None:
    export(tmp_path / "scenes", n=17)
    [written] = write_tasks(tmp_path / "tasks", {"scenes": tmp_path / "scenes"})
    assert (written.name, written.questions) == ("tokenprune_scenes", 17)
    items = load_data(tmp_path / "scenes", name="scenes").items
    docs = [json.loads(line) for line in (tmp_path / "tasks/scenes/questions.jsonl").read_text().splitlines()]
    assert len(docs) == len(items)
    for doc, item in zip(docs, items, strict=True):
        assert doc_to_text(doc) == item.question.prompt
        assert doc_to_text(doc, {"pre_prompt": "<", "post_prompt": ">"}) == f"<{item.question.prompt}>"
        [shown] = doc_to_visual(doc)
        assert shown.tobytes() == item.image().tobytes()
        for said in (item.question.answer, f" {item.question.answer.lower()}.", "something else", ""):
            assert process_results(doc, [said])["accuracy"] == float(graded(said.strip(), item.question))


def test_a_task_has_the_totals_of_its_metric(table: Write, tmp_path: Path) -> None:
    rows = [
        {"image": f"{letter}.png", "question": f"Is it {letter}?", "answer": answer, "category": "existence"}
        for letter in "ab"
        for answer in ("Yes", "No")
    ]
    file = table(rows)
    write_tasks(tmp_path / "tasks", {"pairs": file}, metric="mme")
    described = yaml.load((tmp_path / "tasks/pairs/tokenprune_pairs.yaml").read_text(), Loader=_Tags)
    names = [one["metric"] for one in described["metric_list"]]
    assert {"accuracy", "f1", "yes_rate", "mme", "mme_perception"} <= set(names)
    assert described["metric_list"][names.index("mme")]["aggregation"] == "utils.mme"
    spec = importlib.util.spec_from_file_location("utils", tmp_path / "tasks/pairs/utils.py")
    assert spec is not None
    assert spec.loader is not None
    utils = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(utils)
    docs = [json.loads(line) for line in (tmp_path / "tasks/pairs/questions.jsonl").read_text().splitlines()]
    graded_ones = [
        utils.process_results(doc, [said]) for doc, said in zip(docs, ["yes", "No.", "Yes", "yes"], strict=True)
    ]
    assert [one["accuracy"] for one in graded_ones] == [1, 1, 1, 0]
    lines = [one["mme"] for one in graded_ones]
    assert utils.mme(lines) == utils.mme_perception(lines) == (100 + 100 + 50) / 2
    assert utils.yes_rate(lines) == 0.75


class _Tags(yaml.SafeLoader):
    """As the harness reads its files."""


_Tags.add_constructor("!function", lambda loader, node: node.value)


def test_local_copies_become_a_group_of_stock_tasks(tmp_path: Path) -> None:
    (tmp_path / "POPE").mkdir()
    (tmp_path / "GQA").mkdir()
    sources = {"pope": tmp_path / "POPE", "gqa": tmp_path / "GQA"}
    [written] = write_tasks(tmp_path / "tasks", sources, bare=True)
    group = yaml.safe_load((tmp_path / "tasks/tokenprune_local.yaml").read_text())
    assert group["group"] == written.name == "tokenprune_local"
    assert [one["task"] for one in group["task"]] == ["pope", "gqa"]
    assert group["task"][1]["process_docs"] is None
    assert group["task"][0]["lmms_eval_specific_kwargs"]["default"]["post_prompt"] == ""
    with pytest.raises(ConfigError, match="no such folder"):
        write_tasks(tmp_path / "others", {"pope": tmp_path / "nowhere"})


def test_video_sets_are_read_as_they_are_handed_on(tmp_path: Path) -> None:
    folder = tmp_path / "MSVD"
    (folder / "videos").mkdir(parents=True)
    (folder / "videos/one.avi").touch()
    asked = [{"question_id": i, "video_name": "one", "question": f"what {i}?"} for i in range(5)]
    answers = [{"question_id": i, "answer": f"a{i}", "type": i % 2} for i in reversed(range(5))]
    (folder / "test_q.json").write_text(json.dumps(asked))
    (folder / "test_a.json").write_text(json.dumps(answers))
    [written] = write_tasks(tmp_path / "tasks", {"msvd-qa": folder}, limit=3)
    assert (written.name, written.questions) == ("tokenprune_msvd_qa", 3)
    docs = [json.loads(line) for line in (tmp_path / "tasks/msvd-qa/questions.jsonl").read_text().splitlines()]
    assert [doc["answer"] for doc in docs] == ["a0", "a1", "a2"]
    assert doc_to_visual(docs[0]) == [str((folder / "videos/one.avi").resolve())]
    assert process_results(docs[1], [" A1."])["accuracy"] == 1.0
    asked[1]["video_name"] = "two"
    (folder / "test_q.json").write_text(json.dumps(asked))
    with pytest.raises(ConfigError, match=r"test_q.json:2: no video 'two'"):
        write_tasks(tmp_path / "others", {"msvd-qa": folder})
    (folder / "test_a.json").write_text(json.dumps(answers[1:]))
    asked[1]["video_name"] = "one"
    (folder / "test_q.json").write_text(json.dumps(asked))
    with pytest.raises(ConfigError, match=r"test_q.json:5: needs question_id"):
        write_tasks(tmp_path / "others", {"msvd-qa": folder})


def test_nothing_of_somebody_elses_is_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ConfigError, match="not empty"):
        write_tasks(tmp_path, {"scenes": tmp_path})
    for wrong in ("scenes", "=x", "a/b=x"):
        monkeypatch.setattr("sys.argv", ["tokenprune", "harness", "tasks", str(tmp_path / "new"), wrong])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 2
        assert wrong in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


# --- samples ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Path, str, Path]:
    """Lines of a comparison without rows that the harness has none of, a journal, its run, and the comparison."""
    model, processor, items = tiny_llava(side=SIDE), tiny_processor(side=SIDE), scene_items(None, 17, seed=3)
    out = tmp_path_factory.mktemp("compared")
    compare(model, processor, items, out, {"model": "tiny"}, strategies=["mi-pruner"], budgets=(9,))
    lines = [line for line in read_results(out) if line["strategy"] not in ("oracle", "wrong image")]
    asked = {"pretrained": "tiny", "dtype": "float32", "harness": "lmms-eval 0.7.3"}
    record = provenance(asked, model, processor, [])
    journal = tmp_path_factory.mktemp("journal")
    Journal(journal, record).close()
    return lines, journal, short(record), out


def rows_of(folder: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    """A summary's rows, by what they are about."""
    rows = json.loads((folder / "summary.json").read_text())["rows"]
    return {tuple(row[name] for name in ("strategy", "keep", "task", "family", "metric")): row for row in rows}


def test_an_import_has_the_numbers_of_the_comparison(compared: Any, tmp_path: Path) -> None:
    lines, journal, run, out = compared
    one = write_samples(tmp_path / "a", [line for line in lines if line["strategy"] == "full"], journal, run)
    rest = write_samples(tmp_path / "b", [line for line in lines if line["strategy"] != "full"], journal, run)
    found = import_samples([one, rest], tmp_path / "results")
    assert found.answers == len(lines)
    assert found.notes == []
    mine, theirs = rows_of(tmp_path / "results"), rows_of(out)
    assert {key[0] for key in mine} == {"full", "random", "mi-pruner"}
    for key, row in mine.items():
        assert row == theirs[key]
    again = import_samples([one, rest], tmp_path / "results")
    assert again.answers == found.answers
    apart = import_samples([one], tmp_path / "apart")
    assert apart.answers == 17
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["tokenprune", "verify", str(tmp_path / "results")])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code in (0, None)


def test_one_draw_of_random_is_a_row_of_its_own(compared: Any, tmp_path: Path) -> None:
    lines, journal, run, _ = compared
    one = [line for line in lines if line["strategy"] == "random" and line["draw"] == 1]
    found = import_samples([write_samples(tmp_path / "a", one, journal, run)], tmp_path / "results")
    assert {row.strategy for row in found.rows} == {"random:seed=1"}
    assert found.notes == ["no run of the unpruned model is among them: nothing is tested against it"]


def test_a_share_of_the_tokens_is_a_row_at_what_it_came_to(compared: Any, tmp_path: Path) -> None:
    lines, journal, run, _ = compared
    one = [line for line in lines if line["strategy"] == "mi-pruner"]
    samples = write_samples(tmp_path / "a", one, journal, run, {"keep": 0.25})
    found = import_samples([samples], tmp_path / "results")
    assert {(row.strategy, row.keep) for row in found.rows} == {("mi-pruner keep=0.25", 9)}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"identity": "other"}, "was another strategy in an earlier run"),
        ({"generation": "1"}, "were generated with other options"),
        ({"run": "000000000000"}, "knows no run"),
        ({"journal": None}, "kept no journal"),
    ],
)
def test_what_cannot_be_one_table_is_refused(
    compared: Any, tmp_path: Path, changes: dict[str, Any], match: str
) -> None:
    lines, journal, run, _ = compared
    some = [line for line in lines if line["strategy"] == "mi-pruner"]
    one = write_samples(tmp_path / "a", some[:9], journal, run)
    other = write_samples(tmp_path / "b", some[9:], journal, run, changes)
    with pytest.raises(ConfigError, match=match):
        import_samples([one, other], tmp_path / "results")


def test_samples_of_others_are_refused(compared: Any, tmp_path: Path) -> None:
    lines, journal, run, _ = compared
    samples = write_samples(tmp_path / "a", lines[:2], journal, run)
    with pytest.raises(ConfigError, match=r"--metric 'acc': .*did you mean 'accuracy'"):
        import_samples([samples], tmp_path / "results", metrics={lines[0]["task"]: "acc"})
    file = next(samples.rglob("*.jsonl"))
    good = file.read_text()
    file.write_text(good.replace('"accuracy": 1.0', '"accuracy": 7').replace('"accuracy": 0.0', '"accuracy": 7'))
    with pytest.raises(ConfigError, match="a share of 1 is needed"):
        import_samples([samples], tmp_path / "results")
    file.write_text(good.replace('"identity"', '"other"'))
    with pytest.raises(ConfigError, match="is not of --model tokenprune"):
        import_samples([samples], tmp_path / "results")
    with pytest.raises(ConfigError, match="no samples"):
        import_samples([tmp_path], tmp_path / "results") if file.unlink() is None else None
    with pytest.raises(ConfigError, match="no such folder"):
        import_samples([tmp_path / "nowhere"], tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_pictures_of_a_task_are_what_was_given(table: Write, tmp_path: Path) -> None:
    file = table([{"images": ["a.png", "b.png"], "question": "Which?", "answer": "left", "id": "x"}])
    write_tasks(tmp_path / "tasks", {"mine": file})
    [doc] = [json.loads(line) for line in (tmp_path / "tasks/mine/questions.jsonl").read_text().splitlines()]
    assert [one.tobytes() for one in doc_to_visual(doc)] == [
        open_image(tmp_path / f"{letter}.png").tobytes() for letter in "ab"
    ]
