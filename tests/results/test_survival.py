"""Kills, full disks, torn lines, two at once, hostile input: what is written stays whole, or is refused by name."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tokenprune as tp
from tests.support import forked
from tokenprune.core.errors import ConfigError, TokenPruneError
from tokenprune.data.items import scene_items
from tokenprune.evaluation.compare import comparison
from tokenprune.evaluation.verify import verify
from tokenprune.results.files import append_whole, write_atomically
from tokenprune.results.store import ResultFolder
from tokenprune.zoo.tiny import tiny_llava, tiny_processor

Tries = Callable[[int], int]
Survived = Callable[[str, int, int], None]

LINES = [{"number": i, "text": "ü" * (i * 37 % 200), "sign": "\n\t\0"} for i in range(120)]
CONFIG = {"seed": 1}


def work(folder: Path) -> None:
    """Write all lines that are not there, in pieces, and a file that is replaced again and again."""
    with ResultFolder(folder, CONFIG) as out:
        done = len(out.read())
        for start in range(done, len(LINES), 3):
            out.append(LINES[start : start + 3])
            write_atomically(folder / "summary.json", json.dumps(LINES[: start + 3]))


def child(job: Callable[[], None]) -> int:
    """Do a job in a process that shares nothing with this one; its id."""
    number = os.fork()
    if number == 0:
        try:
            job()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return number


def whole(folder: Path) -> bool:
    """Whether what is there is a beginning of what shall be, and a summary of some moment."""
    file = folder / "results.jsonl"
    data = file.read_bytes() if file.exists() else b""
    lines = [json.loads(line) for line in data.split(b"\n")[:-1]]  # what follows the last break was cut short
    summary = folder / "summary.json"
    said = json.loads(summary.read_text()) if summary.exists() else []
    return lines == LINES[: len(lines)] and said == LINES[: len(said)]


def test_kills(tmp_path: Path, tries: Tries, survived: Survived) -> None:
    work(tmp_path / "never killed")
    want = (tmp_path / "never killed" / "results.jsonl").read_bytes()
    chance = random.Random(0)
    kills, well = 0, 0
    while kills < tries(60):
        folder = tmp_path / f"killed {kills}"
        for _ in range(4):
            number = child(lambda folder=folder: work(folder))  # type: ignore[misc]
            time.sleep(chance.uniform(0, 0.03))
            os.kill(number, signal.SIGKILL)
            os.waitpid(number, 0)
            kills += 1
            well += whole(folder)
        work(folder)
        assert (folder / "results.jsonl").read_bytes() == want
        assert not (folder / "summary.json.part").exists()
        shutil.rmtree(folder)
    survived("SIGKILL while writing", kills, well)


def test_what_a_killed_process_was_writing_goes_when_the_run_goes_on(tmp_path: Path) -> None:
    """Also where all lines were there already, so that nothing would be written again."""
    work(tmp_path)
    (tmp_path / "summary.json.part").write_text("[{")
    work(tmp_path)
    assert not list(tmp_path.glob("*.part"))


def test_files_that_may_not_grow(tmp_path: Path, tries: Tries, survived: Survived) -> None:
    """A limit on the size of files, as a full disk, lets a part of a write through."""
    well, n = 0, tries(40)
    chance = random.Random(1)
    for turn in range(n):
        folder = tmp_path / str(turn)
        limit = chance.randrange(1, 12_000)

        def limited(folder: Path = folder, limit: int = limit) -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            work(folder)

        _, status = os.waitpid(child(limited), 0)
        assert os.waitstatus_to_exitcode(status) == 1, "it does not fit, and says so"
        # nothing half-written, not even a last line cut short
        file = folder / "results.jsonl"
        data = file.read_bytes() if file.exists() else b"\n"
        well += whole(folder) and data.endswith(b"\n") | (data == b"") and not list(folder.glob("*.part"))
        work(folder)
        assert len((folder / "results.jsonl").read_bytes().splitlines()) == len(LINES)
    survived("files that may not grow", n, well)


def test_a_write_that_fails_leaves_what_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomically(tmp_path / "x.json", "old")
    append_whole(tmp_path / "lines", b"one\n")

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("tokenprune.results.files.os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            write_atomically(tmp_path / "x.json", "new")
        with pytest.raises(OSError, match="No space"):
            append_whole(tmp_path / "lines", b"two\n")
    assert (tmp_path / "x.json").read_text() == "old"
    assert (tmp_path / "lines").read_bytes() == b"one\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lines", "x.json"]


def test_lines_cut_anywhere(tmp_path: Path, survived: Survived) -> None:
    lines = LINES[:5]
    with ResultFolder(tmp_path, CONFIG) as out:
        out.append(lines)
    data = (tmp_path / "results.jsonl").read_bytes()
    well = 0
    for length in range(len(data) + 1):
        (tmp_path / "results.jsonl").write_bytes(data[:length])
        with ResultFolder(tmp_path, CONFIG) as out:
            there = out.read()
            out.append(lines[len(there) :])
        well += there == lines[: len(there)] and (tmp_path / "results.jsonl").read_bytes() == data
    survived("lines cut at every byte", len(data) + 1, well)


def test_many_at_once(tmp_path: Path, tries: Tries, survived: Survived) -> None:
    """Processes that want one folder get it one after the other, and no line of any is lost or mixed."""
    folder, workers, each = tmp_path / "out", 8, tries(15)

    def insist(worker: int) -> None:
        for turn in range(each):
            while True:
                try:
                    with ResultFolder(folder, CONFIG) as out:
                        out.append({"worker": worker, "turn": turn, "part": part, "x": "x" * 500} for part in range(4))
                    break
                except ConfigError as error:
                    if "in use by another run" not in str(error):
                        raise
                    time.sleep(0.001)

    numbers = [child(lambda worker=worker: insist(worker)) for worker in range(workers)]  # type: ignore[misc]
    ended = [os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]) for number in numbers]
    assert ended == [0] * workers
    with ResultFolder(folder, CONFIG) as out:
        found = [(line["worker"], line["turn"], line["part"]) for line in out.read()]
    groups = [found[i : i + 4] for i in range(0, len(found), 4)]
    unmixed = sum([part for *_, part in group] == [0, 1, 2, 3] and len({p[:2] for p in group}) == 1 for group in groups)
    assert len(set(found)) == len(found)
    survived("writers at once", workers * each, unmixed)


# --- hostile input ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "out"
    items = scene_items(["pope"], 3, seed=2)
    options: dict[str, Any] = {"strategies": ["divprune"], "budgets": (2,), "note": lambda text: None}
    comparison(tiny_llava(side=3), tiny_processor(side=3), items, out, {"model": "tiny"}, **options)
    return out


STRANGE = (b"NaN", b"-Infinity", b"1e999", b"null", b"{", b'"', b"\xff", b"\0")


def spoilt(data: bytes, chance: random.Random) -> bytes:
    """A file as an editor, a cable or a merge might leave it."""
    at, length = chance.randrange(len(data)), chance.randrange(1, 40)
    lines = data.split(b"\n")
    ways: list[Callable[[], bytes]] = [
        lambda: data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :],
        lambda: data[:at] + data[at + length :],
        lambda: data[:at] + data[at : at + length] * 2 + data[at + length :],
        lambda: data[:at],
        lambda: data[:at] + chance.choice(STRANGE) + data[at:],
        lambda: b"\n".join(chance.sample(lines, len(lines))),
        lambda: b"\n".join([*lines, b"<<<<<<< HEAD"]),
        lambda: data.replace(b"true", b"false", 1),
        lambda: data.replace(b": 2", b": 3", chance.randrange(1, 3)),
    ]
    return chance.choice(ways)()


def test_spoilt_files_are_named(finished: Path, tmp_path: Path, tries: Tries, survived: Survived) -> None:
    """Verify never fails itself, and never says that all holds where a number is another."""
    chance = random.Random(3)
    want = json.loads((finished / "summary.json").read_text())["rows"]
    names = ("config.json", "results.jsonl", "strategies.json", "summary.json")
    n, well, noticed = tries(400), 0, 0
    folder = tmp_path / "out"
    shutil.copytree(finished, folder)
    for _ in range(n):
        name = chance.choice(names)
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(spoilt(before, chance))
        [verdict] = verify(folder)  # anything it raises is a traceback for its reader
        holds = not verdict.faults
        noticed += not holds
        well += not holds or json.loads((folder / "summary.json").read_text())["rows"] == want
        (folder / name).write_bytes(before)
    assert noticed > n / 2
    survived("spoilt files", n, well)


@pytest.mark.slow
def test_a_command_that_is_killed_goes_on(tmp_path: Path, tries: Tries, survived: Survived) -> None:
    words = ["compare", "--model", "tiny", "--limit", "5", "--budgets", "64,16"]
    words += ["--strategies", "divprune,fastv", "--batch-size", "1", "--out"]
    told = tmp_path / "told"

    def lines(folder: Path) -> list[str]:
        file = folder / "results.jsonl"
        return file.read_text().splitlines() if file.exists() else []

    start = time.monotonic()
    forked.run([*words, str(tmp_path / "whole")], told)
    lasts = time.monotonic() - start
    chance, n = random.Random(4), tries(3)
    for _ in range(n):
        running = forked.begin([*words, str(tmp_path / "killed")], told)
        time.sleep(chance.uniform(0.3, 0.9) * lasts)
        running.end(signal.SIGKILL)
    forked.run([*words, str(tmp_path / "killed")], told)
    same = sorted(lines(tmp_path / "whole")) == sorted(lines(tmp_path / "killed"))
    rows = [json.loads((tmp_path / name / "summary.json").read_text())["rows"] for name in ("whole", "killed")]
    assert rows[0] == rows[1]
    assert [verdict.faults for verdict in verify(tmp_path / "killed")] == [[]]
    survived("SIGKILL of the command", n, n if same else 0)


WORDS = "mi-pruner divprune lam tau self selector strategy null true 0.5 -1 1e400 !!python/object:os.system &a *a"
PIECES = [*WORDS.split(), *":=[]{}é,*'\"#~ \x1b\0\n"]


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_asked_for_is_built_or_refused_by_name(seed: int, tries: Tries, survived: Survived) -> None:
    chance, n = random.Random(seed), tries(300)
    for _ in range(n):
        with contextlib.suppress(TokenPruneError):
            tp.build("".join(chance.choice(PIECES) for _ in range(chance.randrange(1, 8))))
    survived(f"strategies by name, seed {seed}", n, n)
