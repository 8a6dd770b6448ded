"""Charts: lines with intervals, and tables of shares, as vector drawings and as pictures.

Matplotlib draws them, without its global state: figures are made directly, settings hold for one ``with``. What comes
from outside (names of strategies, of questions) is drawn as it stands: never as mathematics, never as markup. The same
numbers give the same file. An SVG holds text as text, loads nothing, and may stand inside a page.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tokenprune.report.looks import Style, styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Chart", "Measured", "heatmap", "lines", "png", "svg", "write_charts"]

SIZE: Final = (7.6, 3.9)
"""Inches of a chart of lines."""

SETTINGS: Final = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tokenprune",
    "text.parse_math": False,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "savefig.bbox": None,
    "figure.dpi": 100,
}


class Measured(NamedTuple):
    """A share and its interval; the same three times where there is none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Chart:
    """A drawing that has not been made yet.

    Attributes
    ----------
    title : str
    draw : callable
        Draws on axes.
    size : (float, float)
        Inches.
    """

    title: str
    draw: Callable[[Axes], None]
    size: tuple[float, float] = SIZE


def lines(
    title: str,
    rows: Mapping[str, Mapping[str, Measured]],
    ticks: Sequence[str],
    levels: Mapping[str, Measured] | None = None,
    looks: Mapping[str, Style] | None = None,
) -> Chart | None:
    """Lines over named places, with their intervals; None where there is nothing to draw.

    Parameters
    ----------
    title : str
    rows : mapping of name to mapping of tick to Measured
        Shares, in [0, 1]. A line may leave ticks out.
    ticks : sequence of str
        From left to right.
    levels : mapping of name to Measured, optional
        Dashed lines across.
    looks : mapping of name to Style, optional
        By default :func:`styles` of these names.
    """
    rows, levels = {name: row for name, row in rows.items() if row}, levels or {}
    if not ticks or not (rows or levels):
        return None
    looks = looks or styles([*rows, *levels])

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import PercentFormatter

        entries: list[tuple[float, str, Any]] = []
        for name, level in levels.items():
            color = looks[name].color
            handle = axes.axhline(level.value, color=color, linestyle=(0, (6, 4)), linewidth=1.2)
            if level.low < level.high:
                axes.axhspan(level.low, level.high, color=color, alpha=0.08, linewidth=0)
            entries.append((level.value, name, handle))
        for i, (name, row) in enumerate(rows.items()):
            # intervals of lines that meet at a place stand side by side
            shift = 0.5 * ((i + 0.5) / len(rows) - 0.5)
            at = [(k + shift, row[tick]) for k, tick in enumerate(ticks) if tick in row]
            values = [m.value for _, m in at]
            reach = [[m.value - m.low for _, m in at], [m.high - m.value for _, m in at]]
            look = looks[name]
            bars = axes.errorbar(
                [x for x, _ in at],
                values,
                [[max(0.0, r) for r in side] for side in reach],
                color=look.color,
                marker=look.marker,
                linestyle=(0, look.dash) if look.dash else "-",
                markersize=4,
                linewidth=1.6,
                elinewidth=0.8,
                capsize=1.5,
            )
            entries.append((values[-1], name, bars))
        axes.set_xticks(range(len(ticks)), [_plain(tick) for tick in ticks])
        axes.set_xlim(-0.5, len(ticks) - 0.5)
        low, high = axes.get_ylim()
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0 if high - low > 0.1 else 1))
        entries.sort(key=lambda entry: -entry[0])
        axes.legend(
            [handle for _, _, handle in entries],
            [_plain(name) for _, name, _ in entries],
            loc="center left",
            bbox_to_anchor=(1.01, 0.5),
            frameon=False,
            fontsize=8,
            ncols=1 + (len(entries) - 1) // 22,
        )

    return Chart(title, draw, (SIZE[0], max(SIZE[1], 0.18 * min(22, len(rows) + len(levels)) + 0.6)))


