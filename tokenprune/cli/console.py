"""Tables that fit the terminal without cutting a name or a number."""

from __future__ import annotations

import os
from collections.abc import Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

__all__ = ["fitted", "print_table"]

PROSE = 200
"""Characters of a line with text that may wrap, where there is no terminal."""


def _width(console: Console) -> int | None:
    """Characters of a line; None where nobody reads on a screen and a line may be as long as it is."""
    if console.is_terminal or os.environ.get("COLUMNS", "").isdecimal():
        return console.width
    return None


def fitted(table: Table, width: int, expendable: Sequence[str]) -> tuple[Table, list[str]]:
    """Leave out columns until a table fits.

    Parameters
    ----------
    table : Table
    width : int
        Characters.
    expendable : sequence of str
        Headings of columns that may go, those that go first first.

    Returns
    -------
    Table, list of str
        With the headings that are gone. It may still be too wide: what has to stay is never cut.
    """
    gone: list[str] = []
    rest = [name for name in expendable if any(column.header == name for column in table.columns)]
    while _natural(table) > width and rest:
        gone.append(rest.pop(0))
        table = _without(table, gone[-1])
    return table, gone


def print_table(table: Table, expendable: Sequence[str] = (), *, wide: bool = False) -> None:
    """Print a table in the width of the terminal, and say which columns that left out."""
    console = Console()
    width = _width(console)
    gone: list[str] = []
    if width is not None and not wide:
        table, gone = fitted(table, width, expendable)
    for column in table.columns:
        column.no_wrap = column.ratio is None
    needed = _natural(table)
    if width is None or needed > width:
        wraps = any(column.ratio is not None for column in table.columns)
        console = Console(width=max(needed, PROSE) if wraps else needed)
    console.print(table, crop=False)
    if gone:
        console.print(f"left out to fit {width} columns: {', '.join(gone)} (--wide shows all)", markup=False)


def _natural(table: Table) -> int:
    """Width at which nothing is cut; columns that may wrap count with their least width."""
    console = Console(width=100_000)
    flexible = [column for column in table.columns if column.ratio is not None]
    whole = Measurement.get(console, console.options, table).maximum
    for column in flexible:
        lines = [line for cell in (column.header, *column.cells) for line in str(cell).splitlines()]
        whole -= max(0, max(map(len, lines), default=0) - (column.min_width or 1))
    return whole


def _without(table: Table, name: str) -> Table:
    """The same table without a column."""
    kept = [column for column in table.columns if column.header != name]
    made = Table(box=table.box, title=table.title)
    for column in kept:
        made.add_column(
            column.header,
            justify=column.justify,
            ratio=column.ratio,
            min_width=column.min_width,
            overflow=column.overflow,
        )
    for row, cells in zip(table.rows, zip(*(column.cells for column in kept), strict=True), strict=True):
        made.add_row(*cells, end_section=row.end_section)
    return made
