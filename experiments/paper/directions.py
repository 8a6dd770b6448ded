"""Which of the paper's differences hold on painted scenes: ``python -m experiments.paper.directions``.

    python -m experiments.paper.ask models/* embedded --out results/paper       # tables of the paper, of each model
    python -m experiments.paper.directions --collect results/paper/*            # answers -> results/answers.csv.gz
    python -m experiments.paper.directions                                      # -> docs/results/paper.md

Both the paper and we have a number for each strategy, budget and kind of questions. What is compared is the sign of the
difference between two strategies, question by question, on each of several trainings.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from experiments.packed import write_packed
from experiments.paper.ask import LIMITS
from experiments.trainings.page import Row, read
from tokenprune.evaluation.paper_tables import Column, PaperTable, paper_tables
from tokenprune.evaluation.statistics import Spread, over_trainings, paired_p_value

HERE = Path(__file__).parent
ANSWERS = HERE / "results" / "answers.csv.gz"
PAGE = HERE.parents[1] / "docs" / "results" / "paper.md"
FIELDS = ("training", "table", "task", "family", "strategy", "keep", "draw", "image", "sample", "right")
OURS = ("mi-pruner", "mi-attention")
LEVEL = 0.05
SHIPS = "embedded"
"""Name of the training that ships."""
STATED = {
    "fig-6a": [("GQA", "max", "mean"), ("SQA", "max", "mean")],
    "fig-6b": [(data, "tau 0.1", other) for data in ("GQA", "SQA") for other in ("tau 0.01", "tau 0.5")],
    "fig-6c": [("GQA", "lam 0.5", "lam 0.0"), ("GQA", "lam 0.5", "lam 1.0"), ("SQA", "lam 1.0", "lam 0.5")],
}
"""What the paper says of figures without numbers (Sec. 5.5): columns, and which row is the better one."""


def collect(folders: Sequence[Path]) -> Iterator[tuple[str, ...]]:
    """Every answer to pruned and unpruned prompts below some folders of ``tokenprune table``, one of each training."""
    for folder in folders:
        for file in sorted(folder.glob("*/*/**/results.jsonl")):
            table = file.relative_to(folder).parts[0]
            with file.open(encoding="utf-8") as lines:
                for line in lines:
                    row = json.loads(line)
                    if row["strategy"] in ("wrong image", "oracle"):
                        continue
                    told = (row["task"].removeprefix("scenes-"), row["family"], row["strategy"], row["keep"])
                    asked = (row["draw"], row["image"], row["sample"], int(row["correct"]))
                    yield (folder.name, table, *map(str, told), *map(str, asked))


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
    paper : float, optional
        None where the paper says that the first is better and prints no number.
    ours : Spread
        Over trainings and pictures where there are several trainings; else the interval is over pictures and the
        p-value that of a permutation test. Not corrected.
    by_training : tuple of float
        Ours, of each training.
    n : int
        Questions.
    """

    table: str
    column: str
    keep: int | str
    first: str
    second: str
    paper: float | None
    ours: Spread
    by_training: tuple[float, ...]
    n: int

    @property
    def positive(self) -> bool:
        """Whether the first is the better one in the paper."""
        return self.paper is None or self.paper > 0

    @property
    def with_its_sign(self) -> int:
        """In how many trainings the difference has the paper's sign."""
        return sum((value > 0) if self.positive else (value < 0) for value in self.by_training)

    def verdict(self, p: float) -> str:
        """What ours says of the paper's, given the corrected p-value."""
        if p >= LEVEL or self.ours.mean == 0:
            return "undecided"
        if self.paper == 0:
            return "differs"
        return "agrees" if (self.ours.mean > 0) == self.positive else "disagrees"


def corrected(found: Sequence[Direction]) -> list[float]:
    """p-values corrected for the number of comparisons (Benjamini and Hochberg)."""
    return [float(p) for p in stats.false_discovery_control([one.ours.p for one in found])] if found else []


