"""``docs/results/clips.md`` from the answers of trainings on clips: ``python -m experiments.clips.page``."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.trainings.page import NOT_RANKED, Row, beside, decided, read, table
from tokenprune.data.scenes import CLIP_FAMILIES
from tokenprune.evaluation.paper_tables import PaperTable, paper_tables
from tokenprune.evaluation.statistics import ranked
from tokenprune.zoo.embedded_video import TOKENS

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "results" / "clips.md"
PAIRS = (("mi-pruner", "fastv"), ("mi-pruner", "vispruner"), ("vispruner", "fastv"))
"""Rows of the paper's table that are held against each other."""

HEAD = """\
<!-- made by python -m experiments.clips.page -->

# Clips

What strategies leave of **eight-frame clips**, asked of {trainings} small models of Qwen3-VL's kind that see them
(`experiments/clips/README.md` says how they were trained): what happens (TGIF-QA's kind of questions), who or what
(MSVD-QA's), how many and where (MSRVTT-QA's). A clip has {tokens} tokens, four blocks of 64 for two frames each.
Budgets are the paper's shares: 227 and 114 of 2,048 tokens are {budgets} of {tokens}.

Each was asked the same {questions:,} questions about {clips} clips. Unpruned, they answer {full} rightly; with
another clip, {wrong}. Random is the mean of three draws. Intervals are over **trainings and
clips**: both are drawn again, with replacement, {draws:,} times; p-values are two-sided and corrected for the number of
pairs (Benjamini and Hochberg). {few}

```console
tokenprune compare --model embedded-video --budgets {first} --out clips
tokenprune table 4 --model embedded-video --out results
python -m experiments.clips.page
```
"""


HEADING = """\
## The paper's differences

{source}.

"""
DIRECTIONS = """\
## The paper's differences

{source}:
difference of accuracy in points, and the same on clips. **agrees**: ours has the paper's sign beyond chance
(corrected p below 0.05); **disagrees**: the other sign beyond chance; otherwise undecided. In brackets: share of draws
in which the first is better, and the corrected p-value.

| keep | questions | strategies | paper | ours | |
|---|---|---|---:|---:|---|
"""


def family_of(sample: str) -> str:
    """Type of a question."""
    return sample.split("-")[3]


def shares(rows: Sequence[Row], strategy: str) -> str:
    """Accuracy of a row that is not pruned, by training."""
    found: dict[str, list[int]] = {}
    for row in rows:
        if row["strategy"] == strategy:
            found.setdefault(row["training"], []).append(int(row["right"]))
    return ", ".join(f"{100 * sum(values) / len(values):.1f} % ({name})" for name, values in sorted(found.items()))


def section(rows: Sequence[Row], keep: int, draws: int) -> str:
    """Table of one budget, best mean rank first."""
    every = table(rows, keep)
    found = ranked(every.sums, every.sizes, draws=draws)
    parts = {
        family: table([row for row in rows if family_of(row["sample"]) == family], keep) for family in CLIP_FAMILIES
    }
    lines = [
        f"## {keep} of {TOKENS} tokens",
        "",
        f"| strategy | {' | '.join(every.trainings)} | {' | '.join(parts)} | mean | 95 % | rank | against random |",
        "|---|" + "---:|" * (len(every.trainings) + len(parts) + 1) + "---|---:|---|",
    ]
    base = every.strategies.index("random")
    for i in sorted(range(len(every.strategies)), key=lambda i: (found.rank[i], every.strategies[i])):
        name = every.strategies[i]
        by_family = (float(np.mean(one.by_training[:, one.strategies.index(name)])) for one in parts.values())
        each = [*every.by_training[:, i], *by_family]
        against = "-" if i == base else f"{decided(found, i, base)} (p {max(found.p[i, base], 0.001):.3f})"
        lines.append(
            f"| {name} | {' | '.join(f'{100 * value:.1f}' for value in each)} | **{100 * found.mean[i]:.1f}** "
            f"| {100 * found.low[i]:.0f}-{100 * found.high[i]:.0f} | {found.rank[i]:.1f} | {against} |"
        )
    return "\n".join([*lines, ""])


def directions(rows: Sequence[Row], published: PaperTable, draws: int) -> str:
    """The paper's differences beside ours, and whether ours have its sign beyond chance; of what was asked in full."""
    ours = published.on_clips(TOKENS)
    lines, missing = [], set()
    for budget, keep in zip(published.budgets, ours.budgets, strict=True):
        for column, theirs in zip(ours.columns, (c for c in published.columns if c.clips), strict=True):
            own = [row for row in rows if family_of(row["sample"]) == column.data and int(row["keep"]) == keep]
            one = table(own, int(keep)) if own else None
            found = None if one is None else ranked(one.sums, one.sizes, draws=draws)
            where = published.columns.index(theirs)
            for first, second in PAIRS:
                if one is None or found is None or not {first, second} <= set(one.strategies):
                    missing |= {
                        f"{name} at {keep}" for name in (first, second) if one is None or name not in one.strategies
                    }
                    continue
                i, j = one.strategies.index(first), one.strategies.index(second)
                paper = published.values[budget][first][where] - published.values[budget][second][where]
                pair = f"{first} less {second}"
                lines.append(f"| {budget} ({keep}) | {column.data} | {pair} {beside(paper, found, i, j)}")
    said = (DIRECTIONS if lines else HEADING).format(source=published.source).splitlines()
    if missing:
        told = (
            f"Not asked in full of all trainings, and so not compared yet: {', '.join(sorted(missing))}. The one that "
            "ships was asked the whole table, ten questions of each kind: `experiments/clips/README.md` has it."
        )
        lines += [*([""] if lines else []), textwrap.fill(told, 118)]
    return "\n".join([*said, *lines, ""])


def page(rows: Sequence[Row], draws: int = 2000) -> str:
    """The whole page."""
    rows = [row | {"sample": row["sample"].removeprefix("clips-")} for row in rows]
    pruned = [row for row in rows if row["strategy"] not in NOT_RANKED]
    keeps = sorted({int(row["keep"]) for row in pruned}, reverse=True)
    samples = {row["sample"] for row in rows}
    trainings = len({row["training"] for row in rows})
    budgets = [str(budget) for budget in paper_tables("4")[0].on_clips(TOKENS).budgets]
    head = HEAD.format(
        trainings=trainings,
        tokens=TOKENS,
        budgets=" and ".join(budgets),
        first=",".join(budgets),
        questions=len(samples),
        clips=len({tuple(sample.split("-")[:3]) for sample in samples}),
        full=shares(rows, "full"),
        wrong=shares(rows, "wrong image"),
        draws=draws,
        few=f"With {trainings} trainings an interval can be too narrow; what is undecided here is undecided.",
    )
    return "\n".join(
        [head, directions(pruned, paper_tables("4")[0], draws), *(section(pruned, keep, draws) for keep in keeps)]
    )


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--answers", type=Path, default=HERE / "results" / "answers.csv.gz")
    parser.add_argument("--out", type=Path, default=PAGE)
    arguments = parser.parse_args()
    arguments.out.write_text(page(read(arguments.answers)))
    print(arguments.out)


if __name__ == "__main__":
    main()
