"""Lines as inline SVG: accuracy against budget, or against an option."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from tokenprune.evaluation.summary import SummaryRow

__all__ = ["chart", "curves"]

# the first eight are told apart by colour-blind readers too
_COLORS = (
    "#0072b2 #d55e00 #009e73 #cc79a7 #e69f00 #56b4e9 #7f7f7f #8c564b #17becf "
    "#bcbd22 #9467bd #2ca02c #1f77b4 #ff7f0e #d62728 #e377c2 #393b79 #637939"
).split()

WIDTH, HEIGHT = 760, 390
LEFT, RIGHT, TOP, BOTTOM = 56, 210, 14, 40
_LABEL = 16


def _line(x0: float, y0: float, x1: float, y1: float, style: str) -> str:
    return f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" {style}/>'


def _text(x: float, y: float, words: str, style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="14" {style}>{escape(words)}</text>'


def _steps(low: float, high: float) -> list[float]:
    """Round values from at most ``low`` to at least ``high``, about six of them, within [0, 1]."""
    step = next(s for s in (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2) if (high - low) / s <= 6 or s == 0.2)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    return [i * step for i in range(first, last + 1)]


def _apart(ends: Sequence[float]) -> list[float]:
    """Move rising heights until labels that stand there do not overlap, none below the drawing."""
    out: list[float] = []
    for end in ends:
        out.append(max(end, out[-1] + _LABEL) if out else end)
    limit = float(HEIGHT - 4)
    for i in reversed(range(len(out))):
        out[i] = min(out[i], limit)
        limit = out[i] - _LABEL
    return out


def chart(
    lines: Mapping[str, Mapping[str, float]],
    ticks: Sequence[str],
    label: str,
    levels: Mapping[str, float] | None = None,
) -> str:
    """Draw lines over named places.

    Parameters
    ----------
    lines : mapping of name to mapping of tick to value
        Values are shares, in [0, 1]. A line may leave ticks out.
    ticks : sequence of str
        From left to right.
    label : str
        What the drawing shows, for those who do not see it.
    levels : mapping of name to value, optional
        Dashed lines across.
    """
    levels = levels or {}
    values = [value for line in lines.values() for value in line.values()] + list(levels.values())
    if not values or not ticks:
        return ""
    steps = _steps(min(values), max(values))
    low, high = steps[0], steps[-1]
    edge = WIDTH - RIGHT

    def x(tick: str) -> float:
        return LEFT + (edge - LEFT) * (ticks.index(tick) + 0.5) / len(ticks)

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / (high - low))

    digits = 0 if steps[1] - steps[0] > 0.0099 else 1
    parts = []
    for value in steps:
        parts.append(_line(LEFT, y(value), edge, y(value), 'stroke="#e4e4e4"'))
        parts.append(_text(LEFT - 6, y(value) + 4, f"{value:.{digits}%}", 'text-anchor="end"'))
    parts += [_text(x(tick), HEIGHT - 14, tick, 'text-anchor="middle"') for tick in ticks]
    labels = []
    colors = {name: _COLORS[i % len(_COLORS)] for i, name in enumerate([*lines, *levels])}
    for name, value in levels.items():
        parts.append(_line(LEFT, y(value), edge, y(value), f'stroke="{colors[name]}" stroke-dasharray="6 4"'))
        labels.append((y(value), name))
    for name, line in lines.items():
        points = [(x(tick), y(line[tick])) for tick in ticks if tick in line]
        if not points:
            continue
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colors[name]}" stroke-width="2"/>')
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colors[name]}"/>' for a, b in points]
        labels.append((points[-1][1], name))
    labels.sort()
    for (_, name), height in zip(labels, _apart([end for end, _ in labels]), strict=True):
        parts.append(_text(edge + 8, height + 4, name, f'fill="{colors[name]}"'))
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def curves(rows: Sequence[SummaryRow], task: str) -> str:
    """Draw accuracy against budget, one line a strategy; rows without a budget ("full", "wrong image") are level.

    Parameters
    ----------
    rows : sequence of SummaryRow
    task : str
        Which question type; "all" for all of them.
    """
    lines: dict[str, dict[str, float]] = {}
    levels: dict[str, float] = {}
    budgets = set()
    for row in rows:
        if (row.task, row.family, row.metric) != (task, "all", "accuracy"):
            continue
        if row.keep:
            lines.setdefault(row.strategy, {})[f"{row.keep} tokens"] = row.value
            budgets.add(row.keep)
        else:
            levels[row.strategy] = row.value
    ticks = [f"{keep} tokens" for keep in sorted(budgets)]
    return chart(lines, ticks, f"accuracy against budget, {task}", levels)
