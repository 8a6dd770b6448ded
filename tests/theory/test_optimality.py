"""Bounds on the best picks, judged by brute force and by integer programming, and what is done where there is none."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenprune as tp
from tokenprune.components.objectives import Coverage, MaximalMarginalRelevance, MaxMin
from tokenprune.components.pairwise import Cosine
from tokenprune.components.selectors import Greedy
from tokenprune.core.errors import ConfigError, FeatureError
from tokenprune.core.kinds import Problem
from tokenprune.core.optimality import largest_sum
from tokenprune.testing import features
from tokenprune_theory.optimum import best_coverage, best_sequence

few = settings(max_examples=15, deadline=None)

PRESET = {
    "pmi-coverage": {"objective": "pmi-coverage"},
    "facility-location": {"objective": "facility-location"},
    "log-determinant": {"objective": "log-determinant"},
    "graph-cut": {"objective": {"name": "graph-cut", "lam": 1.5}},
    "modular": {"objective": "modular"},
    "mmr": {"objective": {"name": "mmr", "lam": 0.5}},
    "mmr, cosines": {"objective": {"name": "mmr", "lam": 0.3, "pairs": "cosine"}},
    "mmr, relevance alone": {"objective": {"name": "mmr", "lam": 1.0}},
    "max-min": {"objective": "max-min"},
}


def built(name):
    return tp.build({"scorer": "similarity", "selector": {"name": "greedy", **PRESET[name]}})


def total(objective, problem, row, order):
    """What an order of tokens of one row is worth, pick by pick, from the objective's own gains."""
    state = objective.start(problem.features, problem.scores)
    if problem.context is not None:
        state = objective.resume(state, problem.context)
    gains = []
    for pick in order:
        gains.append(float(objective.gains(state)[row, pick]))
        index = torch.full((len(problem.scores),), -1)
        index[row] = pick
        state = objective.take(state, index)
    if isinstance(objective, MaxMin):
        apart = gains if problem.context is not None and bool((problem.context[row] >= 0).any()) else gains[1:]
        return min((math.acos(min(1.0, max(-1.0, 1 - distance))) for distance in apart), default=math.pi)
    return math.fsum(gains)


def every_total(objective, problem, row):
    candidates = problem.available[row].nonzero().flatten().tolist()
    return [total(objective, problem, row, order) for order in itertools.permutations(candidates, problem.counts[row])]


def problem_of(strategy, batch, counts, context=None):
    available = batch.valid()
    if context is not None:
        available = available.clone()
        for row, picks in enumerate(context.tolist()):
            available[row, [i for i in picks if i >= 0]] = False
    return Problem(batch, strategy.scorer.score(batch), counts, available, context)


@pytest.mark.parametrize("name", PRESET)
@few
@given(data=st.data())
def test_nothing_exceeds_the_bound_and_nothing_falls_below_the_floor(name, data):
    strategy = built(name)
    objective = strategy.selector.objective
    batch = data.draw(features((1, 2), (3, 5), 2, 3, signals=objective.required_signals(), dtype=torch.float64))
    sizes = batch.valid().sum(1).tolist()
    counts = tuple(data.draw(st.integers(1, size)) for size in sizes)
    problem = problem_of(strategy, batch, counts)
    picks = strategy.selector.select(problem)
    found = objective.optimality(problem, picks)
    for row in range(batch.batch):
        own = [i for i in picks[row].tolist() if i >= 0]
        values = every_total(objective, problem, row)
        assert float(found.value[row]) == pytest.approx(total(objective, problem, row, own), abs=1e-9)
        # logarithms of variances that are nearly 0 carry no more digits than this
        assert float(found.bound[row]) >= max(values) - 1e-5 * max(1.0, abs(max(values)))
        assert float(found.floor[row]) <= min(values) + 1e-9
    known = found.ratio[~found.floor.isinf()]
    assert bool(((known >= 0) & (known <= 1)).all())
    if objective.modular or name == "mmr, relevance alone":
        assert found.ratio.tolist() == pytest.approx([1] * len(counts))
    if objective.monotone and objective.submodular:
        assert bool((found.ratio >= 1 - (1 - 1 / max(counts)) ** max(counts) - 1e-9).all())


