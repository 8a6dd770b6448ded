"""The page of several trainings is made from its answers, and its verdicts follow from them."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest

from experiments.trainings.page import PAGE, Row, agreement, directions, page, picture_of, read, table
from tokenprune.evaluation.paper_tables import paper_tables


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == page()


def made(better: str, worse: str) -> list[Row]:
    """Answers in which one strategy is always right, one never, and the others half of the time."""
    names = ("mi-pruner", "mi-attention", "attention", "similarity", "random")
    rows = []
    for training in ("a", "b", "c"):
        for keep in (72, 36):
            for name in names:
                for number in range(20):
                    right = 1 if name == better else 0 if name == worse else number % 2
                    sample = f"test-0-{number}-pope-random"
                    rows.append(
                        {
                            "training": training,
                            "strategy": name,
                            "keep": str(keep),
                            "sample": sample,
                            "right": str(right),
                        }
                    )
    return rows


def test_a_direction_is_the_papers_only_where_the_sign_is() -> None:
    published = paper_tables("9-2b")[0]
    text = directions(made("mi-pruner", "random"), published, draws=200)
    lines = [line for line in text.splitlines() if "mi-pruner less random" in line]
    assert len(lines) == 2
    assert all("| +1.0 |" in line or "| +3.9 |" in line for line in lines)  # 89.78 - 88.76 and 89.51 - 85.59
    assert all("| +100.0 |" in line and "**agrees**" in line for line in lines)
    text = directions(made("random", "mi-pruner"), published, draws=200)
    assert all("**disagrees**" in line for line in text.splitlines() if "mi-pruner less random" in line)
    equal = [line for line in text.splitlines() if "mi-attention less attention" in line]
    assert all("undecided (0.50, p 1.000)" in line for line in equal)


def test_answers_must_be_to_the_same_questions(tmp_path: Path) -> None:
    rows = made("mi-pruner", "random")
    with pytest.raises(ValueError, match="asked different questions"):
        table([row for row in rows if row["training"] != "a" or row["sample"] != "test-0-3-pope-random"], 72)
    # a strategy that one training did not answer is left out
    fewer = [row for row in rows if row["training"] != "a" or row["strategy"] != "attention"]
    assert "attention" not in table(fewer, 72).strategies
    file = tmp_path / "answers.csv.gz"
    with gzip.open(file, "wt", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    assert read(file) == rows
    assert picture_of("natural-test-0-12-gqa-color") == "test-0-12"


def test_trainings_agree_as_far_as_their_ranks_do() -> None:
    one = np.array([0.9, 0.5, 0.7, 0.1])
    assert agreement(np.stack([one, one**2, 1 - one])) == pytest.approx([1, -1, -1])
