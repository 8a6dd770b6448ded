"""The same predictions give the numbers of lmms-eval's own functions, recorded by ``experiments/metrics/lmms_eval.py``.

Where numbers differ it is meant: the differences are listed here one by one, and explained in ``docs/own-data.md``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tokenprune.data.own import OwnQuestion
from tokenprune.evaluation.metrics import build_metric

FILE = Path(__file__).parents[1] / "vectors" / "metrics" / "lmms-eval.json"
RECORDED = json.loads(FILE.read_text(encoding="utf-8"))
CASES: dict[str, Any] = RECORDED["cases"]

YES_NO: dict[str, Any] = {"choices": ("Yes", "No")}
LETTERS = ("A", "B", "C")

Row = tuple[OwnQuestion, str, float]


def asked(answers: Iterable[str], **more: Any) -> OwnQuestion:
    known = tuple(answers)
    return OwnQuestion("?", known[0], "t", "f", answers=known, **more)


def scienceqa() -> list[Row]:
    return [
        (asked([LETTERS[right]], choices=LETTERS, options=tuple(options)), said, score)
        for options, right, said, score in CASES["scienceqa"]["rows"]
    ]


def yes_no() -> list[Row]:
    return [(asked([right], **YES_NO), said, score) for right, said, score in CASES["pope"]["rows"]]


ROWS: dict[str, list[Row]] = {
    "yes-no:strict=true": yes_no(),
    "mme": [(asked([right], **YES_NO), said, score) for _, _, right, said, score in CASES["mme"]["rows"]],
    "choice:strict=true": scienceqa(),
    "vqa": [(asked(answers), said, score) for answers, said, score, _ in CASES["textvqa"]["rows"]],
    "anls": [(asked(answers), said, score) for answers, said, score in CASES["anls"]["rows"]],
    "exact": [(asked([right]), said, score) for right, said, score in CASES["gqa"]["rows"]],
    "number": [(asked([right]), said, score) for right, said, score in CASES["chartqa"]["rows"]],
    "yes-no": yes_no(),
    "choice": scienceqa(),
}


def differences(name: str) -> set[tuple[str, float]]:
    """Predictions that we grade otherwise, and the grade that they get here."""
    metric = build_metric(name)
    found = set()
    for question, said, score in ROWS[name]:
        mine = float(metric.score(said, question))
        if mine != pytest.approx(float(score)):
            found.add((said, mine))
    return found


def test_many_predictions_were_recorded() -> None:
    assert RECORDED["lmms-eval"] == "0.7.3"
    for name, rows in ROWS.items():
        scores = {score for _, _, score in rows}
        assert len(rows) >= 250, name
        assert {0.0, 1.0} <= scores, name


@pytest.mark.parametrize("name", ["yes-no:strict=true", "mme", "choice:strict=true", "vqa", "anls"])
def test_grades_are_theirs(name: str) -> None:
    assert differences(name) == set()


def test_differences_that_are_meant() -> None:
    """Always to the better: what means the right answer to a reader is right."""
    assert differences("yes-no") <= {("No.", 1.0), ("no, there is none", 1.0), ("yes it is", 1.0)}
    assert differences("choice") == {(said, 1.0) for said in ("(B)", "a dog", "b. a dog", "C) cow")}
    # spaces around an answer
    assert all(said != said.strip() and mine == 1.0 for said, mine in differences("exact"))
    # signs of currencies, full stops, thousands in groups
    assert {said for said, _ in differences("number")} <= {"$100", "100.", "1,000"}


def test_totals_of_pope() -> None:
    lines = [{"prediction": said, "answer": right} for right, said, _ in CASES["pope"]["rows"]]
    mine, theirs = build_metric("yes-no:strict=true").totals(lines), CASES["pope"]["totals"]
    assert mine["precision"] == pytest.approx(theirs["precision"])
    # there, predictions that are neither yes nor no are left out of recall
    decided = [line for line in lines if line["prediction"].lower() in ("yes", "no")]
    found = build_metric("yes-no:strict=true").totals(decided)
    assert (found["recall"], found["f1"]) == pytest.approx((theirs["recall"], theirs["f1_score"]))
    assert mine["recall"] < theirs["recall"]
    # there, the yes-rate is that of the right answers
    assert theirs["yes_ratio"] == pytest.approx(sum(line["answer"] == "yes" for line in lines) / len(lines))
    assert mine["yes_rate"] == pytest.approx(sum(line["prediction"].lower() == "yes" for line in lines) / len(lines))


def test_totals_of_mme() -> None:
    lines = [
        {"prediction": said, "answer": right, "image": name, "family": category, "correct": bool(score)}
        for category, name, right, said, score in CASES["mme"]["rows"]
    ]
    mine, theirs = build_metric("mme").totals(lines), CASES["mme"]["totals"]
    assert mine["mme_perception"] == pytest.approx(theirs["mme_perception_score"])
    assert mine["mme_cognition"] == pytest.approx(theirs["mme_cognition_score"])


def test_totals_of_mm_vet() -> None:
    """Their overall score is the plain mean; over resampled questions it is that but for noise."""
    rows = CASES["mmvet"]["rows"]
    lines = [{"correct": grade, "family": needs, "image": str(i)} for i, (grade, needs) in enumerate(rows)]
    mine = build_metric("mmvet").totals(lines)
    overall = CASES["mmvet"]["totals"]["overall"] / 100
    assert sum(grade for grade, _ in rows) / len(rows) == pytest.approx(overall)
    assert mine["bootstrap_mean"] == pytest.approx(overall, abs=0.003)
