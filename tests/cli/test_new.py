"""``tokenprune new``: what a stranger gets, installed and run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tokenprune.cli import app
from tokenprune.core.errors import ConfigError

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "docs" / "examples" / "plugin"


def run(*words: str, cwd: Path, site: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    if site is not None:
        env["PYTHONPATH"] = str(site)
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=600
    )


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["new", "edge-first"])
    assert done.exit_code == 0, done.output
    return tmp_path / "edge-first"


def test_every_file_is_written_under_the_new_name(written: Path) -> None:
    files = sorted(str(file.relative_to(written)) for file in written.rglob("*") if file.is_file())
    assert files == [
        ".github/workflows/ci.yml",
        "README.md",
        "edge_first/__init__.py",
        "edge_first/py.typed",
        "edge_first/scorer.py",
        "edge_first/strategy.py",
        "pyproject.toml",
        "tests/test_laws.py",
    ]
    for file in files:
        text = (written / file).read_text(encoding="utf-8")
        assert "example" not in text.replace("def example(", "").replace(":example", "")
    assert (TEMPLATE / "pyproject.toml").is_file()  # the same files, to be read on the site


@pytest.mark.slow
def test_a_stranger_has_an_own_strategy_in_a_table(written: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet")
    done = run("pip", "install", *options, "--target", str(site), ".", cwd=written)
    assert done.returncode == 0, done.stderr
    tested = run("pytest", "-q", "-p", "no:cacheprovider", "tests", cwd=written, site=site)
    assert tested.returncode == 0, tested.stdout
    listed = run("tokenprune", "list", "strategies", "edge-*", cwd=written, site=site)
    assert "edge-first 0.1.0" in " ".join(listed.stdout.split())
    words = ["compare", "--out", "results", "--strategies", "edge-first,random", "--budgets", "64", "--limit", "4"]
    compared = run("tokenprune", *words, cwd=written, site=site)
    assert compared.returncode == 0, compared.stderr
    assert "edge-first" in compared.stdout
    assert "edge-first" in (written / "results" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["Edge First"], "lower-case"),
        (["edge_first"], "lower-case"),
        (["mi-pruner"], "called that already"),
        (["pmi"], "called that already"),
        (["edge", "--out", "full"], "not empty"),
    ],
)
def test_mistakes_are_told(words: list[str], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    done = CliRunner().invoke(app, ["new", *words])
    assert isinstance(done.exception, ConfigError)
    assert complaint in str(done.exception)
    assert [file.name for file in tmp_path.rglob("*")] == ["full", "thesis.tex"]
