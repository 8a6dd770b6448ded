"""A table of shares as inline SVG, darker where larger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

__all__ = ["heatmap"]

LEFT, TOP, CELL_WIDTH, CELL_HEIGHT = 170, 30, 112, 30


def heatmap(values: Mapping[tuple[str, str], float], rows: Sequence[str], columns: Sequence[str], label: str) -> str:
    """Draw values by row and column.

    Parameters
    ----------
    values : mapping of (row, column) to value
        Shares, in [0, 1]; cells may be missing.
    rows, columns : sequence of str
    label : str
        What the drawing shows, for those who do not see it.
    """
    if not values:
        return ""
    low, high = min(values.values()), max(values.values())
    width, height = LEFT + CELL_WIDTH * len(columns), TOP + CELL_HEIGHT * len(rows)
    parts = []
    for c, column in enumerate(columns):
        parts.append(_text(LEFT + (c + 0.5) * CELL_WIDTH, TOP - 10, column, 'text-anchor="middle"'))
    for r, row in enumerate(rows):
        y = TOP + r * CELL_HEIGHT
        parts.append(_text(LEFT - 8, y + 20, row, 'text-anchor="end"'))
        for c, column in enumerate(columns):
            if (row, column) not in values:
                continue
            value = values[row, column]
            depth = (value - low) / (high - low) if high > low else 0.0
            x = LEFT + c * CELL_WIDTH
            parts.append(
                f'<rect x="{x + 1}" y="{y + 1}" width="{CELL_WIDTH - 2}" height="{CELL_HEIGHT - 2}" {_fill(depth)}/>'
            )
            ink = f'text-anchor="middle" fill="{"#fff" if depth > 0.6 else "#111"}"'
            parts.append(_text(x + CELL_WIDTH / 2, y + 20, f"{value:.1%}", ink))
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def _text(x: float, y: float, words: str, style: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="14" {style}>{escape(words)}</text>'


def _fill(depth: float) -> str:
    """From near white to dark blue."""
    light, dark = (240, 245, 250), (8, 64, 129)
    mixed = [round(a + (b - a) * depth) for a, b in zip(light, dark, strict=True)]
    return 'fill="#{:02x}{:02x}{:02x}"'.format(*mixed)
