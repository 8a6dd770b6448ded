"""Which of the paper's differences hold on painted scenes: ``python -m experiments.paper.directions``.

    tokenprune table 1 --model embedded --limit 1000 --seed 21 --out results/paper
    python -m experiments.paper.directions --collect results/paper    # answers -> results/answers.csv.gz
    python -m experiments.paper.directions                            # -> docs/results/paper.md

Both the paper and we have a number for each strategy, budget and kind of questions. What is compared is the sign of the
difference between two strategies, question by question.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from experiments.packed import write_packed
from experiments.trainings.page import Row, read
from tokenprune.evaluation.paper_tables import Column, PaperTable, paper_tables
from tokenprune.evaluation.statistics import paired_p_value

HERE = Path(__file__).parent
ANSWERS = HERE / "results" / "answers.csv.gz"
PAGE = HERE.parents[1] / "docs" / "results" / "paper.md"
FIELDS = ("table", "task", "family", "strategy", "keep", "draw", "image", "sample", "right")
OURS = ("mi-pruner", "mi-attention")
LEVEL = 0.05


def collect(folders: Sequence[Path]) -> Iterator[tuple[str, ...]]:
    """Every answer to pruned and unpruned prompts below some folders of ``tokenprune table``."""
    for folder in folders:
        for file in sorted(folder.glob("*/*/results.jsonl")):
            with file.open(encoding="utf-8") as lines:
                for line in lines:
                    row = json.loads(line)
                    if row["strategy"] in ("wrong image", "oracle"):
                        continue
                    told = (
                        row["task"].removeprefix("scenes-"),
                        row["family"],
                        row["strategy"],
                        row["keep"],
                        row["draw"],
                    )
                    yield (
                        file.parent.parent.name,
                        *map(str, told),
                        row["image"],
                        row["sample"],
                        str(int(row["correct"])),
                    )


def write_answers(folders: Sequence[Path], out: Path) -> None:
    """Answers as one small file, the same bytes for the same answers."""
    write_packed(out, FIELDS, sorted(set(collect(folders))))


@dataclass(frozen=True)
class Direction:
    """A difference between two strategies, the paper's and ours, in points.

    Attributes
    ----------
    table, column : str
    keep : int or str
    first, second : str
    paper, ours : float
    p : float
        Two-sided, over pictures, of one comparison.
    n : int
        Questions.
    """

    table: str
    column: str
    keep: int | str
    first: str
    second: str
    paper: float
    ours: float
    p: float
    n: int

    def verdict(self, p: float) -> str:
        """What ours says of the paper's, given the corrected p-value."""
        if p >= LEVEL or self.ours == 0:
            return "undecided"
        if self.paper == 0:
            return "differs"
        return "agrees" if (self.ours > 0) == (self.paper > 0) else "disagrees"


def corrected(found: Sequence[Direction]) -> list[float]:
    """p-values corrected for the number of comparisons (Benjamini and Hochberg)."""
    return [float(p) for p in stats.false_discovery_control([one.p for one in found])] if found else []


def pairs(one: PaperTable) -> list[tuple[str, str]]:
    """Rows to hold against each other: the paper's own methods and each other row, or all where it has none of them."""
    names = ["random", *one.strategies]
    own = [name for name in OURS if name in names] or [one.strategies[-1]]
    others = [name for name in names if name not in own]
    return [(a, b) for a in own for b in others] + [(own[i], own[j]) for i in range(len(own)) for j in range(i)]


def _column(rows: Sequence[Row], column: Column) -> list[Row]:
    """Answers that a column is about."""
    return [row for row in rows if row["task"] == column.data and column.family in ("all", row["family"])]


def compared(one: PaperTable, rows: Sequence[Row]) -> list[Direction]:
    """All differences of a table; a column that painted scenes lack, or of another measure, is left out."""
    found = []
    for i, column in enumerate(one.columns):
        metric = (column.scenes or {}).get("metric", column.metric)
        asked = _column(rows, column)
        if metric != "accuracy" or not asked:
            continue
        for budget in one.budgets:
            right: dict[str, dict[str, list[int]]] = {}
            for row in asked:
                if row["keep"] == str(one.counts[budget]):
                    right.setdefault(row["strategy"], {}).setdefault(row["sample"], []).append(int(row["right"]))
            image = {row["sample"]: row["image"] for row in asked}
            for first, second in pairs(one):
                published = one.values.get(budget, {})
                if not {first, second} <= right.keys() or not {first, second} <= published.keys():
                    continue
                samples = sorted(right[first].keys() & right[second].keys())
                a, b = ([float(np.mean(right[name][s])) for s in samples] for name in (first, second))
                found.append(
                    Direction(
                        one.name,
                        column.name,
                        budget,
                        first,
                        second,
                        published[first][i] - published[second][i],
                        100 * (float(np.mean(a)) - float(np.mean(b))),
                        paired_p_value(a, b, [image[s] for s in samples]),
                        len(samples),
                    )
                )
    return found


