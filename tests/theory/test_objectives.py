"""Every registered objective is what it declares, and one that is not is found out."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import tokenprune as tp
from tokenprune.cli import app as cli
from tokenprune.components.objectives import Modular
from tokenprune.core.kinds import Oracle
from tokenprune.core.registry import registry
from tokenprune.testing import features
from tokenprune_theory.conformity import PROPERTIES, PathGains, objective_violations, random_features
from tokenprune_theory.registry import all_claims, examine
from tokenprune_theory.setfn import monotone_violation, submodular_violation

OBJECTIVES = tp.list_components("objectives")

few = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def scores_of(batch, draw):
    values = draw(st.lists(st.integers(0, 8), min_size=batch.n_visual, max_size=batch.n_visual))
    return torch.tensor(values, dtype=torch.float64).expand(batch.batch, -1) / 4


@pytest.mark.parametrize("name", OBJECTIVES)
@few
@given(data=st.data())
def test_objective_is_what_it_declares(name, data):
    objective = tp.build_component("objectives", name)
    needs = objective.required_signals()
    batch = data.draw(features((1, 2), (2, 5), 2, 3, signals=needs, dtype=torch.float64))
    found = objective_violations(objective, batch, scores_of(batch, data.draw))
    assert {p for p in PROPERTIES if getattr(objective, p)} <= found.keys()
    assert {k: v for k, v in found.items() if v} == {}


@pytest.mark.parametrize("name", OBJECTIVES)
@few
@given(data=st.data())
def test_declared_set_functions_pass_the_checks_of_set_functions(name, data):
    objective = tp.build_component("objectives", name)
    if not objective.submodular:
        return
    batch = data.draw(features(1, (2, 5), 2, 3, signals=objective.required_signals(), dtype=torch.float64))
    f = PathGains(objective, batch, scores_of(batch, data.draw)).set_function()
    assert submodular_violation(f).size <= 1e-4
    if objective.monotone:
        assert monotone_violation(f).size <= 1e-9


@dataclass(frozen=True)
class Growing(tp.Objective):
    """Each pick makes every other token more valuable: breaks every property that is declared."""

    modular = submodular = non_increasing_gains = True

    def start(self, features, scores):
        return scores

    def gains(self, state):
        return state

    def take(self, state, index):
        return state + 1


@dataclass(frozen=True)
class Shrinking(Growing):
    """Gains fall below 0, and depend on which token was picked first: neither monotone nor a set function."""

    modular = False
    monotone = True

    def take(self, state, index):
        return state - 1 - index.unsqueeze(-1)


@dataclass(frozen=True)
class Secretive(Growing):
    """Says that it uses no scores."""

    modular = submodular = non_increasing_gains = False
    uses_scores = False


class Liar(Oracle):
    """Another gain than the batch's."""

    def gain(self, candidate):
        return 0.5

    def take(self, pick):
        pass


@dataclass(frozen=True)
class TwoFaced(Modular):
    """One at a time it gives other gains than all at once."""

    def oracle(self, state, row):
        return Liar()


class LiesLater(Liar):
    """The batch's gains before the first pick, others after it."""

    def __init__(self, gains):
        self.gains, self.picked = gains, False

    def gain(self, candidate):
        return -1.0 if self.picked else self.gains[candidate]

    def take(self, pick):
        self.picked = True


@dataclass(frozen=True)
class TwoFacedLater(Modular):
    def oracle(self, state, row):
        return LiesLater(state[row].tolist())


@pytest.mark.parametrize(
    ("objective", "caught"),
    [
        (Growing(), {"modular", "submodular", "non_increasing_gains"}),
        (Shrinking(), {"submodular", "monotone"}),
        (Secretive(), {"uses_scores"}),
        (TwoFaced(), {"oracle"}),
        (TwoFacedLater(), {"oracle"}),
    ],
)
def test_what_is_declared_and_not_so_is_found(objective, caught):
    batch = tp.Features(torch.eye(4, dtype=torch.float64)[None])
    scores = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64)
    found = objective_violations(objective, batch, scores)
    assert {k for k, v in found.items() if v} == caught


