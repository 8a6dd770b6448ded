"""What commands print: nothing is cut, whatever the terminal's width; one way to write options."""

from __future__ import annotations

import re
from typing import Any

import pytest
import typer
from rich.console import Console
from rich.table import Table
from typer.testing import CliRunner

from tests.report.test_tables import ROWS
from tokenprune._version import __version__
from tokenprune.cli import app, progress
from tokenprune.cli.console import fitted, print_table
from tokenprune.cli.options import words_or_all
from tokenprune.core.errors import ConfigError, UnknownNameError
from tokenprune.core.registry import list_strategies
from tokenprune.evaluation.table import expendable, table


@pytest.mark.parametrize("width", [40, 80, 100, 200])
def test_a_comparison_fits_or_is_whole(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    print_table(table(ROWS), expendable(ROWS))
    out = capsys.readouterr().out
    assert "…" not in out
    for text in ("mi-pruner", "divprune", "80.0%", "40"):
        assert text in out
    if width >= 80:
        assert max(map(len, out.splitlines())) <= width
    assert ("left out to fit" in out) == (width < 200)


def test_wide_shows_all(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    print_table(table(ROWS), expendable(ROWS), wide=True)
    out = capsys.readouterr().out
    assert all(name in out for name in ("KV KiB", "as full", "GFLOPs"))
    assert "left out" not in out


def test_where_nobody_looks_lines_are_as_long_as_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    print_table(table(ROWS), expendable(ROWS))
    assert "KV KiB" in capsys.readouterr().out


def test_sections_and_cells_survive_when_columns_go() -> None:
    made = Table("a", "b", "c")
    made.add_row("1", "2", "3", end_section=True)
    made.add_row("4", "5", "6")
    narrow, gone = fitted(made, 12, ["b", "nowhere"])
    assert gone == ["b"]
    assert [list(column.cells) for column in narrow.columns] == [["1", "4"], ["3", "6"]]
    assert [row.end_section for row in narrow.rows] == [True, False]


def test_progress_without_a_terminal_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 10.0, 31.0, 40.0, 62.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.progress(Console(force_terminal=False)) as told:
        for done in (1, 2, 3, 4):
            told(done, 8, "asking")
    assert capsys.readouterr().err.splitlines() == [
        "asking: 2 of 8, about 2 min left",
        "asking: 4 of 8, about 1 min left",
    ]


@pytest.mark.parametrize("width", [80, 200])
def test_list_tells_what_each_is(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    out = CliRunner().invoke(app, ["list", "strategies"]).output
    assert "…" not in out
    assert all(name in out for name in list_strategies())
    assert max(map(len, out.splitlines())) <= width
    words = " ".join(out.split())
    assert "Keep tokens drawn" in words
    assert ("cls_attention" in out) == (width == 200)


def test_list_tells_one_in_full() -> None:
    out = CliRunner().invoke(app, ["list", "strategies", "mi-pruner"]).output
    assert "Weight of relevance in [0, 1]" in out
    assert "reads: text, visual" in out
    assert "tau=0.1" in out
    part = CliRunner().invoke(app, ["list", "objectives", "log-determinant"]).output
    assert "submodular" in part
    with pytest.raises(UnknownNameError, match="mi-pruner"):
        CliRunner().invoke(app, ["list", "strategies", "mi-prunner"], catch_exceptions=False)


def test_version_and_short_help() -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"tokenprune {__version__}\n"
    for words in (["-h"], ["compare", "-h"], ["bench", "-h"]):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0
        assert "Usage:" in done.output


def test_help_cuts_nothing_in_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    waiting: list[tuple[list[str], Any]] = [([], typer.main.get_command(app))]
    told = 0
    while waiting:
        words, command = waiting.pop()
        out = CliRunner().invoke(app, [*words, "-h"]).output
        assert "…" not in out, words
        assert max(map(len, out.splitlines())) <= 80, words
        inner = getattr(command, "commands", {})
        assert not re.search(r"\.\.\.$", out.partition("Commands:")[2], re.MULTILINE), words
        for option in (name for parameter in command.params for name in parameter.opts if name.startswith("-")):
            assert re.search(rf"(?<!\S){option}\b", out), f"{words} {option}"
            told += 1
        waiting += [([*words, name], one) for name, one in inner.items()]
    assert told > 100


@pytest.mark.parametrize("command", ["compare", "show", "bench", "explore"])
def test_one_vocabulary(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = re.sub(r"\x1b\[[0-9;]*m", "", CliRunner().invoke(app, [command, "--help"]).output)
    assert "--strategies" in text
    assert "--budgets" in text
    assert "mi-pruner:lam=0.3" in text


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("mi-pruner,lam=0.3", "mi-pruner:lam=0.3"),
        ("divprune,mi-pruner,lam=0.3:tau=0.05", "mi-pruner:lam=0.3:tau=0.05"),
        ("mi-pruner(lam=0.3)", "mi-pruner:lam=0.3"),
        ("mi-pruner lam=0.3", "mi-pruner:lam=0.3"),
        ("mi-pruner:lam:0.3", "mi-pruner:lam=0.3"),
    ],
)
def test_natural_misspellings_are_answered(given: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(repr(meant))):
        words_or_all("--strategies", given)


def test_what_is_right_is_left_alone() -> None:
    assert words_or_all("--strategies", "mi-*,mi-pruner:lam=0.3:tau=0.05, random") == [
        "mi-*",
        "mi-pruner:lam=0.3:tau=0.05",
        "random",
    ]
    assert words_or_all("--strategies", "all") is None
