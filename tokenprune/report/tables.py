"""A comparison as a table for a document: Markdown, LaTeX, CSV, parquet. The numbers are those of summary.json."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from tokenprune.core.errors import UnsupportedError
from tokenprune.evaluation.summary import SummaryRow
from tokenprune.evaluation.table import costs, ordered, p_value
from tokenprune.results.store import as_csv

__all__ = ["Cell", "Grid", "as_tidy_csv", "comparison_grid", "latex", "markdown", "write_parquet"]

_SCALE: Final = ("full", "wrong image", "oracle")
"""Rows that give the others their scale, and do not compete."""

LEGEND: Final = (
    "Bold: best at its budget; underlined: second; {dagger}: differs from random pruning at the same budget "
    "(p < 0.05, paired sign-flip test over questions, not corrected for the number of rows)."
)


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes
    ----------
    text : str
    place : int
        1 for the best at its budget, 2 for the second, 0 for the others.
    note : str
        Small, behind it: an interval.
    dagger : bool
        Differs from random pruning.
    """

    text: str
    place: int = 0
    note: str = ""
    dagger: bool = False


@dataclass(frozen=True)
class Grid:
    """A table, ready to be written down.

    Attributes
    ----------
    caption : str
    head : tuple of str
    sections : tuple of tuple of rows
        A section a budget; a row is a tuple of cells.
    """

    caption: str
    head: tuple[str, ...]
    sections: tuple[tuple[tuple[Cell, ...], ...], ...]


def comparison_grid(rows: Sequence[SummaryRow], facts: Mapping[str, Any]) -> Grid:
    """Lay a comparison out: a row a strategy, a section a budget, a column a question type.

    Parameters
    ----------
    rows : sequence of SummaryRow
    facts : mapping
        What the numbers were measured with.
    """
    cells = {(r.strategy, r.keep, r.task): r for r in rows if r.metric == "accuracy" and r.family == "all"}
    relative = {(r.strategy, r.keep): r for r in rows if (r.task, r.family, r.metric) == ("all", "all", "relative")}
    tasks = [*sorted({row.task for row in rows} - {"all"}), "all"]
    counts = {row.task: row.n for row in cells.values() if row.strategy not in ("oracle",)}
    places = {(keep, task): _places(cells, keep, task) for _, keep in ordered(rows) for task in tasks}
    sections: list[list[tuple[Cell, ...]]] = []
    before: int | None = None
    for strategy, keep in ordered(rows):
        if keep != before:
            sections.append([])
            before = keep
        overall = cells[strategy, keep, "all"]
        found = []
        for task in tasks:
            one = cells.get((strategy, keep, task))
            if one is None:
                found.append(Cell("-"))
                continue
            note = f"[{one.low * 100:.1f}, {one.high * 100:.1f}]" if task == "all" and one.low < one.high else ""
            place = places[keep, task].get(strategy, 0)
            better = one.p_random is not None and one.p_random < 0.05
            found.append(Cell(f"{one.value * 100:.1f}", place, note, better))
        of_full = relative.get((strategy, keep))
        left, per_layer, flops, cache = costs(overall)
        sections[-1].append(
            (
                Cell(strategy),
                Cell(str(keep or "all")),
                *(Cell(text) for text in (left, per_layer, flops, cache)),
                *found,
                Cell("-" if of_full is None else f"{of_full.value * 100:.1f}"),
                Cell(p_value(overall.p_random)),
                Cell(p_value(overall.p_full)),
            )
        )
    told = ", ".join(f"{name} {facts[name]}" for name in ("model", "dtype", "seed", "match") if name in facts)
    head = ("strategy", "keep", "left", "per layer", "GFLOPs", "KV KiB")
    titles = tuple(f"{task} (n={counts[task]})" if task in counts else task for task in tasks)
    return Grid(
        f"Accuracy in % on {counts.get('all', 0)} questions, with 95 % bootstrap intervals over images; {told}.",
        (*head, *titles, "of full", "p random", "p full"),
        tuple(map(tuple, sections)),
    )


