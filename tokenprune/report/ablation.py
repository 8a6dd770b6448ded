"""Figures and page of ablations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenprune.evaluation.ablation import Ablation, AblationRow
from tokenprune.evaluation.table import p_value
from tokenprune.report.curves import chart
from tokenprune.report.heatmap import heatmap
from tokenprune.report.pages import drawn, render, share
from tokenprune.report.panels import panels
from tokenprune.results.store import write_atomically

__all__ = ["drawings", "write_figure", "write_page"]


def drawings(ablation: Ablation, rows: Sequence[AblationRow]) -> list[tuple[str, str]]:
    """Titled SVG panels: one a group; one more for each budget (heatmap) or value of the second option (the others)."""
    cells = {(row.label, row.group, row.keep): row.value for row in rows}
    budgets = sorted(ablation.budgets)
    out = []
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
                out.append((title, heatmap(found, ablation.values_of(0), ablation.values_of(1), title)))
            continue
        for second in ablation.values_of(1) if len(ablation.axes) == 2 else [None]:
            variants = [v for v in ablation.variants if second is None or v.place[1] == second]
            title = where if second is None else f"{where}, {ablation.axes[1]} {second}"
            if ablation.figure == "sweep":
                ticks = [v.place[0] for v in variants]
                lines = {
                    f"{k} tokens": {
                        v.place[0]: cells[v.label, group, k] for v in variants if (v.label, group, k) in cells
                    }
                    for k in budgets
                }
                title += f", by {ablation.axes[0]}"
            else:
                ticks = [f"{keep} tokens" for keep in budgets]
                named = {v.place[0]: v.label for v in variants} | {"random": "random"}
                lines = {
                    name: {f"{k} tokens": cells[label, group, k] for k in budgets if (label, group, k) in cells}
                    for name, label in named.items()
                }
            lines = {name: line for name, line in lines.items() if line}  # a variant that broke has none
            out.append((title, chart(lines, ticks, title, full)))
    return out


def write_figure(out: Path, ablation: Ablation, rows: Sequence[AblationRow]) -> Path:
    """Write figure.svg: all drawings of one ablation."""
    path = out / "figure.svg"
    write_atomically(path, panels(drawings(ablation, rows)))
    return path


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
