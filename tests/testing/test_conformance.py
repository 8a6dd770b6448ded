"""Golden vectors hold, and the engine that replays them notices when they do not."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from tokenprune.cli.conformance import conformance
from tokenprune.core.errors import ConfigError, UnknownNameError
from tokenprune.testing.conformance import GROUP, Replayed, mismatch, replay_folder
from tokenprune_strategies.mmtok import keywords, padded

VECTORS = Path(__file__).parents[1] / "vectors"
METHODS = sorted(path.parent.name for path in VECTORS.glob("*/cases.json"))


def document(method: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((VECTORS / method / "cases.json").read_text(encoding="utf-8"))
    return loaded


@pytest.mark.parametrize("method", METHODS)
def test_vectors_hold(method: str) -> None:
    report = replay_folder(VECTORS, [method])
    assert [case for case in report.cases if case.status != "passed"] == []
    assert len(report.cases) == len(document(method)["cases"]) >= 2


def test_every_replay_has_vectors() -> None:
    assert {point.name for point in metadata.entry_points(group=GROUP)} <= set(METHODS)


# --- the engine -------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A writable copy of DivPrune's vectors."""
    shutil.copytree(VECTORS / "divprune", tmp_path / "divprune")
    return tmp_path


def edit(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> str:
    """Change the tensors of the first case; return its name."""
    case = document("divprune")["cases"][0]
    path = folder / "divprune" / case["file"]
    tensors = load_file(path)
    change(tensors)
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    return str(case["name"])


def run(*args: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(conformance)
    result = CliRunner().invoke(app, list(args))
    return result.exit_code, result.stdout


def test_passes_and_counts(folder: Path) -> None:
    code, out = run(str(folder), "--json")
    report = json.loads(out)
    cases = document("divprune")["cases"]
    assert (code, report["passed"], report["failed"], report["skipped"]) == (0, len(cases), 0, 0)
    assert report["cases"][0] == {"method": "divprune", "name": cases[0]["name"], "status": "passed", "detail": ""}


def test_one_wrong_index_fails(folder: Path) -> None:
    def other_token(tensors: dict[str, Tensor]) -> None:
        tensors["out.kept_idx_sorted"][1] += 1

    name = edit(folder, other_token)
    code, out = run(str(folder), "--json")
    report = json.loads(out)
    failed = [case for case in report["cases"] if case["status"] == "failed"]
    assert (code, report["failed"]) == (1, 1)
    assert failed[0]["name"] == name
    assert "kept_idx_sorted: 1 of 6 differ, first at [1]" in failed[0]["detail"]


def test_pick_order_counts(folder: Path) -> None:
    def swap(tensors: dict[str, Tensor]) -> None:
        tensors["out.selection_order_idx"] = tensors["out.selection_order_idx"].flip(0)

    edit(folder, swap)
    code, out = run(str(folder))
    assert code == 1
    assert "failed  divprune/" in out
    assert out.splitlines()[-1].endswith("1 failed, 0 skipped")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.update({"out.else": torch.zeros(2)}), "else: not replayed"),
        (lambda t: [t.pop(k) for k in list(t) if k.startswith("out.")], "no out.*"),
        (lambda t: t.pop("in.features"), "KeyError"),
        (lambda t: t.update({"out.kept_idx_sorted": t["out.kept_idx_sorted"][:3]}), "shape (6,), expected (3,)"),
        (lambda t: t.update({"out.kept_idx_sorted": t["out.kept_idx_sorted"].float()}), "dtype torch.int64"),
    ],
    ids=["unknown output", "no output", "no input", "shape", "dtype"],
)
def test_says_what_is_wrong(folder: Path, change: Callable[[dict[str, Tensor]], None], says: str) -> None:
    name = edit(folder, change)
    (result,) = [case for case in replay_folder(folder).cases if case.status == "failed"]
    assert result.name == name
    assert says in result.detail


