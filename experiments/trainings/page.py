"""``docs/results/trainings.md`` from the answers of several trainings: ``python -m experiments.trainings.page``."""

from __future__ import annotations

import argparse
import csv
import gzip
import itertools
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from tokenprune.evaluation.paper_tables import PaperTable, paper_tables
from tokenprune.evaluation.statistics import Ranked, ranked

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "results" / "trainings.md"
ABOUT = (
    "The {trainings} models are of {kind} kind; `experiments/trainings/README.md` says how they were trained and "
    "what each has learnt. {asked}. Random is the mean of three draws. Unpruned, they answer {full} rightly. With so "
    "few trainings an interval can be too narrow. What is undecided here is undecided."
)
NOT_RANKED = ("full", "wrong image", "oracle")
LEVEL = 0.05
TOKENS = 144
"""Of a plain scene, and of most natural ones; the others have 96."""

HEAD = """\
<!-- made by python -m experiments.trainings.page -->

# Several trainings

One training of one small model ranks strategies in one way, another training in another. This page asks the same
questions of several models of one recipe that differ in their first weights, and its intervals are over **trainings and
pictures**: both are drawn again, with replacement, {draws:,} times. "Best" is the share of these draws in which a
strategy is the best of all (ties share), "rank" its mean rank. p-values are two-sided, and corrected for the number of
pairs (Benjamini and Hochberg).

```console
python -m experiments.trainings.page
```
"""


@dataclass(frozen=True)
class Table:
    """Answers at one budget.

    Attributes
    ----------
    strategies, trainings : tuple of str
    sums : array of shape (T, S, C)
        Right answers, the mean over draws, of each training, strategy and picture.
    sizes : array of shape (T, C)
        Questions.
    """

    strategies: tuple[str, ...]
    trainings: tuple[str, ...]
    sums: NDArray[np.float64]
    sizes: NDArray[np.float64]

    @property
    def by_training(self) -> NDArray[np.float64]:
        """Accuracy of each training and strategy: (T, S)."""
        return np.asarray(self.sums.sum(2) / self.sizes.sum(1)[:, None])


Row = dict[str, str]


def read(path: Path) -> list[Row]:
    """Lines of a table that ``collect`` wrote."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def picture_of(sample: str) -> str:
    """Name of the picture that a question is about: split, seed and number."""
    split, seed, number = sample.removeprefix("natural-").split("-")[:3]
    return f"{split}-{seed}-{number}"


def scenes_of(sample: str) -> str:
    """Set of scenes that a question is about."""
    return "natural" if sample.startswith("natural-") else "plain"


def family_of(sample: str) -> str:
    """Type of a question."""
    return sample.removeprefix("natural-").split("-")[3]


def table(rows: Sequence[Row], keep: int) -> Table:
    """Answers at one budget; strategies that some training did not answer in full are left out.

    Raises
    ------
    ValueError
        Trainings were asked different questions.
    """
    chosen = [row for row in rows if int(row["keep"]) == keep]
    trainings = tuple(dict.fromkeys(row["training"] for row in chosen))
    samples = {t: {row["sample"] for row in chosen if row["training"] == t} for t in trainings}
    if len({frozenset(asked) for asked in samples.values()}) > 1:
        raise ValueError(f"trainings {', '.join(trainings)} were asked different questions at {keep} tokens")
    right: dict[tuple[str, str, str], list[float]] = {}
    for row in chosen:
        right.setdefault((row["training"], row["strategy"], row["sample"]), []).append(float(row["right"]))
    every = sorted(samples[trainings[0]])
    names = sorted({row["strategy"] for row in chosen})
    strategies = tuple(s for s in names if all((t, s, q) in right for t in trainings for q in every))
    pictures = {name: i for i, name in enumerate(dict.fromkeys(map(picture_of, every)))}
    sums = np.zeros((len(trainings), len(strategies), len(pictures)))
    sizes = np.zeros((len(trainings), len(pictures)))
    for t, training in enumerate(trainings):
        for sample in every:
            place = pictures[picture_of(sample)]
            sizes[t, place] += 1
            for s, strategy in enumerate(strategies):
                sums[t, s, place] += np.mean(right[training, strategy, sample])
    return Table(strategies, trainings, sums, sizes)


def decided(found: Ranked, first: int, second: int) -> str:
    """What pairs say: "better", "worse" or "undecided"."""
    if found.p[first, second] >= LEVEL:
        return "undecided"
    return "better" if found.wins[first, second] > 0.5 else "worse"


def beside(theirs: float, found: Ranked, i: int, j: int) -> str:
    """The paper's difference, ours, and whether it is decided: the last cells of a line, in points."""
    sign = decided(found, i, j)
    agrees = (sign == "better") == (theirs > 0)
    verdict = "undecided" if sign == "undecided" else "**agrees**" if agrees else "**disagrees**"
    ours = 100 * (found.mean[i] - found.mean[j])
    return f"| {theirs:+.1f} | {ours:+.1f} | {verdict} ({found.wins[i, j]:.2f}, p {max(found.p[i, j], 0.001):.3f}) |"


