"""A table of the paper with our numbers: for the terminal, in markdown and in LaTeX; best and second best marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.markup import escape
from rich.table import Table

from tokenprune.evaluation.paper_tables import FULL, Cell, PaperTable

__all__ = ["latex", "markdown", "marked", "terminal"]

Filled = Mapping[tuple[str, int | str], Sequence[Cell]]


def marked(table: PaperTable, cells: Filled) -> dict[tuple[str, int | str, int], int]:
    """Which of our numbers are best (1) and second best (2) at their budget; equal ones share a place."""
    found = {}
    for i, column in enumerate(table.columns):
        if column.best == "none":
            continue
        for budget in table.budgets:
            values = {row: cells[row][i].ours for row in table.rows if row[1] == budget}
            ranked = sorted({round(v, 9) for v in values.values() if v is not None}, reverse=column.best == "highest")
            for (strategy, keep), value in values.items():
                if value is not None and (place := ranked.index(round(value, 9)) + 1) < 3:
                    found[strategy, keep, i] = place
    return found


def _number(value: float | None, scale: float) -> str:
    return "-" if value is None else f"{value:.1f}" if scale > 1 or abs(value) > 10 else f"{value:.2f}"


def _text(cell: Cell, scale: float) -> tuple[str, str]:
    """Ours, and what stands behind it: interval, the paper's number, the difference."""
    behind = ""
    if cell.low is not None and cell.high is not None:
        behind += f" [{_number(cell.low, scale)}, {_number(cell.high, scale)}]"
    if cell.paper is not None:
        difference = cell.difference
        sign = "" if difference is None else f", {'+' if difference >= 0 else '-'}{_number(abs(difference), scale)}"
        behind += f" ({_number(cell.paper, scale)}{sign})"
    return _number(cell.ours, scale), behind


def _label(row: tuple[str, int | str]) -> tuple[str, str]:
    return row[0], "all" if row[1] == FULL else str(row[1])


def terminal(table: PaperTable, cells: Filled) -> Table:
    """For the terminal: best bold, second underlined."""
    out = Table("strategy", "keep", *(escape(column.name) for column in table.columns), title=escape(table.title))
    places, before = marked(table, cells), None
    styles = {1: "[bold]{}[/bold]", 2: "[underline]{}[/underline]"}
    for row in table.rows:
        if before is not None and row[1] != before:
            out.add_section()
        before = row[1]
        shown = []
        for i, cell in enumerate(cells[row]):
            ours, behind = _text(cell, table.columns[i].scale)
            shown.append(styles.get(places.get((*row, i), 0), "{}").format(ours) + escape(behind))
        out.add_row(*map(escape, _label(row)), *shown)
    return out


def markdown(table: PaperTable, cells: Filled) -> str:
    """As markdown: best bold, second in italics."""
    places = marked(table, cells)
    names = [column.name.replace("|", "\\|") for column in table.columns]
    lines = [f"| strategy | keep | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    styles = {1: "**{}**", 2: "_{}_"}
    for row in table.rows:
        shown = []
        for i, cell in enumerate(cells[row]):
            ours, behind = _text(cell, table.columns[i].scale)
            shown.append(styles.get(places.get((*row, i), 0), "{}").format(ours) + behind)
        lines.append(f"| {' | '.join([*_label(row), *shown])} |")
    return "\n".join(lines) + "\n"


def latex(table: PaperTable, cells: Filled) -> str:
    """As LaTeX: best bold, second underlined; needs booktabs."""
    places = marked(table, cells)
    styles = {1: r"\textbf{{{}}}", 2: r"\underline{{{}}}"}
    lines = [rf"\begin{{tabular}}{{ll{'r' * len(table.columns)}}}", r"\toprule"]
    lines.append(" & ".join(["strategy", "keep", *(column.name for column in table.columns)]) + r" \\")
    before = None
    for row in table.rows:
        if row[1] != before:
            lines.append(r"\midrule")
        before = row[1]
        shown = []
        for i, cell in enumerate(cells[row]):
            ours, behind = _text(cell, table.columns[i].scale)
            shown.append(styles.get(places.get((*row, i), 0), "{}").format(ours) + behind)
        lines.append(" & ".join([*_label(row), *shown]).replace("%", r"\%").replace("_", r"\_") + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"
