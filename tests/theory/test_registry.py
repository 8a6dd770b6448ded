"""Verdicts follow from evidence, and every declared one is borne out."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from tokenprune.core.errors import UnknownNameError
from tokenprune_theory.evidence import Conflict, Counterexample, Exam, Trial
from tokenprune_theory.instances import Channel, Numbers
from tokenprune_theory.registry import CLAIMS as REGISTERED
from tokenprune_theory.registry import Claim, Origin, Verdict, all_claims, claim, examine, find_claims

CLAIMS = all_claims()


def judged(evidence, verdict=Verdict.HOLDS):
    return examine(Claim("x", "section", "ref", "says", verdict, "", "", evidence), cases=3)


def test_about_sixty_rows_and_twelve_results_are_covered():
    assert len(CLAIMS) >= 72
    sections = [c.section for c in CLAIMS.values()]
    assert len(set(sections)) == len([s for s, before in zip(sections, [None, *sections], strict=False) if s != before])


@pytest.mark.parametrize("id", CLAIMS)
def test_claim_is_borne_out(id):
    result = examine(CLAIMS[id], cases=8, seed=1)
    assert result.agrees, [e.describe() for e in result.failures] or result.derived


@pytest.mark.parametrize("id", CLAIMS)
def test_claim_is_written_out(id):
    claim = CLAIMS[id]
    assert claim.statement.endswith(".")
    assert claim.derivation
    assert claim.verdict is Verdict.HOLDS or claim.corrected
    assert claim.ref


@pytest.mark.parametrize("id", ["mi-forms", "max-below-sum", "estimator", "first-pick"])
def test_any_other_verdict_disagrees(id):
    for verdict in Verdict:
        flipped = dataclasses.replace(CLAIMS[id], verdict=verdict)
        assert examine(flipped, cases=5).agrees == (verdict is CLAIMS[id].verdict)


def test_verdicts_follow_from_evidence():
    def law(exam):
        exam.holds("a", lambda x: x, [0.0])

    def refuted(exam):
        exam.corrected("b", lambda x: x, [0.0])
        exam.refutes("c", 2, "<=", 1)

    def saved(exam):
        exam.holds_if("d", lambda x: x, [0.0])
        exam.refutes("c", 2, "<=", 1)

    def open_(exam):
        exam.depends("e", 1, 2)

    assert judged(law).derived is Verdict.HOLDS
    assert judged(refuted).derived is Verdict.FALSE
    assert judged(saved).derived is Verdict.ASSUMING
    assert judged(open_).derived is Verdict.INCOMPLETE


@pytest.mark.parametrize(
    "evidence",
    [
        lambda exam: None,
        lambda exam: exam.measure("only a number", 1),
        lambda exam: exam.holds("violated", lambda x: x, [0.0, 1e-3]),
        lambda exam: exam.holds("nan", lambda x: x, [0.0, math.nan]),
        lambda exam: exam.holds("no instance", lambda x: x, []),
        lambda exam: exam.holds("no case in point", lambda x: x, [-math.inf]),
        lambda exam: exam.refutes("no counterexample", 1, "<=", 1),
        lambda exam: exam.refutes("rounding", 1 + 1e-12, "<=", 1.0),
        lambda exam: exam.depends("the same", 1.0, 1.0 + 1e-12),
        lambda exam: exam.holds_if("an assumption that nothing shows to be needed", lambda x: x, [0.0]),
        lambda exam: exam.corrected("only the corrected form", lambda x: x, [0.0]),
    ],
)
def test_evidence_that_supports_nothing(evidence):
    result = judged(evidence)
    assert result.derived is None
    assert not result.agrees


def test_a_failing_correction_spoils_a_counterexample():
    def evidence(exam):
        exam.refutes("c", 2, "<=", 1)
        exam.corrected("but this is violated", lambda x: x, [1.0])

    assert judged(evidence, Verdict.FALSE).derived is None


@pytest.mark.parametrize(
    ("left", "relation", "right", "violated"),
    [
        (2.0, "<=", 1.0, True),
        (1.0, "<=", 2.0, False),
        (1.0, ">=", 2.0, True),
        (2.0, ">=", 1.0, False),
        (math.nan, "==", 1.0, True),
        (1, "==", 1.0, False),
        ((0, 1), "==", (0, 2), True),
        ((0, 1), "==", (0, 1), False),
        (math.nan, "<=", 1.0, False),
    ],
)
def test_witnesses(left, relation, right, violated):
    assert Witness("w", left, relation, right, 1e-9).passed is violated


def test_lines_show_the_numbers():
    assert Witness("w", 0.25, "<=", (1 / 3), 0).describe() == "w: not 0.25 ≤ 0.333333"
    assert Witness("w", np.float64(math.nan), "==", 0.0, 0).describe() == "w: not nan = 0"
    assert Witness("w", 1, "==", 2, 0, portable=False).describe(measured=False) == "w"
    assert Conflict("c", (0, 1), frozenset({2})).describe() == "c: (0, 1) or (2)"
    assert Law("l", 0.0, 0.0, 1, "statement").describe() == "l: exact, largest violation 0.0e+00 over 1 instance"
    assert Law("l", 2e-16, 1e-12, 5, "statement").describe(measured=False) == "l: tolerance 1e-12"


def test_the_same_seed_gives_the_same_numbers_alone_and_together():
    alone = examine(find_claims(["max-below-sum"])[0], cases=5, seed=3)
    again = examine(CLAIMS["max-below-sum"], cases=5, seed=3)
    assert [m.value for m in alone.measures] == [m.value for m in again.measures]
    other = examine(CLAIMS["mi-forms"], cases=5, seed=4)
    same = examine(CLAIMS["mi-forms"], cases=5, seed=3)
    assert [e.error for e in other.evidence] != [e.error for e in same.evidence]


def test_instances_are_counted():
    exam = Exam(np.random.default_rng(0), 10)
    exam.holds("all", lambda x: x - 1, lambda rng: rng.random())
    exam.holds("a tenth", lambda x: x - 1, lambda rng: rng.random(), share=0.1)
    exam.holds("pairs", lambda x, y: x - y, [(1, 2), (3, 5)])
    assert [e.cases for e in exam.evidence] == [10, 1, 2]
    assert exam.evidence[2].error == -1


def test_unknown_claims_are_refused_with_the_closest():
    with pytest.raises(UnknownNameError, match="no claim 'mi-form'; did you mean 'mi-forms'"):
        find_claims(["mi-form"])


def test_two_claims_cannot_share_an_id():
    from tokenprune_theory.registry import claim

    with pytest.raises(ValueError, match="two claims have the id 'mi-forms'"):
        claim("mi-forms", section="s", ref="r", says="x.", verdict=Verdict.HOLDS)(lambda exam: None)
