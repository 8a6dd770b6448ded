"""Answers of comparisons as one small table: ``python -m experiments.trainings.collect DIR ... --out FILE.csv.gz``.

Each DIR holds a folder of results for each set of scenes. A line an answer: training, scenes, strategy, keep, draw,
question, and whether it is right; lines are sorted, so that the same answers make the same file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from experiments.packed import write_packed

FIELDS = ("training", "scenes", "strategy", "keep", "draw", "sample", "right", "stops")


def answers(folders: Sequence[Path]) -> Iterator[tuple[str, str, str, int, int, str, int, int]]:
    """Every answer in the folders, once."""
    for folder in folders:
        for file in sorted(folder.glob("*/results.jsonl")):
            seen = set()
            with file.open(encoding="utf-8") as lines:
                for line in lines:
                    row = json.loads(line)
                    key = (row["strategy"], row["keep"], row["draw"], row["sample"])
                    if key not in seen:
                        seen.add(key)
                        stops = int(len(row["prediction"].split()) <= 1)
                        yield (folder.name, file.parent.name, *key, int(row["correct"]), stops)


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    write_packed(arguments.out, FIELDS, sorted(answers(arguments.folders)))


if __name__ == "__main__":
    main()
