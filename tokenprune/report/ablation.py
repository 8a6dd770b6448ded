"""Figures and page of ablations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenprune.evaluation.ablation import AblationRow
from tokenprune.evaluation.ablation_config import Ablation
from tokenprune.evaluation.table import p_value
from tokenprune.report.charts import Chart, Measured, heatmap, lines, svg, write_charts
from tokenprune.report.pages import drawn, render, share
from tokenprune.results.store import write_atomically

__all__ = ["charts", "drawings", "write_figure", "write_page"]


def charts(ablation: Ablation, rows: Sequence[AblationRow]) -> list[Chart]:
    """One chart a group; one more for each budget (heatmap) or value of the second option (the others)."""
    cells = {(row.label, row.group, row.keep): Measured(row.value, row.low, row.high) for row in rows}
    budgets = sorted(ablation.budgets)
    out: list[Chart | None] = []
    for group in ablation.groups:
        where = f"{group} questions"
        if ("full", group, 0) not in cells:
            continue  # too few questions for one of each family
        full = {"full": cells["full", group, 0]}
        if ablation.figure == "heatmap":
            for keep in budgets:
                found = {
                    (v.place[0], v.place[1]): cells[v.label, group, keep]
                    for v in ablation.variants
                    if (v.label, group, keep) in cells
                }
                title = f"{where}, {keep} tokens"
                out.append(heatmap(title, found, ablation.values_of(0), ablation.values_of(1)))
            continue
        for second in ablation.values_of(1) if len(ablation.axes) == 2 else [None]:
            variants = [v for v in ablation.variants if second is None or v.place[1] == second]
            title = where if second is None else f"{where}, {ablation.axes[1]} {second}"
            if ablation.figure == "sweep":
                ticks = [v.place[0] for v in variants]
                found_lines = {
                    f"{keep} tokens": {
                        v.place[0]: cells[v.label, group, keep] for v in variants if (v.label, group, keep) in cells
                    }
                    for keep in budgets
                }
                title += f", by {ablation.axes[0]}"
            else:
                ticks = [f"{keep} tokens" for keep in budgets]
                named = {v.place[0]: v.label for v in variants} | {"random": "random"}
                found_lines = {
                    name: {f"{k} tokens": cells[label, group, k] for k in budgets if (label, group, k) in cells}
                    for name, label in named.items()
                }
            found_lines = {name: line for name, line in found_lines.items() if line}  # a variant that broke has none
            out.append(lines(title, found_lines, ticks, full))
    return [chart for chart in out if chart is not None]


def drawings(ablation: Ablation, rows: Sequence[AblationRow]) -> list[tuple[str, str]]:
    """Title and ``<svg>`` element of each of the :func:`charts`."""
    return [(chart.title, svg(chart)) for chart in charts(ablation, rows)]


def write_figure(out: Path, ablation: Ablation, rows: Sequence[AblationRow]) -> list[Path]:
    """Write figure.svg and figure.png: all charts of one ablation."""
    return write_charts(out / "figure", charts(ablation, rows))


def write_page(
    out: Path,
    done: Sequence[tuple[Ablation, Sequence[AblationRow]]],
    facts: Mapping[str, Any],
    notes: Sequence[str] = (),
) -> Path:
    """Write report.html: every ablation's figure and table.

    Parameters
    ----------
    out : Path
        Folder that exists.
    done : sequence of (Ablation, rows)
    facts : mapping
        What the numbers were measured with.
    notes : sequence of str
        What a reader must know first.
    """
    parts = [
        {
            "title": ablation.title,
            "source": ablation.source,
            "name": ablation.name,
            "drawings": [(title, drawn(svg)) for title, svg in drawings(ablation, rows)],
            "rows": _table(ablation, rows),
        }
        for ablation, rows in done
    ]
    path = out / "report.html"
    text = render("ablations.html", title="Ablations", environment=facts, notes=notes, parts=parts)
    write_atomically(path, text)
    return path


def _table(ablation: Ablation, rows: Sequence[AblationRow]) -> Iterator[list[object]]:
    """Cells of the table."""
    for row in rows:
        mark = " (reference)" if row.label == ablation.reference_of(row.label) else ""
        yield [
            row.group,
            row.label + mark,
            row.keep or "all",
            share(row.value, row.low, row.high),
            p_value(row.p_random),
            p_value(row.p_reference),
            "-" if row.paper is None else f"{row.paper:.2%}",
        ]
