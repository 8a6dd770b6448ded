"""Tuning: spaces, splits, constraints, estimates and verdicts by themselves, and the whole on a tiny model."""

from __future__ import annotations

import html
import itertools
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import tokenprune as tp
from tests.support.llava import N
from tokenprune.core.errors import ConfigError, TokenPruneError, UnknownNameError, UnreachableBudgetError
from tokenprune.data.items import Item, scene_items
from tokenprune.evaluation.compare import comparison
from tokenprune.evaluation.mixes import chosen_rows
from tokenprune.evaluation.tune.fit import Estimates, fit_need, needed_budgets, with_estimates
from tokenprune.evaluation.tune.goal import Goal, goal_of, largest_budget
from tokenprune.evaluation.tune.run import Plan, tune
from tokenprune.evaluation.tune.search import Trial, asked_keep_of, gives_up, importances
from tokenprune.evaluation.tune.space import Alternatives, Range, Space
from tokenprune.evaluation.tune.split import split
from tokenprune.evaluation.tune.trial import Answered, Questions
from tokenprune.evaluation.tune.verdict import DEFAULT, Candidate, chosen, finalists, front, holm, judge, said
from tokenprune.report.tune import told, write_report

# --- the space -------------------------------------------------------------------------------------------------------

SMALL = {
    "strategy": {
        "scorer": {
            "any": [
                {
                    "name": "pmi",
                    "normalizer": {"name": "softmax", "tau": {"low": 0.01, "high": 1.0, "log": True, "as": "tau"}},
                    "prior": {"any": ["uniform", "fitted"]},
                },
                "random",
            ]
        },
        "selector": {
            "any": [
                "top-k",
                {"name": "greedy", "objective": {"name": "mmr", "lam": {"low": 0.0, "high": 1.0, "as": "lam"}}},
                {"name": "adaptive", "rule": "fitted", "ceiling": 0.5},
            ]
        },
    },
    "start": [{"scorer": "pmi", "tau": 0.1, "selector": "greedy", "lam": 0.5}],
}


def written(path: Path, space: Any) -> Path:
    path.write_text(yaml.safe_dump(space), encoding="utf-8")
    return path


def test_the_space_that_ships_builds_in_every_alternative_and_holds_the_default() -> None:
    space = Space.read()
    start = dict(space.start[0])
    made = tp.build(space.compose(lambda one: start[one.name]))
    assert replace(made, name="mi-pruner") == tp.build("mi-pruner")  # type: ignore[type-var]
    names = {
        "stage",
        "text",
        "layer",
        "scorer",
        "aggregator",
        "tau",
        "lam",
        "marginal",
        "prior",
        "objective",
        "selector",
        "attention-share",
        "rule",
    }
    assert names <= set(space.open())


def test_what_has_one_name_is_one_number(tmp_path: Path) -> None:
    tau = {"low": 0.1, "high": 1.0, "as": "tau"}
    two = {
        "normalizer": {"name": "softmax", "tau": tau},
        "scorer": {"name": "pmi", "normalizer": {"name": "softmax", "tau": tau}},
    }
    asked: list[str] = []

    def choose(one: Any) -> float:
        asked.append(one.name)
        return 0.25

    made = Space({"scorer": two["scorer"], "selector": two["normalizer"]}).compose(choose)
    assert asked == ["tau"]
    assert made["scorer"]["normalizer"]["tau"] == made["selector"]["tau"] == 0.25


