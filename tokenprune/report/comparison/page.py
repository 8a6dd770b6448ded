"""From a summary to one HTML file. Whatever comes from outside (names, questions, answers) is escaped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

from PIL import Image

from tokenprune.benchmark.times import Times
from tokenprune.evaluation.summary import SummaryRow
from tokenprune.evaluation.table import costs, ordered, p_value
from tokenprune.report.comparison.about import about
from tokenprune.report.comparison.data import as_data
from tokenprune.report.comparison.lost import lost_answers
from tokenprune.report.curves import curves
from tokenprune.report.looks import styles
from tokenprune.report.pages import asset, drawn, embedded, render, script_data, share
from tokenprune.results.store import write_atomically

__all__ = ["LARGEST", "report", "write_report"]

LARGEST: Final = 3_000_000
"""Bytes of a page that people send around; pictures of examples that would go beyond it are left out."""

_FIRST: Final = ("data", "questions", "limit", "model", "dtype", "device", "seed", "match", "run", "command")
"""What a reader asks first, in this order; the rest are versions."""

_TITLES: Final = {"match": "budgets fix", "command": "command line", "dtype": "precision", "data": "data set"}


def _table(
    rows: Sequence[SummaryRow], tasks: Sequence[str], times: Mapping[tuple[str, int], float]
) -> Iterator[dict[str, Any]]:
    """Rows of the table, as the template wants them."""
    cells = {(r.strategy, r.keep, r.task, r.metric): r for r in rows if r.family == "all"}
    before = None
    for strategy, keep in ordered(rows):
        overall = cells[strategy, keep, "all", "accuracy"]
        found = (cells.get((strategy, keep, task, "accuracy")) for task in tasks)
        further = (cells.get((strategy, keep, "all", metric)) for metric in ("relative", "agreement"))
        ms = times.get((strategy, keep))
        yield {
            "next": before not in (None, keep),
            "strategy": strategy,
            "keep": keep or "all",
            "costs": [*costs(overall), *([] if not times else ["-" if ms is None else f"{ms:.1f}"])],
            "cells": ["-" if cell is None else share(cell.value, cell.low, cell.high) for cell in found],
            "further": ["-" if cell is None else f"{cell.value:.1%}" for cell in further],
            "tests": [p_value(p) for p in (overall.p_random, overall.p_full)],
            "n": overall.n,
        }
        before = keep


def report(
    rows: Sequence[SummaryRow],
    environment: Mapping[str, Any],
    notes: Sequence[str] = (),
    examples: Sequence[tuple[str, str | Image.Image]] = (),
    kept: Sequence[Mapping[str, Any]] = (),
    *,
    lines: Sequence[Mapping[str, Any]] = (),
    stands_for: Mapping[str, Mapping[str, Any]] | None = None,
    missing: Sequence[str] = (),
    times: Times | None = None,
    undrawn: Sequence[str] = (),
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
        Those for which the page has room, first ones first. A picture may be the address of itself.
    kept : sequence of mapping
        ``own_counts`` of the summary with ``by_task``: how many tokens were kept by rows that decide that themselves.
    lines : sequence of mapping
        Rows of results.jsonl, for what was lost.
    stands_for : mapping, optional
        ``strategies.json``: what labels stand for.
    missing : sequence of str
        Rows without numbers, and why.
    times : Times, optional
        Measured milliseconds.
    undrawn : sequence of str
        Why there are no examples, or not all.
    """
    tasks = ["all", *sorted({row.task for row in rows} - {"all"})]
    labels = list(dict.fromkeys(row.strategy for row in rows))
    clock = {} if times is None else times.ms
    asked = {line["sample"]: line for line in lines if line["strategy"] == "full"}
    data = as_data(rows, lost_answers(lines), asked, clock, "" if times is None else times.about)
    first = [(_TITLES.get(name, name), environment[name]) for name in _FIRST if name in environment]
    pictures = [(caption, made if isinstance(made, str) else embedded(made, "WEBP")) for caption, made in examples]

    def page(shown: int) -> str:
        return render(
            "comparison.html",
            title="Which pruner keeps the answers?",
            style=drawn(asset("theme.css") + asset("style.css", "comparison/assets")),
            script=drawn(asset("logic.js", "comparison/assets") + asset("view.js", "comparison/assets")),
            data=drawn(script_data(data)),
            first=first,
            rest=[(name, value) for name, value in environment.items() if name not in _FIRST],
            versions=_versions(environment),
            notes=notes,
            missing=missing,
            kept=kept,
            drawing=drawing,
            tasks=tasks,
            timed=data["timed"],
            rows=_table(rows, tasks, clock),
            looks=styles(labels),
            strategies=described,
            examples=pictures[:shown],
            dropped=len(pictures) - shown,
            undrawn=undrawn,
        )

    drawing, described = drawn(curves(rows, "all")), about(labels, stands_for or {})
    if not pictures:
        return page(0)
    room = LARGEST - len(page(0).encode())
    # a caption is escaped and stands twice
    ends = accumulate(len(source) + 20 * len(caption.encode()) + 200 for caption, source in pictures)
    return page(sum(end <= room for end in ends))


def _versions(environment: Mapping[str, Any]) -> str:
    names = ("tokenprune", "torch", "transformers", "python")
    return ", ".join(f"{name} {environment[name]}" for name in names if name in environment)


def write_report(
    out: Path,
    rows: Sequence[SummaryRow],
    facts: Mapping[str, Any],
    notes: Sequence[str] = (),
    examples: Sequence[tuple[str, str | Image.Image]] = (),
    kept: Sequence[Mapping[str, Any]] = (),
    **further: Any,
) -> Path:
    """Write report.html beside the results; takes what :func:`report` takes."""
    path = out / "report.html"
    write_atomically(path, report(rows, facts, notes, examples, kept, **further))
    return path