def heatmap(
    title: str, values: Mapping[tuple[str, str], Measured], rows: Sequence[str], columns: Sequence[str]
) -> Chart | None:
    """A table of shares, darker where larger, each with its interval; None where there is nothing to draw.

    Parameters
    ----------
    title : str
    values : mapping of (row, column) to Measured
        Cells may be missing.
    rows, columns : sequence of str
    """
    if not values or not rows or not columns:
        return None

    def draw(axes: Axes) -> None:
        import numpy as np
        from matplotlib import colormaps

        table = np.full((len(rows), len(columns)), np.nan)
        for (row, column), cell in values.items():
            table[rows.index(row), columns.index(column)] = cell.value
        low, high = np.nanmin(table), np.nanmax(table)
        axes.pcolormesh(table, cmap=colormaps["Blues"], vmin=low, vmax=max(high, low + 1e-9), edgecolors="white")
        for (row, column), cell in values.items():
            dark = (cell.value - low) / (high - low) > 0.6 if high > low else False
            interval = f"\n[{cell.low:.0%}, {cell.high:.0%}]" if cell.low < cell.high else ""
            x, y = columns.index(column) + 0.5, rows.index(row) + 0.5
            ink = "white" if dark else "#111111"
            axes.text(x, y, f"{cell.value:.1%}{interval}", color=ink, ha="center", va="center", fontsize=7)
        axes.set_xticks([c + 0.5 for c in range(len(columns))], [_plain(c) for c in columns])
        axes.set_yticks([r + 0.5 for r in range(len(rows))], [_plain(r) for r in rows])
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.invert_yaxis()
        axes.grid(False)
        axes.spines[:].set_visible(False)

    return Chart(title, draw, (max(4.0, 1.8 + 0.95 * len(columns)), max(1.6, 0.6 + 0.38 * len(rows))))


def svg(chart: Chart | None) -> str:
    """The drawing as an ``<svg>`` element for a page; empty where there is none."""
    if chart is None:
        return ""
    with _drawn([chart], 1, titles=False) as figure:
        text = _rendered(figure, "svg").decode("utf-8")
    body = text[text.index("<svg ") :].removeprefix("<svg ")
    return f'<svg role="img" aria-label="{escape(_plain(chart.title))}" {body}'


def png(charts: Sequence[Chart], columns: int = 1) -> bytes:
    """The drawings as a picture, 200 pixels an inch."""
    with _drawn(charts, columns) as figure:
        return _rendered(figure, "png")


def write_charts(path: Path, charts: Sequence[Chart | None], columns: int = 2) -> list[Path]:
    """Write drawings side by side into one ``.svg`` and one ``.png`` file.

    Parameters
    ----------
    path : Path
        Without an ending.
    charts : sequence of Chart or None
    columns : int, default 2

    Returns
    -------
    list of Path
        Both files; none where there is nothing to draw.
    """
    made = [chart for chart in charts if chart is not None]
    if not made:
        return []
    written = []
    with _drawn(made, columns) as figure:
        for kind in ("svg", "png"):
            file = path.with_name(f"{path.name}.{kind}")
            part = file.with_name(file.name + ".part")
            part.write_bytes(_rendered(figure, kind))
            written.append(part.replace(file))
    return written


@contextmanager
def _drawn(charts: Sequence[Chart], columns: int, titles: bool = True) -> Iterator[Figure]:
    """Draw charts in rows; settings hold while the figure is used."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    columns = max(1, min(columns, len(charts)))
    grid = [charts[i : i + columns] for i in range(0, len(charts), columns)]
    heights = [max(chart.size[1] for chart in row) for row in grid]
    width = max(chart.size[0] for chart in charts)
    with mpl.rc_context(SETTINGS), warnings.catch_warnings():
        # a name in a script that the picture's font lacks shows boxes there; the SVG holds it as text
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(width * columns, sum(heights) + 0.25 * titles * len(grid)), layout="constrained")
        axes = figure.subplots(len(grid), columns, squeeze=False, height_ratios=heights)
        for r, row in enumerate(axes):
            for c, place in enumerate(row):
                if c < len(grid[r]):
                    grid[r][c].draw(place)
                    if titles:
                        place.set_title(_plain(grid[r][c].title), loc="left", fontweight="bold")
                else:
                    place.set_axis_off()
        yield figure


def _rendered(figure: Figure, kind: str) -> bytes:
    out = io.BytesIO()
    # neither when nor by which version: the same numbers give the same bytes
    metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    figure.savefig(out, format=kind, dpi=200 if kind == "png" else None, metadata=metadata)
    return out.getvalue()


def _plain(text: str, longest: int = 60) -> str:
    """Without characters that an SVG must not hold, and no longer than there is room for."""
    text = "".join(c if c.isprintable() else "\ufffd" for c in text)
    return text if len(text) <= longest else text[: longest - 1] + "…"
