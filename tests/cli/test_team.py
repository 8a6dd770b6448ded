"""Commands of a team: two and three processes, one killed half-way, another number afterwards.

The stock launcher begins one team, and another of which one process is killed. All others are told who they are by the
same words in their environment, and forked: a process that a launcher begins imports for seconds.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.support.forked import Team
from tokenprune.cli import app
from tokenprune.core.errors import ConfigError

WORDS = ["compare", "--model", "tiny", "--limit", "12", "--strategies", "random,divprune,mi-pruner"]
WORDS += ["--budgets", "48,12", "--batch-size", "2"]


def run_alone(words: list[str], out: Path) -> Path:
    """One process: this one."""
    done = CliRunner().invoke(app, [*words, "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return out


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


def written(out: Path) -> int:
    """Answers that processes have written and nobody has brought together."""
    return sum(len(file.read_bytes().splitlines()) for file in out.glob("ranks/*/results.jsonl"))


def wait_for(running: Callable[[], bool], out: Path, answers: int) -> None:
    end = time.monotonic() + 900
    while written(out) < answers:
        assert running(), "it ended before anybody could be killed"
        assert time.monotonic() < end
        time.sleep(0.02)


def kill(begun: subprocess.Popen[bytes], victim: int) -> None:
    """Kill one process; the launcher stops the others and says so."""
    end = time.monotonic() + 900
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


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_alone(WORDS, tmp_path_factory.mktemp("alone") / "out")


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
    words = [*WORDS, "--out", str(out)]
    begun = subprocess.Popen([*launched(3), *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(lambda: begun.poll() is None, out, 6)
    kill(begun, victim)
    assert not (out / "summary.json").exists()
    before = written(out)
    assert 0 < before < len(answers(alone))
    Team(2, words, tmp_path / "told").wait()
    assert table(out) == table(alone)
    assert answers(out) == answers(alone)


@pytest.mark.slow
def test_a_team_goes_on_with_more_questions(tmp_path: Path, alone: Path) -> None:
    """The first process lets the folder grow, the other waits for it; what was answered is not asked again."""
    fewer = [word if word != "12" else "7" for word in WORDS]
    out = run_alone(fewer, tmp_path / "out")
    told = Team(2, [*WORDS, "--out", str(out)], tmp_path / "told").wait()
    assert "goes on with 12 questions" in told
    assert table(tmp_path / "out") == table(alone)
    assert answers(tmp_path / "out") == answers(alone)


ABLATION = """
title: "{}"
source: nobody
budgets: [12]
groups: {{all: [gqa, pope]}}
base: {{strategy: {}}}
vary: {}
figure: sweep
"""


@pytest.fixture(scope="module")
def ablated(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """A command that ablates twice, and the folder that one process makes of it."""
    folder = tmp_path_factory.mktemp("ablated")
    (folder / "configs").mkdir()
    (folder / "configs" / "first.yaml").write_text(ABLATION.format("First", "mi-pruner", "{lam: [0.2, 0.5, 1]}"))
    (folder / "configs" / "second.yaml").write_text(ABLATION.format("Second", "random", "{seed: [7, 8]}"))
    words = ["ablate", "all", "--configs", str(folder / "configs"), "--model", "tiny", "--limit", "10"]
    words += ["--batch-size", "2"]
    return words, run_alone(words, folder / "out")


def same_tables(out: Path, alone: Path) -> None:
    for name in ("first", "second"):
        assert answers(out / name) == answers(alone / name)
        assert (out / name / "table.csv").read_text() == (alone / name / "table.csv").read_text()
        assert (out / name / "figure.png").exists()
        assert not (out / name / "ranks").exists()
    assert (out / "report.html").exists()


@pytest.mark.slow
def test_two_processes_ablate_what_one_does(tmp_path: Path, ablated: tuple[list[str], Path]) -> None:
    """Where there are answers to fewer questions already, they stay: the first process lets each folder grow."""
    words, alone = ablated
    out = run_alone([word if word != "10" else "7" for word in words], tmp_path / "out")
    told = Team(2, [*words, "--out", str(out)], tmp_path / "told").wait()
    same_tables(out, alone)
    assert told.count("goes on with 10 questions") == 2
    assert told.count("First") == told.count("report.html") == 1, "the first process tells alone"


@pytest.mark.slow
@pytest.mark.parametrize("ablation", ["first", "second"])
def test_an_ablation_goes_on_where_a_team_was_killed(
    tmp_path: Path, ablated: tuple[list[str], Path], ablation: str
) -> None:
    words, alone = ablated
    out = tmp_path / "out"
    begun = Team(3, [*words, "--out", str(out)], tmp_path / "begun")
    wait_for(begun.running, out / ablation, 4)
    begun.kill(1)
    assert not (out / "report.html").exists()
    assert 0 < written(out / ablation) < len(answers(alone / ablation))
    Team(2, [*words, "--out", str(out)], tmp_path / "told").wait()
    same_tables(out, alone)


@pytest.mark.slow
def test_the_first_of_two_processes_shows(tmp_path: Path) -> None:
    words = ["show", "scene:0/3", "--model", "tiny", "--strategies", "random", "--budgets", "12"]
    told = Team(2, [*words, "--out", str(tmp_path / "shown.png")], tmp_path / "told").wait()
    assert (tmp_path / "shown.png").exists()
    assert told.count("random at 12") == 1


@pytest.mark.slow
def test_a_table_of_the_paper_goes_on_where_a_team_was_killed(tmp_path: Path) -> None:
    words = ["table", "8", "--model", "tiny", "--strategies", "similarity", "--limit", "12", "--batch-size", "2"]
    alone, out = run_alone(words, tmp_path / "alone") / "table-8", tmp_path / "out"
    begun = Team(2, [*words, "--out", str(out)], tmp_path / "begun")
    wait_for(begun.running, out / "table-8" / "scenes", 4)
    begun.kill(1)
    told = Team(3, [*words, "--out", str(out)], tmp_path / "told").wait()
    assert answers(out / "table-8" / "scenes") == answers(alone / "scenes")
    assert table(out / "table-8" / "scenes") == table(alone / "scenes")
    for name in ("table.md", "table.tex"):
        assert (out / "table-8" / name).read_text() == (alone / name).read_text()
    assert told.count("table.tex") == 1, "the first process tells, the others are silent"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["bench", "--strategies", "random"], "bench is for one process, and a launcher began 2: run it without"),
        (["tune", "--budget", "64"], "tune is for one process, and a launcher began 2: run it without"),
        (["table", "3"], "table-3 is for one process, and a launcher began 2: run this table without"),
        (["compare", "--again", "random"], "--again is for one process, and a launcher began 2: run it without"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
@pytest.mark.parametrize("rank", [0, 1])
def test_what_is_not_shared_is_refused_by_every_process(
    words: list[str], named: str, rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    with pytest.raises(ConfigError, match=named):
        CliRunner().invoke(app, [*words, "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert not (tmp_path / "out").exists()