@pytest.mark.parametrize("name", ["pmi-coverage", "mmr", "max-min", "graph-cut"])
@few
@given(data=st.data())
def test_picks_of_an_earlier_round_are_given(name, data):
    strategy = built(name)
    objective = strategy.selector.objective
    batch = data.draw(features(2, 5, 2, 3, signals=objective.required_signals(), masks=False, dtype=torch.float64))
    problem = problem_of(strategy, batch, (2, 2), torch.tensor([[1, 3], [2, -1]]))
    found = objective.optimality(problem, strategy.selector.select(problem))
    for row in range(2):
        values = every_total(objective, problem, row)
        assert float(found.bound[row]) >= max(values) - 1e-6 * max(1.0, abs(max(values)))
        assert float(found.floor[row]) <= min(values) + 1e-9


def test_integer_programs_find_what_brute_force_finds():
    rng = np.random.default_rng(0)
    for trial in range(6):
        n, k = 5, 1 + trial % 4
        table = rng.random((4, 8))
        sets = itertools.combinations(range(8), k)
        assert best_coverage(table, k) == pytest.approx(max(table[:, list(s)].max(1).sum() for s in sets))
        bonus, pairs = rng.standard_normal(n), 2 * rng.standard_normal((n, n)) - trial % 3

        def worth(order, bonus=bonus, pairs=pairs):
            charged = [max(pairs[i, j] for j in order[:step]) for step, i in enumerate(order) if step]
            return bonus[list(order)].sum() - 0.7 * sum(charged)

        best = max(map(worth, itertools.permutations(range(n), k)))
        assert best_sequence(bonus, pairs, 0.7, k) == pytest.approx(best)


def test_the_bound_of_coverage_against_the_exact_optimum_of_larger_instances():
    """24 tokens, of which brute force would try 10,626 sets a row."""
    generator = torch.Generator().manual_seed(0)
    batch = tp.Features(
        torch.randn(3, 24, 6, generator=generator).double(), torch.randn(3, 7, 6, generator=generator).double()
    )
    strategy = tp.build({"selector": {"name": "greedy", "objective": "pmi-coverage"}})
    found = strategy.assess(batch, strategy.select(batch, 4)).optimality
    table = strategy.selector.objective.start(batch, torch.zeros(3, 24)).table
    best = [best_coverage(rows.numpy(), 4) for rows in table]
    assert all(v <= b + 1e-9 for v, b in zip(found.value.tolist(), best, strict=True))
    assert all(b <= u + 1e-9 for b, u in zip(best, found.bound.tolist(), strict=True))
    # it says more than the worst case does
    assert bool((found.ratio > 0.9).all())


def test_it_is_computed_on_request_and_shown():
    batch = tp.Features(torch.eye(4)[None], torch.tensor([[[4.0, 3, 2, 1]]]))
    strategy = tp.build("similarity")
    chosen = strategy.select(batch, 2)
    assert chosen.optimality is None
    assessed = strategy.assess(batch, chosen)
    assert torch.equal(assessed.indices, chosen.indices)
    assert assessed.optimality.ratio.tolist() == pytest.approx([1.0])
    assert assessed.optimality.gap.tolist() == pytest.approx([0.0], abs=1e-5)
    assert "at least 100.0% of the best sum of scores" in repr(assessed)
    assert assessed != chosen
    assert assessed == strategy.assess(batch, chosen)


def test_top_k_is_the_best_by_its_scores_and_other_picks_are_not():
    batch = tp.Features(torch.eye(4)[None], torch.tensor([[[4.0, 3, 2, 1]]]))
    strategy = tp.build("similarity")
    assert strategy.assess(batch, strategy.select(batch, 2)).optimality.ratio.tolist() == [1.0]
    scores = strategy.select(batch, 2).scores
    worst = tp.Selection.from_order(torch.tensor([[3, 2]]), 4, scores)
    assert strategy.assess(batch, worst).optimality.ratio.tolist() == pytest.approx([0.0], abs=1e-6)


def test_strategies_of_two_rounds_are_bounded_given_the_first():
    generator = torch.Generator().manual_seed(1)
    batch = tp.Features(
        torch.randn(2, 12, 6, generator=generator),
        torch.randn(2, 4, 6, generator=generator),
        cls_attention=torch.rand(2, 1, 12, generator=generator),
    )
    strategy = tp.build("mi-attention")
    chosen = strategy.select(batch, [6, 3])
    found = strategy.assess(batch, chosen).optimality
    assert bool((found.bound >= found.value).all())
    selector = strategy.selector
    salient, rest, _ = selector._rounds(Problem(batch, strategy.scores(batch), (6, 3), batch.valid(), sizes=(12, 12)))
    second = selector.fill.select(rest)
    assert found.value.tolist() == selector.fill.objective.optimality(rest, second).value.tolist()
    assert (salient >= 0).sum(1).tolist() == [3, 1]


