"""Two folders of ``bench`` side by side: what became faster, and what else differs between them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenprune.core.errors import ConfigError
from tokenprune.results.lines import read_lines

__all__ = ["HEADER", "Against", "Run", "against", "read_run"]

TIMES = ("encode_ms", "select_ms", "prefill_ms", "first_token_ms")
"""Columns of a row that hold a mean and a standard deviation."""

NUMBERS = ("token_ms", "memory_gib")
"""Columns that hold one number."""

HEADER = (
    "strategy",
    "keep",
    "batch",
    "way",
    "encode ms",
    "select ms",
    "prefill ms",
    "first token ms",
    "token ms",
    "GiB",
)

PLACE = ("device", "threads")
"""What makes two machines different ones."""

LOUD = ("geometry", "kind", "small", "dtype", "words", "model", "data")
"""What makes numbers those of another thing, as the setup of a folder names it."""


@dataclass(frozen=True)
class Run:
    """A folder that ``bench`` wrote: its name, what decided its numbers, and its rows, the last of each case."""

    name: str
    config: Mapping[str, Any]
    rows: Mapping[tuple[Any, ...], Mapping[str, Any]]


@dataclass(frozen=True)
class Against:
    """What a comparison found.

    Attributes
    ----------
    cells : list of list of str
        As :data:`HEADER` names them: "first -> second (ratio)". The ratio is first / second, above 1 where the second
        is faster (or smaller); "~" stands before it where the two lie within each other's spread.
    differs : list of str
        What else differs, the most important first; empty where only the program changed.
    missing : list of str
        Rows that one of the two lacks or could not measure.
    """

    cells: list[list[str]]
    differs: list[str]
    missing: list[str]


def read_run(path: Path) -> Run:
    """Read a folder that ``bench`` wrote, also one of a run that was stopped.

    Raises
    ------
    ConfigError
        It is no such folder.
    """
    config, lines = path / "config.json", path / "results.jsonl"
    if not config.is_file() or not lines.is_file():
        raise ConfigError(
            f"--compare {str(path)!r}: no config.json and results.jsonl there; give folders of bench --out"
        )
    rows = {_key(row): row for row in read_lines(lines) if "way" in row and "batch" in row}
    if not rows:
        raise ConfigError(f"--compare {str(path)!r}: it holds no rows of bench")
    return Run(str(path), json.loads(config.read_text(encoding="utf-8")), rows)


def against(first: Run, second: Run, *, across: bool = False) -> Against:
    """Set the rows of two runs side by side.

    Parameters
    ----------
    first, second : Run
        Before and after.
    across : bool, default False
        Compare although the device, its threads or what was measured differ.

    Raises
    ------
    ConfigError
        They do, and ``across`` is not set; or the two share no row.
    """
    unlike = [name for name in (*PLACE, *LOUD) if first.config.get(name) != second.config.get(name)]
    said = [_said(name, first, second) for name in unlike]
    if said and not across:
        raise ConfigError(
            f"--compare: ratios would not be about the program, for {'; '.join(said)}. Measure both in the same way on "
            "one machine, or add --across"
        )
    rest = sorted((first.config.keys() | second.config.keys()) - {*PLACE, *LOUD})
    said += [_said(name, first, second) for name in rest if first.config.get(name) != second.config.get(name)]
    both = [key for key in first.rows if key in second.rows]
    if not both:
        raise ConfigError(f"--compare: {first.name} and {second.name} share no row (strategy, keep, batch, way)")
    cells, missing = [], []
    for key in both:
        before, after = first.rows[key], second.rows[key]
        refused = [f"{_named(key)}: {row['refused']}" for row in (before, after) if "refused" in row]
        if refused:
            missing += refused
            continue
        if before.get("identity") != after.get("identity"):
            said.append(f"{_named(key)}: the strategy's own code or options changed")
        strategy, keep, batch, way = key
        times = [_ratio(before.get(name), after.get(name)) for name in TIMES]
        numbers = [_ratio(_exact(before.get(name)), _exact(after.get(name))) for name in NUMBERS]
        cells.append([str(strategy), str(keep or "all"), str(batch), str(way), *times, *numbers])
    for one, other in ((first, second), (second, first)):
        missing += [f"{_named(key)}: only in {one.name}" for key in one.rows if key not in other.rows]
    return Against(cells, said, missing)


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["strategy"], row["keep"], row["batch"], row["way"]


def _named(key: Sequence[Any]) -> str:
    strategy, keep, batch, way = key
    return f"{strategy} {keep or 'all'} batch {batch} {way}"


def _said(name: str, first: Run, second: Run) -> str:
    return f"{name}: " + ", ".join(f"{run.config.get(name, 'not said')} in {run.name}" for run in (first, second))


def _exact(value: float | None) -> dict[str, float] | None:
    return None if value is None else {"mean": value, "std": 0.0}


def _ratio(before: Mapping[str, float] | None, after: Mapping[str, float] | None) -> str:
    """Means of both and what the first is of the second."""
    if before is None or after is None:
        return "-" if before is None and after is None else "only in one"
    gap = abs(before["mean"] - after["mean"])
    spread = before["std"] + after["std"]
    close = "~" if spread and gap <= spread else ""
    ratio = f"{close}{before['mean'] / after['mean']:.2f}x" if after["mean"] else "-"
    return f"{before['mean']:.2f} -> {after['mean']:.2f} ({ratio})"
