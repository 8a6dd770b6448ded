"""Every registered objective is what it declares, and one that is not is found out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tokenprune as tp
from tokenprune.components.objectives import Modular
from tokenprune.core.kinds import Oracle
from tokenprune.core.registry import registry
from tokenprune.testing import features
from tokenprune_theory.conformity import PROPERTIES, Replay, objective_violations, random_features
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
    f = Replay(objective, batch, scores_of(batch, data.draw)).set_function()
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


@pytest.mark.parametrize(
    ("objective", "caught"),
    [
        (Growing(), {"modular", "submodular", "non_increasing_gains"}),
        (Shrinking(), {"submodular", "monotone"}),
        (Secretive(), {"uses_scores"}),
        (TwoFaced(), {"oracle"}),
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


def test_an_objective_that_cannot_be_made_is_reported():
    @dataclass(frozen=True)
    class NeedsMore(Growing):
        option: int

    tp.register("objectives", "needs-more")(NeedsMore)
    try:
        result = examine(all_claims()["objectives"], cases=2)
        assert [e.label.split(":")[0] for e in result.failures] == ["needs-more cannot be made"]
    finally:
        registry._local["objectives"].pop("needs-more")


def test_random_features_have_a_duplicate_and_what_is_asked_for():
    batch = random_features(np.random.default_rng(0), ["encoder", "cls_attention"])
    assert {"visual", "text", "encoder", "cls_attention"} <= set(batch)
    assert torch.equal(batch.visual[:, 0], batch.visual[:, -1])
    assert torch.equal(batch["encoder"][:, 0], batch["encoder"][:, -1])
    assert (batch["cls_attention"] >= 0).all()