def pairs(one: PaperTable) -> list[tuple[str, str]]:
    """Rows to hold against each other: the paper's own methods and each other row, or all where it has none of them."""
    names = ["random", *one.strategies]
    own = [name for name in OURS if name in names] or [one.strategies[-1]]
    others = [name for name in names if name not in own]
    return [(a, b) for a in own for b in others] + [(own[i], own[j]) for i in range(len(own)) for j in range(i)]


Answers = dict[str, dict[str, dict[tuple[str, str], list[int]]]]
"""Strategy -> training -> picture and question -> right or not, of each draw."""


def _answers(rows: Sequence[Row], column: Column) -> dict[str, Answers]:
    """What a column is about, by budget."""
    found: dict[str, Answers] = {}
    for row in rows:
        if row["task"] == column.data and column.family in ("all", row["family"]):
            by_training = found.setdefault(row["keep"], {}).setdefault(row["strategy"], {})
            asked = by_training.setdefault(row.get("training", SHIPS), {})
            asked.setdefault((row["image"], row["sample"]), []).append(int(row["right"]))
    return found


@dataclass(frozen=True)
class Difference:
    """Of two strategies' answers to the same questions.

    Attributes
    ----------
    pictures : tuple of str
    sums, sizes : array of shape (T, C)
        Sum of differences and number of questions of each training and picture.
    """

    pictures: tuple[str, ...]
    sums: NDArray[np.float64]
    sizes: NDArray[np.float64]

    @classmethod
    def of(cls, first: Mapping[str, Any], second: Mapping[str, Any]) -> Difference | None:
        """From two strategies' answers by training: about what every training was asked; None where that is nothing."""
        trainings = sorted(first.keys() & second.keys())
        asked = set.intersection(*({*first[t]} & {*second[t]} for t in trainings)) if trainings else set()
        if not asked:
            return None
        pictures = {image: i for i, image in enumerate(sorted({image for image, _ in asked}))}
        sums, sizes = np.zeros((2, len(trainings), len(pictures)))
        for t, training in enumerate(trainings):
            for key in sorted(asked):  # sums of thirds in another order differ in their last bits
                a, b = first[training][key], second[training][key]
                sums[t, pictures[key[0]]] += 100 * (sum(a) / len(a) - sum(b) / len(b))
                sizes[t, pictures[key[0]]] += 1
        return cls(tuple(pictures), sums, sizes)

    @classmethod
    def together(cls, several: Sequence[Difference]) -> Difference:
        """One of several of the same trainings; a picture that several are about stays one."""
        pictures = {name: i for i, name in enumerate(sorted({name for one in several for name in one.pictures}))}
        sums, sizes = np.zeros((2, len(several[0].sums), len(pictures)))
        for one in several:
            places = [pictures[name] for name in one.pictures]
            sums[:, places] += one.sums
            sizes[:, places] += one.sizes
        return cls(tuple(pictures), sums, sizes)

    @property
    def by_training(self) -> tuple[float, ...]:
        """Mean of each training."""
        return tuple((self.sums.sum(1) / self.sizes.sum(1)).tolist())

    def spread(self) -> Spread:
        """Mean, interval and p-value: over trainings and pictures, or of one training over pictures."""
        if len(self.sums) > 1 and self.sums.shape[1] > 1:
            return over_trainings(self.sums, self.sizes)
        sums, sizes, pictures = self.sums.sum(0), self.sizes.sum(0), range(self.sums.shape[1])
        (mean,) = self.by_training if len(self.sums) == 1 else (float(sums.sum() / sizes.sum()),)
        p = paired_p_value(sums.tolist(), [0.0] * len(sums), pictures)
        return Spread(mean, float("nan"), float("nan"), p)


def told(one: PaperTable, column: str, keep: int | str) -> list[tuple[str, str, float | None]]:
    """Pairs of rows that the paper says something of, and its difference; None where it prints none."""
    if one.name in STATED:
        return [(first, second, None) for about, first, second in STATED[one.name] if about == column]
    published, i = one.values.get(keep, {}), [c.name for c in one.columns].index(column)
    return [(a, b, published[a][i] - published[b][i]) for a, b in pairs(one) if {a, b} <= published.keys()]


