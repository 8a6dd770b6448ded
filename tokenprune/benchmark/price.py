"""What a run will take, from rows that a benchmark measured."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from tokenprune.core.errors import ConfigError
from tokenprune.results.lines import FULL
from tokenprune.results.store import read_results

__all__ = ["Price", "measured_here", "price_of"]

_SHIPPED = Path(__file__).with_name("measured.jsonl")
"""Rows of ``bench`` at full size, as ``docs/results/speed.md`` has them: geometry, device, batch, strategy, keep."""


@dataclass(frozen=True)
class Price:
    """Seconds that an answer takes.

    Attributes
    ----------
    rows : tuple of mapping
        As ``bench`` writes them: ``strategy`` (None for none), ``keep``, ``batch``, ``first_token_ms``, ``token_ms``.
    source : str
        Where they were measured.
    """

    rows: tuple[Mapping[str, Any], ...]
    source: str

    def seconds(self, strategy: str, keep: int, tokens: int, batch: int) -> float:
        """An answer of so many tokens: of the strategy, or of those that were measured, at the nearest budget.

        Parameters
        ----------
        strategy : str
            "full" where nothing is pruned.
        keep : int
        tokens : int
        batch : int
            Questions asked at a time; the largest batch that was measured and is no larger counts.
        """
        kind = [row for row in self.rows if (row["strategy"] == FULL) == (strategy == FULL)] or [*self.rows]
        # how many are asked at a time matters more than which strategy prunes
        sizes = {row["batch"] for row in kind}
        size = max((n for n in sizes if n <= batch), default=min(sizes))
        kind = [row for row in kind if row["batch"] == size]
        mine = [row for row in kind if row["strategy"] == strategy] or kind
        near = min(abs((row["keep"] or keep) - keep) for row in mine)
        mine = [row for row in mine if abs((row["keep"] or keep) - keep) == near]
        return fmean((row["first_token_ms"]["median"] + (tokens - 1) * row["token_ms"]) / size for row in mine) / 1000


def measured_here(folder: Path) -> Price:
    """From a folder that ``bench`` wrote.

    Raises
    ------
    ConfigError
        It holds no such row, or none of the unpruned model.
    """
    rows = _usable(read_results(folder))
    if not any(row["strategy"] == FULL for row in rows) or all(row["strategy"] == FULL for row in rows):
        raise ConfigError(f"--bench {str(folder)!r}: no rows of bench, plain way, with and without a strategy")
    return Price(tuple(rows), str(folder))


def price_of(geometry: str) -> Price | None:
    """From what was measured of a published model's sizes; None where nothing was."""
    found = [json.loads(line) for line in _SHIPPED.read_text(encoding="utf-8").splitlines()]
    mine = [row for row in found if row["geometry"] == geometry]
    return Price(tuple(mine), f"{geometry} on one {mine[0]['device']}") if mine else None


def _usable(rows: Iterable[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    return [row for row in rows if row.get("way") == "plain" and "first_token_ms" in row]