def test_open_values_are_found_with_their_paths(tmp_path: Path) -> None:
    space = Space.read(written(tmp_path / "space.yaml", SMALL))
    assert space.open() == {
        "scorer": Alternatives("scorer", ("pmi", "random")),
        "tau": Range("tau", 0.01, 1.0, True),
        "scorer.pmi.prior": Alternatives("scorer.pmi.prior", ("uniform", "fitted")),
        "selector": Alternatives("selector", ("top-k", "greedy", "adaptive")),
        "lam": Range("lam", 0.0, 1.0),
    }


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"scorer": {"any": ["pmi", "pmx"]}}, "scorer=pmx.*pmi"),
        ({"scorer": {"any": ["pmi", "pmi"]}}, "two alternatives"),
        ({"scorer": {"any": []}}, "any"),
        ({"scorer": "pmi"}, "nothing is open"),
        ({"scorer": {"name": "pmi", "normalizer": {"name": "softmax", "tau": {"low": 1, "high": 0.1}}}}, "below high"),
        (
            {"scorer": {"name": "pmi", "normalizer": {"name": "softmax", "tau": {"low": 0, "high": 1, "log": True}}}},
            "log",
        ),
        ({"scorer": {"name": "pmi", "normalizer": {"name": "softmax", "tau": {"low": 0.1, "hi": 1}}}}, "a range is"),
        ({"scorer": {"name": "pmi", "normalizer": {"name": "softmax", "tau": {"low": -1, "high": 1}}}}, "tau"),
        (
            {"scorer": {"any": ["pmi", "random"], "as": "x"}, "selector": {"any": ["top-k", "greedy"], "as": "x"}},
            "two ways",
        ),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(change: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(TokenPruneError, match=says):
        Space.read(written(tmp_path / "space.yaml", {"strategy": change}))


@pytest.mark.parametrize("start", [{"tua": 0.1}, {"tau": 7.0}, {"scorer": "similarity"}, "pmi"])
def test_a_start_outside_of_the_space_is_refused(start: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="start"):
        Space.read(written(tmp_path / "space.yaml", {**SMALL, "start": [start]}))


APART = {"name": "greedy", "objective": {"name": "max-min", "pairs": {"name": "cosine", "signal": "encoder"}}}
QUESTION_OR_ALL = {"any": [{"label": "question", "value": None}, "all"], "as": "text"}
WHERE: dict[str, Any] = {
    "strategy": {
        "as": "stage",
        "any": [
            {
                "label": "projection",
                "value": {"text": QUESTION_OR_ALL, "scorer": {"any": ["pmi", {"name": "speaking", "share": 0.5}]}},
            },
            {"label": "encoder", "value": {"selector": APART}},
            {"label": "layer", "value": {"after_layer": {"any": [0, 1], "as": "layer"}, "scorer": "pmi"}},
        ],
    }
}


def test_where_and_by_which_words_is_open_too(tmp_path: Path) -> None:
    space = Space.read(written(tmp_path / "space.yaml", WHERE))
    assert set(space.open()) == {"stage", "text", "projection.scorer", "layer"}
    chosen_ = {"stage": "projection", "text": "all", "projection.scorer": "speaking", "layer": "1"}
    assert space.compose(lambda one: chosen_[one.name]) == {
        "text": "all",
        "scorer": {"name": "speaking", "share": 0.5},
    }
    assert space.compose(lambda one: {**chosen_, "text": "question"}[one.name])["text"] is None
    assert space.compose(lambda one: {**chosen_, "stage": "layer"}[one.name]) == {"after_layer": 1, "scorer": "pmi"}


@pytest.mark.parametrize(
    ("place", "change", "says"),
    [
        # an alternative that only another one leads to, and that has no name
        (0, {"text": {"any": ["all", "al"]}, "scorer": "pmi"}, "projection.text=al"),
        (2, {"after_layer": {"any": [0, "x"]}, "scorer": "pmi"}, "layer.after_layer=x"),
        (2, {"after_layer": 1, "scorer": {"any": ["pmi", "pmx"]}}, "layer.scorer=pmx"),
        (2, {"after_layer": 1, "text": "all", "scorer": "pmi"}, "stage=layer"),
    ],
)
def test_unknown_parts_of_a_place_are_told_with_the_place(place: int, change: Any, says: str, tmp_path: Path) -> None:
    ways = [dict(way) for way in WHERE["strategy"]["any"]]
    ways[place]["value"] = change
    with pytest.raises(TokenPruneError, match=says):
        Space.read(written(tmp_path / "space.yaml", {"strategy": {"any": ways, "as": "stage"}}))


def test_what_acts_after_a_layer_is_asked_for_what_layers_process_on_average() -> None:
    inside, before = tp.build({"after_layer": 0, "scorer": "pmi"}), tp.build({"scorer": "pmi"})
    goal = goal_of(12, None, None, None)
    assert asked_keep_of(before, 12, goal, 36, 4) == 12
    assert asked_keep_of(inside, 12, goal, 36, 4) == 4  # 36 in the first of four layers, 4 in the others
    with pytest.raises(UnreachableBudgetError, match="its first layers see more"):
        asked_keep_of(inside, 9, goal_of(9, None, None, None), 36, 4)
    # where accuracy is the constraint, the budget is open and its cost is what is measured
    assert asked_keep_of(inside, 9, goal_of(None, 0.9, None, None), 36, 4) == 9


PAGE = Path(__file__).parents[2] / "docs" / "tune.md"


def test_spaces_of_the_page_can_be_searched(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    spaces = [block for block in blocks if block.startswith("strategy:")]
    assert len(spaces) == 2
    for block in spaces:
        (tmp_path / "space.yaml").write_text(block, encoding="utf-8")
        assert Space.read(tmp_path / "space.yaml").open()


# --- the split -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_no_picture_is_in_two_parts_and_no_question_is_lost(seed: int) -> None:
    items = scene_items(None, 300, 5)
    parts = split(items, seed).parts()
    pictures = [{item.image_id for item in part} for part in parts.values()]
    assert sum(map(len, pictures)) == len(set.union(*pictures)) == len({item.image_id for item in items})
    assert sorted(item.id for part in parts.values() for item in part) == sorted(item.id for item in items)
    assert [i.id for i in split(items[::-1], seed).test] == [i.id for i in split(items, seed).test][::-1]
    assert {i.image_id for i in split(items, seed + 1).test} != pictures[2]


def test_too_few_pictures_say_how_many_are_needed() -> None:
    with pytest.raises(ConfigError, match="takes 28"):
        split(scene_items(None, 40, 5), 0)


# --- the constraint --------------------------------------------------------------------------------------------------


def answers(correct: Any, tokens: float = 4.0) -> Answered:
    n = len(correct)
    names = tuple(str(i) for i in range(n))
    return Answered(names, names, tuple(map(float, correct)), (tokens,) * n, ("",) * n)


@pytest.mark.parametrize(
    ("given_", "says"),
    [
        ({}, "one constraint"),
        ({"budget": 4, "min_accuracy": 0.5}, "one constraint"),
        ({"budget": 0}, "at least 1"),
        ({"min_accuracy": 1.5}, "share"),
        ({"max_ms": 3.0}, "belong together"),
        ({"budget": 3, "costs": Path("x")}, "belong together"),
        ({"max_ms": 3.0, "costs": Path("nowhere")}, "no finished"),
    ],
)
def test_constraints_that_say_nothing_or_too_much_are_refused(given_: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        goal_of(**{"budget": None, "min_accuracy": None, "max_ms": None, "costs": None, **given_})


def test_a_time_becomes_the_largest_budget_that_keeps_it(tmp_path: Path) -> None:
    rows = [
        {"batch": 1, "keep": keep, "first_token_ms": {"median": ms}}
        for keep, ms in ((0, 90.0), (32, 10.0), (64, 14.0), (64, 12.0), (128, 20.0), (None, 90.0))
    ]
    rows += [{"batch": 4, "keep": 256, "first_token_ms": {"median": 1.0}}, {"batch": 1, "keep": 192, "refused": "no"}]
    assert [largest_budget(rows, ms) for ms in (10, 13, 16.5, 20, 99)] == [32, 64, 96, 128, 128]
    with pytest.raises(ConfigError, match="32 tokens, the fewest measured, take 10 ms"):
        largest_budget(rows, 9)
    (tmp_path / "summary.json").write_text(json.dumps({"rows": rows}))
    goal = goal_of(None, None, 16.5, tmp_path)
    assert goal.budget == 96
    assert "16.5 ms" in goal.said


def test_values_put_the_constraint_first() -> None:
    full = answers([1, 1, 1, 1])
    budget = goal_of(8, None, None, None)
    assert budget.value(answers([1, 1, 0, 0], 8.0), full, 16) == 0.5
    assert budget.value(answers([1, 1, 1, 0], 16.0), full, 16) < 0
    least = goal_of(None, 0.75, None, None)
    enough_cheap, enough_dear = answers([1, 1, 1, 0], 4.0), answers([1, 1, 1, 1], 12.0)
    values = [least.value(x, full, 16) for x in (enough_cheap, enough_dear, answers([1, 1, 0, 0], 1.0))]
    assert values[0] > values[1] > 1 > values[2]
    assert least.met(enough_dear, full)
    assert not least.met(answers([1, 0, 0, 0]), full)


# --- estimates -------------------------------------------------------------------------------------------------------


@given(
    st.integers(1, 5).flatmap(
        lambda b: st.lists(st.lists(st.booleans(), min_size=b, max_size=b), min_size=1, max_size=6)
    )
)
def test_what_is_needed_is_enough_and_so_is_more(right: list[list[bool]]) -> None:
    budgets = [2.0**k for k in range(len(right[0]))]
    needed = needed_budgets(np.array(right, dtype=float).T, budgets)
    for row, found in zip(right, needed, strict=True):
        enough = [b for i, b in enumerate(budgets) if all(row[i:])]
        assert (math.isnan(found) and not enough) or found == enough[0]


def test_a_rule_is_fitted_to_what_was_needed_and_keeps_the_budget_on_average() -> None:
    draw = np.random.default_rng(0)
    signals = draw.normal([0.5, 2.0, 1.5], [0.1, 0.5, 0.3], (400, 3))
    scaled = (signals - signals.mean(0)) / signals.std(0)
    needed = np.exp(0.6 * scaled[:, 0] - 0.3 * scaled[:, 2] + 0.01 * draw.normal(size=400))
    needed[::10] = np.nan
    options = fit_need(signals, needed)
    assert options is not None
    assert options["weights"] == pytest.approx([0.6, 0, -0.3], abs=0.02)
    shares = np.exp(options["bias"] + ((signals - options["means"]) / options["spreads"]) @ options["weights"])
    assert float(shares.mean()) == pytest.approx(1, abs=1e-3)
    tp.build({"scorer": "pmi", "selector": {"name": "adaptive", "rule": options}})
    assert fit_need(signals, np.full(400, 3.0)) is None


def test_estimates_go_where_they_are_asked_for() -> None:
    composition = {"scorer": {"name": "pmi", "prior": "fitted"}, "selector": {"name": "adaptive", "rule": "fitted"}}
    rule, prior = {"name": "fitted", "bias": 0.5}, {"name": "fitted", "weights": [[1, 2]]}
    found = with_estimates(composition, Estimates(rule, prior))
    assert found["selector"]["rule"] == rule
    assert found["scorer"]["prior"] == prior
    without = with_estimates(composition, Estimates(None, None))
    assert without["scorer"]["prior"] == "uniform"
    assert tp.build(without).select(tp.Features(*_random()), 4).counts.tolist() == [4, 4]  # type: ignore[attr-defined]


def _random() -> Any:
    import torch

    return torch.randn(2, 9, 4), torch.randn(2, 3, 4)


# --- the verdict -----------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_corrected_values_control_all_tests_together(p_values: list[float]) -> None:
    """Closed testing with Bonferroni for every subset is Holm's procedure."""
    found = holm(p_values)
    for i in range(len(p_values)):
        others = [j for j in range(len(p_values)) if j != i]
        subsets = [(i, *s) for r in range(len(others) + 1) for s in itertools.combinations(others, r)]
        closed = max(min(1.0, len(s) * min(p_values[j] for j in s)) for s in subsets)
        assert found[i] == pytest.approx(closed)


def trial(number: int, accuracy: float, tokens: float, state: str = "complete", keep: int = 4) -> Trial:
    return Trial(
        number, {}, {"scorer": {"name": "random", "seed": number}}, keep, state, [(4, accuracy)], accuracy, tokens, 9
    )


def test_the_front_is_what_no_other_beats_in_both() -> None:
    trials = [trial(0, 0.5, 10), trial(1, 0.6, 10), trial(2, 0.55, 20), trial(3, 0.7, 30), trial(4, 0.9, 5, "pruned")]
    assert [t.number for t in front(trials)] == [3, 1]
    assert [c.label for c in finalists(trials)] == ["trial 3", "trial 1", "trial 2", "trial 0"]


@given(st.lists(st.integers(0, 5), max_size=8), st.integers(0, 5))
def test_the_better_half_goes_on(values: list[int], mine: int) -> None:
    rivals = [replace(trial(i, 0, 1), steps=[(1, float(v))]) for i, v in enumerate(values)]
    better = sum(v > mine for v in values)
    # given up where at least half of those asked as much did better
    assert gives_up(float(mine), 1, rivals) == (len(values) > 1 and better >= (len(values) + 1) // 2)
    assert not gives_up(float(mine), 2, rivals)


def test_validation_chooses_and_the_test_part_judges() -> None:
    """Answers by table: one candidate is good everywhere, one only where it was tried."""
    good, lucky = Candidate("good", {"scorer": "pmi"}, 4), Candidate("lucky", {"scorer": "similarity"}, 4)
    table = {
        "good": [1] * 40 + [0] * 10,
        "lucky": [1] * 20 + [0] * 30,
        DEFAULT: [1] * 20 + [0] * 30,
        "random": [0] * 50,
        "full": [1] * 50,
    }

    def ask(rows: Any, tokens: float = 4.0) -> list[Answered]:
        return [answers(table[row.label], tokens) for row in rows]

    goal = goal_of(4, None, None, None)
    best, rows = chosen([lucky, good], ask, goal, 16)
    assert best is good
    assert [row["accuracy"] for row in rows] == [0.4, 0.8]
    verdict = judge(good, 4, ask, goal, 0.01)
    assert verdict.beats
    assert verdict.gain == pytest.approx(0.4)
    assert verdict.p_default < 0.001
    assert "Better than the default" in said(verdict, goal, 7)
    # where few tokens are the goal, a file is written without the default being beaten, and nothing else is said
    cheap = said(judge(lucky, 4, ask, goal_of(None, 0.3, None, None), 0.01), goal_of(None, 0.3, None, None), 7)
    assert cheap.startswith("Keeps the constraint (at least 30.0%")
    assert "No strategy" not in cheap
    tie = judge(lucky, 4, ask, goal, 0.01)
    assert not tie.beats
    assert "Nothing beats the default" in said(tie, goal, 7)
    dear = judge(good, 4, lambda rows: ask(rows, 9.0), goal, 0.01)
    assert not dear.met
    assert "No strategy is written" in said(dear, goal, 7)


# --- the whole -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def items() -> list[Item]:
    """One question for each of 30 pictures."""
    first = {item.image_id: item for item in reversed(scene_items(["pope"], 200, 3))}
    return [first[name] for name in sorted(first)][:30]


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Space:
    return Space.read(written(tmp_path_factory.mktemp("space") / "space.yaml", SMALL))


def plan(space: Space, trials: int, goal: Goal | None = None) -> Plan:
    return Plan(goal or goal_of(6, None, None, None), space, trials, batch_size=8, max_new_tokens=1)


def notes_of(text: str) -> None:
    """What is noted is no part of these tests."""


@pytest.mark.slow
def test_a_search_that_was_stopped_goes_on_as_if_it_had_not_been(
    model: Any, processor: Any, items: list[Item], space: Space, tmp_path: Path
) -> None:
    whole = tune(model, processor, items, tmp_path / "whole", {}, plan(space, 5), note=notes_of)
    tune(model, processor, items, tmp_path / "parts", {}, plan(space, 2), note=notes_of)
    parts = tune(model, processor, items, tmp_path / "parts", {}, plan(space, 5), note=notes_of)
    assert parts.summary["trials"] == whole.summary["trials"]
    assert parts.verdict == whole.verdict
    assert parts.summary["trials"][0]["params"] == {
        "scorer.pmi.prior": whole.summary["trials"][0]["params"]["scorer.pmi.prior"],
        **SMALL["start"][0],
    }  # type: ignore[index]
    # a model of random weights: nothing is better, which is said, and no file pretends otherwise
    assert whole.strategy is None
    assert not (tmp_path / "whole" / "strategy.yaml").exists()
    assert "No strategy is written" in "\n".join(told(whole.summary))
    page = write_report(tmp_path / "whole", whole.summary).read_text()
    assert "Nothing beats the default" in page
    assert page.count("<svg") == 1


@pytest.mark.slow
def test_a_folder_begun_with_another_space_is_refused_and_stays_as_it_was(
    model: Any, processor: Any, items: list[Item], space: Space, tmp_path: Path
) -> None:
    tune(model, processor, items, tmp_path, {}, plan(space, 1), note=notes_of)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = replace(space, start=())
    with pytest.raises(ConfigError, match="another configuration"):
        tune(model, processor, items, tmp_path, {}, plan(other, 1), note=notes_of)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_tuned_file_is_a_strategy_everywhere(
    model: Any, processor: Any, items: list[Item], space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all answers count as right, the cheapest composition keeps any constraint, and is written."""
    goal, asked = goal_of(None, 1.0, None, None), Questions.ask

    def ask(self: Questions, rows: Any, start: int = 0, stop: int | None = None) -> list[Answered]:
        return [replace(one, correct=(1.0,) * len(one.correct)) for one in asked(self, rows, start, stop)]

    monkeypatch.setattr(Questions, "ask", ask)
    found = tune(model, processor, items, tmp_path / "out", {"model": "tiny"}, plan(space, 3, goal), note=notes_of)
    assert found.strategy is not None
    assert "No strategy is written" not in found.words
    # of compositions that are all accurate enough, the one of fewest tokens
    assert found.candidate.keep == min(one["keep"] for one in found.summary["validation"])
    document = yaml.safe_load(found.strategy.read_text())
    assert {"versions", "questions", "split", "run", "goal", "p_default"} <= document["tuned"].keys()
    built = tp.build(str(found.strategy))
    assert built == tp.build(found.candidate.strategy)
    (row,) = chosen_rows(str(found.strategy)) or ()
    assert isinstance(row, dict)
    assert tp.build(row["strategy"]) == built
    inputs = processor(images=items[0].image(), text="<image> what color is the dog", return_tensors="pt")
    with tp.attach(model, str(found.strategy), found.candidate.keep, text="all") as run:
        model.generate(**inputs, max_new_tokens=1)
    assert 0 < run.tokens_after <= N


@pytest.mark.parametrize("stage", ["projection", "layer"])
def test_a_tuned_file_says_where_and_by_which_words(
    stage: str, model: Any, processor: Any, items: list[Item], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every composition of a place is right, all else wrong: the file holds the place, and runs everywhere."""
    start = {"stage": stage, "text": "all", "projection.scorer": "speaking", "layer": "0"}
    known = {"projection": ("stage", "text", "projection.scorer"), "layer": ("stage", "layer")}[stage]
    space = replace(Space.read(written(tmp_path / "space.yaml", WHERE)), start=({name: start[name] for name in known},))
    asked = Questions.ask

    def ask(self: Questions, rows: Any, start: int = 0, stop: int | None = None) -> list[Answered]:
        found = asked(self, rows, start, stop)
        right = [float(row.label not in (DEFAULT, f"{DEFAULT} (default)", "random")) for row in rows]
        return [replace(one, correct=(r,) * len(one.correct)) for one, r in zip(found, right, strict=True)]

    monkeypatch.setattr(Questions, "ask", ask)
    goal = goal_of(20, None, None, None)
    found = tune(model, processor, items, tmp_path / "out", {"model": "tiny"}, plan(space, 1, goal), note=notes_of)
    assert found.strategy is not None
    document = yaml.safe_load(found.strategy.read_text())
    built = tp.build(str(found.strategy))
    if stage == "layer":
        assert document["strategy"]["after_layer"] == 0
        # 25 tokens in the first layer, and so many in the others that it is 20 on average
        assert built.layer_average(N, 3, document["keep"]) <= 20 < N
        assert document["keep"] < 20
    else:
        assert document["strategy"]["text"] == built.text == "all"
        assert document["keep"] == 20
    rows = chosen_rows(str(found.strategy))
    assert rows is not None
    told_ = comparison(model, processor, items[:4], tmp_path / "compare", {}, strategies=rows, budgets=(8,))
    assert not told_.failed
    inputs = processor(images=items[0].image(), text="<image> what color is the dog", return_tensors="pt")
    with tp.attach(model, str(found.strategy), document["keep"], processor=processor) as run:
        model.generate(**inputs, max_new_tokens=1)
    assert run.history[0].layer_tokens[0][-1] == document["keep"]


def test_compositions_that_cannot_be_asked_say_why_and_do_not_count(
    model: Any, processor: Any, items: list[Item], tmp_path: Path
) -> None:
    starts = [{"stage": "layer", "layer": "1"}, {"stage": "projection", "text": "all", "projection.scorer": "pmi"}]
    space = replace(Space.read(written(tmp_path / "space.yaml", WHERE)), start=tuple(starts))
    found = tune(
        model, processor, items, tmp_path / "out", {}, plan(space, 1, goal_of(6, None, None, None)), note=notes_of
    )
    first, second = found.summary["trials"]
    assert (first["state"], first["n"]) == ("refused", 0)
    assert "its first layers see more" in first["why"]
    assert (second["state"], second["why"]) == ("complete", "")
    assert "1 compositions were tried" in found.words
    assert first["why"] in html.unescape(write_report(tmp_path / "out", found.summary).read_text())


def test_a_search_ends_when_its_time_is_over_and_the_verdict_follows(
    model: Any, processor: Any, items: list[Item], space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that moves by a second whenever it is looked at: begin, and once before each composition."""
    clock = SimpleNamespace(monotonic=itertools.count().__next__)
    monkeypatch.setattr("tokenprune.evaluation.tune.search.time", clock)
    asked = replace(plan(space, 9), timeout=2.5)
    found = tune(model, processor, items, tmp_path, {}, asked, note=notes_of)
    assert len(found.summary["trials"]) == 2
    assert "2 compositions were tried" in found.words


def test_nothing_is_tried_twice_and_a_small_space_ends_the_search(
    model: Any, processor: Any, items: list[Item], tmp_path: Path
) -> None:
    few = {"strategy": {"scorer": {"any": ["pmi", "similarity", {"name": "random", "seed": 1}]}}}
    space = Space.read(written(tmp_path / "space.yaml", few))
    found = tune(model, processor, items, tmp_path / "out", {}, plan(space, 9), note=notes_of)
    tried_ = [str(one["strategy"]) for one in found.summary["trials"]]
    assert len(tried_) == len(set(tried_)) == 3


def test_what_mattered_is_what_separates_good_from_bad(space: Space) -> None:
    goal = goal_of(6, None, None, None)
    draw = np.random.default_rng(0)
    done = []
    for number in range(40):
        tau, lam = draw.uniform(0.01, 1.0), draw.uniform(0.0, 1.0)
        chosen_ = {"scorer": "pmi", "scorer.pmi.prior": "uniform", "tau": tau, "selector": "greedy", "lam": lam}
        done.append(replace(trial(number, 1 - tau, 6.0), params=chosen_))
    found = importances(space, goal, N, 0, done)
    assert max(found, key=lambda name: found[name]) == "tau"
    assert found["tau"] > 3 * found["lam"]
    assert importances(space, goal, N, 0, done[:9]) == {}  # too few to tell
    with pytest.raises(ConfigError, match="no trials"):
        importances(space, goal, N, 0, [])


def test_a_constraint_that_nothing_keeps_is_told(
    model: Any, processor: Any, items: list[Item], space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goal = goal_of(None, 1.0, None, None)
    asked = Questions.ask

    def ask(self: Questions, rows: Any, start: int = 0, stop: int | None = None) -> list[Answered]:
        right = [1.0 if row.kind == "full" else 0.0 for row in rows]
        found = asked(self, rows, start, stop)
        return [replace(one, correct=(r,) * len(one.correct)) for one, r in zip(found, right, strict=True)]

    monkeypatch.setattr(Questions, "ask", ask)
    with pytest.raises(UnreachableBudgetError, match="lower --min-accuracy"):
        tune(model, processor, items, tmp_path, {}, plan(space, 2, goal), note=notes_of)
    assert not (tmp_path / "strategy.yaml").exists()


def test_a_budget_that_pictures_do_not_have_is_refused(
    model: Any, processor: Any, items: list[Item], space: Space, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"has {N} visual tokens"):
        tune(model, processor, items, tmp_path, {}, plan(space, 1, goal_of(N, None, None, None)))
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_strategy_is_refused(tmp_path: Path) -> None:
    for text in ("[]", "tuned: {}", "7"):
        path = tmp_path / "strategy.yaml"
        path.write_text(text)
        with pytest.raises(ConfigError, match="a strategy is a name"):
            tp.build(str(path))
    path.write_text("scorer: pmx")
    with pytest.raises(UnknownNameError, match="pmi"):
        tp.build(str(path))