HEAD = """\
<!-- made by python -m experiments.paper.directions -->

# The paper's differences, asked of a model that ships

The paper says of each pair of strategies which is better, on LLaVA-1.5-7B and its benchmarks. This page asks the same
of the trained model that ships, on painted scenes with questions of the same kinds: not whether numbers are equal (they
are about other questions) but whether **differences have the same sign**. *agrees*: ours has the paper's sign beyond
chance (paired permutation test over pictures, corrected over all {n} comparisons of this page, below {level});
*disagrees*: the other sign beyond chance; otherwise *undecided*. MI-Pruner and MI-Attention have the lambda that the
paper tunes by the kind of questions. (MME is a score in the paper and accuracy here.)

It is **one training of one small model**: what it decides is about that model. [Several trainings](trainings.md) shows
how much another training of one recipe can change, [the paper's tables](../paper-tables.md) how to ask a checkpoint.

```console
{commands}
python -m experiments.paper.directions
```
"""

COMMANDS = {
    "table-1": "tokenprune table 1 --model embedded --limit 1000 --seed 21 --out results/paper",
    "table-5": "tokenprune table 5 --model embedded --limit 400 --seed 21 --out results/paper",
    "table-8": "tokenprune table 8 --model embedded --limit 600 --seed 21 --out results/paper",
}
"""What was asked, by table."""


def _counts(verdicts: Sequence[str]) -> str:
    """How often each verdict."""
    n = Counter(verdicts)
    return f"{n['agrees']} | {n['disagrees']} | {n['undecided'] + n['differs']}"


def page(rows: Sequence[Row]) -> str:
    """The whole page."""
    names = [name for name in COMMANDS if any(row["table"] == name for row in rows)]
    tables = [one for name in names for one in paper_tables(name.removeprefix("table-"))]
    found = [d for one in tables for d in compared(one, [row for row in rows if row["table"] == one.name])]
    adjusted = corrected(found)
    verdicts = [d.verdict(p) for d, p in zip(found, adjusted, strict=True)]
    head = HEAD.format(n=len(found), level=LEVEL, commands="\n".join(COMMANDS[name] for name in names))
    lines = [
        head,
        "## In one table",
        "",
        "| the paper's pair | agrees | disagrees | undecided |",
        "|---|---:|---:|---:|",
    ]
    for first, second in dict.fromkeys((d.first, d.second) for d in found):
        of = [v for d, v in zip(found, verdicts, strict=True) if (d.first, d.second) == (first, second)]
        lines.append(f"| {first} and {second} | {_counts(of)} |")
    lines.append(f"| **all** | {_counts(verdicts)} |")
    lines += ["", "| questions, table | agrees | disagrees | undecided |", "|---|---:|---:|---:|"]
    for table, column in dict.fromkeys((d.table, d.column) for d in found):
        of = [v for d, v in zip(found, verdicts, strict=True) if (d.table, d.column) == (table, column)]
        lines.append(f"| {column}, {table.removeprefix('table-')} | {_counts(of)} |")
    for one in tables:
        mine = [row for row in rows if row["table"] == one.name]
        full: dict[str, list[int]] = {}
        for row in mine:
            if row["strategy"] == "full":
                full.setdefault(row["task"], []).append(int(row["right"]))
        told = ", ".join(f"{100 * np.mean(v):.1f} % of {len(v)} {task}" for task, v in sorted(full.items()))
        lines += ["", f"## {one.title}", "", f"{one.source}. Unpruned, our model answers {told} rightly.", ""]
        lines += ["| keep | questions | first less second | paper | ours | |", "|---|---|---|---:|---:|---|"]
        for d, verdict, p in zip(found, verdicts, adjusted, strict=True):
            if d.table == one.name:
                said = verdict if verdict == "undecided" else f"**{verdict}**"
                lines.append(
                    f"| {d.keep} | {d.column} ({d.n}) | {d.first} less {d.second} | {d.paper:+.1f} | {d.ours:+.1f} "
                    f"| {said} (p {max(p, 0.0001):.4f}) |"
                )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Collect answers, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--collect", nargs="+", type=Path, help="folders that tokenprune table wrote")
    parser.add_argument("--answers", type=Path, default=ANSWERS)
    parser.add_argument("--out", type=Path, default=PAGE)
    arguments = parser.parse_args()
    if arguments.collect:
        write_answers(arguments.collect, arguments.answers)
        print(arguments.answers)
        return
    arguments.out.write_text(page(read(arguments.answers)), encoding="utf-8")
    print(arguments.out)


if __name__ == "__main__":
    main()
