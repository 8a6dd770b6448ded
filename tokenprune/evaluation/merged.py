"""Tables of comparisons that were run before, one or several folders as one, from their ``summary.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from tokenprune.core.errors import ConfigError
from tokenprune.evaluation.summary import SummaryRow
from tokenprune.evaluation.table import missing

__all__ = ["Merged", "merged"]

_SAME: Final = ("model", "dtype", "seed", "match", "data", "questions", "limit")
"""What folders have to agree in to be one table, where they tell it."""


@dataclass(frozen=True)
class Merged:
    """What one or several folders hold.

    Attributes
    ----------
    rows : list of SummaryRow
    facts : dict
        What the numbers were measured with; where folders differ, every value.
    notes : list of str
        What a reader must know: rows that are missing, and why.
    """

    rows: list[SummaryRow]
    facts: dict[str, Any]
    notes: list[str]


def merged(folders: Sequence[Path]) -> Merged:
    """Read comparisons.

    Parameters
    ----------
    folders : sequence of Path
        As ``compare --out`` wrote them.

    Raises
    ------
    ConfigError
        A folder holds no comparison; folders differ in model, precision, seed, questions or what a budget is; two have
        different numbers for one row.
    """
    read = {folder: _summary(folder) for folder in folders}
    facts: dict[str, list[Any]] = {}
    for folder, summary in read.items():
        for name, value in summary["environment"].items():
            known = facts.setdefault(name, [])
            if value not in known:
                if known and name in _SAME:
                    raise ConfigError(
                        f"{str(folder)!r} has {name} {value!r} and {str(folders[0])!r} has {known[0]!r}: numbers of "
                        "one table must differ in strategies and budgets only; make a table of each"
                    )
                known.append(value)
    rows: dict[tuple[Any, ...], SummaryRow] = {}
    for folder, summary in read.items():
        for row in summary["rows"]:
            key = (row.strategy, row.keep, row.task, row.family, row.metric)
            other = rows.setdefault(key, row)
            if (other.value, other.n) != (row.value, row.n):
                raise ConfigError(
                    f"{str(folder)!r} has {row.value:.4f} of {row.n} questions for {row.metric} of {row.strategy!r} at "
                    f"{row.keep} on {row.task!r}, and another folder has {other.value:.4f} of {other.n}: these are no "
                    "results of one comparison; make a table of each"
                )
    counts = {(row.task, row.family): row.n for row in rows.values() if row.strategy == "full"}
    for row in rows.values():
        if (expected := counts.get((row.task, row.family), row.n)) != row.n and row.strategy != "oracle":
            raise ConfigError(
                f"{row.strategy!r} at {row.keep} answered {row.n} questions of {row.task!r} and 'full' {expected}: "
                "rows of one table must rest on the same questions"
            )
    notes = [note for summary in read.values() for note in summary["notes"]]
    told = {name: values[0] if len(values) == 1 else ", ".join(map(str, values)) for name, values in facts.items()}
    return Merged(list(rows.values()), told, list(dict.fromkeys(notes)))


def _summary(folder: Path) -> dict[str, Any]:
    file = folder / "summary.json"
    if not file.is_file():
        what = "its comparison has not finished" if (folder / "results.jsonl").exists() else "no results are there"
        raise ConfigError(f"DIR {str(folder)!r} holds no summary.json: {what}; give a folder that compare wrote")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{str(file)!r} is damaged ({error}); run compare on this folder again") from None
    if not isinstance(found, dict) or not isinstance(found.get("environment"), dict) or "rows" not in found:
        raise ConfigError(f"DIR {str(folder)!r} holds results of another command than compare, which are no table here")
    return {
        "environment": found["environment"],
        "rows": [_row(row, file) for row in found["rows"]],
        "notes": missing(found),
    }


def _row(row: Mapping[str, Any], file: Path) -> SummaryRow:
    names = {field.name for field in fields(SummaryRow)}
    if lacking := names - row.keys():
        raise ConfigError(f"{str(file)!r} is damaged: a row lacks {sorted(lacking)[0]!r}; run compare there again")
    return SummaryRow(**{name: row[name] for name in names})
