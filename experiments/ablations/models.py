"""One table of several comparisons, which differ in their model (or anything else): a column each.

    tokenprune compare --budgets 64,32 --out a
    tokenprune compare --budgets 64,32 --out b --model FOLDER
    python experiments/ablations/models.py ships=a twin=b --out models.csv

Prints accuracy over all questions as Markdown, in percent; the file has every question type, intervals and the paired
test against random.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from tokenprune.evaluation.summary import SummaryRow
from tokenprune.results.store import as_csv, write_atomically

FIELDS = ("comparison", "strategy", "keep", "task", "value", "low", "high", "n", "p_random")


def named(text: str) -> tuple[str, Path]:
    """Read ``NAME=FOLDER``."""
    name, separator, folder = text.partition("=")
    if not separator or not (Path(folder) / "summary.json").is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FOLDER with the folder of a finished comparison")
    return name, Path(folder)


def accuracies(folder: Path, budgets: Collection[int] = ()) -> list[SummaryRow]:
    """Accuracy by strategy, budget and question type; all budgets where none is named."""
    rows = [SummaryRow(**row) for row in json.loads((folder / "summary.json").read_text())["rows"]]
    wanted = {0, *budgets} if budgets else {row.keep for row in rows}
    return [row for row in rows if (row.metric, row.family) == ("accuracy", "all") and row.keep in wanted]


def lines_of(comparisons: dict[str, list[SummaryRow]]) -> Iterator[dict[str, Any]]:
    """Every accuracy, a line each."""
    for name, rows in comparisons.items():
        for row in rows:
            yield {"comparison": name} | {field: getattr(row, field) for field in FIELDS[1:]}


def as_markdown(comparisons: dict[str, list[SummaryRow]]) -> str:
    """Accuracy over all questions: budgets and comparisons across, best first in the first column."""
    overall: dict[tuple[str, str, int], float] = {
        (name, row.strategy, row.keep): row.value
        for name, rows in comparisons.items()
        for row in rows
        if row.task == "all"
    }
    budgets = sorted({keep for _, _, keep in overall if keep}, reverse=True)
    columns = [(keep, name) for keep in budgets for name in comparisons]

    def value(strategy: str, keep: int, name: str) -> float | None:
        return overall.get((name, strategy, keep), overall.get((name, strategy, 0)))

    strategies = list(dict.fromkeys(strategy for _, strategy, _ in overall))
    strategies.sort(key=lambda strategy: -(value(strategy, *columns[0]) or 0.0))
    lines = [
        "| strategy |" + "".join(f" {name}, {keep} |" for keep, name in columns),
        "|---|" + "---:|" * len(columns),
    ]
    for strategy in strategies:
        cells = [value(strategy, keep, name) for keep, name in columns]
        lines.append(f"| {strategy} | " + " | ".join("-" if c is None else f"{100 * c:.1f}" for c in cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparisons", nargs="+", type=named, metavar="NAME=FOLDER")
    parser.add_argument("--budgets", nargs="+", type=int, default=[], help="only these; all by default")
    parser.add_argument("--out", type=Path, help="CSV file to write")
    asked = parser.parse_args()
    comparisons = {name: accuracies(folder, asked.budgets) for name, folder in asked.comparisons}
    if asked.out is not None:
        write_atomically(asked.out, as_csv(FIELDS, lines_of(comparisons)))
    print(as_markdown(comparisons))


if __name__ == "__main__":
    main()
