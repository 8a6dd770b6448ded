"""Verdicts follow from evidence, and every declared one is borne out."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pytest

from tokenprune.core.errors import UnknownNameError
from tokenprune_theory.assumptions import find_assumption
from tokenprune_theory.evidence import Conflict, Counterexample, Exam, Trial
from tokenprune_theory.instances import Channel, Numbers
from tokenprune_theory.registry import CLAIMS as REGISTERED
from tokenprune_theory.registry import Claim, Origin, Verdict, all_claims, claim, examine, find_claims

CLAIMS = all_claims()


def judged(evidence, verdict=Verdict.HOLDS, assumes=("softmax",), needs=()):
    one = Claim("x", "section", Origin.GUESS, "", "(1)", "says", verdict, "", "", assumes, needs, evidence)
    return examine(one, cases=3)


TWO = Channel.of_counts((1, 1), (1, 2))
"""Something exact that meets the assumption of `judged`."""


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
    assert claim.place
    assert claim.evidence.__name__ == id.replace("-", "_")


EQUATIONS = range(1, 55)
SECTIONS = ("1", "2", "3.1", "3.2", "3.3", "4.1", "4.2", "4.3", "5.1", "5.2", "5.3", "5.4", "5.5", "6")
APPENDICES = ("A.1", "A.2", "A.3", "A.4", "B.1", "B.2", "B.3", "B.4", "B.5", "C.1", "C.2", "C.3", "C.4")


@pytest.mark.parametrize("id", [id for id, claim in CLAIMS.items() if claim.origin is Origin.PAPER])
def test_what_the_paper_says_is_found_there(id):
    ref = CLAIMS[id].ref
    numbers = [int(n) for n in re.findall(r"\((\d+)\)", ref)]
    assert all(n in EQUATIONS for n in numbers)
    named = re.findall(
        r"(?<![\w.(])(?:[ABC]\.\d|\d\.\d|\d)(?![\w.)])", re.sub(r"(line|Algorithm|Defs?\.?|Prop\. A\.) ?\d", "", ref)
    )
    assert all(section in SECTIONS + APPENDICES or section in ref for section in named)
    assert numbers or named or "Def" in ref


def test_ours_and_guesses_name_no_place_where_the_paper_would_say_them():
    others = [c for c in CLAIMS.values() if c.origin is not Origin.PAPER]
    assert all(c.about and not c.ref for c in others)
    assert all(c.verdict is Verdict.HOLDS for c in others if c.origin is Origin.OURS)


def test_a_place_belongs_to_what_the_paper_says():
    for origin, ref in ((Origin.PAPER, ""), (Origin.GUESS, "(3)")):
        with pytest.raises(ValueError, match="ref is where the paper says it"):
            claim("new", section="s", origin=origin, ref=ref, says="x.", verdict=Verdict.HOLDS)(lambda exam: None)
    assert "new" not in REGISTERED


def test_an_unknown_assumption_is_refused_when_the_claim_is_made():
    with pytest.raises(UnknownNameError, match="no assumption 'independent'; did you mean 'independence'"):
        claim("new", section="s", origin=Origin.OURS, says="x.", verdict=Verdict.HOLDS, assumes=("independent",))(
            lambda exam: None
        )


@pytest.mark.parametrize("id", CLAIMS)
def test_every_counterexample_is_exact_and_grants_the_assumptions(id):
    """On other seeds than the command's, with the checks of the assumptions run by hand."""
    result = examine(CLAIMS[id], cases=1, seed=3)
    for piece in result.evidence:
        if isinstance(piece, Counterexample):
            assert piece.meets
            assert piece.exact
            assert all(find_assumption(a).met(piece.on) for a in piece.meets)
            assert all(find_assumption(a).missed(piece.on) for a in piece.misses)
            assert set(CLAIMS[id].assumes) <= {*piece.meets, *piece.misses}


@pytest.mark.parametrize("id", ["mi-forms", "max-below-sum", "estimator", "first-pick"])
def test_any_other_verdict_disagrees(id):
    for verdict in Verdict:
        flipped = dataclasses.replace(CLAIMS[id], verdict=verdict)
        assert examine(flipped, cases=5).agrees == (verdict is CLAIMS[id].verdict)


