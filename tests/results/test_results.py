"""Nothing half-written is left behind; a folder belongs to one configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenprune.core.errors import ConfigError
from tokenprune.results.store import ResultFolder, write_atomically


def test_rows_come_back(tmp_path: Path) -> None:
    rows = [{"a": 1, "b": "ü\n"}, {"a": 2}, {"a": 3}]
    with ResultFolder(tmp_path / "out", {"seed": 1}) as folder:
        folder.append(rows[:1])
        folder.append(rows[1:])
        assert folder.read() == rows
    with ResultFolder(tmp_path / "out", {"seed": 1}) as again:
        assert again.read() == rows


def test_a_folder_is_of_one_run_at_a_time(tmp_path: Path) -> None:
    with ResultFolder(tmp_path, {}) as folder, pytest.raises(ConfigError, match="in use by another run"):
        ResultFolder(tmp_path, {})
    folder.close()  # twice is no harm
    with pytest.raises(ConfigError, match="another configuration"):
        ResultFolder(tmp_path, {"seed": 1})
    ResultFolder(tmp_path, {}).close()  # a refused run holds nothing


def test_a_line_cut_short_is_dropped(tmp_path: Path) -> None:
    with ResultFolder(tmp_path, {}) as folder:
        folder.append([{"a": 1}])
        with folder.lines.open("a") as file:
            file.write('{"a": 2, "b')
    with ResultFolder(tmp_path, {}) as again:
        assert again.read() == [{"a": 1}]
        again.append([{"a": 4}])
        assert again.read() == [{"a": 1}, {"a": 4}]


def test_another_configuration_is_refused_and_nothing_overwritten(tmp_path: Path) -> None:
    with ResultFolder(tmp_path / "out", {"seed": 1, "model": "tiny"}) as folder:
        folder.append([{"a": 1}])
    with pytest.raises(ConfigError, match="seed: 1 there, 2 now"):
        ResultFolder(tmp_path / "out", {"seed": 2, "model": "tiny"})
    assert folder.read() == [{"a": 1}]


def test_somebody_elses_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ConfigError, match="not empty"):
        ResultFolder(tmp_path, {})
    with pytest.raises(ConfigError, match="is a file"):
        ResultFolder(tmp_path / "thesis.tex", {})
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_writing_replaces_whole_files(tmp_path: Path) -> None:
    write_atomically(tmp_path / "x.json", "old")
    write_atomically(tmp_path / "x.json", "new")
    assert (tmp_path / "x.json").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_damaged_files_are_named(tmp_path: Path) -> None:
    with ResultFolder(tmp_path, {}) as folder:
        folder.append([{"a": 1}])
    for garbage in ("garbage\n", "3\n"):
        folder.lines.write_text('{"a": 1}\n' + garbage)
        with pytest.raises(ConfigError, match=r"results\.jsonl', line 2, is damaged"):
            folder.read()
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json' is damaged"):
        ResultFolder(tmp_path, {})


def test_a_folder_whose_first_run_was_killed_at_its_start_can_be_used(tmp_path: Path) -> None:
    (tmp_path / "config.json.part").write_text("{")
    ResultFolder(tmp_path, {"seed": 1}).close()
    assert {p.name for p in tmp_path.iterdir()} - {".lock"} == {"config.json"}


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        ResultFolder(tmp_path / "file" / "out", {})
