"""A folder that goes on with more questions holds what a run with all of them would have written."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tokenprune.core.errors import ConfigError
from tokenprune.data.items import Item, scene_items
from tokenprune.evaluation import growth
from tokenprune.evaluation.compare import compare
from tokenprune.results.store import ResultFolder, read_results
from tokenprune.results.team import Team
from tokenprune.zoo.tiny import tiny_llava, tiny_processor

SIDE = 6
FEW, MANY = 5, 9
POOL = scene_items(["gqa", "pope"], 12, 0)

Run = Callable[..., list[str]]


def asked(limit: int) -> list[Item]:
    """As painted scenes do it, balanced anew: the smaller's last question is not among the larger's."""
    return [*POOL[: limit - 1], POOL[-1]] if limit == FEW else POOL[:limit]


@pytest.fixture(scope="module")
def run() -> Run:
    model, processor = tiny_llava(side=SIDE), tiny_processor(side=SIDE)

    def compared(out: Path, limit: int, items: list[Item] | None = None, **options: Any) -> list[str]:
        notes: list[str] = []
        config = {"model": "tiny", "seed": 0, "limit": limit}
        given: dict[str, Any] = {"strategies": ["random"], "budgets": (4,), "batch_size": 9, "fewer": asked}
        items = asked(limit) if items is None else items
        compare(model, processor, items, out, config, note=notes.append, **(given | options))
        return notes

    return compared


def contents(folder: Path) -> tuple[list[str], Any, Any]:
    lines = sorted((folder / "results.jsonl").read_text().splitlines())
    summary = json.loads((folder / "summary.json").read_text())
    return lines, json.loads((folder / "config.json").read_text()), summary


def test_it_is_the_larger_runs_folder(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "grown", FEW)
    before = read_results(tmp_path / "grown")
    fresh: list[Any] = []
    append = ResultFolder.append

    def noted(folder: ResultFolder, rows: Any) -> None:
        rows = list(rows)
        fresh.extend(rows)
        append(folder, rows)

    with monkeypatch.context() as patched:
        patched.setattr(ResultFolder, "append", noted)
        [note] = run(tmp_path / "grown", MANY)
    run(tmp_path / "whole", MANY)
    assert contents(tmp_path / "grown") == contents(tmp_path / "whole")
    stayed = int(note.partition(" answers stay")[0].rpartition(" ")[2])
    assert 0 < stayed < len(before)
    assert len(fresh) + stayed == len(read_results(tmp_path / "grown"))  # and those were not asked again
    assert f"goes on with {MANY} questions" in note
    assert not (tmp_path / "grown" / growth.GROWN).exists()


@pytest.mark.parametrize("step", [0, 1])
def test_whatever_ends_it_meanwhile_it_goes_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    run(tmp_path / "grown", FEW)
    calls = iter(range(9))
    write = growth.write_atomically

    def dies(path: Path, text: str) -> None:
        if next(calls) == step:
            raise KeyboardInterrupt
        write(path, text)

    def dies_last(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        if step == 0:
            patched.setattr(growth, "write_atomically", dies)
        else:
            patched.setattr(growth.os, "replace", dies_last)  # type: ignore[attr-defined]
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "grown", MANY)
    run(tmp_path / "grown", MANY)
    run(tmp_path / "whole", MANY)
    assert contents(tmp_path / "grown") == contents(tmp_path / "whole")


def test_what_differs_in_more_is_refused(run: Run, tmp_path: Path) -> None:
    run(tmp_path, FEW)
    lines = (tmp_path / "results.jsonl").read_text()
    with pytest.raises(ConfigError, match=r"asked\.limit"):
        run(tmp_path, FEW - 2)  # fewer
    with pytest.raises(ConfigError, match=r"asked\.match"):
        run(tmp_path, MANY, match="layer-average")
    with pytest.raises(ConfigError, match=r"questions\.text"):
        run(tmp_path, MANY, fewer=lambda limit: POOL[1:][:limit])  # the questions that were asked are others
    with pytest.raises(ConfigError, match=r"questions\.n"):
        run(tmp_path, MANY, fewer=None)
    assert (tmp_path / "results.jsonl").read_text() == lines
    assert run(tmp_path, FEW) == []


def test_answers_that_were_not_brought_together_stay(run: Run, tmp_path: Path) -> None:
    run(tmp_path, FEW)
    left = tmp_path / "ranks" / "1" / "results.jsonl"
    left.parent.mkdir(parents=True)
    left.write_text("answers of a team that was stopped")
    with pytest.raises(ConfigError, match=rf"not brought together; let the command with --limit {FEW}"):
        run(tmp_path, MANY)
    assert left.exists()


def test_others_of_a_team_wait_until_the_first_has_let_it_grow(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "whole", MANY)
    run(tmp_path / "grown", FEW)
    config = tmp_path / "whole" / "config.json"
    record, grown = json.loads(config.read_text()), tmp_path / "grown"
    about = (grown, record, asked(MANY), asked)
    with monkeypatch.context() as patched:
        patched.setattr(growth, "_PATIENCE", 0.3)
        with pytest.raises(ConfigError, match=f"has not let it go on with {MANY} for 0 seconds"):
            growth.grow(*about, Team(1, 2))
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(growth.grow, *about, Team(1, 2))
        with pytest.raises(TimeoutError):
            waiting.result(0.5)
        # the folder's name changes before its lines do: what is seen in between is neither
        (grown / growth.GROWN).write_text("")
        before = (grown / "config.json").read_text()
        (grown / "config.json").write_text(config.read_text())
        with pytest.raises(TimeoutError):
            waiting.result(0.5)
        (grown / growth.GROWN).unlink()
        (grown / "config.json").write_text(before)
        assert growth.grow(*about, Team(0, 2)) is not None
        assert waiting.result(20) is None
    assert growth.grow(*about, Team(1, 2)) is None, "a folder that has grown is waited for no more"
    differs = {**record, "asked": {**record["asked"], "match": "layer-average"}}
    assert growth.grow(grown, differs, asked(MANY), asked, Team(1, 2)) is None, "nor one that is refused anyway"
