"""The summary as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from tokenprune.evaluation.summary import SummaryRow

__all__ = ["cannot_run", "costs", "expendable", "heading", "left_over", "missing", "ordered", "p_value", "table"]


def ordered(rows: Sequence[SummaryRow]) -> list[tuple[str, int]]:
    """(strategy, keep) of each row: unpruned first, then by falling budget, best first."""
    overall = {
        (r.strategy, r.keep): r.value for r in rows if (r.task, r.family, r.metric) == ("all", "all", "accuracy")
    }
    return sorted(overall, key=lambda key: (key[1] != 0, -key[1], -overall[key], key[0]))


def costs(row: SummaryRow) -> list[str]:
    """Tokens left, tokens a layer, GFLOPs, KiB of KV cache, as they are read."""
    return [
        f"{row.kept_tokens:.1f}".removesuffix(".0"),
        f"{row.layer_average_tokens:.1f}",
        f"{row.flops / 1e9:.2f}",
        f"{row.kv_bytes / 1024:.0f}",
    ]


def p_value(p: float | None) -> str:
    """A p-value as it is read: a test by resampling never says that it is nought."""
    if p is None:
        return "-"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def heading(facts: Mapping[str, Any]) -> str:
    """What any table needs above it: which questions, how many, and which run.

    Parameters
    ----------
    facts : mapping
        ``environment`` of summary.json.
    """
    chosen = ", ".join(f"{name} {facts[name]}" for name in ("seed", "limit") if name in facts)
    return (
        f"data {facts['data']}: {facts['questions']} questions{f' ({chosen})' if chosen else ''}; "
        f"model {facts.get('model', 'unknown')}, {facts.get('dtype', 'unknown')}; run {facts['run']}"
    )


def left_over(summary: Mapping[str, Any]) -> list[str]:
    """Rows without numbers: a sentence each, for whoever reads the table."""

    def row_of(row: Mapping[str, Any]) -> str:
        return f"{row['strategy']} at {row['keep']}" if row["keep"] else str(row["strategy"])

    unfinished = [
        f"{row_of(r)}: {r['answered']} of {r['of']} answered; not in the table"
        for r in summary["incomplete"]
        if not r.get("ungraded")
    ]
    if waiting := [r for r in summary["incomplete"] if r.get("ungraded")]:
        n = sum(r["ungraded"] for r in waiting)
        unfinished.append(f"{len(waiting)} rows are not in the table: {n} of their answers wait for a judge's grade")
    return unfinished + [f"{row_of(r)}: failed ({r['reason']})" for r in summary["failed"]]


def cannot_run(reasons: Mapping[tuple[str, int], str]) -> list[str]:
    """A sentence for each reason, with all rows that are left out for it."""
    budgets: dict[tuple[str, str], list[int]] = {}
    for (label, keep), reason in reasons.items():
        budgets.setdefault((reason, label), []).append(keep)
    labels: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for (reason, label), keeps in budgets.items():
        labels.setdefault((reason, tuple(keeps)), []).append(label)
    return [
        f"{', '.join(names)} at {', '.join(map(str, keeps))} {'is' if len(names) == 1 else 'are'} left out: {reason}"
        for (reason, keeps), names in labels.items()
    ]


def missing(summary: Mapping[str, Any]) -> list[str]:
    """Every row that was asked for and has no numbers, and why.

    Parameters
    ----------
    summary : mapping
        As in summary.json.
    """
    unmatched = {(row["strategy"], row["keep"]): row["reason"] for row in summary.get("unmatched", ())}
    return cannot_run(unmatched) + left_over({kind: summary.get(kind, ()) for kind in ("incomplete", "failed")})


def expendable(rows: Sequence[SummaryRow]) -> list[str]:
    """Columns that a narrow terminal can do without, those that go first first."""
    tasks = sorted({row.task for row in rows} - {"all"})
    return ["KV KiB", "as full", "GFLOPs", "left", "of full", *reversed(tasks), "p random", "per layer"]


def table(rows: Sequence[SummaryRow]) -> Table:
    """Accuracy by question type, with what it cost."""
    tasks = sorted({row.task for row in rows} - {"all"})
    cells = {(r.strategy, r.keep, r.task, r.metric): r for r in rows if r.family == "all"}
    out = Table(
        "strategy",
        "keep",
        "left",
        "per layer",
        "GFLOPs",
        "KV KiB",
        *tasks,
        "all",
        "95 %",
        "of full",
        "as full",
        "p random",
        "n",
        box=SIMPLE_HEAD,
    )
    before = None
    for strategy, keep in ordered(rows):
        if before is not None and keep != before:
            out.add_section()
        before = keep
        overall = cells[strategy, keep, "all", "accuracy"]
        relative = cells.get((strategy, keep, "all", "relative"))
        same = cells.get((strategy, keep, "all", "agreement"))
        by_task = (cells.get((strategy, keep, task, "accuracy")) for task in tasks)
        out.add_row(
            escape(strategy),
            str(keep or "all"),
            *costs(overall),
            *("-" if cell is None else f"{cell.value:.1%}" for cell in by_task),
            f"{overall.value:.1%}",
            # a single picture, or answers that are all right, have no interval
            "-" if overall.low == overall.high else f"{overall.low:.0%}-{overall.high:.0%}",
            "-" if relative is None else f"{relative.value:.1%}",
            "-" if same is None else f"{same.value:.1%}",
            p_value(overall.p_random),
            str(overall.n),
        )
    return out