def compared(one: PaperTable, rows: Sequence[Row]) -> tuple[list[Direction], list[Direction]]:
    """All differences of a table, and each pair of rows over all its questions and budgets.

    A column that painted scenes lack, or of another measure, is left out.
    """
    found, pooled = [], dict[tuple[str, str], list[tuple[Difference, float | None, str]]]()
    for column in one.columns:
        answers = _answers(rows, column)
        if (column.scenes or {}).get("metric", column.metric) != "accuracy" or not answers:
            continue
        for budget in one.budgets:
            right = answers.get(str(one.counts[budget]), {})
            for first, second, paper in told(one, column.name, budget):
                if not {first, second} <= right.keys() or (made := Difference.of(right[first], right[second])) is None:
                    continue
                found.append(_direction(one.name, column.name, budget, (first, second), paper, made))
                if column.family == "all":  # the others are parts of it
                    pooled.setdefault((first, second), []).append((made, paper, column.metric))
    claims = []
    for pair, several in pooled.items():
        papers = [paper for _, paper, metric in several if paper is not None and metric == "accuracy"]
        made = Difference.together([each for each, _, _ in several])
        claims.append(_direction(one.name, "all", "all", pair, float(np.mean(papers)) if papers else None, made))
    return found, claims


def _direction(
    table: str, column: str, keep: int | str, pair: tuple[str, str], paper: float | None, made: Difference
) -> Direction:
    n = round(float(made.sizes.sum() / len(made.sizes)))
    return Direction(table, column, keep, *pair, paper, made.spread(), made.by_training, n)


HEAD = """\
<!-- made by python -m experiments.paper.directions -->

# Which of the paper's claims hold on {models}

{about}

{limits}

```console
{command}
python -m experiments.paper.directions --collect results/paper/*
python -m experiments.paper.directions
```

## The claims

{claims}
"""
ABOUT = (
    "The paper says of each pair of strategies which is better, on LLaVA-1.5-7B and its benchmarks. This page asks "
    "the same of {which}, on painted scenes with questions of the same kinds: not whether numbers are equal (they are "
    "about other questions) but whether **differences have the same sign**. *agrees*: ours has the paper's sign beyond "
    "chance ({test}, corrected over all {n} comparisons of this page, below {level}); *disagrees*: the other sign "
    "beyond chance; otherwise *undecided*. MI-Pruner and MI-Attention have the lambda that the paper tunes by the kind "
    "of questions. (MME is a score in the paper and accuracy here.)"
)
CLAIMS = (
    "Over all kinds of questions and all budgets of a table, in points; the paper's is the mean of its differences in "
    "accuracy. Corrected over the lines of this table. The three columns at the end count the single comparisons that "
    "the tables below list. *better*: the paper shows curves and prints no numbers."
)
ONE = {
    "models": "a trained model",
    "answer": "our model answers",
    "which": "the trained LLaVA that ships",
    "test": "paired permutation test over pictures",
    "limits": "It is **one training of one small model**: what it decides is about that model. [Several trainings]"
    "(trainings.md) shows how much another training of one recipe can change, [the paper's tables](../paper-tables.md) "
    "how to ask a checkpoint.",
}
SEVERAL = {
    "models": "{n} trained models",
    "answer": "our models answer",
    "which": "{n} trained LLaVAs, the one that ships and {others} others",
    "test": "trainings and pictures are both drawn again, 2,000 times",
    "limits": "The models are small, know painted scenes alone, and differ in their first weights and in the scenes "
    "they saw ([several trainings](trainings.md), `experiments/trainings/README.md`). Intervals over so few trainings "
    "can be too narrow; a column says in how many of them the difference has the paper's sign. [The paper's tables]"
    "(../paper-tables.md) says how to ask a checkpoint.",
}
COMMAND = "python -m experiments.paper.ask {models}embedded --tables {tables} --out results/paper"


def _counts(verdicts: Sequence[str]) -> str:
    """How often each verdict."""
    n = Counter(verdicts)
    return f"{n['agrees']} | {n['disagrees']} | {n['undecided'] + n['differs']}"