def test_rises_smaller_than_rounding_still_count_for_lazy_evaluation():
    @dataclass(frozen=True)
    class Creeping(Growing):
        modular = submodular = False

        def take(self, state, index):
            return state + 1e-12

    batch = tp.Features(torch.eye(4, dtype=torch.float64)[None])
    found = objective_violations(Creeping(), batch, torch.zeros(1, 4, dtype=torch.float64))
    assert found["non_increasing_gains"]


def test_a_plugin_is_held_to_its_word():
    tp.register("objectives", "growing")(Growing)
    try:
        result = examine(all_claims()["objectives"], cases=2)
        assert not result.agrees
        assert {e.label for e in result.failures} == {
            "growing: modular",
            "growing: submodular",
            "growing: non increasing gains",
        }
    finally:
        registry._local["objectives"].pop("growing")


@contextlib.contextmanager
def plugin(name, cls):
    tp.register("objectives", name)(cls)
    try:
        yield
    finally:
        registry._local["objectives"].pop(name)


@dataclass(frozen=True)
class NeedsMore(Growing):
    option: int


@dataclass(frozen=True)
class ReadsDepth(Modular):
    """Reads a signal of its own, of which the theory knows nothing."""

    requires = frozenset({"depth"})

    def start(self, features, scores):
        return scores + features["depth"]


@dataclass(frozen=True)
class ReadsUndeclared(Modular):
    """Reads a signal that it does not say it reads, so that nobody made it."""

    def start(self, features, scores):
        return scores + features["encoder"].sum(-1)


@dataclass(frozen=True)
class Breaks(Modular):
    monotone = True

    def start(self, features, scores):
        raise KeyError("somewhere inside")


@pytest.mark.parametrize("claim", ["objectives", "objectives-guarantee"])
@pytest.mark.parametrize(
    ("cls", "why"),
    [
        (NeedsMore, "cannot be made with default options"),
        (ReadsDepth, "reads depth, of which nothing"),
    ],
)
def test_what_cannot_be_checked_is_said_and_the_rest_is_checked(claim, cls, why):
    without = examine(all_claims()[claim], cases=2)
    with plugin("odd", cls):
        result = examine(all_claims()[claim], cases=2)
    assert [left_out.label for left_out in result.unchecked] == ["odd"]
    assert why in result.unchecked[0].why
    assert result.agrees
    assert [e.label for e in result.evidence] == [e.label for e in without.evidence]
    assert without.unchecked == ()


def test_what_reads_more_than_it_says_is_left_out_by_name():
    with plugin("odd", ReadsUndeclared):
        result = examine(all_claims()["objectives"], cases=2)
    [left_out] = result.unchecked
    assert (left_out.label, "encoder" in left_out.why) == ("odd", True)
    assert result.agrees


@pytest.mark.parametrize("claim", ["objectives", "objectives-guarantee"])
def test_an_objective_that_raises_fails_and_the_rest_is_checked(claim):
    without = examine(all_claims()[claim], cases=2)
    with plugin("breaks", Breaks):
        result = examine(all_claims()[claim], cases=2)
    assert [e.label for e in result.failures] == ["breaks raises KeyError: 'somewhere inside'"]
    assert len(result.evidence) == len(without.evidence) + 1


def test_the_command_goes_on_and_lists_what_it_left_out():
    with plugin("odd", ReadsDepth):
        result = CliRunner().invoke(cli, ["theory", "--claim", "objectives", "--cases", "2"])
        report = CliRunner().invoke(cli, ["theory", "--claim", "objectives", "--cases", "2", "--json"])
    assert result.exit_code == report.exit_code == 0
    assert "not checked: odd: reads depth" in " ".join(result.output.split())
    assert "depth" in json.loads(report.output)["claims"][0]["unchecked"]["odd"]


def test_random_features_have_a_duplicate_and_what_is_asked_for():
    batch = random_features(np.random.default_rng(0), ["encoder", "cls_attention"])
    assert {"visual", "text", "encoder", "cls_attention"} <= set(batch)
    assert torch.equal(batch.visual[:, 0], batch.visual[:, -1])
    assert torch.equal(batch["encoder"][:, 0], batch["encoder"][:, -1])
    assert (batch["cls_attention"] >= 0).all()
