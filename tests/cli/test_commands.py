"""The commands as a user types them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tokenprune.cli import main
from tokenprune.core.registry import KINDS, registry
from tokenprune.diagnostics.imports import checked
from tokenprune.zoo.tiny import tiny_llava, tiny_processor

Command = Callable[..., "Done"]


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def tokenprune(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run a command line as the console script does, in this process."""

    def run(*words: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["tokenprune", *words])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return Done(int(stop.value.code or 0), out, err)

    return run


def test_the_module_runs_as_a_program() -> None:
    words = [sys.executable, "-m", "tokenprune", "list", "strategies", "mi*", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr
    assert [row["name"] for row in json.loads(done.stdout)] == ["mi-attention", "mi-pruner"]


def test_list_names_origins(tokenprune: Command) -> None:
    done = tokenprune("list", "strategies", "mi*", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["name"] for row in rows] == ["mi-attention", "mi-pruner"]
    assert all(row["origin"].startswith("tokenprune-vlm ") for row in rows)
    table = tokenprune("list", "mi*", "--wide")
    assert "tokenprune_strategies.mi_pruner" in table.stdout


@pytest.mark.slow
def test_list_check_loads_and_tries_everything() -> None:
    """All that is listed, as ``list --check`` asks; strategies, of which others try each on more, are imported."""
    entries = [entry for kind in KINDS for entry in registry.entries(kind)]
    assert "random" in {entry.name for entry in entries}
    # whether draws may follow from the batch is for their own tests to say
    parts = [entry for entry in entries if entry.kind != "strategies" and entry.name != "random"]
    found = checked(parts, then=("tokenprune.testing.registered", "tried"))
    assert all(one.ok for one in found.values()), found
    by_kind = {kind: [one.said for key, one in found.items() if key[0] == kind] for kind in KINDS}
    assert by_kind["mergers"].count("imported; needs options") == 1
    assert all("tried on" in said or "needs options" in said for said in by_kind["mergers"])
    assert set(by_kind["adapters"]) == {"imported"}
    strategies = [entry for entry in entries if entry.kind == "strategies"]
    assert {one.said for one in checked(strategies).values()} == {"imported"}


def test_list_check_tries_parts_and_strategies(tokenprune: Command) -> None:
    """Of several kinds: strategies before the language model, between its layers and of videos, an objective."""
    done = tokenprune("list", "fa*", "--check", "--json")
    assert done.returncode == 0, done.stdout
    rows = json.loads(done.stdout)
    assert {"fastervlm", "fastv", "fastvid", "facility-location"} <= {row["name"] for row in rows}
    assert {row["status"] for row in rows} == {"ok"}
    assert all(row["tried"].startswith("tried on") for row in rows)
    done = tokenprune("list", "aggregators", "--check", "--json")
    assert done.returncode == 0, done.stdout
    assert {(row["status"], row["tried"]) for row in json.loads(done.stdout)} == {("ok", "tried on 4 instances")}


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["list", "strategys"], "strategies"),
        (["doctor", "--strategy", "mi-prunner"], "mi-pruner"),
        (["doctor", "--model", "./no/such/folder"], "no such folder"),
        (["doctor", "--image", "nothing.png", "--model", "tiny"], "no such file"),
        (["doctor", "--dtype", "float8"], "float16"),
        (["doctor", "--device", "meta"], "device 'meta'"),
        (["doctor", "--device", "foo"], "device 'foo'"),
        (["list", "scorers", "--model", "tiny"], "only strategies"),
        (["bench", "--out", "x", "--ways", ""], "--ways"),
        (["bench", "--out", "x", "--device", "foo"], "device 'foo'"),
        (["conformance", "./no/such/folder"], "no/such/folder"),
        (["compare", "--out", "x", "--budgets", "64,many"], "--budgets"),
        (["compare", "--out", "x", "--budgets", "64,,"], "--budgets '64,,': entry 2 of 3 is empty"),
        (["compare", "--out", "x", "--strategies", "random,"], "--strategies 'random,': entry 2 of 2 is empty"),
        (["compare", "--out", "x", "--families", ""], "--families"),
        (["compare", "--out", "x", "--families", ",pope"], "--families ',pope': entry 1 of 2 is empty"),
        (["compare", "--out", "x", "--strategies", ","], "--strategies"),
        (["compare", "--out", "x", "--strategies", "mi-prunner", "--model", "./no/such/folder"], "mi-pruner"),
        (["compare", "--out", "x", "--seed", "-1"], "--seed"),
        (["compare", "--out", "/dev/null/x", "--model", "tiny", "--limit", "1"], "/dev/null/x"),
        (["compare", "--out", "x", "--model", ""], "model ''"),
        (["tune", "--out", "x", "--budget", "12", "--model", ""], "model ''"),
        (["ablate", "table-5", "--out", "x", "--model", ""], "model ''"),
        (["show", "scene:0/3", "--model", "", "--out", "x.png"], "model ''"),
        (["explore", "scene:0/3", "--model", "", "--out", "x.html"], "model ''"),
        (["serve", "--model", ""], "model ''"),
        (["table", "8", "--model", "", "--limit", "2", "--out", "x"], "model ''"),
        (["compare", "--out", "x", "--data", ""], "--data"),
    ],
)
def test_mistakes_are_answered_in_a_line(
    tokenprune: Command, words: list[str], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = tokenprune(*words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert complaint in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_doctor_proves_pruning_on_a_saved_model(tokenprune: Command, tmp_path: Path) -> None:
    tiny_llava(side=6).save_pretrained(tmp_path / "model")
    tiny_processor(side=6).save_pretrained(tmp_path / "model")
    chosen = ("--strategy", "mi-pruner", "--strategy", "attention", "--strategy", "mi-attention")
    done = tokenprune("doctor", "--model", str(tmp_path / "model"), "--keep", "9", *chosen, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    counted = [token.strip() for run in report["prompt"] if run["counts"] for token in run["tokens"]]
    assert counted == ["what", "color", "is", "the", "dog", "?"]
    found = report["diagnoses"]
    assert [f["strategy"] for f in found] == ["mi-pruner", "attention", "mi-attention"]
    for f in found:
        assert (f["tokens_before"], f["tokens_after"]) == (36, 9)
        assert f["sequence_before"] - f["sequence_after"] == 27
        assert f["healthy"]
        assert set(f["laws"]) == {"keep all = plain", "drop = mask out", "hooks gone"}


def test_doctor_says_so_when_nothing_is_pruned(tokenprune: Command, tmp_path: Path) -> None:
    tiny_llava(side=3).save_pretrained(tmp_path / "model")
    tiny_processor(side=3).save_pretrained(tmp_path / "model")
    done = tokenprune("doctor", "--model", str(tmp_path / "model"), "--keep", "9", "--strategy", "random")
    assert done.returncode == 1
    assert "random: nothing was pruned: 9 of 9 visual tokens are left; give a smaller --keep" in done.stderr
    assert "counts as the question:  what| color| is| the| dog| ?\n" in done.stdout
    assert "does not count:          USER| :|<9 visual tokens> ...  ASSISTANT| :\n" in done.stdout


def test_damaged_weights_are_answered_in_a_line(tokenprune: Command, tmp_path: Path) -> None:
    tiny_llava(side=3).save_pretrained(tmp_path / "model")
    tiny_processor(side=3).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"garbage" * 9)
    done = tokenprune("doctor", "--model", str(tmp_path / "model"))
    assert done.returncode == 2
    assert "cannot be loaded" in done.stderr
