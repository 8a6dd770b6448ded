"""Commands that pages show, run as a reader would: the report's page, and a stranger's way to an own strategy."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tokenprune.cli import app

DOCS = Path(__file__).parents[2] / "docs"

CONSOLE = re.compile(r"^(?P<mark><!-- no-test -->\s*\n)?^```console\n(?P<code>.*?)^```\s*$", re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """Lines of console blocks, comments aside, that are not marked as needing what a test machine has not."""
    lines = [line for m in CONSOLE.finditer(text) if not m["mark"] for line in m["code"].splitlines()]
    return [line.partition(" # ")[0].strip() for line in lines if line.strip()]


def ran(line: str, folder: Path, site: Path | None = None) -> str:
    """Run a line as a shell would find its program, and say what it printed."""
    words = shlex.split(line)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"} | ({} if site is None else {"PYTHONPATH": str(site)})
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_commands_are_found() -> None:
    text = "```console\na --b  # why\n\nc\n```\n<!-- no-test -->\n```console\nd\n```\n```python\ne\n```\n"
    assert commands(text) == ["a --b", "c"]


@pytest.mark.slow
def test_the_page_of_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for line in commands((DOCS / "report.md").read_text(encoding="utf-8")):
        program, *words = shlex.split(line)
        done = CliRunner().invoke(app, words)
        assert (program, done.exit_code) == ("tokenprune", 0), f"{line}\n{done.output}"
    made = {file.name for file in tmp_path.rglob("*") if file.is_file()}
    assert made >= {"report.html", "table.md", "table.tex", "table.csv", "table.parquet", "table.html"}
    assert made >= {f"{name}.{kind}" for name in ("curves", "front", "heatmap", "kept") for kind in ("pdf", "png")}


@pytest.mark.slow
def test_a_stranger_who_follows_the_site_has_an_own_strategy_in_a_table(tmp_path: Path) -> None:
    page = (DOCS / "add-a-strategy.md").read_text(encoding="utf-8")
    section = page.partition("## 6. In a package")[2].partition("\n## ")[0]
    new, _, enter = commands(section)[0].partition(" && cd ")
    install, _, test = commands(section)[1].partition(" && ")
    ran(new, tmp_path)
    home, site = tmp_path / enter, tmp_path / "site"
    # as written but for what needs a network and an environment of one's own
    assert install == "pip install -e '.[test]'"
    ran(f"pip install --no-deps --no-build-isolation --no-index --quiet --target {shlex.quote(str(site))} .", home)
    ran(f"{test} -q -p no:cacheprovider tests", home, site)
    told = {words.split()[1]: words for words in re.findall(r"`(tokenprune [^`]+)`", section) if " --" in words}
    assert told.keys() >= {"doctor", "compare", "explore"}
    assert "detail-pruner" in ran(told["doctor"].replace("NAME", "tiny"), home, site)
    table = ran(f"{told['compare']} --limit 4 --budgets 64", home, site)
    assert re.search(r"^\s*detail-pruner\s+64\b", table, re.MULTILINE)
    ran(told["explore"] + " --budgets 64 --max-new-tokens 2", home, site)
    assert "detail-pruner" in (home / "explore.html").read_text(encoding="utf-8")
    summary = json.loads((home / "results" / "mine" / "summary.json").read_text(encoding="utf-8"))
    rows = [row for row in summary["rows"] if (row["strategy"], row["metric"]) == ("detail-pruner", "accuracy")]
    assert rows
    assert all(row["keep"] == 64 and 0 <= row["value"] <= 1 for row in rows)
    assert "detail-pruner 0.1.0" in (home / "results" / "mine" / "report.html").read_text(encoding="utf-8")
