"""Several processes fill one folder: all work is done once, whoever dies, and the lines come together by their keys."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tokenprune.core.errors import ConfigError
from tokenprune.results.lines import LineKind
from tokenprune.results.team import Team, TeamFolder

KIND = LineKind("results", ("run", "strategy", "identity", "keep", "draw", "sample"))
CONFIG = {"model": "tiny"}


def line(run: str, sample: int, **more: Any) -> dict[str, Any]:
    """A line as the schema wants it."""
    return {
        "run": run,
        "strategy": "s",
        "identity": "i",
        "keep": 4,
        "draw": 0,
        "sample": str(sample),
        "image": "a",
        "task": "t",
        "family": "f",
        "binary": False,
        "question": "?",
        "answer": "x",
        "prediction": "x",
        "metric": "words",
        "correct": True,
        "tokens": 4,
        "layer_average_tokens": 4.0,
        "flops": 1,
        "kv_bytes": 1,
        **more,
    }


def folder(out: Path, rank: int = 0, size: int = 1, **config: Any) -> TeamFolder:
    return TeamFolder(out, CONFIG | config, KIND, "use another --out", Team(rank, size))


def work(
    out: Path,
    rank: int,
    size: int,
    pieces: int,
    did: list[tuple[int, int]],
    at_first: Callable[[], object] = lambda: None,
) -> None:
    """One process: what of a piece nobody has done; something happens while it holds its first piece."""
    first = True
    with folder(out, rank, size) as mine:
        for piece in mine.turns(pieces):
            if (mine.run, "s", "i", 4, 0, str(piece)) not in mine.known():
                if first:
                    at_first()
                first = False
                mine.append([line(mine.run, piece)])
                did.append((rank, piece))
        if mine.team.leads:
            mine.gather()


def samples(out: Path) -> list[int]:
    return sorted(int(json.loads(text)["sample"]) for text in (out / "results.jsonl").read_text().splitlines())


@pytest.mark.parametrize("size", [1, 2, 3])
def test_each_piece_is_done_once_and_all_come_together(tmp_path: Path, size: int) -> None:
    did: list[tuple[int, int]] = []
    all_hold_one = threading.Barrier(size, timeout=600)
    threads = [
        threading.Thread(target=work, args=(tmp_path, rank, size, 12, did, all_hold_one.wait)) for rank in range(size)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(piece for _, piece in did) == samples(tmp_path) == list(range(12))
    assert {rank for rank, _ in did} == set(range(size))
    assert not (tmp_path / "ranks").exists()


def test_a_slow_process_holds_nobody_up(tmp_path: Path) -> None:
    """It is at its first piece until all others are done."""
    did: list[tuple[int, int]] = []
    begun, others_done = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        assert others_done.wait(600)

    class Told(list[tuple[int, int]]):
        def append(self, one: tuple[int, int]) -> None:
            did.append(one)
            if len(did) == 19:
                others_done.set()

    thread = threading.Thread(target=work, args=(tmp_path, 1, 2, 20, did, slow))
    thread.start()
    assert begun.wait(600)
    work(tmp_path, 0, 2, 20, Told())
    thread.join()
    assert samples(tmp_path) == list(range(20))
    assert sum(rank == 0 for rank, _ in did) == 19


def test_a_process_that_begins_when_all_is_done_leaves_nothing(tmp_path: Path) -> None:
    did: list[tuple[int, int]] = []
    first = threading.Thread(target=work, args=(tmp_path, 0, 2, 3, did))
    first.start()
    while len(did) < 3:
        threading.Event().wait(0.01)
    work(tmp_path, 1, 2, 3, did)
    first.join()
    assert sorted(did) == [(0, 0), (0, 1), (0, 2)]
    assert not (tmp_path / "ranks").exists()


class Killed(BaseException):
    """Nothing after it is done, as after SIGKILL."""


@pytest.mark.parametrize("after", range(6))
def test_a_kill_while_the_ranks_folders_go(tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders list their files in any order, so the worst is tried: what says whose a folder is goes first."""
    for rank in range(2):
        with folder(tmp_path, rank, 2) as mine:
            mine.append([line(mine.run, rank)])

    def removing(top: Path, **more: Any) -> None:
        files = [file for file in top.rglob("*") if file.is_file() and file.parent != top / "claims"]
        for file in sorted(files, key=lambda file: (file.name != "config.json", file.name))[:after]:
            file.unlink()
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", removing)
        with folder(tmp_path) as alone, contextlib.suppress(Killed):
            alone.gather()
    did: list[tuple[int, int]] = []
    work(tmp_path, 0, 1, 3, did)
    assert did == [(0, 2)]
    assert samples(tmp_path) == [0, 1, 2]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != ".lock") == ["config.json", "results.jsonl"]


def test_what_a_process_left_is_done_by_the_others(tmp_path: Path) -> None:
    """Its lock is free once it is gone; its lines, the torn last one apart, count."""
    with folder(tmp_path, 1, 3) as dead:
        turns = dead.turns(6)
        first = next(turns)
        dead.append([line(dead.run, first)])
        next(turns)
        with (tmp_path / "ranks" / "1" / "results.jsonl").open("ab") as file:
            file.write(b'{"run": "torn')
        turns.close()  # type: ignore[attr-defined]
    did: list[tuple[int, int]] = []
    work(tmp_path, 0, 2, 6, did)
    assert samples(tmp_path) == list(range(6))
    assert first not in {piece for _, piece in did}


def test_another_number_of_processes_goes_on_where_the_first_stopped(tmp_path: Path) -> None:
    for rank in range(3):
        with folder(tmp_path, rank, 3) as mine:
            mine.append([line(mine.run, rank)])
    did: list[tuple[int, int]] = []
    work(tmp_path, 0, 1, 5, did)
    assert sorted(piece for _, piece in did) == [3, 4]
    assert samples(tmp_path) == list(range(5))


def test_contradictory_lines_are_refused(tmp_path: Path) -> None:
    for rank, said in enumerate("ab"):
        with folder(tmp_path, rank, 2) as mine:
            mine.append([line(mine.run, 0, prediction=said)])
    with folder(tmp_path) as alone, pytest.raises(ConfigError, match="prediction"):
        alone.gather()


def test_a_process_of_another_configuration_is_refused(tmp_path: Path) -> None:
    with folder(tmp_path, 0, 2), pytest.raises(ConfigError, match="model"):
        folder(tmp_path, 1, 2, model="other")


def test_failures_reach_the_others_and_those_of_a_stopped_team_do_not(tmp_path: Path) -> None:
    with folder(tmp_path, 0, 2) as first, folder(tmp_path, 1, 2) as second:
        second.tell_failures([{"strategy": "s", "keep": 4}])
        assert first.failures() == [{"strategy": "s", "keep": 4}]
    with folder(tmp_path, 0, 2) as again:
        assert again.failures() == []


def test_the_environment_says_who_one_is() -> None:
    assert Team.from_environment({}) == Team(0, 1, 0)
    team = Team.from_environment({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"})
    assert (team.leads, team.device("cuda"), team.device("cuda:0"), team.device("cpu")) == (
        False,
        "cuda:1",
        "cuda:0",
        "cpu",
    )
    assert Team().device("cuda") == "cuda"
    for told in ({"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "x"}, {"RANK": "-1"}, {"RANK": "1"}):
        with pytest.raises(ConfigError, match="RANK"):
            Team.from_environment(told)
