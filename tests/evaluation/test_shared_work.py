"""What is left out of a comparison's arithmetic changes none of its answers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tokenprune as tp
from tokenprune.core.kinds import Problem, Selector
from tokenprune.core.registry import build, registry
from tokenprune.core.strategy import AnyStrategy, Strategy
from tokenprune.evaluation.memoised import Memoised
from tokenprune.evaluation.nested import NestedSelection
from tokenprune.evaluation.prefix_cache import SharedWork, shared_prefix
from tokenprune.hf.adapters.base import adapter_for
from tokenprune.hf.chat import prompt_inputs
from tokenprune.zoo.tiny import picture, tiny_llava, tiny_processor

QUESTIONS = (
    "what color is the dog ?",
    "is there a cat ?",
    "what color is the big red dog on the left ?",
    "where is it ?",
)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llava(side=6)


@pytest.fixture(scope="module")
def inputs() -> Any:
    pictures = [picture(seed=seed) for seed in (0, 1, 0, 0)]
    return prompt_inputs(tiny_processor(side=6), pictures, QUESTIONS)


def _asked(
    model: Any, inputs: Any, strategy: AnyStrategy | None, keep: int, shared_work: SharedWork | None
) -> tuple[Any, Any]:
    """Tokens, and logits of each step."""
    from contextlib import nullcontext

    pruning: Any = nullcontext() if strategy is None else tp.attach(model, strategy, keep, processor=PROCESSOR)
    saving: Any = nullcontext() if shared_work is None else shared_work.during(strategy)
    options = {"max_new_tokens": 3, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    with torch.no_grad(), pruning, saving:
        out = model.generate(**inputs, **options)
    return out.sequences, torch.stack(out.logits)


PROCESSOR = tiny_processor(side=6)


@pytest.mark.parametrize(
    "name", [None, "attention", "divprune", "visionzip", "mi-pruner", "fastv", "sparsevlm", "apet"]
)
def test_answers_and_logits_stay(model: Any, inputs: Any, name: str | None) -> None:
    strategy = None if name is None else build(name)
    shared_work = SharedWork(adapter_for(model))
    for keep in (20, 9):
        tokens, logits = _asked(model, inputs, strategy, keep, None)
        for _ in range(2):  # the second time, first layers are remembered
            saved_tokens, saved_logits = _asked(model, inputs, strategy, keep, shared_work)
            assert torch.equal(tokens, saved_tokens)
            torch.testing.assert_close(saved_logits, logits, rtol=1e-4, atol=1e-5)
    assert "forward" not in vars(adapter_for(model).language_model)


def _attention_of(model: Any) -> Any:
    """Name of the language model's attention, and what its attention modules hold of their own."""
    decoder: Any = adapter_for(model).language_model
    return decoder.config._attn_implementation, [sorted(vars(layer.self_attn)) for layer in decoder.layers]


@pytest.mark.parametrize("strategy", [None, "fastv"])
def test_functions_of_others_are_there_again(model: Any, strategy: str | None) -> None:
    decoder: Any = adapter_for(model).language_model
    parts = [decoder, decoder.layers[-1].mlp, decoder.layers[0].self_attn.q_proj]
    attention = _attention_of(model)
    with pytest.MonkeyPatch.context() as patch:
        theirs = [part.forward for part in parts]
        for part, forward in zip(parts, theirs, strict=True):
            patch.setitem(vars(part), "forward", forward)
        with SharedWork(adapter_for(model)).during(None if strategy is None else build(strategy)):
            assert [vars(part)["forward"] for part in parts] != theirs
        assert [vars(part)["forward"] for part in parts] == theirs
    assert _attention_of(model) == attention


def test_beginnings_run_once(model: Any, inputs: Any) -> None:
    rows: list[tuple[int, int]] = []
    layer: Any = adapter_for(model).language_model
    hook = layer.layers[0].register_forward_pre_hook(lambda _, args: rows.append(tuple(args[0].shape[:2])))
    _asked(model, inputs, None, 0, SharedWork(adapter_for(model)))
    hook.remove()
    # two pictures in four questions, then what follows the pictures
    assert rows[0][0] == 2
    assert rows[0][1] > 36
    assert rows[1][0] == 4
    assert rows[1][1] < 36


