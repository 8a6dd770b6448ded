"""A subclass that changes what a part computes never runs the kernel of its parent."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune as tp
from tests.support.tables import rows
from tokenprune.components import aggregators, dedup, normalizers, pairwise, priors
from tokenprune.components.objectives import (
    FacilityLocation,
    GraphCut,
    LogDeterminant,
    MaximalMarginalRelevance,
    MaxMin,
    MeanDispersion,
    PMICoverage,
)
from tokenprune.components.scorers import PMI, ConditionedRelevance
from tokenprune.components.selectors import Greedy
from tokenprune.core.kinds import overridden, picks_by_kernel

N, K = 16, 6


@pytest.fixture(autouse=True)
def _kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENPRUNE_KERNELS", "interpret")


def features(device: str) -> tp.Features:
    draw = torch.Generator().manual_seed(3)
    tokens = {
        name: torch.randn(2, n, 8, generator=draw).to(device)
        for name, n in (("visual", N), ("text", 5), ("encoder", N))
    }
    return tp.Features(**tokens)


def problem(device: str) -> tp.Problem:
    f = features(device)
    scores = torch.rand(2, N, generator=torch.Generator().manual_seed(5)).to(device)
    return tp.Problem(f, scores, (K, K), f.valid())


OBJECTIVES = (
    MaximalMarginalRelevance(0.5),
    MaxMin(),
    MeanDispersion(),
    GraphCut(0.6),
    LogDeterminant(),
    FacilityLocation(),
    PMICoverage(),
)


def heaviest_last(objective: tp.Objective) -> tp.Objective:
    """The objective's own gains, turned round, in a subclass of it."""

    class Turned(type(objective)):  # type: ignore[misc]
        def gains(self, state: Any) -> Tensor:
            return -super().gains(state)

    return Turned(**{name: getattr(objective, name) for name in objective.__dataclass_fields__})


def without_kernels(monkeypatch: pytest.MonkeyPatch, call: Any) -> Any:
    with monkeypatch.context() as patch:
        patch.setenv("TOKENPRUNE_KERNELS", "0")
        return call()


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
def test_gains_of_a_subclass_decide(objective: tp.Objective, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = problem(device)
    mine = Greedy(heaviest_last(objective))
    picks = rows(mine.select(asked))
    assert picks == rows(without_kernels(monkeypatch, lambda: mine.select(asked)))
    assert picks != rows(Greedy(objective).select(asked))


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
def test_a_subclass_that_changes_nothing_keeps_the_kernel(objective: tp.Objective, device: str) -> None:
    asked = problem(device)
    plain = type("Plain", (type(objective),), {"__doc__": "Named anew."})
    same = plain(**{name: getattr(objective, name) for name in objective.__dataclass_fields__})  # type: ignore[attr-defined]
    state = same.start(asked.features, asked.scores)
    found = picks_by_kernel(same, state, asked.available, asked.counts, False)
    assert found is not None
    assert rows(found) == rows(Greedy(objective).select(asked))


@pytest.mark.parametrize("method", ["gains", "take"])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
def test_any_override_takes_the_kernel_away(objective: tp.Objective, method: str, device: str) -> None:
    parent = type(objective)
    child = type("Child", (parent,), {method: lambda self, *args: getattr(parent, method)(self, *args)})
    mine = child(**{name: getattr(objective, name) for name in objective.__dataclass_fields__})  # type: ignore[attr-defined]
    asked = problem(device)
    state = mine.start(asked.features, asked.scores)
    assert picks_by_kernel(mine, state, asked.available, asked.counts, False) is None


def test_a_class_that_brings_its_own_kernel_is_believed() -> None:
    class Mine(MaxMin):
        def gains(self, state: Any) -> Tensor:
            return -super().gains(state)

        def run(self, state: Any, available: Tensor, counts: tuple[int, ...], repeats: bool) -> Tensor | None:
            return None

    assert not overridden(Mine(), "run")
    with pytest.raises(AttributeError, match="no method 'nothing'"):
        overridden(Mine(), "nothing")


class Blunt(normalizers.Softmax):
    """A softmax that counts half."""

    def log_prob(self, similarity: Tensor, statistics: Tensor) -> Tensor:
        return super().log_prob(similarity * 0.5, statistics)


class Least(aggregators.Max):
    """The smallest instead of the largest."""

    def __call__(self, table: Tensor, log_weights: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        return -super().__call__(-table, log_weights, mask)


class Leaning(priors.Uniform):
    """The first tokens are likelier."""

    def log_prior(self, features: tp.Features) -> Tensor | None:
        weights = torch.arange(features.n_visual, 0, -1.0, device=features.device).expand(features.batch, -1)
        return weights.log_softmax(-1)


@pytest.mark.parametrize(
    "mine",
    [PMI(normalizer=Blunt()), PMI(aggregator=Least()), PMI(prior=Leaning())],
    ids=["normalizer", "aggregator", "prior"],
)
def test_parts_of_a_scorer_that_are_subclasses_are_asked(
    mine: PMI, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    f = features(device)
    torch.testing.assert_close(mine.score(f), without_kernels(monkeypatch, lambda: mine.score(f)))
    assert not torch.allclose(mine.score(f), PMI().score(f), atol=1e-3)


@dataclass(frozen=True)
class Loud(PMI):
    """A scorer whose last step is its own."""

    def _unless_degenerate(self, scores: Tensor, similarity: Tensor, features: tp.Features) -> Tensor:
        return 2 * scores


@dataclass(frozen=True)
class SlowerDedup(dedup.BipartiteDedup):
    """Drops one token a round."""

    def _dropped(self, left: int, count: int) -> int:
        return min(1, left - count)


def test_scorers_and_selectors_that_are_subclasses(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    f = features(device)
    torch.testing.assert_close(Loud().score(f), 2 * without_kernels(monkeypatch, lambda: PMI().score(f)))
    assert overridden(SlowerDedup(), "select", {"requires"})
    assert not overridden(ConditionedRelevance(), "score")


class HalfTable(pairwise.SelfPMITable):
    """Entries that count half."""

    def columns(self, indices: Tensor) -> Tensor:
        return 0.5 * super().columns(indices)


@dataclass(frozen=True)
class HalfPairs(pairwise.SelfPMI):
    """Redundancy that counts half."""

    def table(self, features: tp.Features) -> HalfTable:
        table = super().table(features)
        return HalfTable(table.cosine, table.normalizer, table.statistics, table.log_marginal)


@pytest.mark.parametrize(
    "pairs", [HalfPairs(), pairwise.SelfPMI(normalizer=Blunt())], ids=["table", "normalizer of the table"]
)
def test_tables_of_a_subclass_are_read(pairs: tp.Pairwise, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = problem(device)
    mine = Greedy(MaximalMarginalRelevance(0.5, pairs))
    assert rows(mine.select(asked)) == rows(without_kernels(monkeypatch, lambda: mine.select(asked)))
    state = replace(mine.objective).start(asked.features, asked.scores)
    assert picks_by_kernel(mine.objective, state, asked.available, asked.counts, False) is None
