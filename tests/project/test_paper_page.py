"""The page of the paper's differences is made from its answers, and its verdicts follow from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.paper.ask import LIMITS
from experiments.paper.directions import (
    ANSWERS,
    PAGE,
    STATED,
    Difference,
    Row,
    compared,
    corrected,
    page,
    read,
    write_answers,
)
from tokenprune.evaluation.paper_tables import PaperTable, paper_tables


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(read(ANSWERS))


def answers(one: PaperTable, best: str, worst: str, pictures: int = 24, training: str = "embedded") -> list[Row]:
    """Answers in which one strategy is always right, one never, and the others half of the time; two draws each."""
    rows = []
    for strategy in ("random", *one.strategies):
        for keep in one.counts.values():
            for number in range(2 * pictures):
                right = strategy == best or (strategy != worst and number % 4 < 2)
                row = {
                    "training": training,
                    "table": one.name,
                    "task": "pope",
                    "family": ("random", "popular")[number % 2],
                }
                row |= {"strategy": strategy, "keep": str(keep), "image": f"0-{number // 2}", "sample": f"q{number}"}
                rows += [row | {"draw": draw, "right": str(int(right))} for draw in ("0", "1")]
    return rows


def test_a_difference_is_the_papers_only_where_the_sign_is() -> None:
    (one,) = paper_tables("8")
    for best, worst, verdict in (("mi-pruner", "random", "agrees"), ("random", "mi-pruner", "disagrees")):
        found, claims = compared(one, answers(one, best, worst))
        told = [d for d in found if (d.first, d.second) == ("mi-pruner", "random")]
        sides = dict(zip(map(id, found), corrected(found), strict=True))
        # columns of settings that were asked, and that of all; F1 and yes-rates are no accuracies
        assert [(d.keep, d.column, d.n) for d in told if d.keep == 32] == [
            (32, "random acc", 24),
            (32, "popular acc", 24),
            (32, "all acc", 48),
        ]
        assert {d.verdict(sides[id(d)]) for d in told} == {verdict}
        assert {abs(d.ours.mean) for d in told} == {100.0}
        equal = [d for d in found if (d.first, d.second) == ("mi-attention", "similarity")]
        assert equal
        assert {d.verdict(sides[id(d)]) for d in equal} == {"undecided"}
        assert {d.ours.mean for d in equal} == {0.0}
        # over all budgets and questions; the settings are parts of the column of all
        (claim,) = [d for d in claims if (d.first, d.second) == ("mi-pruner", "random")]
        assert (claim.n, claim.with_its_sign) == (3 * 48, int(verdict == "agrees"))
        assert claim.verdict(claim.ours.p) == verdict
    assert told[0].paper == pytest.approx(88.43 - 85.23)


def test_a_strategy_without_a_published_number_is_left_out() -> None:
    (one,) = paper_tables("1")
    found, _ = compared(one, answers(one, "mi-pruner", "random"))
    assert {d.keep for d in found if d.second == "apet"} == {64}  # the paper has no APET at 32 tokens
    assert {d.column for d in found} == {"POPE"}


def test_trainings_that_differ_decide_less() -> None:
    """Two trainings that say the opposite leave open what each of them would decide."""
    (one,) = paper_tables("8")
    for second, verdict in (("mi-pruner", "agrees"), ("random", "undecided")):
        worst = {"mi-pruner": "random", "random": "mi-pruner"}[second]
        rows = answers(one, "mi-pruner", "random", training="a") + answers(one, second, worst, training="b")
        found, _ = compared(one, rows)
        (told,) = [d for d in found if (d.first, d.second, d.keep, d.column) == ("mi-pruner", "random", 32, "all acc")]
        assert told.verdict(told.ours.p) == verdict
        assert told.by_training == (100.0, 100.0 if second == "mi-pruner" else -100.0)
        assert told.ours.low <= told.ours.mean <= told.ours.high


def test_a_picture_at_several_budgets_is_one_picture() -> None:
    """Asking the same at other budgets makes nothing surer."""
    first = {"t": {(f"{i}", f"q{i}"): [int(i != 0)] for i in range(6)}}
    second = {"t": {(f"{i}", f"q{i}"): [0] for i in range(6)}}
    once = Difference.of(first, second)
    assert once is not None
    twice = Difference.together([once, once])
    assert twice.pictures == once.pictures
    assert (twice.spread().mean, twice.spread().p) == (once.spread().mean, once.spread().p)
    assert twice.sizes.sum() == 2 * once.sizes.sum()


def test_what_the_paper_says_of_its_figures_is_about_their_rows() -> None:
    for name, pairs in STATED.items():
        (one,) = paper_tables(name)
        for column, first, second in pairs:
            assert column in {c.name for c in one.columns}
            assert {first, second} <= set(one.strategies)
        rows = [row | {"task": "gqa"} for row in answers(one, pairs[0][1], pairs[0][2])]
        found, _ = compared(one, rows)
        assert {d.verdict(d.ours.p) for d in found if (d.first, d.second) == pairs[0][1:]} == {"agrees"}
        assert {d.paper for d in found} == {None}


def test_answers_are_collected_once_and_sorted(tmp_path: Path) -> None:
    part = tmp_path / "seed-1" / "table-8" / "scenes"
    part.mkdir(parents=True)
    line = {"task": "scenes-pope", "family": "random", "keep": 32, "draw": 0, "image": "21-0", "correct": True}
    lines = [line | {"strategy": name, "sample": "s"} for name in ("random", "full", "random", "oracle", "wrong image")]
    (part / "results.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    write_answers([tmp_path / "seed-1"], tmp_path / "a.csv.gz")
    write_answers([tmp_path / "seed-1", tmp_path / "seed-1"], tmp_path / "b.csv.gz")
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()
    rows = read(tmp_path / "a.csv.gz")
    assert [(row["training"], row["strategy"], row["task"], row["right"]) for row in rows] == [
        ("seed-1", "full", "pope", "1"),
        ("seed-1", "random", "pope", "1"),
    ]
    assert {one.name for number in LIMITS for one in paper_tables(number)} >= {row["table"] for row in rows}
