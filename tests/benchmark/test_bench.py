"""The benchmark measures what it says, resumes, and refuses nonsense before anything runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import tokenprune as tp
from tokenprune.benchmark.against import HEADER as AGAINST
from tokenprune.benchmark.against import against, read_run
from tokenprune.benchmark.asked import Questions
from tokenprune.benchmark.bench import Setup, bench, bench_rows
from tokenprune.benchmark.clock import Peaks, peaks, timed
from tokenprune.benchmark.geometry import GEOMETRIES, asked, build_model, geometry
from tokenprune.benchmark.measure import Bench
from tokenprune.benchmark.table import HEADER, cells, markdown
from tokenprune.cli import app
from tokenprune.core.errors import ConfigError, UnknownNameError
from tokenprune.data.images import picture
from tokenprune.data.items import Item
from tokenprune.data.own import OwnQuestion
from tokenprune.zoo.tiny import tiny_llava, tiny_processor

SMALL = Setup(small=True, device="cpu", dtype="float32", repeats=2, warm=0, words=12)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    out = tmp_path_factory.mktemp("bench") / "run"
    wanted = list(bench_rows(["mi-pruner:lam=1", "mi-pruner", "fastv"], [64], [1], ["plain", "compiled", "loop"]))
    return out, bench(SMALL, wanted, out)


def test_a_row_for_every_case(measured: tuple[Path, list[dict[str, Any]]]) -> None:
    _, rows = measured
    found = {(row["strategy"], row["keep"], row["way"]) for row in rows}
    assert found == {
        ("full", 0, "plain"),
        ("full", 0, "compiled"),
        ("mi-pruner:lam=1", 64, "plain"),
        ("mi-pruner:lam=1", 64, "compiled"),
        ("mi-pruner", 64, "plain"),
        ("mi-pruner", 64, "compiled"),
        ("mi-pruner", 64, "loop"),
        ("fastv", 64, "plain"),
        ("fastv", 64, "compiled"),
    }


def test_what_rows_say(measured: tuple[Path, list[dict[str, Any]]]) -> None:
    out, rows = measured
    by = {(row["strategy"], row["way"]): row for row in rows}
    full, pruned, inside = by["full", "plain"], by["mi-pruner", "plain"], by["fastv", "plain"]
    assert (full["visual_tokens"], full["text_tokens"], full["layer_average"]) == (576, 13, 576)
    assert pruned["layer_average"] == 64
    assert 64 < inside["layer_average"] <= 576
    assert pruned["kv_mib"] == pytest.approx(full["kv_mib"] * (64 + 13) / (576 + 13), rel=1e-2)
    assert pruned["prefill_gflops"] < inside["prefill_gflops"] < full["prefill_gflops"]
    assert by["mi-pruner", "compiled"]["sequence"] == 96  # 13 + 64 in steps of 32
    for row in rows:
        for name in ("encode_ms", "select_ms", "prefill_ms", "first_token_ms"):
            assert name not in row or 0 < row[name]["mean"] < 60_000
        assert row["prefill_floor_ms"] > 0
        assert row["prefill_floor_by"] in ("weights", "FLOPs")
    assert json.loads((out / "summary.json").read_text())["rows"] == rows
    assert all(len(cells(row)) == len(HEADER) for row in rows)
    assert len(markdown(rows, ("strategy", "first token ms")).splitlines()) == len(rows) + 2


def test_a_second_run_measures_what_is_missing_only(
    measured: tuple[Path, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, rows = measured
    monkeypatch.setattr("tokenprune.benchmark.bench.build_model", lambda *_, **__: pytest.fail("nothing is missing"))
    assert bench(SMALL, list(bench_rows(["mi-pruner"], [64], [1], ["plain", "loop"])), out) == rows
    with pytest.raises(ConfigError, match="words"):
        bench(Setup(**{**vars(SMALL), "words": 13}), [], out)


def test_a_strategy_that_a_model_cannot_run_is_a_row_that_says_why(tmp_path: Path) -> None:
    setup = Setup(**{**vars(SMALL), "geometry": "qwen2.5-vl-7b"})
    [row] = bench(
        setup, [case for case in bench_rows(["visionzip"], [8], [1], ["plain"]) if case.keep], tmp_path / "run"
    )
    assert "encoder_cls" in row["refused"]
    assert len(cells(row)) == len(HEADER)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_geometries(name: str) -> None:
    model = build_model(name, small=True)
    for kind in geometry(name).shows:
        inputs = geometry(name).inputs(model, kind, batch=2, words=8)
        compiled = tp.compile(model, "mi-pruner", 0.1, text=asked(model))
        got = compiled.generate(**inputs, max_new_tokens=3)
        with tp.attach(model, "mi-pruner", 0.1, text=asked(model)) as run:
            assert torch.equal(got, model.generate(**inputs, max_new_tokens=3))
        assert 0 < run.tokens_after < run.tokens_before


def test_floors() -> None:
    roof = Peaks(bytes_per_ms=100.0, flops_per_ms=10.0)
    assert roof.floor(1000, 50) == (10.0, "weights")
    assert roof.floor(100, 50) == (5.0, "FLOPs")
    measured = peaks(torch.device("cpu"), torch.float32)
    assert min(measured.bytes_per_ms, measured.flops_per_ms) > 0


def test_clock() -> None:
    calls: list[int] = []
    timing = timed(lambda: calls.append(1), torch.device("cpu"), repeats=4, warm=3)
    assert len(calls) == 7
    assert timing.repeats == 4
    assert timing.row["median"] >= 0


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: list(bench_rows(["mi-prunner"], [64], [1], ["plain"])), UnknownNameError, "mi-pruner"),
        (lambda: list(bench_rows(["random"], [64], [1], ["compild"])), ConfigError, "compiled"),
        (lambda: list(bench_rows(["random"], [64], [1], [])), ConfigError, "--ways"),
        (lambda: geometry("llava-7b"), UnknownNameError, "llava-1.5-7b"),
        (
            lambda: geometry("llava-1.5-7b").inputs(build_model("llava-1.5-7b", small=True), "video"),
            ConfigError,
            "video",
        ),
    ],
)
def test_bad_requests(call: Callable[[], object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def test_command(tmp_path: Path) -> None:
    options = ["--strategies", "similarity", "--budgets", "32", "--batches", "1", "--repeats", "1", "--warm", "0"]
    result = CliRunner().invoke(app, ["bench", "--out", str(tmp_path / "run"), "--device", "cpu", *options])
    assert result.exit_code == 0, result.output
    assert "first token ms" in result.output
    assert "TFLOP/s" in result.output
    assert len(json.loads((tmp_path / "run" / "summary.json").read_text())["rows"]) == 5


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [({"kind": "foo"}, "shows no 'foo'"), ({"device": "foo"}, "device 'foo'"), ({"device": "meta"}, "device 'meta'")],
)
def test_no_folder_is_begun_for_what_cannot_be_measured(
    changes: dict[str, str], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        bench(Setup(**{**vars(SMALL), **changes}), [], tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_may_have_any_name(
    measured: tuple[Path, list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenprune.benchmark.bench.bench", lambda *_, **__: measured[1])
    result = CliRunner().invoke(app, ["bench", "--out", str(tmp_path / "o[" / "b]")])
    assert result.exit_code == 0, result.output
    assert "summary.json" in result.output


def test_questions_of_ones_own_are_measured(tmp_path: Path) -> None:
    """Costs of a batch are those of its prompts; the middle of the lengths is what one prompt stands for."""
    model, processor = tiny_llava(side=6), tiny_processor(side=6)
    rows = []
    for i, text in enumerate(["what is it ?", "is there a dog in the picture ?", "what color is the cat in it ?"]):
        question = OwnQuestion(text, "yes", "mine", "all", answers=("yes",), prompt=f"{text} yes or no")
        rows.append(Item(str(i), str(i), partial(picture, i, 64), question))
    subject = Questions(model, processor, rows)
    lengths = {item.id: len(processor.tokenizer(item.question.prompt)["input_ids"]) for item in rows}
    assert subject.prompts(1).samples == (sorted(lengths, key=lambda name: lengths[name])[1],)
    assert subject.prompts(3).text == [[item.question.text] for item in sorted(rows, key=lambda i: lengths[i.id])]
    wanted = list(bench_rows(["mi-pruner", "fastv"], [4, 100], [1, 3], ["plain"]))
    found = bench(
        replace(SMALL, geometry="", small=False, repeats=1),
        wanted,
        tmp_path / "o",
        subject=subject,
        about={"data": "x"},
    )
    by = {(row["strategy"], row["keep"], row["batch"]): row for row in found}
    assert all("refused" not in row for row in found)
    alone = [Bench(model, subject._inputs([item]), Peaks(1e9, 1e9), 1, 0)._sizes(None, None) for item in rows]
    assert by["full", 0, 3]["prefill_gflops"] == pytest.approx(sum(one["prefill_gflops"] for one in alone), abs=0.05)
    assert by["full", 0, 3]["text_tokens"] == pytest.approx(sum(one["text_tokens"] for one in alone) / 3, abs=0.01)
    assert by["full", 0, 3]["visual_tokens"] == 36
    assert by["mi-pruner", 4, 3]["layer_average"] == 4
    assert by["mi-pruner", 100, 1]["layer_average"] == 36, "a picture with fewer tokens stays whole"
    with pytest.raises(ConfigError, match="another configuration"):
        bench(replace(SMALL, geometry=""), wanted, tmp_path / "o", subject=subject, about={"data": "y"})


def folder(path: Path, rows: list[dict[str, Any]], **config: Any) -> Path:
    """A folder as ``bench`` writes it."""
    path.mkdir()
    settings = {
        "geometry": "g",
        "dtype": "float16",
        "backend": "graphs",
        "device": "H100",
        "threads": 8,
        "torch": "2.11",
    }
    (path / "config.json").write_text(json.dumps({**settings, **config}))
    (path / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def line(first_token: float, *, std: float = 0.1, strategy: str = "mi-pruner", **more: Any) -> dict[str, Any]:
    spread = {"mean": first_token, "std": std, "median": first_token}
    return {
        "strategy": strategy, "keep": 64, "batch": 1, "way": "compiled", "identity": "a", "first_token_ms": spread,
        "token_ms": 6.0, "memory_gib": 13.0, **more,
    }  # fmt: skip


def test_two_runs_side_by_side(tmp_path: Path) -> None:
    before = folder(tmp_path / "a", [line(99.0), line(12.0), line(5.0, strategy="fastv"), line(3.0, keep=32)])
    changed = line(5.05, strategy="fastv", identity="b", memory_gib=6.5)
    after = folder(tmp_path / "b", [line(8.0), changed, {**line(1.0, batch=8)}], torch="2.12")
    found = against(read_run(before), read_run(after))
    # the last line of a case counts, as in a run that measured it again
    assert [row[0] for row in found.cells] == ["mi-pruner", "fastv"]
    by = {row[0]: dict(zip(AGAINST, row, strict=True)) for row in found.cells}
    assert by["mi-pruner"]["first token ms"] == "12.00 -> 8.00 (1.50x)"
    assert by["fastv"]["first token ms"] == "5.00 -> 5.05 (~0.99x)"
    assert by["fastv"]["GiB"] == "13.00 -> 6.50 (2.00x)"
    assert by["fastv"]["encode ms"] == "-"
    assert [said.partition(":")[0] for said in found.differs] == ["torch", "fastv 64 batch 1 compiled"]
    assert found.missing == [
        f"mi-pruner 32 batch 1 compiled: only in {before}",
        f"mi-pruner 64 batch 8 compiled: only in {after}",
    ]


@pytest.mark.parametrize(
    ("name", "other"), [("device", "A100"), ("threads", 2), ("geometry", "h"), ("dtype", "float32")]
)
def test_what_is_not_alike_is_not_compared_unasked(tmp_path: Path, name: str, other: Any) -> None:
    runs = [
        read_run(folder(tmp_path / "a", [line(2.0)])),
        read_run(folder(tmp_path / "b", [line(1.0)], **{name: other})),
    ]
    with pytest.raises(ConfigError, match=f"{name}: .*{other}.*--across"):
        against(*runs)
    found = against(*runs, across=True)
    assert found.cells[0][7] == "2.00 -> 1.00 (2.00x)"
    assert len(found.differs) == 1
    assert found.differs[0].startswith(f"{name}:")


def test_runs_with_nothing_to_compare(tmp_path: Path) -> None:
    full = folder(tmp_path / "a", [line(2.0)])
    with pytest.raises(ConfigError, match="share no row"):
        against(read_run(full), read_run(folder(tmp_path / "b", [line(2.0, keep=3)])))
    with pytest.raises(ConfigError, match="no rows"):
        read_run(folder(tmp_path / "c", []))
    with pytest.raises(ConfigError, match="folders of bench"):
        read_run(tmp_path / "nowhere")
    refused = folder(tmp_path / "d", [{**line(2.0), "refused": "too wide"}])
    found = against(read_run(full), read_run(refused))
    assert (found.cells, found.missing) == ([], ["mi-pruner 64 batch 1 compiled: too wide"])


def test_comparing_by_command(measured: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    """A real folder with itself: every ratio is 1."""
    out = str(measured[0])
    result = CliRunner().invoke(app, ["bench", "--compare", out, out, "--wide"])
    assert result.exit_code == 0, result.output
    assert result.output.count("1.00x)") >= 9
    assert "DIFFERS" not in result.output
    other = folder(tmp_path / "b", [line(1.0)])
    for words, expected in (
        (["--across", "--out", out], "--compare"),
        ([], "--out"),
        (["--compare", out, str(other)], "--across"),
    ):
        result = CliRunner().invoke(app, ["bench", *words])
        assert isinstance(result.exception, ConfigError)
        assert expected in str(result.exception)
