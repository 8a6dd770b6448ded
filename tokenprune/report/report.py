"""The comparison as one HTML file that needs nothing else: curves, tables, example pictures.

Whatever comes from outside (names, questions, answers) is escaped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from tokenprune.evaluation.summary import SummaryRow
from tokenprune.evaluation.table import costs, heading, ordered, p_value
from tokenprune.report.curves import curves
from tokenprune.report.pages import drawn, embedded, render, share
from tokenprune.results.store import write_atomically

__all__ = ["report", "share", "write_report"]


def _table(rows: Sequence[SummaryRow], tasks: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Rows of the table, as the template wants them."""
    cells = {(r.strategy, r.keep, r.task): r for r in rows if r.metric == "accuracy" and r.family == "all"}
    before = None
    for strategy, keep in ordered(rows):
        overall = cells[strategy, keep, "all"]
        found = (cells.get((strategy, keep, task)) for task in tasks)
        yield {
            "next": before not in (None, keep),
            "strategy": strategy,
            "keep": keep or "all",
            "costs": costs(overall),
            "cells": ["-" if cell is None else share(cell.value, cell.low, cell.high) for cell in found],
            "tests": [p_value(p) for p in (overall.p_random, overall.p_full)],
        }
        before = keep


def report(
    rows: Sequence[SummaryRow],
    environment: Mapping[str, Any],
    notes: Sequence[str] = (),
    examples: Sequence[tuple[str, Image.Image]] = (),
    kept: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Make the page.

    Parameters
    ----------
    rows : sequence of SummaryRow
    environment : mapping
        What the numbers were measured with.
    notes : sequence of str
        What a reader must know first.
    examples : sequence of (caption, picture)
    kept : sequence of mapping
        ``own_counts`` of the summary: how many tokens were kept by rows that decide that themselves.
    """
    tasks = ["all", *sorted({row.task for row in rows} - {"all"})]
    return render(
        "comparison.html",
        title="Which pruner keeps the answers?",
        environment=environment,
        heading=heading(environment) if "run" in environment else "",
        notes=notes,
        drawings=[(task, drawn(curves(rows, task))) for task in tasks],
        tasks=tasks,
        rows=_table(rows, tasks),
        kept=kept,
        examples=[(caption, embedded(image)) for caption, image in examples],
    )


def write_report(
    out: Path,
    rows: Sequence[SummaryRow],
    facts: Mapping[str, Any],
    notes: Sequence[str] = (),
    examples: Sequence[tuple[str, Image.Image]] = (),
    kept: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Write report.html beside the results."""
    path = out / "report.html"
    write_atomically(path, report(rows, facts, notes, examples, kept))
    return path
