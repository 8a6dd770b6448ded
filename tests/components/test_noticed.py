"""Small mistakes in parts that would otherwise pass: padding that counts, rows that pick nothing."""

from __future__ import annotations

import pytest
import torch

import tokenprune as tp
from tokenprune.components.normalizers import Softmax
from tokenprune.components.objectives import (
    FacilityLocation,
    GraphCut,
    MaximalMarginalRelevance,
    MaxMin,
    MeanDispersion,
    PMICoverage,
)
from tokenprune.components.pairwise import SelfPMI
from tokenprune.components.selectors import Greedy
from tokenprune.core.kinds import Objective


def ragged() -> tuple[tp.Features, tp.Features]:
    """Two rows, the second shorter with garbage behind it; and the second alone."""
    draw = torch.Generator().manual_seed(0)
    visual, text = torch.randn(2, 6, 4, generator=draw), torch.randn(2, 3, 4, generator=draw)
    seen = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    read = torch.tensor([[True] * 3, [True] * 2 + [False]])
    alone = tp.Features(visual[1:, :4], text[1:, :2])
    # the nearest neighbour that a token could have
    visual[1, 4:], text[1, 2:] = visual[1, :1], text[1, :1]
    return tp.Features(visual, text, visual_mask=seen, text_mask=read), alone


OBJECTIVES = [
    MaxMin(),
    GraphCut(),
    MeanDispersion(),
    MeanDispersion(SelfPMI()),
    PMICoverage(Softmax()),
    FacilityLocation(signal="visual"),
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
def test_gains_of_a_short_row_are_those_it_has_alone(objective: Objective) -> None:
    """Not their order only: budgets that follow from gains, and certificates, read the numbers."""
    padded, alone = ragged()
    nothing = torch.zeros(2, 6)
    mine = objective.gains(objective.start(padded, nothing))[1:, :4]
    torch.testing.assert_close(mine, objective.gains(objective.start(alone, nothing[1:, :4])))


@pytest.mark.parametrize(
    "objective", [*OBJECTIVES, MaximalMarginalRelevance()], ids=lambda objective: type(objective).__name__
)
def test_a_row_that_picks_nothing_keeps_its_gains(objective: Objective) -> None:
    padded, _ = ragged()
    state = objective.take(objective.start(padded, padded.visual.sum(-1)), torch.tensor([1, 2]))
    after = objective.take(state, torch.tensor([3, -1]))
    before = objective.gains(state)
    assert torch.equal(objective.gains(after)[1], before[1])
    assert not torch.equal(objective.gains(after)[0], before[0])


def test_only_a_faithful_divprune_picks_a_token_again() -> None:
    """Its official code does, once all that is left coincides with what was picked."""
    two = tp.Features(torch.eye(2).repeat(3, 1).unsqueeze(0))
    problem = tp.Problem(two, torch.zeros(1, 6), (5,), two.valid())
    assert len(set(Greedy(MaxMin()).select(problem)[0].tolist())) == 5
    for faithful in (False, True):
        picks = tp.build("divprune", faithful=faithful).select(two, keep=5).order[0].tolist()  # type: ignore[union-attr]
        assert (len(set(picks)) < 5) == faithful