def agreement(accuracies: NDArray[np.float64]) -> list[float]:
    """Rank correlation (Spearman) of strategies between each two trainings: accuracies (T, S)."""
    return [
        float(stats.spearmanr(one, other).statistic)
        for one, other in itertools.combinations(np.round(accuracies, 9), 2)  # so that equal sums are ties
    ]


def section(answers: Table, title: str, keep: int, draws: int) -> str:
    """Table of one budget, best mean rank first, and which pairs are decided."""
    found = ranked(answers.sums, answers.sizes, draws=draws)
    names, each = answers.strategies, answers.by_training
    order = sorted(range(len(names)), key=lambda i: (found.rank[i], names[i]))
    marks = " | ".join(answers.trainings)
    lines = [
        f"### {title}, {keep} tokens",
        "",
        f"| strategy | {marks} | mean | 95 % | rank | best | against random | better / worse than |",
        "|---|" + "---:|" * len(answers.trainings) + "---:|---|---:|---:|---|---|",
    ]
    base = names.index("random")
    for i in order:
        verdicts = [decided(found, i, j) for j in range(len(names)) if j != i]
        against = "-" if i == base else f"{decided(found, i, base)} (p {max(found.p[i, base], 0.001):.3f})"
        accuracies = " | ".join(f"{100 * value:.1f}" for value in each[:, i])
        lines.append(
            f"| {names[i]} | {accuracies} | **{100 * found.mean[i]:.1f}** "
            f"| {100 * found.low[i]:.0f}-{100 * found.high[i]:.0f} | {found.rank[i]:.1f} | {found.best[i]:.2f} "
            f"| {against} | {verdicts.count('better')} / {verdicts.count('worse')} |"
        )
    pairs = len(names) * (len(names) - 1) // 2
    sure = sum(decided(found, i, j) != "undecided" for i in range(len(names)) for j in range(i))
    alike = agreement(each)
    lines += [
        "",
        f"Of {pairs} pairs, {sure} are decided at {LEVEL}. Ranks in two of the trainings correlate at "
        f"{np.mean(alike):.2f} on average ({min(alike):.2f} to {max(alike):.2f}).",
        "",
    ]
    return "\n".join(lines)


PAIRS = (
    ("mi-pruner", "random"),
    ("mi-pruner", "similarity"),
    ("mi-pruner", "attention"),
    ("mi-attention", "random"),
    ("mi-attention", "attention"),
    ("mi-attention", "mi-pruner"),
    ("attention", "random"),
    ("similarity", "random"),
)
"""Rows of the paper's table that are held against each other."""


