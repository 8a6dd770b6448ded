"""``tokenprune tune`` as a user types it: mistakes before a model is loaded, and the whole on a tiny model."""

from __future__ import annotations

import builtins
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tokenprune.cli import main


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """Exit status, and what was said."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["tokenprune", "tune", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as stopped:
            code = int(stopped.code or 0)
    captured = capsys.readouterr()
    return code, " ".join((captured.out + captured.err).split())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "one constraint"),
        (["--budget", 64, "--min-accuracy", 0.9], "one constraint"),
        (["--min-accuracy", 97], "share of the unpruned model's"),
        (["--max-ms", 4, "--costs", "nowhere"], "no finished `tokenprune bench`"),
        (["--budget", 64, "--limit", 40], "too few to choose by some and judge by others"),
        (["--budget", 64, "--space", "nowhere.yaml"], "cannot be read"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    words: list[Any], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = run(capsys, *words, "--out", tmp_path / "out")
    assert code == 2
    assert says in said
    assert not (tmp_path / "out").exists()


def test_a_space_with_an_unknown_part_names_the_closest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("strategy: {scorer: {any: [pmi, similarty]}}")
    code, said = run(capsys, "--budget", 64, "--space", space, "--out", tmp_path / "out")
    assert code == 2
    assert "scorer=similarty" in said
    assert "'similarity'" in said


def test_without_the_package_it_says_how_to_get_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "optuna":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    code, said = run(capsys, "--budget", 64, "--out", tmp_path / "out")
    assert code == 2
    assert "pip install 'tokenprune-vlm[tune]'" in said


@pytest.mark.slow
def test_a_search_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = tmp_path / "space.yaml"
    space.write_text(yaml.safe_dump({"strategy": {"scorer": {"any": ["pmi", "similarity", "random"]}}}))
    options = ["--model", "tiny:llava", "--limit", 210, "--batch-size", 64, "--max-new-tokens", 1, "--space", space]
    code, said = run(capsys, "--budget", 4, *options, "--trials", 2, "--out", tmp_path / "out")
    assert code == 0
    assert "Nothing beats the default" in said
    assert "random weights" in said
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert len(summary["trials"]) == 2
    assert (tmp_path / "out" / "report.html").read_text().count("<svg") == 1
    # another constraint is another search
    code, said = run(capsys, "--budget", 5, *options, "--trials", 2, "--out", tmp_path / "out")
    assert code == 2
    assert "another configuration" in said
