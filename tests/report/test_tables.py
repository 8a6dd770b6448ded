"""Tables for documents: the same numbers in every format, nothing from outside as markup, folders merged or refused."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from tokenprune.cli import app
from tokenprune.core.errors import ConfigError
from tokenprune.evaluation.merged import merged
from tokenprune.evaluation.summary import SummaryRow
from tokenprune.report.tables import as_tidy_csv, comparison_grid, latex, markdown

FACTS = {"model": "embedded", "dtype": "float32", "seed": 0, "match": "kept"}


def row(strategy: str, keep: int, value: float, **changes: Any) -> SummaryRow:
    made = SummaryRow(
        strategy, keep, "all", "all", "accuracy", value, value - 0.05, value + 0.05, 40, 0.5, 0.3, 64, 64.0, 1e9, 2048
    )
    return replace(made, **changes)


ROWS = [
    row("full", 0, 0.9, p_random=None, p_full=None),
    row("mi-pruner", 64, 0.8, p_random=0.01),
    row("divprune", 64, 0.8004),
    row("random", 64, 0.6, p_random=None),
    row("mi-pruner", 32, 0.5),
    row("random", 32, 0.55, p_random=None),
]
ROWS += [replace(one, task="pope", n=20) for one in ROWS]


def folder(place: Path, rows: list[SummaryRow], **facts: Any) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    told = {"environment": {**FACTS, **facts}, "unmatched": [], "rows": [asdict(one) for one in rows]}
    (place / "summary.json").write_text(json.dumps(told))
    return place


def test_the_best_is_bold_the_second_underlined_at_each_budget() -> None:
    grid = comparison_grid(ROWS, FACTS)
    assert [[line[0].text for line in section] for section in grid.sections] == [
        ["full"],
        ["divprune", "mi-pruner", "random"],
        ["random", "mi-pruner"],
    ]
    place = grid.head.index("all (n=40)")
    assert [[line[place].place for line in section] for section in grid.sections] == [[0], [1, 1, 2], [1, 2]]
    text = markdown(grid)
    assert "**80.0**† [75.0, 85.0]" in text
    assert "<u>60.0</u>" in text
    assert "40 questions" in text
    assert "pope (n=20)" in text


def test_latex_has_as_many_cells_in_every_row() -> None:
    text = latex(comparison_grid(ROWS, FACTS))
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(lines) == 7
    assert len({line.count("&") for line in lines}) == 1
    columns = re.search(r"begin\{tabular\}\{(l r*|lr+)\}", text)
    assert columns is not None
    assert len(columns[1]) == lines[0].count("&") + 1
    assert text.count(r"\begin") == text.count(r"\end") == 2
    assert text.count(r"\midrule") == 3
    assert r"\textbf{80.0}$^{\dagger}$" in text


def test_names_from_outside_are_written_out() -> None:
    nasty = r"a_b & 50% \input{x} <i> | $y$ #1 ~^"
    rows = [replace(one, strategy=nasty) if one.strategy == "mi-pruner" else one for one in ROWS]
    grid = comparison_grid(rows, FACTS)
    tex = latex(grid)
    assert r"a\_b \& 50\% \textbackslash{}input\{x\}" in tex
    assert r"\input" not in tex
    lines = [line for line in tex.splitlines() if line.endswith(r"\\")]
    assert len({len(re.findall(r"(?<!\\)&", line)) for line in lines}) == 1
    table = [line for line in markdown(grid).splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    assert "<i>" not in "\n".join(table)


def test_every_number_is_in_csv_and_parquet(tmp_path: Path) -> None:
    place = folder(tmp_path / "run", ROWS)
    done = CliRunner().invoke(app, ["report", str(place), "--formats", "all"])
    assert done.exit_code == 0, done.output
    assert sorted(file.name for file in place.iterdir()) == [
        "summary.json",
        "table.csv",
        "table.html",
        "table.md",
        "table.parquet",
        "table.tex",
    ]
    table = pyarrow.parquet.read_table(place / "table.parquet")
    assert table.to_pylist() == [asdict(one) for one in ROWS]
    assert table.schema.metadata[b"tokenprune.model"] == b"embedded"
    told = list(csv.DictReader(io.StringIO((place / "table.csv").read_text())))
    assert [float(one["value"]) for one in told] == [one.value for one in ROWS]
    assert (place / "table.csv").read_text() == as_tidy_csv(ROWS)
    assert "divprune" in (place / "table.html").read_text(encoding="utf-8")


def test_folders_that_differ_in_strategies_only_become_one_table(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", [one for one in ROWS if one.strategy != "divprune"], threads=1)
    b = folder(tmp_path / "b", [one for one in ROWS if one.strategy in ("full", "divprune")], threads=2)
    out = tmp_path / "both"
    done = CliRunner().invoke(app, ["report", str(a), str(b), "--out", str(out), "--formats", "markdown"])
    assert done.exit_code == 0, done.output
    text = (out / "table.md").read_text(encoding="utf-8")
    assert "divprune" in text
    assert "mi-pruner" in text
    assert sorted(map(repr, merged([a, b]).rows)) == sorted(map(repr, ROWS))
    assert merged([a, b]).facts["threads"] == "1, 2"


@pytest.mark.parametrize(
    ("rows", "facts", "complaint"),
    [
        (ROWS, {"seed": 1}, "seed 1"),
        (ROWS, {"model": "other"}, "model 'other'"),
        ([row("mi-pruner", 64, 0.81)], {}, "0.8100"),
        ([row("trim", 64, 0.7, n=10)], {}, "same questions"),
    ],
)
def test_what_is_no_one_comparison_is_refused(
    rows: list[SummaryRow], facts: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        merged([folder(tmp_path / "a", ROWS), folder(tmp_path / "b", rows, **facts)])


def test_rows_that_are_missing_are_told(tmp_path: Path) -> None:
    place = folder(tmp_path, ROWS)
    told = json.loads((place / "summary.json").read_text())
    told["unmatched"] = [{"strategy": "dart", "keep": 32, "reason": "too few"}]
    (place / "summary.json").write_text(json.dumps(told))
    assert merged([place]).notes == ["dart at 32 is left out: too few"]


@pytest.mark.parametrize(
    ("words", "error", "complaint"),
    [
        (["empty"], ConfigError, "summary.json"),
        (["broken"], ConfigError, "damaged"),
        (["bench"], ConfigError, "another command"),
        (["good", "--formats", "latx"], ConfigError, "latex"),
        (["good", "--formats", ","], ConfigError, "none"),
        (["good", "good2"], ConfigError, "--out"),
    ],
)
def test_mistakes_are_told(
    words: list[str], error: type[Exception], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "good", ROWS)
    folder(tmp_path / "good2", ROWS)
    for name, text in (("empty", None), ("broken", "{"), ("bench", '{"setup": {}, "rows": []}')):
        (tmp_path / name).mkdir()
        if text is not None:
            (tmp_path / name / "summary.json").write_text(text)
    done = CliRunner().invoke(app, ["report", *words])
    assert isinstance(done.exception, error)
    assert complaint in str(done.exception)