@given(st.data())
def test_beginnings_are_what_rows_share(data: st.DataObject) -> None:
    # rows of small whole numbers over one of two stems, so that some begin alike
    stems = [[1, 2, 3, 4, 5, 6], [1, 2, 3, 9, 9, 9]]
    tails = st.lists(st.integers(0, 1), min_size=1, max_size=3)
    rows = [[*stems[data.draw(st.integers(0, 1))], *data.draw(tails)] for _ in range(data.draw(st.integers(1, 5)))]
    longest = max(map(len, rows))
    embeds = torch.tensor([[7] * (longest - len(row)) + row for row in rows]).unsqueeze(-1).float()
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows]).bool()
    positions = (mask.long().cumsum(1) - 1).clamp_min(0)
    found = shared_prefix(embeds, positions, mask)
    kinds = {tuple(row[:6]) for row in rows}
    if found is None:
        assert len(kinds) == len(rows)
        return
    assert len(found.leaders) == len(kinds)
    assert 6 <= found.length < min(map(len, rows))
    for row, group in zip(rows, found.group.tolist(), strict=True):
        assert rows[found.leaders[group]][: found.length] == row[: found.length]


def test_a_remembered_function_is_asked_again_only_for_something_else() -> None:
    asked: list[Tensor] = []

    def double(x: Tensor, scale: float = 2.0) -> Tensor:
        asked.append(x)
        return scale * x

    remembered = Memoised(double, least=4)
    x = torch.arange(6.0)
    for given_x, scale, calls in ((x, 2.0, 1), (x.clone(), 2.0, 1), (x, 3.0, 2), (x + 1, 3.0, 3), (x[:2], 3.0, 4)):
        assert torch.equal(remembered(given_x, scale=scale), scale * given_x)
        assert len(asked) == calls
    # what is too small is neither compared nor kept
    remembered(x[:2], scale=3.0)
    assert len(asked) == 5
    remembered(x + 1, scale=3.0)
    assert len(asked) == 5


NESTED = [
    name
    for name in (entry.name for entry in registry.entries("selectors"))
    if getattr(registry.load("selectors", name), "nested", False) is True
]


def test_which_selectors_are_nested() -> None:
    assert {"top-k", "greedy"} <= set(NESTED)


@settings(deadline=None)
@given(st.sampled_from(NESTED), st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12))
def test_a_nested_selector_begins_alike_at_every_budget(name: str, seed: int, few: int, many: int) -> None:
    few, many = sorted((few, many))
    generator = torch.Generator().manual_seed(seed)
    # coarse numbers, so that there are ties
    visual = torch.randint(-2, 3, (2, 12, 3), generator=generator).float()
    scores = torch.randint(0, 4, (2, 12), generator=generator).float()
    features = tp.Features(visual, encoder=visual)
    selector = registry.load("selectors", name)()
    assert isinstance(selector, Selector)

    def picks(count: int) -> Tensor:
        return selector.select(Problem(features, scores, (count, count), features.valid()))

    assert torch.equal(picks(few), picks(many)[:, :few])


@pytest.mark.parametrize("name", ["mi-pruner", "cdpruner", "divprune", "mmtok", "similarity"])
def test_one_selection_serves_all_budgets(model: Any, name: str) -> None:
    def made(seed: int = 5) -> tp.Features:
        generator = torch.Generator().manual_seed(seed)
        visual, text = torch.randn(2, 30, 8, generator=generator), torch.randn(2, 4, 8, generator=generator)
        return tp.Features(visual, text, encoder=visual.square())

    strategy = build(name)
    ordered = SharedWork(adapter_for(model)).once(strategy)
    assert isinstance(ordered, NestedSelection)
    calls: list[Any] = []
    original = Strategy.select

    def counted(self: Strategy, *args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Strategy, "select", counted)
        for keep in (20, 12, 3, [7, 2]):
            found = ordered.select(made(), keep)
            plain = original(strategy, made(), keep)  # type: ignore[arg-type]
            assert torch.equal(found.order, plain.order)
            assert torch.equal(found.indices, plain.indices)
            assert torch.equal(found.counts, plain.counts)
        assert len(calls) == 1
        ordered.select(made(6), 3)
        assert len(calls) == 2
        # more than was selected before is selected anew
        ordered.select(made(6), 4)
        assert len(calls) == 3


def test_strategies_of_their_own_at_each_budget_are_left_alone(model: Any) -> None:
    shared_work = SharedWork(adapter_for(model))
    for name in ("vispruner", "visionzip", "trimtokenator", "fastv", "mi-attention"):
        strategy = build(name)
        assert shared_work.once(strategy) is strategy
