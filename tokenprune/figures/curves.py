"""Accuracy against budget as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from tokenprune.evaluation.summary import SummaryRow

__all__ = ["curves"]

# the first eight are told apart by colour-blind readers too
_COLORS = (
    "#0072b2 #d55e00 #009e73 #cc79a7 #e69f00 #56b4e9 #7f7f7f #8c564b #17becf "
    "#bcbd22 #9467bd #2ca02c #1f77b4 #ff7f0e #d62728 #e377c2 #393b79 #637939"
).split()

WIDTH, HEIGHT = 760, 390
LEFT, RIGHT, TOP, BOTTOM = 50, 170, 10, 40


def _line(x0: float, y0: float, x1: float, y1: float, style: str) -> str:
    return f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" {style}/>'


def _text(x: float, y: float, words: str, style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="12" {style}>{escape(words)}</text>'


def curves(rows: Sequence[SummaryRow], task: str) -> str:
    """Draw one line a strategy; rows without a budget ("full", "wrong image") are level lines.

    Parameters
    ----------
    rows : sequence of SummaryRow
    task : str
        Which question type; "all" for all of them.
    """
    lines: dict[str, list[SummaryRow]] = {}
    for row in rows:
        if (row.task, row.family, row.metric) == (task, "all", "accuracy"):
            lines.setdefault(row.strategy, []).append(row)
    budgets = sorted({row.keep for line in lines.values() for row in line if row.keep})
    if not budgets:
        return ""
    values = [row.value for line in lines.values() for row in line]
    low, high = max(0.0, min(values) - 0.05), min(1.0, max(values) + 0.05)
    edge = WIDTH - RIGHT

    def x(keep: int) -> float:
        return LEFT + (edge - LEFT) * (budgets.index(keep) + 0.5) / len(budgets)

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / (high - low))

    parts = []
    for step in range(6):
        value = low + (high - low) * step / 5
        parts.append(_line(LEFT, y(value), edge, y(value), 'stroke="#eee"'))
        parts.append(_text(LEFT - 6, y(value) + 4, f"{value:.0%}", 'text-anchor="end"'))
    parts += [_text(x(keep), HEIGHT - 12, f"{keep} tokens", 'text-anchor="middle"') for keep in budgets]
    labels = []
    for i, (name, line) in enumerate(lines.items()):
        color = _COLORS[i % len(_COLORS)]
        ordered = sorted(line, key=lambda row: row.keep)
        end = y(ordered[-1].value)
        if ordered[0].keep:
            path = " ".join(f"{x(row.keep):.1f},{y(row.value):.1f}" for row in ordered)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        else:
            parts.append(_line(LEFT, end, edge, end, f'stroke="{color}" stroke-dasharray="6 4"'))
        labels.append((end, name, color))
    last = -100.0
    for end, name, color in sorted(labels):
        last = max(end, last + 14)  # labels of lines that end together stand one below the other
        parts.append(_text(edge + 8, last + 4, name, f'fill="{color}"'))
    label = f"accuracy against budget, {escape(task)}"
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
