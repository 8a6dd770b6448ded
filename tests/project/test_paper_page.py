"""The page of the paper's differences is made from its answers, and its verdicts follow from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.paper.directions import ANSWERS, COMMANDS, PAGE, Row, compared, corrected, page, read, write_answers
from tokenprune.evaluation.paper_tables import PaperTable, paper_tables


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(read(ANSWERS))


def answers(one: PaperTable, best: str, worst: str, pictures: int = 24) -> list[Row]:
    """Answers in which one strategy is always right, one never, and the others half of the time; two draws each."""
    rows = []
    for strategy in ("random", *one.strategies):
        for keep in one.counts.values():
            for number in range(2 * pictures):
                right = strategy == best or (strategy != worst and number % 4 < 2)
                row = {"table": one.name, "task": "pope", "family": ("random", "popular")[number % 2]}
                row |= {"strategy": strategy, "keep": str(keep), "image": f"0-{number // 2}", "sample": f"q{number}"}
                rows += [row | {"draw": draw, "right": str(int(right))} for draw in ("0", "1")]
    return rows


def test_a_difference_is_the_papers_only_where_the_sign_is() -> None:
    (one,) = paper_tables("8")
    for best, worst, verdict in (("mi-pruner", "random", "agrees"), ("random", "mi-pruner", "disagrees")):
        found = compared(one, answers(one, best, worst))
        told = [d for d in found if (d.first, d.second) == ("mi-pruner", "random")]
        sides = dict(zip(map(id, found), corrected(found), strict=True))
        # columns of settings that were asked, and that of all; F1 and yes-rates are no accuracies
        assert [(d.keep, d.column, d.n) for d in told if d.keep == 32] == [
            (32, "random acc", 24),
            (32, "popular acc", 24),
            (32, "all acc", 48),
        ]
        assert {d.verdict(sides[id(d)]) for d in told} == {verdict}
        assert {abs(d.ours) for d in told} == {100.0}
        equal = [d for d in found if (d.first, d.second) == ("mi-attention", "similarity")]
        assert equal
        assert {d.verdict(sides[id(d)]) for d in equal} == {"undecided"}
        assert {d.ours for d in equal} == {0.0}
    assert told[0].paper == pytest.approx(88.43 - 85.23)


def test_a_strategy_without_a_published_number_is_left_out() -> None:
    (one,) = paper_tables("1")
    found = compared(one, answers(one, "mi-pruner", "random"))
    assert {d.keep for d in found if d.second == "apet"} == {64}  # the paper has no APET at 32 tokens
    assert {d.column for d in found} == {"POPE"}


def test_answers_are_collected_once_and_sorted(tmp_path: Path) -> None:
    part = tmp_path / "table-8" / "scenes"
    part.mkdir(parents=True)
    line = {"task": "scenes-pope", "family": "random", "keep": 32, "draw": 0, "image": "21-0", "correct": True}
    lines = [line | {"strategy": name, "sample": "s"} for name in ("random", "full", "random", "oracle", "wrong image")]
    (part / "results.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    write_answers([tmp_path], tmp_path / "a.csv.gz")
    write_answers([tmp_path, tmp_path], tmp_path / "b.csv.gz")
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()
    rows = read(tmp_path / "a.csv.gz")
    assert [(row["strategy"], row["task"], row["right"]) for row in rows] == [
        ("full", "pope", "1"),
        ("random", "pope", "1"),
    ]
    assert set(COMMANDS) >= {row["table"] for row in rows}