def directions(rows: Sequence[Row], published: PaperTable, draws: int) -> str:
    """The paper's differences beside ours, and whether ours have its sign beyond chance.

    Parameters
    ----------
    rows : sequence of Row
        Answers to POPE-like questions.
    published : PaperTable
        Budgets are shares of 144 tokens; its last accuracy is over all of POPE.
    draws : int
    """
    (column,) = (i for i, c in enumerate(published.columns) if (c.family, c.metric) == ("all", "accuracy"))
    lines = [
        f"### {published.title}",
        "",
        f"{published.source}: difference of accuracy over POPE's three settings, in points, and the same on questions",
        "about painted scenes. **agrees**: ours has the paper's sign beyond chance (corrected p below 0.05);",
        "**disagrees**: the other sign beyond chance; otherwise undecided. In brackets: share of draws in which the",
        "first is better, and the corrected p-value.",
        "",
        "| keep | strategies | paper | ours | |",
        "|---|---|---:|---:|---|",
    ]
    for budget in published.budgets:
        keep = round(TOKENS * float(str(budget).rstrip("%")) / 100)
        one = table(rows, keep)
        found = ranked(one.sums, one.sizes, draws=draws)
        for first, second in PAIRS:
            i, j = one.strategies.index(first), one.strategies.index(second)
            theirs = published.values[budget][first][column] - published.values[budget][second][column]
            lines.append(f"| {budget} ({keep}) | {first} less {second} {beside(theirs, found, i, j)}")
    n = len({row["sample"] for row in rows})
    return "\n".join([*lines, "", f"{n} questions, {len(one.trainings)} trainings.", ""])


@dataclass(frozen=True)
class Family:
    """Trainings of one kind of model, and what the page says of them.

    Attributes
    ----------
    kind, heading : str
    answers : Path
        What ``collect`` wrote.
    published : str
        Table of the paper that is held against answers to POPE-like questions, where this page does so.
    """

    kind: str
    heading: str
    answers: Path
    published: str = ""


RESULTS = HERE / "results"
FAMILIES = (Family("Qwen3-VL's", "Qwen3-VL", RESULTS / "answers.csv.gz", "9-2b"),)


def family_page(family: Family, rows: Sequence[Row], draws: int) -> str:
    """All about one family."""
    pruned = [row for row in rows if row["strategy"] not in NOT_RANKED]
    whole = [row for row in rows if row["strategy"] == "full"]
    sets = [name for name in ("plain", "natural") if any(scenes_of(row["sample"]) == name for row in whole)]
    parts, told, full = [], [], []
    for scenes in sets:
        own = [row for row in pruned if scenes_of(row["sample"]) == scenes]
        keeps = sorted({int(row["keep"]) for row in own}, reverse=True)
        title = f"{family.heading}, {scenes} scenes"
        parts += [section(table(own, keep), title, keep, draws) for keep in keeps]
        samples = {row["sample"] for row in whole if scenes_of(row["sample"]) == scenes}
        families, pictures = sorted(set(map(family_of, samples))), len(set(map(picture_of, samples)))
        told.append(f"{len(samples)} questions ({', '.join(families)}) about {pictures} {scenes} scenes")
        shares: dict[str, list[int]] = {}
        for row in whole:
            if row["sample"] in samples:
                shares.setdefault(row["training"], []).append(int(row["right"]))
        each = ", ".join(f"{100 * sum(v) / len(v):.1f} % ({name})" for name, v in sorted(shares.items()))
        full.append(f"{each} of those about {scenes} scenes")
    about = ABOUT.format(
        trainings=len({row["training"] for row in whole}),
        kind=family.kind,
        asked=f"Each was asked {' and '.join(told)}",
        full="; ".join(full),
    )
    stops = sum(int(row["stops"]) for row in pruned) / len(pruned)
    ending = f"Of all {len(pruned):,} answers from pruned prompts, {100 * stops:.2f} % are one word and stop.\n"
    head = f"## {family.heading}\n\n{textwrap.fill(about, 118)}\n"
    if family.published:
        pope = [row for row in pruned if (scenes_of(row["sample"]), family_of(row["sample"])) == ("plain", "pope")]
        parts.insert(0, directions(pope, paper_tables(family.published)[0], draws))
    return "\n".join([head, *parts, ending])


def page(families: Sequence[Family] = FAMILIES, draws: int = 2000) -> str:
    """The whole page."""
    parts = [family_page(one, read(one.answers), draws) for one in families]
    return "\n".join([HEAD.format(draws=draws), *parts])


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=PAGE)
    arguments = parser.parse_args()
    arguments.out.write_text(page())
    print(arguments.out)


if __name__ == "__main__":
    main()
