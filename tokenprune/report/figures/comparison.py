"""Figures of a comparison: curves with intervals, fronts of accuracy against cost, tables of shares."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tokenprune.core.errors import ConfigError, closest
from tokenprune.evaluation.conditions import FULL, ORACLE, RANDOM, SCALE, WRONG_IMAGE
from tokenprune.evaluation.summary import SummaryRow
from tokenprune.report.charts import Measured, heatmap
from tokenprune.report.figures.canvas import canvas, legend_below
from tokenprune.report.looks import Style, styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COSTS", "MOST", "Point", "chosen", "curves", "front", "heat", "nothing_beats", "points"]

COSTS: Final = {
    "budget": "tokens kept",
    "layers": "visual tokens a layer",
    "gflops": "GFLOPs of the prefill",
    "kv": "KV cache (KiB)",
    "ms": "ms to the first token",
}

MOST: Final = 8
"""Strategies that are drawn where nobody says which: more lines hide each other in a column."""


@dataclass(frozen=True)
class Point:
    """One row of the table in a drawing.

    Attributes
    ----------
    strategy : str
    keep : int
    cost : float
    measured : Measured
    """

    strategy: str
    keep: int
    cost: float
    measured: Measured


def points(
    rows: Sequence[SummaryRow], task: str, cost: str, times: Mapping[tuple[str, int], float] | None = None
) -> list[Point]:
    """Rows of a question type that have a cost; "full" and "wrong image" have no budget and are left out of that axis.

    Raises
    ------
    ConfigError
        No such question type or cost, or no milliseconds were given.
    """
    if cost not in COSTS:
        raise ConfigError(f"--against: no {cost!r}; {closest(cost, COSTS)}")
    tasks = {row.task for row in rows}
    if task not in tasks:
        raise ConfigError(f"--tasks: no question type {task!r}; {closest(task, tasks)}")
    if cost == "ms" and not times:
        raise ConfigError("--against ms needs --times: a folder that bench wrote")
    found = []
    for row in rows:
        if (row.task, row.family, row.metric) != (task, "all", "accuracy"):
            continue
        costs = {
            "budget": row.keep or None,
            "layers": row.layer_average_tokens,
            "gflops": row.flops / 1e9,
            "kv": row.kv_bytes / 1024,
            "ms": (times or {}).get((row.strategy, row.keep)),
        }
        at = costs[cost]
        if at:
            found.append(Point(row.strategy, row.keep, float(at), Measured(row.value, row.low, row.high)))
    return sorted(found, key=lambda p: (p.cost, p.strategy, p.keep))


def chosen(rows: Sequence[SummaryRow], strategies: Sequence[str] | None, most: int = MOST) -> list[str]:
    """Strategies to draw: those asked for, or the ``most`` that answer most over all budgets, and random.

    Raises
    ------
    ConfigError
        One that is not in the table.
    """
    there = list(dict.fromkeys(row.strategy for row in rows))
    if strategies is not None:
        for name in strategies:
            if name not in there:
                raise ConfigError(f"--strategies: no row {name!r} in these results; {closest(name, there)}")
        return list(strategies)
    values: dict[str, list[float]] = {}
    for row in rows:
        if row.keep and (row.task, row.family, row.metric) == ("all", "all", "accuracy") and row.strategy not in SCALE:
            values.setdefault(row.strategy, []).append(row.value)
    best = sorted(values, key=lambda name: (-sum(values[name]) / len(values[name]), name))
    return best[:most] + [RANDOM] * (RANDOM in there)


def nothing_beats(found: Sequence[Point]) -> list[Point]:
    """Points that nothing is as good as for less, nor better than for as much; by rising cost."""
    kept: list[Point] = []
    for point in sorted(found, key=lambda p: (p.cost, -p.measured.value, p.strategy)):
        if not kept or point.measured.value > kept[-1].measured.value:
            kept.append(point)
    return kept


@contextmanager
def curves(
    rows: Sequence[SummaryRow],
    tasks: Sequence[str],
    names: Sequence[str],
    cost: str,
    width: float,
    times: Mapping[tuple[str, int], float] | None = None,
) -> Iterator[Figure]:
    """Accuracy with intervals against a cost, a panel a question type; full and wrong image lie across.

    Parameters
    ----------
    rows : sequence of SummaryRow
    tasks : sequence of str
        "all" or question types.
    names : sequence of str
        Strategies.
    cost : str
        See :data:`COSTS`.
    width : float
        Inches.
    times : mapping of (strategy, keep) to float, optional
        Milliseconds.
    """
    down = -(-len(tasks) // max(1, int(width / 1.6)))
    across = -(-len(tasks) // down)
    looks = styles([row.strategy for row in rows])
    handles: dict[str, Any] = {}
    with canvas(width, 1.85 * down + 0.16 * (2 + len(names) // max(1, int(width / 1.1)))) as figure:
        grid = figure.subplots(down, across, squeeze=False, sharex=True)
        for place, axes in enumerate(grid.flat):
            if place >= len(tasks):
                axes.set_axis_off()
                continue
            task = tasks[place]
            found = points(rows, task, cost, times)
            _levels(axes, rows, task, looks, handles)
            for i, name in enumerate(names):
                mine = [p for p in found if p.strategy == name and p.keep]
                if mine:
                    shift = 1 + 0.05 * ((i + 0.5) / len(names) - 0.5) * (cost == "budget") * 2
                    handles[name] = _curve(axes, mine, looks[name], shift)
            _cost_axis(axes, found, cost, ticks=6 if width / across > 3 else 4)
            if place + across >= len(tasks):  # nothing is below
                axes.tick_params(labelbottom=True)
                axes.set_xlabel(COSTS[cost])
            _shares(axes)
            axes.set_title(_titled(rows, task), loc="left")
            if place % across == 0:
                axes.set_ylabel("accuracy")
        legend_below(figure, list(handles.values()), list(handles), width)
        yield figure


def _titled(rows: Sequence[SummaryRow], task: str) -> str:
    """A question type and how many questions there are of it."""
    n = max(row.n for row in rows if (row.task, row.family, row.metric) == (task, "all", "accuracy"))
    return f"{'all questions' if task == 'all' else task} (n={n})"


def _levels(
    axes: Axes, rows: Sequence[SummaryRow], task: str, looks: Mapping[str, Style], handles: dict[str, Any]
) -> None:
    for row in rows:
        if row.strategy in (FULL, WRONG_IMAGE) and (row.task, row.family, row.metric) == (task, "all", "accuracy"):
            color = looks[row.strategy].color
            handles[row.strategy] = axes.axhline(row.value, color=color, linestyle=(0, (5, 3)), linewidth=0.8)


def _curve(axes: Axes, mine: Sequence[Point], look: Style, shift: float) -> Any:
    values = [p.measured.value for p in mine]
    reach = [
        [max(0.0, p.measured.value - p.measured.low) for p in mine],
        [max(0.0, p.measured.high - p.measured.value) for p in mine],
    ]
    return axes.errorbar(
        [p.cost * shift for p in mine],
        values,
        reach,
        color=look.color,
        marker=look.marker,
        linestyle=(0, look.dash) if look.dash else "-",
        markersize=2.8,
        markeredgewidth=0,
        linewidth=1.0,
        elinewidth=0.45,
        capsize=1.0,
        capthick=0.45,
    )


def _cost_axis(axes: Axes, found: Sequence[Point], cost: str, ticks: int = 6) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log", base=2 if cost in ("budget", "layers") else 10)
    pruned = [p.cost for p in found if p.keep]
    if cost == "budget":
        axes.xaxis.set_major_locator(FixedLocator(sorted(set(pruned))))
    elif pruned:
        axes.xaxis.set_major_locator(FixedLocator(_nice(min(pruned), max(p.cost for p in found), ticks)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _nice(low: float, high: float, most: int) -> list[float]:
    """Round numbers between two, few enough to stand side by side."""
    for digits in ((1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        span = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = [d * 10.0**e for e in span for d in digits if low * 0.9 <= d * 10.0**e <= high * 1.1]
        if len(found) <= most:
            return found
    return found


def _shares(axes: Axes) -> None:
    from matplotlib.ticker import PercentFormatter

    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -0.02), min(high, 1.03))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


@contextmanager
def front(
    rows: Sequence[SummaryRow],
    task: str,
    names: Sequence[str] | None,
    cost: str,
    width: float,
    times: Mapping[tuple[str, int], float] | None = None,
) -> Iterator[Figure]:
    """Every row as a mark, and the line of those that nothing is as good as for less; these are named.

    Parameters
    ----------
    rows : sequence of SummaryRow
    task : str
    names : sequence of str or None
        Strategies; all by default.
    cost : str
    width : float
        Inches.
    times : mapping of (strategy, keep) to float, optional
    """
    found = [p for p in points(rows, task, cost, times) if p.keep and p.strategy not in (FULL, WRONG_IMAGE, ORACLE)]
    found = [p for p in found if names is None or p.strategy in names]
    if not found:
        raise ConfigError(f"--strategies: no row of these has {COSTS[cost]!r}; nothing is to be drawn")
    best = nothing_beats([p for p in found if p.strategy != RANDOM])
    leading = list(dict.fromkeys(p.strategy for p in best))
    looks = styles([row.strategy for row in rows])
    handles = {}
    with canvas(width, min(width * 0.72, 3.1)) as figure:
        axes = figure.subplots()
        for p in found:
            leads = p.strategy in leading or p.strategy == RANDOM
            mark = axes.scatter(
                [p.cost],
                [p.measured.value],
                s=16 if leads else 7,
                color=looks[p.strategy].color if leads else "#bdbdbd",
                marker=looks[p.strategy].marker,
                linewidths=0,
                zorder=3 if leads else 2,
            )
            if leads:
                handles[p.strategy] = mark
        if best:
            end = max(p.cost for p in found)
            xs, ys = [*(p.cost for p in best), end], [*(p.measured.value for p in best), best[-1].measured.value]
            axes.step(xs, ys, where="post", color="#1c1d21", linewidth=0.8, zorder=1)
        for p in best:
            # right of the mark and above the line; on white, where the unpruned model's line runs behind it
            axes.annotate(
                str(p.keep),
                (p.cost, p.measured.value),
                (2.5, 1.2),
                textcoords="offset points",
                fontsize=5.5,
                va="bottom",
                zorder=5,
                bbox={"boxstyle": "square,pad=0.08", "facecolor": "white", "edgecolor": "none"},
            )
        handles["others"] = axes.scatter([], [], s=7, color="#bdbdbd", linewidths=0)
        _levels(axes, rows, task, looks, handles)
        _cost_axis(axes, found, cost)
        _shares(axes)
        axes.set_xlabel(COSTS[cost])
        axes.set_ylabel("accuracy")
        axes.set_title(f"{_titled(rows, task)}; numbers: tokens kept", loc="left")
        legend_below(figure, list(handles.values()), list(handles), width)
        yield figure


@contextmanager
def heat(rows: Sequence[SummaryRow], names: Sequence[str], keep: int, width: float) -> Iterator[Figure]:
    """Accuracy by strategy and question type at one budget, darker where larger.

    Parameters
    ----------
    rows : sequence of SummaryRow
    names : sequence of str
    keep : int
    width : float
        Inches.

    Raises
    ------
    ConfigError
        Nothing was measured at this budget.
    """
    tasks = [*sorted({row.task for row in rows} - {"all"}), "all"]
    cells = {
        (row.strategy, row.task): Measured(row.value, row.value, row.value)
        for row in rows
        if (row.family, row.metric) == ("all", "accuracy") and row.keep in (0, keep) and row.strategy in names
    }
    if not any(row.keep == keep for row in rows):
        budgets = sorted({row.keep for row in rows if row.keep})
        raise ConfigError(f"--keep {keep}: these results have the budgets {', '.join(map(str, budgets))}")
    shown = [name for name in names if any(row == name for row, _ in cells)]
    shown.sort(key=lambda name: -cells[name, "all"].value if (name, "all") in cells else 0.0)
    chart = heatmap(f"{keep} tokens", cells, shown, tasks)
    assert chart is not None
    with canvas(width, 0.5 + 0.19 * len(shown)) as figure:
        axes = figure.subplots()
        chart.draw(axes)
        for text in axes.texts:
            text.set_fontsize(6 if width > 4 else 5)
            text.set_text(text.get_text().replace("%", ""))
        axes.set_xticks(axes.get_xticks(), [t.get_text() for t in axes.get_xticklabels()], rotation=20, ha="left")
        axes.set_title(f"accuracy in %, {keep} tokens", loc="left")
        yield figure
