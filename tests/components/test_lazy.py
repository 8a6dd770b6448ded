"""Lazy picks of a batch: those of all gains at each pick, from far fewer gains."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import tokenprune as tp
from tests.support.tables import rows
from tokenprune.components.lazy import can_be_lazy, lazy_batch
from tokenprune.components.objectives import FacilityLocation, PMICoverage, SalientCoverage
from tokenprune.components.selectors import Greedy
from tokenprune.core.errors import NonFiniteError
from tokenprune.core.kinds import Objective
from tokenprune.testing import features

LAZY = [FacilityLocation(signal="visual"), SalientCoverage("visual"), SalientCoverage("visual", 0.5, "add")]


@given(features(n=(2, 9), d=3, zero_rows=True), st.sampled_from(LAZY), st.data())
def test_the_picks_are_those_of_all_gains(f: tp.Features, objective: Objective, data: st.DataObject) -> None:
    """Ragged rows, padding, zero features, ties, and picks of an earlier round."""
    scores = data.draw(st.sampled_from([f.visual.sum(-1), torch.ones_like(f.visual[..., 0])]))
    available, context = f.valid(), None
    if data.draw(st.booleans()):
        context = available.int().argmax(1, keepdim=True)
        available = available.scatter(1, context, False)
    counts = tuple(data.draw(st.integers(0, int(n))) for n in available.sum(1))
    asked = tp.Problem(f, scores, counts, available, context)
    assert can_be_lazy(objective)
    naive = Greedy(objective, "naive").select(asked)
    assert rows(Greedy(objective).select(asked)) == rows(naive)


class _Counted(SalientCoverage):
    """Counts the gains it is asked for."""

    asked = 0

    def gains(self, state: Any) -> Tensor:
        found = super().gains(state)
        type(self).asked += found.numel()
        return found

    def gains_of(self, state: Any, candidates: Tensor) -> Tensor:
        return super().gains_of(state, candidates)


def test_most_gains_are_not_looked_at_again() -> None:
    _Counted.asked = 0
    draw = torch.Generator().manual_seed(0)
    f = tp.Features(torch.randn(2, 400, 16, generator=draw))
    asked = tp.Problem(f, torch.rand(2, 400, generator=draw), (60, 40), f.valid())
    Greedy(_Counted("visual")).select(asked)
    assert _Counted.asked < 2 * 400 * 60 / 3


def test_a_class_that_changes_its_gains_is_not_answered_by_its_parent() -> None:
    class Backwards(SalientCoverage):
        def gains(self, state: Any) -> Tensor:
            return -super().gains(state)

    assert can_be_lazy(SalientCoverage("visual"))
    assert not can_be_lazy(Backwards("visual"))
    assert not can_be_lazy(PMICoverage()), "its tables have few rows: all gains cost less"


def test_a_gain_that_is_not_a_number_raises_and_padding_does_not_count() -> None:
    f = tp.Features(torch.eye(5).unsqueeze(0), visual_mask=torch.tensor([[True] * 4 + [False]]))
    objective = SalientCoverage("visual")
    state = objective.start(f, torch.ones(1, 5))
    silent = replace(state, weight=torch.tensor([[1.0, 1.0, 1.0, 1.0, torch.nan]]))
    assert rows(lazy_batch(objective, silent, f.valid(), (3,))) == [[0, 1, 2]]
    broken = replace(state, weight=torch.tensor([[1.0, torch.nan, 1.0, 1.0, 1.0]]))
    with pytest.raises(NonFiniteError, match="SalientCoverage"):
        lazy_batch(objective, broken, f.valid(), (3,))
