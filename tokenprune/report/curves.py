"""Accuracy against budget."""

from __future__ import annotations

from collections.abc import Sequence

from tokenprune.evaluation.summary import SummaryRow
from tokenprune.report.charts import Chart, Measured, lines, svg
from tokenprune.report.looks import styles

__all__ = ["accuracy_chart", "curves"]


def accuracy_chart(rows: Sequence[SummaryRow], task: str) -> Chart | None:
    """One line a strategy; rows without a budget ("full", "wrong image") are level.

    Parameters
    ----------
    rows : sequence of SummaryRow
        Of all question types, so that a strategy looks the same in every chart of them.
    task : str
        Which question type; "all" for all of them.
    """
    found: dict[str, dict[str, Measured]] = {}
    levels: dict[str, Measured] = {}
    budgets = set()
    for row in rows:
        if (row.task, row.family, row.metric) != (task, "all", "accuracy"):
            continue
        measured = Measured(row.value, row.low, row.high)
        if row.keep:
            found.setdefault(row.strategy, {})[f"{row.keep} tokens"] = measured
            budgets.add(row.keep)
        else:
            levels[row.strategy] = measured
    ticks = [f"{keep} tokens" for keep in sorted(budgets)]
    looks = styles([row.strategy for row in rows])
    return lines(f"accuracy against budget, {task}", found, ticks, levels, looks)


def curves(rows: Sequence[SummaryRow], task: str) -> str:
    """:func:`accuracy_chart` as an ``<svg>`` element."""
    return svg(accuracy_chart(rows, task))
