"""Lines of results: read strictly, a set with keys."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenprune.core.errors import ConfigError
from tokenprune.results.schema import check_schema

__all__ = ["ANSWERS", "FULL", "LineKind", "keyed", "parsed", "read_line", "read_lines", "read_results"]


FULL = "full"
"""What rows of the unpruned model are called in every file; their budget is 0."""


@dataclass(frozen=True)
class LineKind:
    """What lines of a file are.

    Attributes
    ----------
    schema : str
        Of each line.
    key : tuple of str
        Fields that no two lines share.
    """

    schema: str
    key: tuple[str, ...]


ANSWERS = LineKind("results", ("run", "strategy", "identity", "keep", "draw", "sample"))
"""What ``compare`` writes: one answer a line."""


def parsed(text: str | bytes, where: str) -> dict[str, Any]:
    """One JSON object, strictly: UTF-8, no name twice, neither NaN nor infinity.

    Raises
    ------
    ConfigError
        It is none; names ``where`` and the reason.
    """
    try:
        found = json.loads(
            text.decode("utf-8") if isinstance(text, bytes) else text,
            object_pairs_hook=_each_once,
            parse_constant=_no_number,
            parse_float=_finite,
        )
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is damaged ({error}); mend it, or use another --out") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{where} is damaged (not a JSON object); mend it, or use another --out")
    return found


def _each_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        _no_number(text)
    return number


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def read_lines(file: Path, kind: LineKind | None = None) -> list[dict[str, Any]]:
    """All lines of a file; none where there is no such file.

    Parameters
    ----------
    file : Path
    kind : LineKind, optional
        What they have to be: equal lines are merged then, and two that share a key but differ are refused.

    Raises
    ------
    ConfigError
        A line is no JSON object, or not what its schema says, or two contradict each other; names file and line.
    """
    if not file.exists():
        return []
    numbered = []
    for number, line in enumerate(file.read_bytes().split(b"\n"), 1):
        if line:
            numbered.append((number, read_line(line, file, number, kind)))
    return [line for _, line in numbered] if kind is None else keyed(numbered, kind.key, str(file))


def read_line(line: bytes, file: Path, number: int, kind: LineKind | None) -> dict[str, Any]:
    """One line of a file; raises ``ConfigError`` that names file and line where it is not what it has to be."""
    where = f"{str(file)!r}, line {number},"
    found = parsed(line, where)
    if kind is not None:
        check_schema(kind.schema, found, where)
    return found


def keyed(
    numbered: Iterable[tuple[int, Mapping[str, Any]]], key: Sequence[str], file: str = "results.jsonl"
) -> list[dict[str, Any]]:
    """Lines with each key once, in order.

    Raises
    ------
    ConfigError
        Two lines share a key and differ; names both, and the first field in which they do.
    """
    found: dict[tuple[Any, ...], tuple[int, dict[str, Any]]] = {}
    for number, line in numbered:
        mine = tuple(line[name] for name in key)
        first, other = found.setdefault(mine, (number, dict(line)))
        if other != line:
            field = next(name for name in [*other, *line] if other.get(name) != line.get(name))
            what = ", ".join(f"{name} {line[name]!r}" for name in key)
            raise ConfigError(
                f"{file!r}, lines {first} and {number}: two answers to one question ({what}): {field} is "
                f"{other.get(field)!r} and {line.get(field)!r}; take one out, or use another --out"
            )
    return [line for _, line in found.values()]


def read_results(path: Path, kind: LineKind | None = None) -> list[dict[str, Any]]:
    """All lines of a folder's ``results.jsonl``; see :func:`read_lines`."""
    return read_lines(path / "results.jsonl", kind)