def _places(cells: Mapping[tuple[str, int, str], SummaryRow], keep: int, task: str) -> dict[str, int]:
    """1 for the best strategies at a budget, 2 for the second best; equal ones, as they are read, share a place."""
    here = {s: round(row.value, 3) for (s, k, t), row in cells.items() if (k, t) == (keep, task) and s not in _SCALE}
    if len(here) < 2:
        return {}
    best = sorted(set(here.values()), reverse=True)[:2]
    return {strategy: best.index(value) + 1 for strategy, value in here.items() if value in best}


def _plain(text: str) -> str:
    """Text as Markdown shows it."""
    return re.sub(r"([\\`*_<>|\[\]#])", r"\\\1", text)


def markdown(grid: Grid) -> str:
    """A table in Markdown, with its caption."""

    def cell(one: Cell) -> str:
        text = _plain(one.text)
        text = {1: f"**{text}**", 2: f"<u>{text}</u>"}.get(one.place, text)
        return text + ("†" if one.dagger else "") + (f" {one.note}" if one.note else "")

    lines = [f"{_plain(grid.caption)} {LEGEND.format(dagger='†')}", ""]
    lines.append("| " + " | ".join(cell(Cell(title)) for title in grid.head) + " |")
    lines.append("|---|" + "---:|" * (len(grid.head) - 1))
    lines += ["| " + " | ".join(map(cell, row)) + " |" for section in grid.sections for row in section]
    return "\n".join(lines) + "\n"


_LATEX: Final = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def _tex(text: str) -> str:
    """Text as LaTeX shows it: every character that means something there is written out."""
    return "".join(_LATEX.get(letter, letter) for letter in text)


def latex(grid: Grid) -> str:
    """A table in LaTeX; needs ``booktabs``, and ``graphicx`` where it is wider than the page."""

    def cell(one: Cell) -> str:
        text = _tex(one.text)
        text = {1: rf"\textbf{{{text}}}", 2: rf"\underline{{{text}}}"}.get(one.place, text)
        note = rf" {{\scriptsize {_tex(one.note)}}}" if one.note else ""
        return text + (r"$^{\dagger}$" if one.dagger else "") + note

    legend = LEGEND.replace("{dagger}", "DAGGER")
    legend = _tex(legend).replace("DAGGER", r"$\dagger$")
    body = [" & ".join(map(_tex, grid.head)) + r" \\", r"\midrule"]
    for i, section in enumerate(grid.sections):
        body += [r"\midrule"] if i else []
        body += [" & ".join(map(cell, row)) + r" \\" for row in section]
    return "\n".join(
        [
            "% needs \\usepackage{booktabs} and \\usepackage{graphicx}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_tex(grid.caption)} {legend}}}",
            r"\resizebox{\linewidth}{!}{%",
            rf"\begin{{tabular}}{{l{'r' * (len(grid.head) - 1)}}}",
            r"\toprule",
            *body,
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
            "",
        ]
    )


def as_tidy_csv(rows: Sequence[SummaryRow]) -> str:
    """Every number, one a line, under the names that summary.json has."""
    return as_csv([field.name for field in fields(SummaryRow)], [asdict(row) for row in rows])


def write_parquet(path: Path, rows: Sequence[SummaryRow], facts: Mapping[str, Any]) -> None:
    """Every number as a table in parquet; what they were measured with is in its metadata.

    Raises
    ------
    UnsupportedError
        pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UnsupportedError("parquet needs pyarrow: pip install 'tokenprune-vlm[parquet]', or ask for csv") from None
    schema = pyarrow.schema(
        [(field.name, _ARROW.get(str(field.type), "float64")) for field in fields(SummaryRow)],
        metadata={f"tokenprune.{name}": str(value) for name, value in facts.items()},
    )
    table = pyarrow.Table.from_pylist([asdict(row) for row in rows], schema=schema)
    part = path.with_name(path.name + ".part")
    pyarrow.parquet.write_table(table, part)
    part.replace(path)


_ARROW: Final = {"str": "string", "int": "int64"}
