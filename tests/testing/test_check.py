"""check(part): built-in parts pass, wrong ones of many kinds are refused with an instance."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import tokenprune as tp
from tokenprune.components.objectives import FacilityLocation, MaximalMarginalRelevance
from tokenprune.core.errors import CheckError, FeatureError
from tokenprune.core.kinds import Aggregator, Objective, Scorer
from tokenprune.core.registry import list_components, registry
from tokenprune.testing import check


class Counted(Objective):
    """Gains scaled by a function of the number of picks; right where that never rises."""

    non_increasing_gains = submodular = monotone = True

    def factor(self, picked):
        return torch.ones_like(picked)

    def start(self, features, scores):
        return scores.abs(), torch.zeros(scores.shape[0], dtype=scores.dtype)

    def gains(self, state):
        return state[0] * self.factor(state[1]).unsqueeze(1)

    def take(self, state, index):
        return state[0], state[1] + (index >= 0)


class FromTheFifth(Counted):
    def factor(self, picked):
        return 1 + (picked >= 4)


class DoublingButTiny(Counted):
    def start(self, features, scores):
        scores, picked = super().start(features, scores)
        return scores * 1e-7, picked

    def factor(self, picked):
        return 2**picked


class WorstRun(Counted):
    def run(self, state, available, counts, repeats):
        worst = state[0].masked_fill(~available, torch.inf).argsort(1)[:, : max(counts)]
        place = torch.arange(max(counts))
        return worst.masked_fill(place >= torch.tensor(counts).unsqueeze(1), -1)


class Forgets(FacilityLocation):
    def resume(self, state, picks):
        return state


class OtherRows(Counted):
    def gains(self, state):
        return super().gains(state) + state[0].mean()


class IgnoresMinusOne(Counted):
    non_increasing_gains = submodular = monotone = False

    def take(self, state, index):
        return state[0].scatter_add(1, index.clamp_min(0).unsqueeze(1), -torch.ones_like(state[0][:, :1])), state[1]


class InPlace(Counted):
    def take(self, state, index):
        state[1].add_(index >= 0)
        state[0].mul_(0.5)
        return state


class OneColumn(Counted):
    def gains(self, state):
        return super().gains(state)[:, :1]


class OneRow(Counted):
    def gains(self, state):
        return super().gains(state)[:1]


class Flat(Counted):
    def gains(self, state):
        return super().gains(state)[0]


class Loses(Counted):
    def gains(self, state):
        return -super().gains(state)


class WrongOracle(Counted):
    def oracle(self, state, row):
        oracle = super().oracle(state, row)
        oracle.take = lambda pick: setattr(oracle, "values", [v / 2 for v in oracle.values])
        return oracle


class SaysNoScores(Counted):
    uses_scores = False


class OverPadding(Counted):
    def start(self, features, scores):
        scores, picked = super().start(features, scores)
        return scores + scores.mean(1, keepdim=True), picked


class MeanOverPadding(Scorer):
    requires = frozenset({"visual"})

    def score(self, features):
        return (features.visual - features.visual.mean(1, keepdim=True)).norm(dim=-1)


class Undeclared(Scorer):
    def score(self, features):
        return features.text.sum((1, 2)).unsqueeze(1) + features.visual.sum(-1)


class Dice(Scorer):
    def score(self, features):
        return torch.rand(features.batch, features.n_visual)


class Tall(Scorer):
    def score(self, features):
        return features.visual.sum(-1)[:, :1]


class KeepsDimension(Aggregator):
    def __call__(self, table, log_weights=None, mask=None):
        return table.amax(-1, keepdim=True)


class Unmasked(Aggregator):
    def __call__(self, table, log_weights=None, mask=None):
        return table.amax(-1)


WRONG: list[Callable[[], object]] = [
    FromTheFifth, DoublingButTiny, WorstRun, Forgets, OtherRows, IgnoresMinusOne, InPlace, OneColumn, OneRow, Flat,
    Loses, WrongOracle, SaysNoScores, OverPadding, MeanOverPadding, Undeclared, Dice, Tall, KeepsDimension, Unmasked,
]  # fmt: skip


@pytest.mark.parametrize("part", WRONG)
def test_a_wrong_part_is_refused_with_an_instance(part) -> None:
    with pytest.raises(CheckError, match=r"smallest instance|on table"):
        check(part())


@pytest.mark.parametrize("name", list_components("objectives"))
def test_built_in_objectives_pass(name: str) -> None:
    report = check(registry.build_component("objectives", name), largest=5)
    assert report.instances == 16
    assert not report.unchecked


@pytest.mark.parametrize("kind", ["aggregators", "normalizers", "priors", "scorers"])
def test_other_built_in_parts_pass(kind: str) -> None:
    # 'random' draws for a whole batch at once: which rows stand beside a row decides, and check says so
    for name in set(list_components(kind)) - {"random"}:
        report = check(registry.build_component(kind, name))
        assert report.instances
        assert not report.unchecked


def test_a_right_one_of_the_same_shape_passes_and_others_are_no_parts() -> None:
    assert check(Counted()).instances == 25
    assert check(MaximalMarginalRelevance(0.5)).instances == 25
    with pytest.raises(CheckError, match="no kind"):
        check("mmr")


def test_gains_and_aggregates_of_another_shape_are_refused_when_selecting() -> None:
    features = tp.Features(torch.randn(2, 5, 3), torch.randn(2, 2, 3))
    scorer = registry.build_component("scorers", "pmi")
    for objective in (OneColumn(), OneRow(), Flat()):
        for optimizer in ("vectorized", "naive"):
            selector = registry.build_component(
                "selectors", {"name": "greedy", "objective": objective, "optimizer": optimizer}
            )
            with pytest.raises(FeatureError, match="gains of shape"):
                tp.Strategy(scorer, selector).select(features, 3)
    with pytest.raises(FeatureError, match="one number a row"):
        type(scorer)(aggregator=KeepsDimension()).score(features)