def _verdicts(found: Sequence[Direction]) -> list[str]:
    """What each says, with p-values corrected over all of them."""
    return [one.verdict(p) for one, p in zip(found, corrected(found), strict=True)]


def _line(one: Direction, verdict: str, p: float, *first: str) -> str:
    """A line of a table."""
    said = verdict if verdict == "undecided" else f"**{verdict}**"
    paper = "better" if one.paper is None else f"{one.paper:+.1f}"
    ours = f"{one.ours.mean:+.1f}"
    if np.isfinite(one.ours.low):
        ours += f" ({one.ours.low:+.1f} to {one.ours.high:+.1f})"
    signs = f"{one.with_its_sign} of {len(one.by_training)}"
    return f"| {' | '.join(first)} | {paper} | {ours} | {signs} | {said} (p {max(p, 0.001):.3f}) |"


def page(rows: Sequence[Row]) -> str:
    """The whole page."""
    present = {row["table"] for row in rows}
    tables = [one for number in LIMITS for one in paper_tables(number) if one.name in present]
    trainings = sorted({row.get("training", SHIPS) for row in rows})
    words = {
        name: text.format(n=len(trainings), others=len(trainings) - 1)
        for name, text in (ONE if len(trainings) == 1 else SEVERAL).items()
    }
    found, claims = [], []
    for one in tables:
        each, whole = compared(one, [row for row in rows if row["table"] == one.name])
        found += each
        claims += whole
    adjusted, verdicts, sure = corrected(found), _verdicts(found), _verdicts(claims)
    numbers = " ".join(one.name.removeprefix("table-") for one in tables)
    command = COMMAND.format(models="models/* " * (len(trainings) > 1), tables=numbers)
    about = ABOUT.format(n=len(found), level=LEVEL, **words)
    filled = {"about": about, "limits": words["limits"], "claims": CLAIMS}
    head = {name: textwrap.fill(text, 118, break_on_hyphens=False) for name, text in filled.items()}
    lines = [
        HEAD.format(models=words["models"], command=command, **head),
        "| | first less second | paper | ours | with the paper's sign | | agrees | disagrees | undecided |",
        "|---|---|---:|---|---:|---|---:|---:|---:|",
    ]
    titles = {one.name: one.source.removeprefix("MI-Pruner, ").partition(" (")[0] for one in tables}
    for claim, verdict, p in zip(claims, sure, corrected(claims), strict=True):
        pair = (claim.table, claim.first, claim.second)
        of = [v for d, v in zip(found, verdicts, strict=True) if (d.table, d.first, d.second) == pair]
        told_ = f"{claim.first} less {claim.second}"
        lines.append(f"{_line(claim, verdict, p, titles[claim.table], told_)} {_counts(of)} |")
    lines.append(f"| **all** | | | | | {_counts(sure).replace(' | ', ' / ')} | {_counts(verdicts)} |")
    lines += ["", "| questions, table | agrees | disagrees | undecided |", "|---|---:|---:|---:|"]
    for table, column in dict.fromkeys((d.table, d.column) for d in found):
        of = [v for d, v in zip(found, verdicts, strict=True) if (d.table, d.column) == (table, column)]
        lines.append(f"| {column}, {titles[table]} | {_counts(of)} |")
    for one in tables:
        full: dict[str, list[int]] = {}
        for row in rows:
            if row["table"] == one.name and row["strategy"] == "full":
                full.setdefault(row["task"], []).append(int(row["right"]))
        each = ", ".join(f"{100 * np.mean(v):.1f} % of {len(v) // len(trainings)} {t}" for t, v in sorted(full.items()))
        source = one.source.partition(" (")[0]
        lines += ["", f"## {one.title}", "", f"{source}. Unpruned, {words['answer']} {each} rightly.", ""]
        lines += ["| keep | questions | first less second | paper | ours | with the paper's sign | |"]
        lines += ["|---|---|---|---:|---|---:|---|"]
        for d, verdict, p in zip(found, verdicts, adjusted, strict=True):
            if d.table == one.name:
                about = f"{d.column} ({d.n})"
                lines.append(_line(d, verdict, p, str(d.keep), about, f"{d.first} less {d.second}"))
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
