"""``compare`` under the stock launcher: two and three processes, one killed half-way, another number afterwards."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

WORDS = ["compare", "--model", "tiny", "--limit", "12", "--strategies", "random,divprune,mi-pruner"]
WORDS += ["--budgets", "48,12", "--batch-size", "2"]
ALONE = [sys.executable, "-m", "tokenprune"]


def launched(processes: int) -> list[str]:
    """As ``torchrun --standalone``, which is this module."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [*launcher, "-m", "tokenprune"]


def table(out: Path) -> Any:
    return json.loads((out / "summary.json").read_text(encoding="utf-8"))["rows"]


def answers(out: Path) -> list[str]:
    return sorted((out / "results.jsonl").read_text(encoding="utf-8").splitlines())


def workers(launcher: int) -> list[int]:
    """Processes that a launcher has begun, the first rank first."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            environment = (status.parent / "environ").read_bytes()
        except (OSError, ValueError, IndexError):
            continue
        if parent == launcher and b"\0RANK=" in b"\0" + environment:
            rank = int((b"\0" + environment).split(b"\0RANK=")[1].split(b"\0")[0])
            found.append((rank, int(status.parent.name)))
    return [process for _, process in sorted(found)]


def is_to_end(process: int) -> bool:
    """Whether SIGTERM waits for a process that is held still."""
    pending = re.search(r"^ShdPnd:\s*([0-9a-f]+)", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
    return pending is not None and bool(int(pending[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "out"
    subprocess.run([*ALONE, *WORDS, "--out", str(out)], check=True, capture_output=True, timeout=900)
    return out


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tmp_path: Path, alone: Path) -> None:
    done = subprocess.run(
        [*launched(2), *WORDS, "--out", str(tmp_path / "out")], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    assert table(tmp_path / "out") == table(alone)
    assert answers(tmp_path / "out") == answers(alone)
    assert done.stdout.count("summary.json") == 1, "the first process tells, the others are silent"
    assert not (tmp_path / "out" / "ranks").exists()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the processes of a launcher in /proc")
@pytest.mark.parametrize("victim", [1])
def test_one_of_three_is_killed_and_two_go_on_another_time(tmp_path: Path, alone: Path, victim: int) -> None:
    out = tmp_path / "out"
    begun = subprocess.Popen([*launched(3), *WORDS, "--out", str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    end = time.monotonic() + 900
    while sum(len(file.read_bytes().splitlines()) for file in out.glob("ranks/*/results.jsonl")) < 6:
        assert begun.poll() is None, "it ended before anybody could be killed"
        assert time.monotonic() < end
        time.sleep(0.02)
    # held still, so that they do not finish before the launcher notices that one is gone
    ranks = workers(begun.pid)
    for process in ranks:
        os.kill(process, signal.SIGSTOP)
    os.kill(ranks.pop(victim), signal.SIGKILL)
    while not all(is_to_end(process) for process in ranks):
        assert time.monotonic() < end
        time.sleep(0.02)
    for process in ranks:
        os.kill(process, signal.SIGCONT)
    begun.communicate(timeout=900)
    assert begun.returncode != 0
    assert not (out / "summary.json").exists()
    before = sum(len(file.read_bytes().splitlines()) for file in out.glob("ranks/*/results.jsonl"))
    assert 0 < before < len(answers(alone))
    done = subprocess.run([*launched(2), *WORDS, "--out", str(out)], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert table(out) == table(alone)
    assert answers(out) == answers(alone)
