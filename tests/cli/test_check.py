"""``tokenprune check``: right parts pass, wrong ones are shown with the smallest instance."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from tokenprune.cli.check import check
from tokenprune.core.errors import ConfigError, UnknownNameError

WRONG = '''
import tokenprune as tp

class Averages(tp.Scorer):
    """Distance from the mean, padding counted."""
    requires = frozenset({"visual"})

    def score(self, features):
        return (features.visual - features.visual.mean(1, keepdim=True)).norm(dim=-1)

class Norms(tp.Scorer):
    """Lengths."""
    requires = frozenset({"visual"})

    def score(self, features):
        return features.visual.float().norm(dim=-1)
'''


@pytest.mark.parametrize("name", ["mi-pruner", "facility-location", "softmax", "top-k"])
def test_built_in_parts_pass(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    check(name)
    assert "nothing wrong found" in capsys.readouterr().out


def test_schedules_are_run_on_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    check("fastv")
    assert "strategies fastv: tried on 50 instances, nothing wrong found" in capsys.readouterr().out


def test_what_is_not_tried_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        WRONG
        + '''
class Deep(tp.Scorer):
    """Reads a signal of its own."""
    requires = frozenset({"depth"})

    def score(self, features):
        return features["depth"]
'''
    )
    check(f"{file}:Deep")
    assert "not tried\n  not checked: signal 'depth' is not built in" in capsys.readouterr().out


def test_a_class_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.py"
    file.write_text(WRONG)
    check(f"{file}:Norms")
    assert "Norms: tried on" in capsys.readouterr().out
    with pytest.raises(typer.Exit):
        check(f"{file}:Averages")
    assert "Averages: wrong:" in capsys.readouterr().out


def test_what_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(WRONG)
    with pytest.raises(UnknownNameError, match="Norms"):
        check(f"{file}:Normss")
    with pytest.raises(UnknownNameError, match="facility-location"):
        check("facility-locatio")
    with pytest.raises(ConfigError, match="no file"):
        check("nowhere.py:Part")
