"""Metrics: laws, cases, and the numbers that lmms-eval's own functions give for the same predictions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tokenprune as tp
from tokenprune.core.errors import ConfigError, NonFiniteError, UnknownNameError
from tokenprune.core.registry import registry
from tokenprune.data.own import OwnQuestion
from tokenprune.evaluation.metrics import build_metric, graded
from tokenprune.evaluation.metrics.vqa import vqa_accuracy, vqa_normalized


def asked(answer: str = "dog", metric: str = "words", **given: Any) -> OwnQuestion:
    return OwnQuestion("What?", answer, "t", "f", metric=metric, **{"answers": (answer,), **given})


OPTIONS: dict[str, Any] = {"choices": ("A", "B", "C"), "options": ("cat", "a dog", "cow")}
CASES = [
    ("words", "Dog.", asked(), True),
    ("words", "hot dog", asked(), False),
    ("words", "puppy", asked(answers=("dog", "puppy")), True),
    ("exact", "T-Shirt.", asked("tshirt"), True),
    ("exact", "", asked("?"), False),
    ("choice", "B", asked("B", **OPTIONS), True),
    ("choice", "(b) a dog", asked("B", **OPTIONS), True),
    ("choice", "B: a dog", asked("B", **OPTIONS), True),
    ("choice", "A dog", asked("B", **OPTIONS), True),
    ("choice", "cow", asked("B", **OPTIONS), False),
    ("choice", "because", asked("B", **OPTIONS), False),
    ("choice:strict=true", "b. a dog", asked("B", **OPTIONS), False),
    ("choice:strict=true", "B. a dog", asked("B", **OPTIONS), True),
    ("yes-no", "No, there is none.", asked("no"), True),
    ("yes-no", "Nothing", asked("no"), False),
    ("yes-no:strict=true", "No.", asked("no"), False),
    ("mme", "Nope", asked("No"), True),
    ("mme", "y", asked("Yes"), True),
    ("mme", "I say no", asked("No"), False),
    ("number", "1,050", asked("1000"), True),
    ("number", "1060", asked("1000"), False),
    ("number:tolerance=0.1", "1060", asked("1000"), True),
    ("number", "-5", asked("5"), False),
    ("number", "50%", asked("0.5"), True),
    ("number", "north", asked("North"), True),
]


@pytest.mark.parametrize(("name", "said", "question", "right"), CASES)
def test_right_or_wrong(name: str, said: str, question: OwnQuestion, right: bool) -> None:
    assert build_metric(name).score(said, question) == right


# answers, prediction, and what lmms-eval 0.7.3 gives for TextVQA
VQA = [
    (["stop"] * 9 + ["go"], "Stop.", 1.0),
    (["stop"] * 9 + ["go"], "go", 0.3),
    (["a", "b", "c"] * 3 + ["3"], "three", 0.3),
    (["3"] * 2 + ["b"] * 8, "three", 0.6),
    (["dont walk"] * 3 + ["walk"] * 7, "Don't walk!", 0.9),
    (["1,000"] * 4 + ["x"] * 6, "1000", 1.0),
]


@pytest.mark.parametrize(("answers", "said", "expected"), VQA)
def test_vqa_accuracy(answers: list[str], said: str, expected: float) -> None:
    assert vqa_accuracy(said, answers) == pytest.approx(expected)


@given(st.text(alphabet="ab 'the.,-/1", max_size=20))
def test_a_normalised_answer_agrees_with_itself(text: str) -> None:
    assert vqa_accuracy(text, [text] * 10) == pytest.approx(1.0)
    assert vqa_normalized(text) == vqa_normalized(text.upper())


@given(st.text(max_size=12), st.text(max_size=12))
def test_anls_is_a_share(a: str, b: str) -> None:
    metric = build_metric("anls:threshold=0.0")
    assert 0 <= metric.score(a, asked(b)) <= 1
    assert metric.score(a, asked(a)) == 1


def test_anls_below_the_threshold_is_nothing() -> None:
    assert build_metric("anls").score("dig", asked("dog")) == pytest.approx(2 / 3)
    assert build_metric("anls").score("cat", asked("dog")) == 0


def line(said: str, answer: str, image: str = "i", family: str = "count") -> dict[str, Any]:
    right = build_metric("mme").score(said, asked(answer))
    return {"prediction": said, "answer": answer, "image": image, "family": family, "correct": right}


def test_yes_no_totals_come_from_what_was_predicted() -> None:
    """Half the answers are yes and a quarter of the predictions: the rate is a quarter."""
    lines = [line("Yes", "yes"), line("No", "yes"), line("no.", "no"), line("no", "no")]
    found = build_metric("yes-no").totals(lines)
    assert found == pytest.approx({"precision": 1.0, "recall": 0.5, "f1": 2 / 3, "yes_rate": 0.25})


def test_mme_counts_pictures_with_both_right() -> None:
    lines = [line("Yes", "yes", "1"), line("No", "no", "1"), line("Yes", "yes", "2"), line("Yes", "no", "2")]
    lines += [line("Yes", "yes", "1", "code_reasoning"), line("No", "no", "1", "code_reasoning")]
    found = build_metric("mme").totals(lines)
    # count: accuracy 75, accuracy+ 50; code_reasoning: 100 and 100
    assert (found["mme_perception"], found["mme_cognition"], found["mme"]) == (125, 200, 325)
    assert "mme" not in build_metric("mme").totals(lines[:3]), "a picture lacks its second question"


def test_a_metric_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_local", {kind: dict(names) for kind, names in registry._local.items()})

    @tp.register("metrics", "first-letter")
    class FirstLetter(tp.Metric):
        def score(self, prediction: str, question: Any) -> float:
            return 2.0 if prediction == "far off" else float(prediction[:1] == question.answer[:1])

    assert graded("dig", asked(metric="first-letter")) == 1.0
    with pytest.raises(NonFiniteError, match=r"'first-letter' gave 2\.0 for 'far off', not 0\.\.1"):
        graded("far off", asked(metric="first-letter"))


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("exakt", UnknownNameError, "did you mean 'exact'"),
        ("number:tolerance", ConfigError, "name:option=value"),
        ("number:tolerance=2", ConfigError, "from 0 to below 1"),
    ],
)
def test_metrics_that_are_none(name: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        build_metric(name)


def test_grading_needs_what_the_metric_reads() -> None:
    with pytest.raises(ConfigError, match="answer is yes or no"):
        build_metric("yes-no").score("yes", asked("dog"))
    with pytest.raises(ConfigError, match="at least 4 people"):
        build_metric("vqa").score("dog", asked())