def test_missing_file_fails_its_case_only(folder: Path) -> None:
    (folder / "divprune" / document("divprune")["cases"][0]["file"]).unlink()
    report = replay_folder(folder)
    assert (report.count("failed"), report.count("passed")) == (1, len(report.cases) - 1)


def test_unreadable_cases_fail(folder: Path) -> None:
    (folder / "divprune" / "cases.json").write_text('{"cases": [{"file": "nameless"}]}')
    (result,) = replay_folder(folder).cases
    assert (result.status, result.method) == ("failed", "divprune")
    assert "cannot be read" in result.detail


def test_method_without_replay_is_skipped(folder: Path) -> None:
    (folder / "divprune").rename(folder / "unheard-of")
    cases = {**document("divprune"), "method": "unheard-of"}
    (folder / "unheard-of" / "cases.json").write_text(json.dumps(cases))
    code, out = run(str(folder), "--json")
    assert (code, json.loads(out)["skipped"]) == (0, len(cases["cases"]))


def test_broken_replay_fails_its_method(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = metadata.EntryPoint("divprune", "no_such_module:replay", GROUP)
    monkeypatch.setattr(metadata, "entry_points", lambda **_: metadata.EntryPoints([broken]))
    report = replay_folder(folder)
    assert report.count("failed") == len(report.cases)
    assert "no_such_module" in report.cases[0].detail


def test_two_replays_of_a_method_fail(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = [metadata.EntryPoint("divprune", f"module_{i}:replay", GROUP) for i in "ab"]
    monkeypatch.setattr(metadata, "entry_points", lambda **_: metadata.EntryPoints(points))
    report = replay_folder(folder)
    assert report.count("failed") == len(report.cases)
    assert "module_a:replay, module_b:replay" in report.cases[0].detail


def test_wrong_folder_and_method(folder: Path) -> None:
    with pytest.raises(ConfigError, match="is not a folder"):
        replay_folder(folder / "none")
    with pytest.raises(ConfigError, match=r"no <method>/cases\.json"):
        replay_folder(folder / "divprune")
    with pytest.raises(UnknownNameError, match="did you mean 'divprune'"):
        replay_folder(folder, ["divprun"])


def test_tolerances() -> None:
    expected = torch.tensor([0.5, 200.0])
    near, far = expected * (1 + 5e-6), expected * (1 + 5e-5)
    assert mismatch(near, expected) == ""
    assert "differ" in mismatch(far, expected)
    assert mismatch(Replayed(far, rounded=True), expected) == ""
    assert "differ" in mismatch(Replayed(expected * (1 + 5e-4), rounded=True), expected)
    assert mismatch(torch.tensor([torch.nan]), torch.tensor([torch.nan])) == ""
    assert "differ" in mismatch(torch.tensor([0.0]), torch.tensor([torch.nan]))
    assert "differ" in mismatch(torch.tensor([torch.nan]), torch.tensor([0.0]))


def test_unordered_outputs_are_sets() -> None:
    expected = torch.tensor([[1, 5, 3]])
    assert "differ" in mismatch(torch.tensor([[3, 1, 5]]), expected)
    assert mismatch(Replayed(torch.tensor([[3, 1, 5]]), unordered=True), expected) == ""
    assert "differ" in mismatch(Replayed(torch.tensor([[3, 1, 4]]), unordered=True), expected)


# --- vectors that are no tensors --------------------------------------------------------------------------------


@pytest.mark.parametrize("case", document("mmtok")["text_keyword_cases"], ids=lambda case: case["keywords"])
def test_mmtok_keywords(case: dict[str, str]) -> None:
    assert keywords(case["text"]) == case["keywords"]


@pytest.mark.parametrize("case", document("mmtok")["padding_index_cases"], ids=lambda case: str(case["size"]))
def test_mmtok_padding(case: dict[str, Any]) -> None:
    found = padded(*case["size"], overlap=case["include_overlap"]).nonzero().flatten().tolist()
    assert (len(found), found[:5]) == (case["n"], case["first5_sorted"])
    assert hashlib.sha256(json.dumps(found).encode()).hexdigest() == case["indices_sorted_sha256"]