@pytest.mark.parametrize(
    ("strategy", "said"),
    [
        ({"selector": {"name": "greedy", "objective": "mean-dispersion"}}, "not declared submodular"),
        ("random", None),
        ({"selector": "strided"}, "maximises no objective"),
        ({"selector": {"name": "greedy", "objective": "pmi-coverage", "repeats": True}}, "maximises no objective"),
    ],
)
def test_where_there_is_no_bound_it_says_so(strategy, said):
    batch = tp.Features(torch.randn(1, 6, 4), torch.randn(1, 3, 4))
    built = tp.build(strategy)
    chosen = built.select(batch, 2)
    if said is None:  # the largest of random scores: the best by these
        assert built.assess(batch, chosen).optimality.ratio.tolist() == [1.0]
        return
    with pytest.raises(ConfigError, match=said):
        built.assess(batch, chosen)


def test_a_selection_of_other_features_is_refused():
    strategy = tp.build("similarity")
    one, two = tp.Features(torch.eye(4)[None], torch.eye(4)[None]), tp.Features(torch.eye(3)[None], torch.eye(3)[None])
    with pytest.raises(FeatureError, match=r"1 rows of 4 tokens, features of 1 rows of 3"):
        strategy.assess(two, strategy.select(one, 2))


class Doubled(MaximalMarginalRelevance):
    def gain(self, bonus, extremum):
        return bonus - 2 * extremum


class Squared(Cosine):
    pass


@pytest.mark.parametrize(
    ("objective", "said"),
    [(Doubled(), "override optimality, too"), (MaxMin(Squared()), "bounded for Cosine pairs")],
)
def test_what_a_subclass_changes_is_not_bounded_by_its_parents_bound(objective, said):
    batch = tp.Features(torch.randn(1, 5, 4), torch.randn(1, 3, 4))
    strategy = tp.Strategy(tp.build("similarity").scorer, Greedy(objective))
    with pytest.raises(ConfigError, match=said):
        strategy.assess(batch, strategy.select(batch, 2))


def test_a_plugins_coverage_is_bounded_by_what_it_declares():
    class Weighted(Coverage):
        def start(self, features, scores):
            from tokenprune.components.objectives.facility import CoverState

            table = features.visual.abs().mT
            return CoverState(table, torch.zeros_like(table[:, :, 0]))

    batch = tp.Features(torch.tensor([[[3.0, 0], [0, 2], [2, 1], [1, 1]]]))
    strategy = tp.Strategy(None, Greedy(Weighted()))
    found = strategy.assess(batch, strategy.select(batch, 2)).optimality
    assert found.value.tolist() == [5.0]
    assert found.bound.tolist() == pytest.approx([5.0], abs=1e-4)


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=6), st.data())
def test_largest_sums(values, data):
    k = data.draw(st.integers(0, len(values)))
    table = torch.tensor([values, values[::-1]], dtype=torch.float64)
    assert largest_sum(table, torch.tensor([k, 1])).tolist() == [sum(sorted(values)[len(values) - k :]), max(values)]


def test_the_bound_of_dispersion_is_twice_the_radius() -> None:
    """The token in the middle is picked first, and costs half of the angle that two others have: the bound is tight."""
    degrees = torch.tensor([0.0, 80.0, 85.0, -80.0, -85.0], dtype=torch.float64)
    turns = degrees * math.pi / 180
    f = tp.Features(torch.stack([turns.cos(), turns.sin()], dim=-1).unsqueeze(0))
    strategy = tp.build("divprune")
    assert isinstance(strategy, tp.Strategy)
    found = strategy.assess(f, strategy.select(f, keep=2)).optimality
    assert found is not None
    assert math.degrees(float(found.value)) == pytest.approx(85)
    best = max(abs(float(a - b)) for a in degrees for b in degrees)
    assert best == 170
    assert best <= math.degrees(float(found.bound)) < best + 0.1
