"""Several drawings in one SVG file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

__all__ = ["panels"]

WIDTH, TITLE, GAP = 760, 30, 16
_VIEW = re.compile(r'^<svg viewBox="0 0 ([\d.]+) ([\d.]+)"')


def panels(drawings: Sequence[tuple[str, str]], columns: int = 2) -> str:
    """Lay titled drawings out in rows and make a file of them that stands alone.

    Parameters
    ----------
    drawings : sequence of (title, svg)
        As :func:`~tokenprune.report.curves.chart` and :func:`~tokenprune.report.heatmap.heatmap` return them.
    columns : int, default 2
    """
    columns = max(1, min(columns, len(drawings)))
    parts, y = [], GAP
    for start in range(0, len(drawings), columns):
        tallest = 0
        for c, (title, svg) in enumerate(drawings[start : start + columns]):
            view = _VIEW.match(svg)
            if view is None:
                raise ValueError(f"the drawing {title!r} is no svg with a viewBox that starts at 0 0")
            height = round(WIDTH * float(view[2]) / float(view[1]))
            x = GAP + c * (WIDTH + GAP)
            parts.append(f'<text x="{x}" y="{y + 16}" font-size="16" font-weight="bold">{escape(title)}</text>')
            place = f'<svg x="{x}" y="{y + TITLE}" width="{WIDTH}" height="{height}" '
            parts.append(place + svg.removeprefix("<svg "))
            tallest = max(tallest, height)
        y += TITLE + tallest + GAP
    width = GAP + columns * (WIDTH + GAP)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" width="{width}" height="{y}" '
        f'font-family="system-ui, sans-serif"><rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )
