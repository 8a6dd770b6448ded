"""Grades for the answers of a folder that a judge has to give, and the folder's table with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenprune.core.errors import ConfigError, JudgeError, StoppedError
from tokenprune.evaluation.answered import config_of, current_lines
from tokenprune.evaluation.judge import Journal, Judge, Request, Spent, judge_of
from tokenprune.evaluation.judge.journal import judged_metric, pending, request_of
from tokenprune.results.lines import ANSWERS, parsed
from tokenprune.results.store import ResultFolder, write_atomically

__all__ = ["WAY_OUT", "Judged", "judge_answers", "judge_facts", "judge_folder"]

WAY_OUT = "grade them with: tokenprune judge DIR --url URL --judge-model NAME"
"""What a run without a judge says of answers that need one."""

Told = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Judged:
    """What judging came to.

    Attributes
    ----------
    answers, requests : int
        Answers that a judge grades, and how many different requests these are.
    without : list of str
        Why some requests have no verdict.
    spent : Spent
        Over all replies that the folder holds.
    """

    answers: int
    requests: int
    without: list[str]
    spent: Spent


def judge_answers(folder: Path, judge: Judge, progress: Told = lambda done, total, what: None) -> Judged:
    """Ask a judge about every answer that has no grade; the caller holds the folder's lock.

    Parameters
    ----------
    folder : Path
        Of a comparison.
    judge : Judge
        Its verdicts count from now on; those of another stay in the file.
    progress : callable

    Raises
    ------
    JudgeError
        The judge refuses or is gone; what it said is kept.
    StoppedError
        Ctrl-C.
    """
    lines = pending(current_lines(folder))
    journal, who = Journal(folder), judge.endpoint.identity
    if lines:
        journal.begin(who)
    requests: dict[str, Request] = {}
    for line in lines:
        name, messages = request_of(line, who)
        requests.setdefault(name, Request(name, messages, judged_metric(line)))

    def state() -> str:
        known = sum(name in journal.verdicts for name in requests)
        return f"{known} of {len(requests)} verdicts are kept in {str(journal.file)!r}; the same command goes on"

    try:
        without = judge.ask([*requests.values()], journal, progress)
    except KeyboardInterrupt:
        raise StoppedError(f"stopped: {state()}") from None
    except JudgeError as error:
        raise JudgeError(f"{error}; {state()}") from None
    return Judged(len(lines), len(requests), without, journal.spent)


def judge_facts(folder: Path) -> dict[str, Any]:
    """What a reader of a table has to know of its judge; nothing where there is none."""
    judge = judge_of(folder)
    return {} if judge is None else {"judge": judge["model"]}


def judge_folder(folder: Path, judge: Judge, progress: Told = lambda done, total, what: None) -> Judged:
    """Judge what a comparison left without grades, and derive its summary.json again.

    Raises
    ------
    ConfigError
        No comparison has finished there, or none of its answers needs a judge.
    """
    from tokenprune.evaluation.compare import summary_of

    file = folder / "summary.json"
    if not file.exists():
        raise ConfigError(f"{str(folder)!r} holds no comparison that has come to its end: no summary.json")
    before = parsed(file.read_bytes(), repr(str(file)))
    with ResultFolder(folder, config_of(folder), ANSWERS):
        if not pending(current_lines(folder)):
            raise ConfigError(f"{str(folder)!r}: none of its answers is graded by a judge")
        found = judge_answers(folder, judge, progress)
        facts = {**before["environment"], **judge_facts(folder)}
        _, document = summary_of(folder, facts, before["unmatched"], before["failed"])
        if "own_counts" in before:
            document["own_counts"] = before["own_counts"]
        write_atomically(file, json.dumps(document, indent=1, allow_nan=False) + "\n")
    return found
