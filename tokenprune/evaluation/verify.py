"""Does a folder of results say what its answers say? Every derived number is derived once more."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenprune.core.errors import ConfigError
from tokenprune.evaluation.answered import config_of, described
from tokenprune.evaluation.compare import summary_of
from tokenprune.results.lines import ANSWERS, parsed, read_results
from tokenprune.results.provenance import differences, short
from tokenprune.results.schema import check_schema

__all__ = ["Verdict", "verify"]

_MOST = 20
"""Complaints of one kind that are listed."""


@dataclass
class Verdict:
    """What was looked at, and what is wrong.

    Attributes
    ----------
    folder : Path
    run : str
        Of the provenance record; "" where it cannot be read.
    answers, numbers : int
        Lines of results.jsonl, and numbers of summary.json that were derived again.
    faults : list of str
        Empty where all agree.
    """

    folder: Path
    run: str = ""
    answers: int = 0
    numbers: int = 0
    faults: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "folder": str(self.folder),
            "run": self.run,
            "answers": self.answers,
            "numbers": self.numbers,
            "faults": self.faults,
        }


def verify(out: Path) -> list[Verdict]:
    """Check a folder that ``compare`` wrote, and its segments.

    Every file against its schema; every line's key, run and strategy; summary.json against the one that
    results.jsonl gives now, to the last bit; report.html for the run that it names.

    Parameters
    ----------
    out : Path

    Returns
    -------
    list of Verdict
        Of the folder itself, then of each segment.

    Raises
    ------
    ConfigError
        There is no such folder.
    """
    if not out.is_dir():
        raise ConfigError(f"{str(out)!r}: no such folder")
    # a segment without config.json is one too, and says nothing of its answers
    segments = sorted(path for path in (out / "segments").glob("*") if path.is_dir())
    return [_verified(folder) for folder in (out, *segments)]


def _verified(folder: Path) -> Verdict:
    found = Verdict(folder)
    try:
        found.run = short(config_of(folder))
        stands_for = described(folder)
        lines = read_results(folder, ANSWERS)
        found.answers = len(lines)
        unknown = sorted({line["strategy"] for line in lines} - stands_for.keys())
        found.faults += [f"strategies.json does not say what {label!r} stands for" for label in unknown[:_MOST]]
        stored = _stored(folder / "summary.json")
        _, derived = summary_of(folder, stored["environment"], stored["unmatched"], stored["failed"])
    except ConfigError as error:
        found.faults.append(str(error))
        return found
    derived = json.loads(json.dumps(derived))
    found.faults += _compared(stored, derived)
    found.numbers = sum(isinstance(value, int | float) for row in derived["rows"] for value in row.values())
    if stored["environment"].get("run", found.run) != found.run:
        found.faults.append(f"summary.json: environment.run is {stored['environment']['run']!r}, not {found.run!r}")
    report = folder / "report.html"
    if report.exists() and found.run not in report.read_text(encoding="utf-8", errors="replace"):
        found.faults.append(f"report.html does not name run {found.run}: it shows other numbers; run compare again")
    return found


def _stored(file: Path) -> Mapping[str, Any]:
    try:
        found = parsed(file.read_bytes(), repr(str(file)))
    except FileNotFoundError:
        raise ConfigError(f"{str(file)!r}: no such file: the run was stopped; the same command goes on") from None
    check_schema("summary", found, repr(str(file)))
    return found


def _compared(stored: Mapping[str, Any], derived: Mapping[str, Any]) -> list[str]:
    """How summary.json differs from what the answers give."""
    faults = [f"summary.json: provenance.{said}" for said in differences(stored["provenance"], derived["provenance"])]
    if stored["run"] != derived["run"]:
        faults.append(f"summary.json: run is {stored['run']!r}, and config.json gives {derived['run']!r}")
    mine, theirs = _rows(stored["rows"]), _rows(derived["rows"])
    if len(mine) != len(stored["rows"]):
        faults.append("summary.json: a number is there twice")
    names = "strategy {!r}, keep {}, task {!r}, family {!r}, metric {!r}"
    faults += [f"summary.json: no answers give {names.format(*key)}" for key in sorted(mine.keys() - theirs)][:_MOST]
    faults += [f"summary.json lacks {names.format(*key)}" for key in sorted(theirs.keys() - mine)][:_MOST]
    wrong = [
        f"summary.json: {names.format(*key)}: {name} is {mine[key][name]!r}, and the answers give {value!r}"
        for key in sorted(mine.keys() & theirs)
        for name, value in theirs[key].items()
        if mine[key][name] != value
    ]
    faults += wrong[:_MOST]
    if len(wrong) > _MOST:
        faults.append(f"summary.json: {len(wrong) - _MOST} more numbers differ")
    if stored["incomplete"] != derived["incomplete"]:
        faults.append(f"summary.json: incomplete rows are {derived['incomplete']}, not {stored['incomplete']}")
    return faults


def _rows(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[Any, ...], Mapping[str, Any]]:
    return {tuple(row[name] for name in ("strategy", "keep", "task", "family", "metric")): row for row in rows}
