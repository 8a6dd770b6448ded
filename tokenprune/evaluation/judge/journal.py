"""What a judge was asked and said: one line a reply in ``judged.jsonl``, and the grades that follow for answers."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenprune.core.errors import ConfigError
from tokenprune.core.metric import JudgedMetric
from tokenprune.evaluation.judge.endpoint import Reply
from tokenprune.evaluation.metrics import build_metric
from tokenprune.results.files import append_whole, write_atomically
from tokenprune.results.lines import LineKind, keyed, parsed
from tokenprune.results.schema import check_schema

__all__ = ["FILE", "Journal", "Spent", "judge_of", "judged_metric", "pending", "request_of", "with_verdicts"]

FILE = "judged.jsonl"

WHO = "judge.json"
"""Which judge's verdicts count in a folder: model and options."""

_REPLY = LineKind("judged", ("request", "attempt"))
"""One reply of a judge a line."""

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Spent:
    """What judging took, over all replies, verdicts or not.

    Attributes
    ----------
    replies : int
    tokens_in, tokens_out : int
        As servers counted them.
    uncounted : int
        Replies of which no server said how many tokens they took.
    """

    replies: int
    tokens_in: int
    tokens_out: int
    uncounted: int

    def cost(self, price_in: float, price_out: float) -> float:
        """In the currency of the prices, which are for a million tokens."""
        return (self.tokens_in * price_in + self.tokens_out * price_out) / 1e6


def judge_of(folder: Path) -> dict[str, Any] | None:
    """The judge whose verdicts count in a folder; None where there was none yet."""
    file = folder / WHO
    return parsed(file.read_bytes(), repr(str(file))) if file.exists() else None


def request_of(line: Line, judge: Mapping[str, Any]) -> tuple[str, list[dict[str, str]]]:
    """Name and messages of what a judge is asked about an answer: equal answers to a question are one request."""
    messages = judged_metric(line).messages(line)
    told = json.dumps([judge, line["metric"], messages], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(told.encode()).hexdigest()[:24], messages


def judged_metric(line: Line) -> JudgedMetric:
    """The metric of an answer that has no grade.

    Raises
    ------
    ConfigError
        It is none that a judge grades.
    """
    metric = build_metric(line.get("metric", ""))
    if not isinstance(metric, JudgedMetric):
        raise ConfigError(f"answer to {line['sample']!r}: no grade, and metric {line.get('metric')!r} needs no judge")
    return metric


def pending(lines: Iterable[Line]) -> list[Line]:
    """Answers without a grade."""
    return [line for line in lines if line["correct"] is None]


def with_verdicts(folder: Path, lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Answers with the grades of the folder's judge; one that has none yet stays without."""
    if not pending(lines):
        return list(lines)
    judge = judge_of(folder)
    if judge is None:
        return list(lines)
    known = Journal(folder).verdicts
    graded = []
    for line in lines:
        verdict = known.get(request_of(line, judge)[0]) if line["correct"] is None else None
        more = {} if verdict is None else {"correct": verdict["correct"], "verdict": verdict}
        graded.append({**line, **more})
    return graded


class Journal:
    """Replies of judges in a folder of results; whoever writes holds the folder's lock.

    Parameters
    ----------
    folder : Path
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / FILE
        self._lines = _whole_lines(self.file)
        self._attempts = Counter(line["request"] for line in self._lines)
        self.verdicts: dict[str, dict[str, Any]] = {
            line["request"]: line["verdict"] for line in self._lines if line["verdict"] is not None
        }
        """Name of a request to its verdict."""

    def begin(self, judge: Mapping[str, Any]) -> None:
        """Say whose verdicts count; a line that was not written to its end is cut off."""
        if self.file.exists():
            with self.file.open("r+b") as file:
                file.truncate(file.read().rfind(b"\n") + 1)
        if judge_of(self.folder) != judge:
            write_atomically(self.folder / WHO, json.dumps(dict(judge), indent=1) + "\n")

    def attempts(self, request: str) -> int:
        """How many replies there are to a request."""
        return self._attempts[request]

    def add(self, request: str, attempt: int, reply: Reply, verdict: Mapping[str, Any] | None) -> None:
        """Keep a reply."""
        line = {
            "request": request,
            "attempt": attempt,
            "reply": reply.text,
            "whole": reply.whole,
            "tokens_in": reply.tokens_in,
            "tokens_out": reply.tokens_out,
            "verdict": None if verdict is None else dict(verdict),
        }
        check_schema("judged", line, "a reply")
        append_whole(self.file, (json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n").encode())
        self._lines.append(line)
        self._attempts[request] += 1
        if verdict is not None:
            self.verdicts[request] = dict(verdict)

    @property
    def spent(self) -> Spent:
        """What all replies took."""
        counted = [line for line in self._lines if line["tokens_in"] is not None and line["tokens_out"] is not None]
        return Spent(
            len(self._lines),
            sum(line["tokens_in"] for line in counted),
            sum(line["tokens_out"] for line in counted),
            len(self._lines) - len(counted),
        )


def _whole_lines(file: Path) -> list[dict[str, Any]]:
    """All lines that were written to their end: a judge may be at work while somebody reads."""
    if not file.exists():
        return []
    numbered = []
    for number, line in enumerate(file.read_bytes().split(b"\n")[:-1], 1):
        where = f"{str(file)!r}, line {number},"
        found = parsed(line, where)
        check_schema(_REPLY.schema, found, where)
        numbered.append((number, found))
    return keyed(numbered, _REPLY.key, str(file))
