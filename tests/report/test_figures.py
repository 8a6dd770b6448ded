"""Figures for papers: the right size, letters as letters, the same bytes again, and what is drawn was measured."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.support.report import answers
from tokenprune.cli import app
from tokenprune.core.errors import ConfigError
from tokenprune.evaluation.summary import SummaryRow, summarize
from tokenprune.report.charts import Measured
from tokenprune.report.figures.canvas import WIDTHS, write_figure
from tokenprune.report.figures.comparison import Point, chosen, curves, front, heat, nothing_beats, points
from tokenprune.report.figures.speed import bars, speed_rows

SPEED = Path(__file__).parents[2] / "experiments" / "speed" / "results" / "strategies.jsonl"


@pytest.fixture(scope="module")
def rows() -> list[SummaryRow]:
    return summarize(answers())


def inches(pdf: bytes) -> list[float]:
    [box] = re.findall(rb"/MediaBox \[\s*0 0 ([\d.]+) ([\d.]+)\s*\]", pdf)
    return [float(side) / 72 for side in box]


def drawings(rows: list[SummaryRow], width: float) -> dict[str, Any]:
    lines = [json.loads(line) for line in SPEED.read_text().splitlines()]
    return {
        "curves": lambda: curves(rows, ["all", "gqa", "pope"], chosen(rows, None), "layers", width),
        "front": lambda: front(rows, "all", None, "gflops", width),
        "heat": lambda: heat(rows, chosen(rows, None), 8, width),
        "speed": lambda: bars(speed_rows(lines, None, None, ["plain"]), width),
    }


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("name", ["curves", "front", "heat", "speed"])
def test_files_are_as_wide_as_the_column_and_hold_letters(
    rows: list[SummaryRow], tmp_path: Path, name: str, columns: str
) -> None:
    draw = drawings(rows, WIDTHS[columns])[name]
    pdf, png = write_figure(draw, tmp_path / name)
    assert inches(pdf.read_bytes())[0] == pytest.approx(WIDTHS[columns])
    assert b"/Type3" not in pdf.read_bytes()  # which publishers refuse
    assert b"/FontFile2" in pdf.read_bytes()
    assert struct.unpack(">I", png.read_bytes()[16:20])[0] == pytest.approx(WIDTHS[columns] * 300, abs=1)
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"{name}.pdf", f"{name}.png"]
    before = pdf.read_bytes()
    write_figure(draw, tmp_path / name, ["pdf"])
    assert pdf.read_bytes() == before


def test_curves_are_what_was_measured(rows: list[SummaryRow]) -> None:
    with curves(rows, ["gqa"], ["mi-pruner", "random"], "layers", 3.25) as figure:
        [axes] = figure.axes
        [mine, random] = axes.containers
        assert list(mine.lines[0].get_xdata()) == [8, 16]  # type: ignore[misc]
        # of q0, q2, q4 the one answers q0 to q3 and q0 to q4, the other q0 and q0, q1
        assert mine.lines[0].get_ydata() == pytest.approx([2 / 3, 1])  # type: ignore[misc]
        assert random.lines[0].get_ydata() == pytest.approx([1 / 3, 1 / 3])  # type: ignore[misc]
        assert axes.get_title("left") == "gqa (n=3)"
        [legend] = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == ["full", "mi-pruner", "random"]


def test_without_names_the_best_are_drawn_beside_random(rows: list[SummaryRow]) -> None:
    assert chosen(rows, None) == ["mi-pruner", "divprune", "mine", "random"]
    assert chosen(rows, None, most=1) == ["mi-pruner", "random"]


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=12))
def test_nothing_beats_what_is_on_the_front(pairs: list[tuple[int, int]]) -> None:
    made = [Point(f"s{i}", 1, c, Measured(v / 6, v / 6, v / 6)) for i, (c, v) in enumerate(pairs)]
    best = nothing_beats(made)

    def beats(a: Point, b: Point) -> bool:
        worth = (-a.cost, a.measured.value), (-b.cost, b.measured.value)
        return worth[0] != worth[1] and all(x >= y for x, y in zip(*worth, strict=True))

    assert not any(beats(a, b) for a in made for b in best)
    # and whatever is not on it is beaten by, or equal to, something that is
    assert all(any(beats(b, p) or (b.cost, b.measured) == (p.cost, p.measured) for b in best) for p in made)


def test_bars_end_where_the_first_token_comes() -> None:
    lines = [json.loads(line) for line in SPEED.read_text().splitlines()]
    rows = speed_rows(lines, None, None, ["plain"])
    assert rows[0]["strategy"] == "full"
    medians = [row["first_token_ms"]["median"] for row in rows]
    assert medians[1:] == sorted(medians[1:])
    with bars(rows, 3.25) as figure:
        ends = [0.0] * len(rows)
        for patch in figure.axes[0].patches:
            place = round(patch.get_y() + patch.get_height() / 2)  # type: ignore[attr-defined]
            ends[place] = max(ends[place], patch.get_x() + patch.get_width())  # type: ignore[attr-defined]
        assert ends == pytest.approx(medians)


def test_what_cannot_be_drawn_is_answered(rows: list[SummaryRow], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no question type 'gqq'.*gqa"):
        points(rows, "gqq", "layers")
    with pytest.raises(ConfigError, match=r"no 'flops'.*gflops"):
        points(rows, "all", "flops")
    with pytest.raises(ConfigError, match=r"needs --times"):
        points(rows, "all", "ms")
    with pytest.raises(ConfigError, match=r"no row 'mi-prune'.*mi-pruner"):
        chosen(rows, ["mi-prune"])
    with pytest.raises(ConfigError, match=r"the budgets 8, 16"), heat(rows, ["mi-pruner"], 32, 3.0):
        pass
    with pytest.raises(ConfigError, match=r"there are batches \[1\]"):
        speed_rows([json.loads(line) for line in SPEED.read_text().splitlines()], 8, None, None)
    with pytest.raises(ConfigError, match=r"no 'svg'"):
        write_figure(lambda: front(rows, "all", None, "kv", 3.0), tmp_path / "x", ["svg"])


def test_every_figure_has_a_command(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "made"
    out.mkdir()
    options = ["--model", "tiny", "--limit", "4", "--strategies", "divprune,fastv", "--budgets", "64,9"]
    assert CliRunner().invoke(app, ["compare", "--out", str(run), *options]).exit_code == 0
    question = ["what color is the dog ?", "--model", "tiny", "--strategies", "divprune", "--budgets", "16"]
    commands = {
        "curves": [str(run), "--tasks", "every", "--columns", "two"],
        "front": [str(run), "--against", "ms", "--times", str(SPEED)],
        "heatmap": [str(run), "--keep", "64"],
        "speed": [str(SPEED), "--ways", "compiled"],
        "kept": ["scene:0/3", *question],
    }
    for name, words in commands.items():
        done = CliRunner().invoke(app, ["figure", name, *words, "--out", str(out / name)])
        assert done.exit_code == 0, (name, done.output)
        assert (out / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