def test_verdicts_follow_from_evidence():
    def tried(exam):
        exam.holds("a", lambda x: x, [0.0])

    def refuted(exam):
        exam.corrected("b", lambda x: x, [0.0])
        exam.refutes("c", TWO, 2, "<=", 1)

    def saved(exam):
        exam.holds_if("d", lambda x: x, [0.0])
        exam.refutes("c", TWO, 2, "<=", 1)

    def read_weaker(exam):
        exam.holds("a", lambda x: x, [0.0])
        exam.weaker("c", Channel.of_counts((1, 1), (1, 1)), 2, "<=", 1, without="distinct")

    def open_(exam):
        exam.depends("e", 1, 2)

    assert judged(tried).derived is Verdict.HOLDS
    assert judged(refuted).derived is Verdict.FALSE
    assert judged(saved, needs=("uniform text",)).derived is Verdict.ASSUMING
    assert judged(read_weaker).derived is Verdict.HOLDS
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
        lambda exam: exam.refutes("no counterexample", TWO, 1, "<=", 1),
        lambda exam: exam.refutes("rounding", TWO, 1 + 1e-12, "<=", 1.0),
        lambda exam: exam.refutes("not within the assumption", Channel(np.eye(2)), 2, "<=", 1),
        lambda exam: exam.refutes("no instance that it speaks about", Numbers({"N": 3}), 2, "<=", 1),
        lambda exam: exam.refutes("not exact", Channel(np.array([[math.pi / 4, 1 - math.pi / 4]])), 2, "<=", 1),
        lambda exam: exam.weaker("drops what it keeps", TWO, 2, "<=", 1, without="distinct"),
        lambda exam: exam.fails("could not be tried"),
        lambda exam: exam.leaves_out("a plugin", "nothing is known of it"),
        lambda exam: exam.depends("the same", 1.0, 1.0 + 1e-12),
        lambda exam: exam.holds_if("an assumption that nothing shows to be needed", lambda x: x, [0.0]),
        lambda exam: exam.corrected("only the corrected form", lambda x: x, [0.0]),
    ],
)
def test_evidence_that_supports_nothing(evidence):
    result = judged(evidence)
    assert result.derived is None
    assert not result.agrees


def test_a_counterexample_needs_an_assumption_to_grant():
    result = judged(lambda exam: exam.refutes("c", TWO, 2, "<=", 1), Verdict.FALSE, assumes=())
    assert result.derived is None
    assert "no assumption is named" in result.failures[0].describe()


def test_a_counterexample_that_needs_no_saving_does_not_show_that_an_assumption_is_needed():
    def evidence(exam):
        exam.holds_if("d", lambda x: x, [0.0])
        exam.refutes("meets the assumption that should save the statement", Channel.of_counts((1, 1)), 2, "<=", 1)

    assert judged(evidence, Verdict.ASSUMING, needs=("uniform text",)).derived is None


def test_instances_of_a_trial_have_to_meet_the_assumptions():
    def evidence(exam):
        exam.holds("rows with zeros", lambda channel: 0.0, [TWO, Channel(np.eye(2))])

    trial = judged(evidence).evidence[0]
    assert (trial.valid, trial.outside, trial.passed) == (2, 1, False)
    assert "1 of them outside the assumptions" in trial.describe()


def test_instances_that_are_no_case_do_not_count_and_others_are_drawn():
    exam = Exam(np.random.default_rng(0), 50)
    exam.holds("half of them", lambda x: x - 1 if x < 0.5 else -math.inf, lambda rng: rng.random())
    exam.holds("listed", lambda x: x, [0.0, -math.inf, 0.0])
    exam.holds("rare", lambda x: x - 1 if x < 0.01 else -math.inf, lambda rng: rng.random())
    half, listed, rare = exam.evidence
    assert half.valid == 50
    assert 75 < half.drawn < 150
    assert f"50 instances (of {half.drawn} drawn)" in half.describe()
    assert (listed.valid, listed.drawn) == (2, 3)
    assert 0 < rare.valid < 50
    assert rare.drawn == 20 * 50


def test_a_failing_correction_spoils_a_counterexample():
    def evidence(exam):
        exam.refutes("c", TWO, 2, "<=", 1)
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
    assert Counterexample("w", TWO, left, relation, right, 1e-9, meets=("softmax",)).passed is violated


def test_lines_show_the_numbers():
    one = {"on": TWO, "meets": ("softmax",)}
    assert (
        Counterexample("w", left=0.25, relation="<=", right=1 / 3, slack=0, **one).describe()
        == "w: not 0.25 ≤ 0.333333"
    )
    assert Counterexample("w", left=math.nan, relation="==", right=0.0, slack=0, **one).describe() == "w: not nan = 0"
    hidden = Counterexample("w", left=1, relation="==", right=2, slack=0, portable=False, **one)
    assert hidden.describe(measured=False) == "w"
    assert Conflict("c", (0, 1), frozenset({2})).describe() == "c: (0, 1) or (2)"
    assert Trial("l", 0.0, 0.0, 1, 1, "statement").describe() == "l: exact, largest violation 0.0e+00 over 1 instance"
    assert Trial("l", 2e-16, 1e-12, 5, 5, "statement").describe(measured=False) == "l: tolerance 1e-12"


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
    assert [e.valid for e in exam.evidence] == [10, 1, 2]
    assert exam.evidence[2].error == -1


def test_unknown_claims_are_refused_with_the_closest():
    with pytest.raises(UnknownNameError, match="no claim 'mi-form'; did you mean 'mi-forms'"):
        find_claims(["mi-form"])


def test_two_claims_cannot_share_an_id():
    with pytest.raises(ValueError, match="two claims have the id 'mi-forms'"):
        claim("mi-forms", section="s", origin=Origin.OURS, says="x.", verdict=Verdict.HOLDS)(lambda exam: None)
