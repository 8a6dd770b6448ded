"""The comparison as one HTML file that needs nothing else: curves, tables, example pictures.

Whatever comes from outside (names, questions, answers) is escaped.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from tokenprune.evaluation.summary import SummaryRow
from tokenprune.evaluation.table import costs, ordered, p_value
from tokenprune.report.curves import curves
from tokenprune.results.store import write_atomically

__all__ = ["page", "report", "share", "write_report"]

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1200px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0;display:block;overflow-x:auto}
td,th{padding:.25em .5em;text-align:right;border-bottom:1px solid #ddd}td{white-space:nowrap}
td:first-child,th:first-child{text-align:left}th{border-bottom:2px solid #888}
.next td{border-top:2px solid #888}
.faint{color:#777;display:block;font-size:80%}img{max-width:100%}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(440px,1fr));gap:0 1em}
svg{width:100%;max-width:760px;height:auto}figure{margin:1.5em 0}figcaption{max-width:760px}
"""


def share(value: float, low: float, high: float) -> str:
    """A share with its interval, for a table's cell; without it where it is but the value (a single image)."""
    return f"{value:.1%}" + (f" <span class=faint>[{low:.0%}, {high:.0%}]</span>" if low < high else "")


def _table(rows: Sequence[SummaryRow], tasks: Sequence[str]) -> str:
    head = "".join(f"<th>{escape(task)}</th>" for task in tasks)
    out = [
        "<table><tr><th>strategy</th><th>keep</th><th>left</th><th>tokens / layer</th><th>GFLOPs</th><th>KV KiB</th>"
        f"{head}<th>p vs random</th><th>p vs full</th></tr>"
    ]
    cells = {(r.strategy, r.keep, r.task): r for r in rows if r.metric == "accuracy" and r.family == "all"}
    before = None
    for strategy, keep in ordered(rows):
        mark, before = (" class=next" if before not in (None, keep) else ""), keep
        overall = cells[strategy, keep, "all"]
        numbers = "".join(
            f"<td>{share(cell.value, cell.low, cell.high)}</td>"
            if (cell := cells.get((strategy, keep, task)))
            else "<td>-</td>"
            for task in tasks
        )
        tests = "".join(f"<td>{escape(p_value(p))}</td>" for p in (overall.p_random, overall.p_full))
        spent = "".join(f"<td>{cost}</td>" for cost in costs(overall))
        out.append(f"<tr{mark}><td>{escape(strategy)}</td><td>{keep or 'all'}</td>{spent}{numbers}{tests}</tr>")
    return "".join(out) + "</table>"


def _embedded(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _figure(caption: str, image: Image.Image) -> str:
    words = escape(caption)
    return f'<figure><img alt="{words}" src="{_embedded(image)}"><figcaption>{words}</figcaption></figure>'


def page(title: str, body: str, environment: Mapping[str, Any]) -> str:
    """One HTML file that needs nothing else.

    Parameters
    ----------
    title : str
    body : str
        HTML.
    environment : mapping
        What the numbers were measured with.
    """
    facts = "".join(f"<tr><td>{escape(str(k))}</td><td>{escape(str(v))}</td></tr>" for k, v in environment.items())
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>tokenprune: {escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>{body}"
        f"<h2>Measured with</h2><table>{facts}</table></body></html>\n"
    )


def report(
    rows: Sequence[SummaryRow],
    environment: Mapping[str, Any],
    notes: Sequence[str] = (),
    examples: Sequence[tuple[str, Image.Image]] = (),
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
    """
    tasks = ["all", *sorted({row.task for row in rows} - {"all"})]
    said = "".join(f"<p><strong>{escape(note)}</strong></p>" for note in notes)
    drawn = "".join(f"<section><h3>{escape(task)}</h3>{curves(rows, task)}</section>" for task in tasks)
    shown = "".join(_figure(caption, image) for caption, image in examples)
    shown = shown and f"<h2>Examples</h2>{shown}"
    body = (
        f"{said}<p>Accuracy with 95 % bootstrap intervals over images. <em>full</em>: nothing pruned; "
        "<em>wrong image</em>: somebody else's picture; <em>oracle</em>: tokens on the queried objects first; "
        "<em>random</em>: mean of three draws. keep: the budget; left: visual tokens in the last layer; tokens / "
        "layer: their average over layers. "
        "p: paired sign-flip test of all questions. GFLOPs and KV bytes are those of the prefill that ran.</p>"
        f"<h2>Accuracy against budget</h2><div class=charts>{drawn}</div><h2>Table</h2>{_table(rows, tasks)}"
        f"{shown}"
    )
    return page("Which pruner keeps the answers?", body, environment)


def write_report(
    out: Path,
    rows: Sequence[SummaryRow],
    facts: Mapping[str, Any],
    notes: Sequence[str] = (),
    examples: Sequence[tuple[str, Image.Image]] = (),
) -> Path:
    """Write report.html beside the results."""
    path = out / "report.html"
    write_atomically(path, report(rows, facts, notes, examples))
    return path
