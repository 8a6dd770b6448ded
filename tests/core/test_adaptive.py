"""Budgets that decide themselves: the laws of rules and of sharing, by brute force and against fixed budgets."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

import tokenprune as tp
from tests.support.tables import GivenPairs, GivenScores, blank_features
from tokenprune.components.budgets import (
    CapturedMass,
    Fitted,
    GainThreshold,
    RedundancyKnee,
    budget_signals,
    relevance_mass,
)
from tokenprune.components.objectives import MaximalMarginalRelevance
from tokenprune.components.scorers import PMI
from tokenprune.components.selectors import Greedy, TwoStage
from tokenprune.core.adaptive import Adaptive, BudgetRule, water_fill
from tokenprune.core.errors import BudgetError, ConfigError, OptionTypeError, UnsupportedError
from tokenprune.core.ranking import TopK
from tokenprune.testing import features

RULES: dict[str, BudgetRule] = {
    "captured-mass": CapturedMass(0.6),
    "gain-threshold": GainThreshold(0.2),
    "gain-first": GainThreshold(0.3, scale="first"),
    "gain-none": GainThreshold(0.0, scale="none"),
    "redundancy-knee": RedundancyKnee(),
    "fitted": Fitted((0.5, -0.3, 0.2), (0.5, 0.5, 1.0), (0.2, 0.5, 1.0)),
}
STRATEGIES: dict[str, tp.Strategy] = {
    "greedy": tp.Strategy(PMI(), Greedy(MaximalMarginalRelevance(0.5)), name="greedy"),
    "top-k": tp.Strategy(PMI(), TopK(), name="top-k"),
}


def by_rule(strategy: tp.Strategy, rule: BudgetRule, **options: Any) -> tp.Strategy:
    return replace(strategy, selector=Adaptive(rule, strategy.selector, **options))


def kept(selection: tp.Selection) -> list[list[int]]:
    return [[i for i in row if i >= 0] for row in selection.order.tolist()]


# --- sharing ---------------------------------------------------------------------------------------------------------


@st.composite
def shared_worths(draw: st.DrawFn) -> tuple[Tensor, int, Tensor, Tensor]:
    rows, width = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    values = [
        sorted(draw(st.lists(st.integers(-3, 3), min_size=width, max_size=width)), reverse=True) for _ in range(rows)
    ]
    low = [draw(st.integers(0, width)) for _ in range(rows)]
    high = [draw(st.integers(n, width)) for n in low]
    total = draw(st.integers(sum(low), sum(high)))
    return torch.tensor(values, dtype=torch.float64), total, torch.tensor(low), torch.tensor(high)


@given(shared_worths())
def test_sharing_is_the_best_of_all_ways_to_share(drawn: tuple[Tensor, int, Tensor, Tensor]) -> None:
    worth, total, low, high = drawn
    counts = water_fill(worth, total, low, high)
    assert int(counts.sum()) == total
    assert bool(((low <= counts) & (counts <= high)).all())

    def value(split: tuple[int, ...]) -> float:
        return sum(float(worth[row, :n].sum()) for row, n in enumerate(split))

    ways = itertools.product(*(range(a, b + 1) for a, b in zip(low.tolist(), high.tolist(), strict=True)))
    assert value(tuple(counts.tolist())) == max(value(way) for way in ways if sum(way) == total)


def test_equal_worth_is_shared_pick_by_pick_from_the_first_row() -> None:
    counts = water_fill(torch.ones(3, 4), 7, torch.zeros(3, dtype=torch.long), torch.full((3,), 4))
    assert counts.tolist() == [3, 2, 2]


def test_tokens_that_cannot_be_shared_are_refused() -> None:
    one, two = torch.ones(2, dtype=torch.long), torch.full((2,), 2)
    for total in (1, 5):
        with pytest.raises(BudgetError, match="2 at least and 4 at most"):
            water_fill(torch.ones(2, 3), total, one, two)


@pytest.mark.parametrize("rule", RULES)
@given(f=features(batch=(2, 3), n=(4, 8)), keep=st.integers(1, 4))
@pytest.mark.filterwarnings("ignore::tokenprune.core.errors.DegenerateRelevanceWarning")
def test_a_batch_spends_exactly_what_it_shares(rule: str, f: tp.Features, keep: int) -> None:
    strategy = by_rule(STRATEGIES["greedy"], RULES[rule], shared=True)
    sizes = f.counts()
    selection = strategy.select(f, tp.Budget(keep, clip=True))
    total = sum(min(keep, n) for n in sizes)
    assert int(selection.counts.sum()) == min(max(total, len(sizes)), sum(sizes))
    assert int(selection.counts.min()) >= 1


# --- rules -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("rule", RULES)
@given(f=features(n=(2, 8)), keep=st.integers(1, 8))
@pytest.mark.filterwarnings("ignore::tokenprune.core.errors.DegenerateRelevanceWarning")
def test_what_is_kept_is_the_beginning_of_a_fixed_budget(name: str, rule: str, f: tp.Features, keep: int) -> None:
    """Within floor and ceiling, alone as in a batch, with padding as without."""
    strategy = by_rule(STRATEGIES[name], RULES[rule], floor=2, ceiling=5)
    selection = strategy.select(f, tp.Budget(keep, clip=True))
    whole = kept(STRATEGIES[name].select(f, tp.Budget(8, clip=True)))
    for row, (picks, size) in enumerate(zip(kept(selection), f.counts(), strict=True)):
        assert picks == whole[row][: len(picks)]
        assert min(2, size) <= len(picks) <= min(5, size)
        alone = strategy.select(one_row(f, row), tp.Budget(keep, clip=True))
        assert kept(alone)[0] == picks


def one_row(f: tp.Features, row: int) -> tp.Features:
    """A row by itself, padding and all."""
    return tp.Features(
        f.visual[row : row + 1],
        f.text[row : row + 1],
        visual_mask=None if f.visual_mask is None else f.visual_mask[row : row + 1],
        text_mask=None if f.text_mask is None else f.text_mask[row : row + 1],
    )


@given(f=features(n=(2, 8)), shares=st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)))
@pytest.mark.filterwarnings("ignore::tokenprune.core.errors.DegenerateRelevanceWarning")
def test_captured_mass_is_the_smallest_beginning_that_holds_the_share(
    f: tp.Features, shares: tuple[float, float]
) -> None:
    less, more = sorted(shares)
    mass = relevance_mass(PMI().score(f), f.valid())
    for share in (less, more):
        for row, picks in enumerate(kept(by_rule(STRATEGIES["top-k"], CapturedMass(share), ceiling=1.0).select(f, 1))):
            held = mass[row, picks]
            assert float(held.sum()) >= share - 1e-9
            assert len(picks) == 1 or float(held[:-1].sum()) < share + 1e-9
    few, many = (by_rule(STRATEGIES["top-k"], CapturedMass(s), ceiling=1.0).select(f, 1).counts for s in (less, more))
    assert bool((few <= many).all())


@given(features(n=(2, 8)), st.floats(0.1, 10), st.floats(-5, 5))
def test_mass_is_a_distribution_that_knows_no_unit(f: tp.Features, scale: float, shift: float) -> None:
    scores = f.visual.double().sum(-1)
    mass = relevance_mass(scores, f.valid())
    assert mass.sum(1).tolist() == pytest.approx([1.0] * f.batch)
    assert float(mass.masked_fill(f.valid(), 0).abs().max()) == 0
    torch.testing.assert_close(mass, relevance_mass(scores * scale + shift, f.valid()), atol=1e-6, rtol=1e-6)


@given(features(n=(2, 8)))
@example(tp.Features(visual=torch.tensor([[[0.0, 1], [1, 1]]]), text=torch.ones(1, 2, 2)))
@pytest.mark.filterwarnings("ignore::tokenprune.core.errors.DegenerateRelevanceWarning")
def test_no_score_exceeds_the_tail_law(f: tp.Features) -> None:
    """PMI of the k-th best token over its bound is at most 1, so that a threshold of 1 keeps the floor alone."""
    for strategy in STRATEGIES.values():
        kept_by_law = by_rule(strategy, GainThreshold(1 + 1e-4), ceiling=1.0).select(f, 1)
        # a row without information, such as one whose words all point one way, is scored by cosine, which is no PMI
        spread = PMI().score(f).where(f.valid(), -math.inf).amax(1) > 1e-3
        text = torch.ones(f.batch, f.text.shape[1]).bool() if f.text_mask is None else f.text_mask
        unit = torch.nn.functional.normalize(f.text.double(), dim=-1)
        first = unit.gather(1, text.int().argmax(1).view(-1, 1, 1).expand(-1, 1, unit.shape[2]))
        apart = ((unit - first).abs().amax(-1) > 1e-6) & text
        informative = spread & apart.any(1)
        assert kept_by_law.counts[informative].tolist() == [1] * int(informative.sum())


def test_gains_are_those_at_the_moment_of_the_pick() -> None:
    scores = torch.tensor([[3.0, 2.0, 1.0, 0.5]])
    table = torch.tensor([[[0.0, 4, 0, 0], [4, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]])
    objective = MaximalMarginalRelevance(0.5, GivenPairs(table))
    # picks 0 (1.5), then 2 (0.5), then 3 (0.25 - 0.5), then 1 (1 - 2)
    expected = {-2.0: [0, 2, 3, 1], -0.9: [0, 2, 3], -0.2: [0, 2], 0.4: [0, 2], 0.6: [0]}
    for threshold, picks in expected.items():
        rule = GainThreshold(threshold, scale="none")
        strategy = tp.Strategy(GivenScores(scores), Adaptive(rule, Greedy(objective), ceiling=1.0))
        assert kept(strategy.select(blank_features(1, 4), 1)) == [picks]


def test_the_knee_is_where_redundancy_exceeds_relevance() -> None:
    scores = torch.tensor([[3.0, 2.0, 1.0, 0.5]])
    table = torch.zeros(1, 4, 4)
    table[0, 1, 0], table[0, 2, 0], table[0, 3, 1] = 1.9, 1.1, 0.1
    strategy = tp.Strategy(GivenScores(scores), Adaptive(RedundancyKnee(pairs=GivenPairs(table)), ceiling=1.0))
    assert kept(strategy.select(blank_features(1, 4), 1)) == [[0, 1]]
    generous = RedundancyKnee(weight=1.2, pairs=GivenPairs(table))
    strategy = tp.Strategy(GivenScores(scores), Adaptive(generous, ceiling=1.0))
    assert kept(strategy.select(blank_features(1, 4), 1)) == [[0, 1, 2, 3]]


@given(features(n=(4, 8)), st.integers(1, 4))
@pytest.mark.filterwarnings("ignore::tokenprune.core.errors.DegenerateRelevanceWarning")
def test_a_rule_that_weighs_nothing_is_the_fixed_budget(f: tp.Features, keep: int) -> None:
    fixed, fitted = STRATEGIES["greedy"], by_rule(STRATEGIES["greedy"], Fitted())
    budget = tp.Budget(keep, clip=True)
    assert kept(fitted.select(f, budget)) == kept(fixed.select(f, budget))


def test_signals_are_what_they_are_called() -> None:
    f = tp.Features(torch.eye(4).repeat(2, 1, 1), torch.ones(2, 3, 4))
    scores = torch.tensor([[1.0, 1, 1, 1], [0, 0, 0, 1]])
    entropy, rank, length = budget_signals(f, scores).unbind(1)
    assert entropy.tolist() == pytest.approx([1, 0])
    assert rank.exp().tolist() == pytest.approx([4, 4])
    assert length.exp().tolist() == pytest.approx([3, 3])
    alike = tp.Features(torch.ones(1, 9, 2), torch.ones(1, 1, 2))
    assert float(budget_signals(alike, torch.zeros(1, 9))[0, 1].exp()) == pytest.approx(1)


@pytest.mark.parametrize("bucket", [1, 2, 3, 5])
def test_buckets_round_up_within_the_ceiling(bucket: int) -> None:
    scores = torch.tensor([[4.0, 3, 2, 1, 0, 0, 0]])
    strategy = tp.Strategy(GivenScores(scores), Adaptive(CapturedMass(0.6), bucket=bucket))
    assert int(strategy.select(blank_features(1, 7), 4).counts) == min(4, math.ceil(2 / bucket) * bucket)


def test_picks_that_are_not_nested_are_made_again_for_the_count() -> None:
    f = tp.Features(torch.randn(2, 12, 6), torch.randn(2, 3, 6))
    fill = TwoStage(None, Greedy(MaximalMarginalRelevance()))
    strategy = tp.Strategy(PMI(), Adaptive(CapturedMass(0.4), fill), name="two")
    selection = strategy.select(f, 8)
    for row, count in enumerate(selection.counts.tolist()):
        alone = tp.Strategy(PMI(), fill).select(one_row(f, row), int(count))
        assert kept(selection)[row] == kept(alone)[0]


# --- in a budget -----------------------------------------------------------------------------------------------------


def test_a_budget_with_a_rule_is_the_strategy_with_it() -> None:
    f = tp.Features(torch.randn(3, 16, 6), torch.randn(3, 4, 6))
    budget = tp.Budget(12, adaptive={"name": "captured-mass", "share": 0.5}, floor=3)
    with_parts = {"scorer": "pmi", "selector": {"name": "adaptive", "rule": budget.adaptive, "floor": 3}}
    whole = tp.build(with_parts).select(f, 12)
    fixed = tp.build({"scorer": "pmi"})
    assert fixed.select(f, budget) == whole
    assert fixed.select(f, 12) != whole


def test_a_strategy_without_scores_can_have_a_rule_of_gains() -> None:
    f = tp.Features(torch.randn(2, 16, 6))
    rule = {"name": "gain-threshold", "scale": "first", "threshold": 0.5}
    counts = tp.build("divprune").select(f, tp.Budget(16, adaptive=rule)).counts
    assert bool((counts < 16).all())
    with pytest.raises(ConfigError, match="scorer is missing"):
        tp.build("divprune").select(f, tp.Budget(16, adaptive="captured-mass"))


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: tp.Budget(4, adaptive="captured-mas"), tp.TokenPruneError, "captured-mass"),
        (lambda: tp.Budget(4, floor=2), BudgetError, "adaptive"),
        (lambda: CapturedMass(0), ConfigError, "share"),
        (lambda: GainThreshold(0.1, scale="tial"), ConfigError, "tail"),  # type: ignore[arg-type]
        (lambda: Fitted((1.0, 2.0)), ConfigError, "3 numbers"),  # type: ignore[arg-type]
        (lambda: Fitted("abc"), OptionTypeError, "weights"),  # type: ignore[arg-type]
        (lambda: Fitted(spreads=(1, 0, 1)), ConfigError, "positive"),
        (lambda: Adaptive("captured-mass"), OptionTypeError, "BudgetRule"),  # type: ignore[arg-type]
        (lambda: Adaptive(CapturedMass(), Adaptive(CapturedMass())), OptionTypeError, "keeps what it is asked"),
        (lambda: Adaptive(CapturedMass(), floor=0), BudgetError, "at least 1"),
        (lambda: Adaptive(CapturedMass(), shared=True, bucket=8), ConfigError, "bucket"),
        (
            lambda: tp.build("fastv").select(blank_features(1, 4), tp.Budget(2, adaptive="fitted")),
            UnsupportedError,
            "between layers",
        ),
        (
            lambda: tp.build("random").select(blank_features(1, 9), tp.Budget(2, adaptive="captured-mass", floor=3)),
            BudgetError,
            "lower the floor",
        ),
        (
            lambda: tp.Strategy(
                GivenScores(torch.ones(1, 4)), Adaptive(GainThreshold(scale="none"), TwoStage(None, TopK()))
            ).select(blank_features(1, 4), 2),
            ConfigError,
            "objective",
        ),
    ],
)
def test_bad_input_is_told(make: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        make()
