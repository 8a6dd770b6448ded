"""The table of every strategy on the model that ships, from a finished comparison.

    make compare ARGS='--budgets 192,128,64,32'
    python -m experiments.embedded.page --collect results/compare
    python -m experiments.embedded.page

The first form writes ``results/compare.csv``, a line for each row and type of question, the second the page.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.marked import put
from tokenprune.results.store import as_csv, write_atomically

HERE = Path(__file__).parent
ROWS = HERE / "results" / "compare.csv"
PAGE = HERE.parents[1] / "docs" / "results" / "embedded.md"
COLUMNS = ("strategy", "keep", "task", "family", "value", "low", "high", "p_random", "layer_average_tokens", "n")
UNPRUNED = ("full", "wrong image")


def collected(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the page needs of a ``summary.json``."""
    if summary["incomplete"] or summary["failed"]:
        raise SystemExit(f"not all rows are there: {summary['incomplete'] or summary['failed']}")
    return [{name: row[name] for name in COLUMNS} for row in summary["rows"] if row["metric"] == "accuracy"]


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Accuracy over all questions, a column a budget, best first by the mean over budgets."""
    over_all = {(row["strategy"], int(row["keep"])): row for row in rows if row["task"] == "all"}
    budgets = sorted({keep for _, keep in over_all if keep}, reverse=True)
    names = {name for name, keep in over_all if keep}
    mean = {name: sum(float(over_all[name, keep]["value"]) for keep in budgets) / len(budgets) for name in names}
    head = " | ".join(str(keep) for keep in budgets)
    lines = [f"| strategy | {head} | tokens a layer, {budgets[-1]} |", "|---|" + "---:|" * (len(budgets) + 1)]
    for name in UNPRUNED:
        lines.append(f"| {name} | {' | '.join([_cell(over_all[name, 0], None)] * len(budgets))} | |")
    for name in sorted(names, key=lambda name: (-mean[name], name)):
        cells = " | ".join(_cell(over_all[name, keep], over_all["random", keep]) for keep in budgets)
        lines.append(f"| {name} | {cells} | {float(over_all[name, budgets[-1]]['layer_average_tokens']):.1f} |")
    return "\n".join(lines)


def _cell(row: Mapping[str, str], random: Mapping[str, str] | None) -> str:
    """Accuracy and interval in percent; bold above random beyond chance, slanted below it (p < 0.05)."""
    value, low, high = (100 * float(row[name]) for name in ("value", "low", "high"))
    said = f"{value:.1f}"
    if random is not None and row["p_random"] and float(row["p_random"]) < 0.05:
        said = f"**{said}**" if float(row["value"]) > float(random["value"]) else f"*{said}*"
    return f"{said} ({low:.0f}-{high:.0f})"


def main() -> None:
    """Collect a comparison, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collect", type=Path, help="folder of a finished comparison")
    asked = parser.parse_args()
    if asked.collect is not None:
        summary = json.loads((asked.collect / "summary.json").read_text(encoding="utf-8"))
        rows = collected(summary)
        ROWS.parent.mkdir(exist_ok=True)
        write_atomically(ROWS, as_csv(COLUMNS, rows))
        return
    with ROWS.open(encoding="utf-8", newline="") as file:
        put(PAGE, "rows", table(list(csv.DictReader(file))))


if __name__ == "__main__":
    main()
