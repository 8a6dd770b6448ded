"""Benchmark rows as a table for the terminal or a document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["EXPENDABLE", "HEADER", "cells", "markdown", "ordered"]

HEADER = (
    "strategy",
    "keep",
    "batch",
    "way",
    "per layer",
    "GFLOPs",
    "KV MiB",
    "mem GiB",
    "encode ms",
    "select ms",
    "prefill ms",
    "floor",
    "first token ms",
    "token ms",
    "floor ",
)

EXPENDABLE = ("KV MiB", "floor ", "mem GiB", "GFLOPs", "floor", "per layer", "encode ms", "token ms", "select ms")
"""Columns that a narrow terminal can do without, those that go first first."""


def ordered(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Batch by batch, budget by budget (all kept first), way by way, fastest first."""

    def place(row: Mapping[str, Any]) -> tuple[Any, ...]:
        time = row.get("first_token_ms") or row.get("select_ms") or {"median": float("inf")}
        return row["batch"], -(row["keep"] or 10**9), str(row["way"]), time["median"]

    return sorted(rows, key=place)


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row's cells, as :data:`HEADER` names them; times are means and standard deviations."""

    def time(name: str) -> str:
        value = row.get(name)
        return "-" if value is None else f"{value['mean']:.2f} ± {value['std']:.2f}"

    def number(name: str, digits: int) -> str:
        value = row.get(name)
        return "-" if value is None else f"{value:.{digits}f}"

    head = [row["strategy"], str(row["keep"] or "all"), str(row["batch"]), row["way"]]
    if "refused" in row:
        return [*head, f"refused: {row['refused']}", *["-"] * (len(HEADER) - 5)]
    floor = f"{row['prefill_floor_ms']:.2f} ({row['prefill_floor_by']})"
    return [
        *head,
        number("layer_average", 1),
        number("prefill_gflops", 0),
        number("kv_mib", 1),
        number("memory_gib", 2),
        time("encode_ms"),
        time("select_ms"),
        time("prefill_ms"),
        floor,
        time("first_token_ms"),
        number("token_ms", 2),
        number("token_floor_ms", 2),
    ]


def markdown(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = HEADER) -> str:
    """A table for a document, with some of the columns."""
    chosen = [HEADER.index(column) for column in columns]
    lines = ["| " + " | ".join(c.strip() for c in columns) + " |", "|" + "---|" * len(columns)]
    for row in ordered(rows):
        own = cells(row)
        lines.append("| " + " | ".join(own[i] for i in chosen) + " |")
    return "\n".join(lines)
