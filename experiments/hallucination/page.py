"""Figure and table of how often a model says yes, and yes to what is not there, over budgets.

    tokenprune compare --families pope --limit 120 --budgets 64,32,16 --out results/pope \
        --strategies mi-pruner,mi-pruner:tau=0.02,attention,divprune
    python -m experiments.hallucination.page results/pope --figure docs/images/hallucination --out rows.csv

Prints the table as Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tokenprune.evaluation.answered import answers_in
from tokenprune.evaluation.hallucination import KINDS, YesRow, yes_rows
from tokenprune.report.charts import Chart, Measured, lines, styles, write_charts
from tokenprune.results.store import as_csv, write_atomically


def charts(rows: Sequence[YesRow]) -> list[Chart | None]:
    """A chart a kind, a line a strategy; unpruned rows are level."""
    looks = styles([row.strategy for row in rows])
    ticks = [f"{keep} tokens" for keep in sorted({row.keep for row in rows if row.keep})]
    made = []
    for kind in KINDS:
        budgeted: dict[str, dict[str, Measured]] = {}
        level: dict[str, Measured] = {}
        for row in rows:
            measured = Measured(row.value, row.low, row.high)
            if row.kind == kind and row.keep:
                budgeted.setdefault(row.strategy, {})[f"{row.keep} tokens"] = measured
            elif row.kind == kind:
                level[row.strategy] = measured
        made.append(lines(kind, budgeted, ticks, level, looks))
    return made


def as_markdown(rows: Sequence[YesRow]) -> str:
    """Kinds across, strategies by budget down; a star where it differs from the unpruned model with p < 0.05."""
    cells = {(row.strategy, row.keep, row.kind): row for row in rows}
    out = ["| row | tokens | " + " | ".join(KINDS) + " |", "|---|---:|" + "---:|" * len(KINDS)]
    for strategy, keep in dict.fromkeys((row.strategy, row.keep) for row in rows):
        shown = []
        for kind in KINDS:
            cell = cells.get((strategy, keep, kind))
            star = "\\*" if cell is not None and cell.p_full is not None and cell.p_full < 0.05 else ""
            shown.append("-" if cell is None else f"{cell.value:.1%}{star} [{cell.low:.0%}, {cell.high:.0%}]")
        out.append(f"| {strategy} | {keep or 'all'} | " + " | ".join(shown) + " |")
    return "\n".join(out)


def main() -> None:
    """Print the table, write figure and file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of a finished comparison")
    parser.add_argument("--figure", type=Path, help="path without an ending")
    parser.add_argument("--out", type=Path, help="CSV file to write")
    asked = parser.parse_args()
    rows = yes_rows(answers_in(asked.folder))
    if asked.figure is not None:
        write_charts(asked.figure, charts(rows), columns=1)
    if asked.out is not None:
        write_atomically(asked.out, as_csv(list(YesRow.__dataclass_fields__), [row.as_dict() for row in rows]))
    print(as_markdown(rows))


if __name__ == "__main__":
    main()
