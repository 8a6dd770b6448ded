"""``tokenprune new``: what a stranger gets; ``tests/project/test_docs_commands.py`` installs and runs it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tokenprune.cli import app
from tokenprune.core.errors import ConfigError

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "docs" / "examples" / "plugin"


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
