"""Milliseconds of strategies, from what ``bench`` wrote, for whoever sets accuracy against time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenprune.core.errors import ConfigError
from tokenprune.results.lines import FULL, read_lines

__all__ = ["Times", "read_times", "times"]

WAYS = ("compiled", "plain", "loop")
"""Ways of running; of two that were measured for equally many rows the one that comes first."""


@dataclass(frozen=True)
class Times:
    """Medians of the time to the first token.

    Attributes
    ----------
    ms : mapping of (str, int) to float
        By strategy and budget; "full" has budget 0.
    about : str
        How many prompts at once, which way of running, how many visual tokens.
    """

    ms: Mapping[tuple[str, int], float]
    about: str


def times(rows: Sequence[Mapping[str, Any]], name: str = "") -> Times:
    """Choose the rows of one batch size and one way of running: the smallest, and the one with most rows.

    Parameters
    ----------
    rows : sequence of mapping
        Of ``bench``.
    name : str
        What was measured, for ``about``.

    Raises
    ------
    ConfigError
        No row has a time to the first token.
    """
    timed = [row for row in rows if row.get("first_token_ms")]
    if not timed:
        raise ConfigError(f"--times: {name or 'these rows'} hold no first_token_ms; give what bench wrote")
    batch = min(row["batch"] for row in timed)
    here = [row for row in timed if row["batch"] == batch]
    pruned = [row["way"] for row in here if row["strategy"] != FULL]
    way = max(WAYS, key=pruned.count)
    found = {(row["strategy"], row["keep"]): row["first_token_ms"]["median"] for row in here if row["way"] == way}
    whole = [row for row in here if row["strategy"] == FULL]
    whole = [row for row in whole if row["way"] == way] or whole
    if whole:
        found[FULL, 0] = whole[0]["first_token_ms"]["median"]
    tokens = ", ".join(sorted({str(row["visual_tokens"]) for row in here}))
    about = f"{name + ', ' if name else ''}{way}, batch {batch}, {tokens} visual tokens"
    return Times(found, about)


def read_times(path: Path) -> Times:
    """Read a folder that ``bench`` wrote, or a file of its lines.

    Raises
    ------
    ConfigError
        There is none, or it holds no times.
    """
    file = path / "results.jsonl" if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(
            f"--times {str(path)!r}: no such file; give a folder that bench wrote, or a file of its lines"
        )
    return times(read_lines(file), path.name if path.is_dir() else path.stem)
