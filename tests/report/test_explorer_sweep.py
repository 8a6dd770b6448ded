"""What the page replays is what strategies do."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tokenprune as tp
from tests.support.explorer import BUDGETS, QUESTION, STRATEGIES, Engine
from tokenprune.components.scorers import PMI
from tokenprune.core.strategy import Strategy
from tokenprune.evaluation.batch import QuestionBatch
from tokenprune.hf.adapters.base import FROM_PIXELS, adapter_for
from tokenprune.report.explorer import Exploration
from tokenprune.report.explorer.gather import _words
from tokenprune.report.explorer.recording import recorded
from tokenprune.report.explorer.sweep import frame, growth, is_nested, ladder
from tokenprune.zoo.tiny import picture

N = 36
BEFORE = [name for name in STRATEGIES if isinstance(tp.build(name), Strategy)]


def features(tiny: tuple[Any, Any], strategy: tp.Strategy) -> tp.Features:
    shown = QuestionBatch(*tiny, [picture()], ["picture"], [QUESTION], (), [strategy]).shown(0)
    reads = strategy.reads(adapter_for(tiny[0]).available | FROM_PIXELS)
    return recorded(*tiny, shown.inputs, shown.encoded, "test", reads | {"visual", "text"})


@pytest.mark.parametrize("name", BEFORE)
def test_every_budget_on_the_slider_is_what_the_strategy_selects(
    name: str, tiny: tuple[Any, Any], logic: Engine
) -> None:
    strategy = tp.build(name)
    seen = features(tiny, strategy)
    index = STRATEGIES.index(name)
    for budget in range(1, N + 1):
        shown = logic.value(f"Logic.budgetShown(p.strategies[{index}], {budget})")
        assert shown == budget if is_nested(strategy) else shown <= budget
        kept = logic.value(f"Logic.kept(p.strategies[{index}], {budget})")
        assert kept == [i for i in strategy.select(seen, shown).order[0].tolist() if i >= 0]


def test_what_makes_a_patch_redundant_is_the_most_alike_of_the_picks_so_far(
    tiny: tuple[Any, Any], logic: Engine
) -> None:
    strategy = tp.build("mi-pruner")
    seen = features(tiny, strategy)
    table = strategy.selector.objective.pairs.table(seen).dense()[0]
    order = strategy.select(seen, N).order[0].tolist()
    for budget in (1, 2, 7, N):
        for patch in range(N):
            before = order[: min(budget, order.index(patch))]
            found = logic.value(f"Logic.redundancy(p.strategies[0], {budget}, {patch})")
            if not before:
                assert found is None
                continue
            best = max(before, key=lambda pick: float(table[patch, pick]))
            assert found["value"] == pytest.approx(float(table[patch, best]), rel=1e-4, abs=1e-6)
            assert float(table[patch, found["by"]]) == pytest.approx(float(table[patch, best]), abs=1e-6)


def test_the_table_of_words_reduces_to_the_scores(explored: Exploration, logic: Engine) -> None:
    scores = torch.tensor(logic.value("p.strategies[0].scores"))
    torch.testing.assert_close(explored.pmi.amax(1), scores)
    assert explored.pmi_by == repr(PMI())
    words = [word for word in explored.words if word.columns]
    assert "".join(word.text for word in words).strip() == QUESTION
    best = logic.value("Logic.wordsOf(p, 5)")
    assert best[0]["value"] == pytest.approx(float(scores[5]), abs=1e-6)
    assert [one["value"] for one in best] == sorted((one["value"] for one in best), reverse=True)


@pytest.mark.parametrize("name", ["sparsevlm", "apet"])
def test_layers_that_process_a_patch_add_up_to_what_ran(name: str, explored: Exploration) -> None:
    sweep = explored.sweeps[STRATEGIES.index(name)]
    assert [one.keep for one in sweep.frames] == sorted(BUDGETS)
    by_keep = {view.keep: view for view in sweep.views}
    for one in sweep.frames:
        view = by_keep[one.keep]
        assert sum(one.layers) / explored.n_layers == pytest.approx(view.layer_average)
        assert sorted(one.order) == sorted(view.kept)
        assert all(one.layers[patch] == explored.n_layers for patch in view.kept)


def test_merged_tokens_are_told(explored: Exploration) -> None:
    sweep = explored.sweeps[STRATEGIES.index("visionzip")]
    merging = [one for one in sweep.frames if one.keep == 20]
    assert merging[0].merged  # [CLS] and the contextual tokens
    assert set(merging[0].merged) <= set(merging[0].order)
    assert not any(one.merged for r in explored.sweeps if not r.strategy.merges for one in r.frames)


def test_answers_are_those_of_marked_budgets(explored: Exploration, logic: Engine) -> None:
    full = {"answer": explored.looked.full.answer, "keep": N}
    for budget, expected in ((1, 4), (4, 4), (5, 9), (9, 9), (20, 20), (21, N), (N, N)):
        told = logic.value(f"Logic.answerAt(p.strategies[0], {budget}, p.full, p.n)")
        assert told["keep"] == expected
        views = {view.keep: view.answer for view in explored.sweeps[0].views} | {N: full["answer"]}
        assert told["answer"] == views[expected]


@given(st.integers(1, 9), st.integers(0, 9), st.integers(0, 2**32 - 1))
def test_growth_tells_every_maximum(n: int, k: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    table = torch.randint(0, 4, (n, n), generator=draw).float()
    order = torch.randperm(n, generator=draw).tolist()[: min(n, k)]
    grew = growth(order, table)
    for budget in range(len(order) + 1):
        for patch in range(n):
            rank = order.index(patch) if patch in order else len(order)
            values = [float(table[patch, pick]) for pick in order[: min(budget, rank)]]
            told = [(step, value) for step, value in grew[patch] if step < budget]
            assert (told[-1] if told else None) == ((values.index(max(values)), max(values)) if values else None)


def test_one_frame_alone_has_nobody_to_be_like() -> None:
    table = torch.eye(3)
    alone = frame(1, [2], table)
    assert alone.nearest == (2, 2, -1)
    assert all(map(math.isfinite, alone.nearness))


def test_budgets_chosen_anew_hold_the_marked_ones() -> None:
    assert ladder(1, [1]) == [1]
    found = ladder(576, [64, 192])
    assert {1, 64, 192, 576} <= set(found)
    assert found == sorted(set(found))


def test_words_are_joined_where_no_space_parts_them() -> None:
    told = _words([(False, ["USER", ":"]), (True, [" 41", "5", " is"]), (False, ["</s>"])], 3)
    assert [(word.text, word.columns) for word in told] == [
        ("USER:", ()),
        (" 415", (0, 1)),
        (" is", (2,)),
        ("</s>", ()),
    ]
    with pytest.raises(tp.core.errors.FeatureError, match="2 tokens"):
        _words([(True, ["a", " b"])], 3)
