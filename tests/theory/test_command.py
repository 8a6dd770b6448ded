"""``tokenprune theory``: the table, one claim, JSON, and the exit code."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from tokenprune.cli.theory import theory
from tokenprune.core.errors import UnknownNameError
from tokenprune_theory import models
from tokenprune_theory.registry import CLAIMS, Verdict, all_claims

app = typer.Typer()
app.command()(theory)


def run(*arguments):
    return CliRunner().invoke(app, [*arguments])


@pytest.fixture
def two_claims():
    """A registry of two, so that the whole table is quick."""
    everything = dict(all_claims())
    CLAIMS.clear()
    CLAIMS.update({id: everything[id] for id in ("mi-forms", "max-below-sum")})
    yield
    CLAIMS.clear()
    CLAIMS.update(everything)


@pytest.mark.usefixtures("two_claims")
def test_table_lists_every_claim():
    result = run("--cases", "3")
    assert result.exit_code == 0
    for text in (
        "mi-forms",
        "max-below-sum",
        "the paper says: 2 statements, 1 holds, 1 false",
        "2 claims",
        "Every",
        "borne",
    ):
        assert text in result.output


@pytest.mark.usefixtures("two_claims")
@pytest.mark.parametrize("verdict", [Verdict.HOLDS, Verdict.ASSUMING, Verdict.INCOMPLETE])
def test_a_flipped_verdict_fails(monkeypatch, verdict):
    monkeypatch.setitem(CLAIMS, "max-below-sum", dataclasses.replace(CLAIMS["max-below-sum"], verdict=verdict))
    result = run("--cases", "3")
    assert result.exit_code == 1
    assert "disagree" in result.output
    assert run("--claim", "max-below-sum", "--cases", "3").exit_code == 1
    assert run("--claim", "mi-forms", "--cases", "3").exit_code == 0


def test_a_law_made_false_fails(monkeypatch):
    all_claims()
    sabotaged = dataclasses.replace(CLAIMS["mi-forms"], evidence=lambda exam: exam.holds("off", lambda x: x, [1e-6]))
    monkeypatch.setitem(CLAIMS, "mi-forms", sabotaged)
    result = run("--claim", "mi-forms")
    assert result.exit_code == 1
    assert "✗" in result.output


def test_one_claim_in_full():
    result = run("--claim", "max-below-sum", "--cases", "3")
    assert result.exit_code == 0
    flat = " ".join(result.output.split())
    assert "not 0.182322 ≤ 0.0281709" in flat
    assert "rely on" in flat
    assert "why" in flat
    assert "counterexample" in flat
    assert "assumes softmax ((15), (16), A.4)" in flat


def test_json():
    result = run("--claim", "max-below-sum", "--claim", "first-pick", "--json", "--cases", "4", "--seed", "9")
    assert result.exit_code == 0
    report = json.loads(result.output)
    assert (report["passed"], report["failed"], report["cases"], report["seed"]) == (2, 0, 4, 9)
    claims = {c["id"]: c for c in report["claims"]}
    assert claims["max-below-sum"]["verdict"] == claims["max-below-sum"]["derived"] == "false"
    counterexample = claims["max-below-sum"]["evidence"][0]
    assert counterexample["left"] == pytest.approx(0.1823, abs=1e-4)
    assert counterexample["on"] == {"kind": "channel", "rows": [["1/2", "1/2"], ["1/3", "2/3"]]}
    assert counterexample["assumptions"] == {"softmax": True}
    assert claims["max-below-sum"]["assumes"] == ["softmax"]
    assert (claims["max-below-sum"]["origin"], claims["max-below-sum"]["ref"]) == ("the paper says", "(47)")
    assert report["assumptions"]["softmax"]["ref"] == "(15), (16), A.4"
    assert report["counts"]["the paper says"] == {"holds": 0, "holds assuming": 0, "false": 1, "incomplete": 1}
    assert claims["first-pick"]["evidence"][2]["first"] == "nan"
    assert all(e["passed"] for c in report["claims"] for e in c["evidence"])


def test_unknown_claim():
    result = run("--claim", "nonsense")
    assert isinstance(result.exception, UnknownNameError)


@pytest.mark.parametrize("arguments", [("--cases", "0"), ("--seed", "-1")])
def test_numbers_out_of_range(arguments):
    assert run(*arguments).exit_code == 2


@pytest.mark.slow
def test_the_command_module_imports_nothing_heavy():
    code = "import sys, tokenprune.cli.theory; assert not [m for m in sys.modules if m.startswith('tokenprune_theory')]"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_the_framework_does_not_need_the_theory():
    """Everything but the command works where tokenprune_theory is missing."""
    code = (
        "import sys; sys.modules['tokenprune_theory'] = None; import torch, tokenprune as tp;"
        "f = tp.Features(torch.eye(3)[None], torch.eye(3)[None]);"
        "assert tp.build('mi-pruner').select(f, keep=2).indices.shape == (1, 2)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_every_verdict_is_borne_out():
    result = run("--json", "--seed", "5")
    report = json.loads(result.output)
    assert [c["id"] for c in report["claims"] if not c["agrees"]] == []
    assert result.exit_code == 0


def test_valid_instances_are_reported():
    report = json.loads(run("--claim", "max-lse-order", "--json", "--cases", "30").output)
    trial = next(e for e in report["claims"][0]["evidence"] if e["label"] == "a gap of log T decides")
    assert trial["valid"] == 30
    assert trial["drawn"] > 30


def test_a_counterexample_outside_the_assumptions_fails_the_command(monkeypatch):
    """The three bits whose pairs are independent given their xor are no counterexample to a claim that assumes (31)."""
    all_claims()
    hidden = models.parity(3)

    def unfair(exam):
        exam.refutes("gain of the third bit rises", hidden, 1.0, "<=", 0.0)

    for verdict in Verdict:
        sabotaged = dataclasses.replace(CLAIMS["mi-submodular-ci"], evidence=unfair, verdict=verdict)
        monkeypatch.setitem(CLAIMS, "mi-submodular-ci", sabotaged)
        result = run("--claim", "mi-submodular-ci")
        assert result.exit_code == 1
        assert "not so: independence" in " ".join(result.output.split())
