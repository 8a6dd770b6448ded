"""Keep-all is the plain model and dropping is masking out: every family, every kind of prompt, both ways."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenprune as tp
from tests.support.families import attentions, batch_of, cases, families, model_of, traces, ways
from tokenprune.core.errors import UnsupportedError
from tokenprune.diagnostics.laws import Way, drop, forward, keep_all
from tokenprune.hf.adapters import adapter_for
from tokenprune.hf.sources import refusal
from tokenprune.zoo.tiny import FAMILIES, Kind

pytestmark = pytest.mark.filterwarnings("ignore::tokenprune.core.errors.SubstituteWarning")

KEEP_ALL, DROP = 1e-5, 1e-4
"""Rounding, as a share of the logits' spread."""


def budgets_of(family: str, inputs: dict[str, torch.Tensor]) -> list[int]:
    """Another budget for each unit, from one token to nearly all."""
    with tp.attach(model_of(family), "random", 1.0) as run:
        forward(model_of(family), inputs)
    sizes = [len(places) for places in run.history[0].places]
    return [1 + (7 * unit + 3) % (size - 1) for unit, size in enumerate(sizes)]


@cases
@ways
@attentions
def test_keep_all_is_the_plain_model(family: str, kind: Kind, way: Way, attention: str) -> None:
    assert keep_all(model_of(family, attention), batch_of(family, kind), way=way) <= KEEP_ALL


@cases
@ways
@attentions
def test_dropping_is_masking_out(family: str, kind: Kind, way: Way, attention: str) -> None:
    inputs = batch_of(family, kind)
    budgets = budgets_of(family, inputs)
    error, prefill = drop(model_of(family, attention), inputs, budgets, way=way)
    assert error <= DROP
    assert prefill.selection.counts.tolist() == budgets
    assert sum(prefill.tokens_after) == sum(budgets) < sum(prefill.tokens_before)
    assert prefill.sequence_after < prefill.sequence_before


@pytest.mark.slow
@families
@settings(max_examples=8)
@given(data=st.data())
def test_ragged_budgets(family: str, data: st.DataObject) -> None:
    """Whatever each unit keeps, its own count is kept and the law holds."""
    model, inputs = model_of(family), batch_of(family, "two-images")
    with tp.attach(model, "random", 1.0) as run:
        forward(model, inputs)
    budgets = [data.draw(st.integers(1, len(places))) for places in run.history[0].places]
    strategy = tp.build("random", seed=data.draw(st.integers(0, 9)))
    error, prefill = drop(model, inputs, budgets, strategy)
    assert error <= DROP
    assert prefill.selection.counts.tolist() == budgets


@families
@ways
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_row_without_images_among_others(family: str, way: Way, place: int) -> None:
    """It is left alone: its logits are those that it gets by itself."""
    model = model_of(family)
    kinds: list[Kind] = ["image"] * 3
    kinds[place] = "text"
    inputs = batch_of(family, kinds)
    assert keep_all(model, inputs, way=way) <= KEEP_ALL
    error, prefill = drop(model, inputs, 0.4, way=way)
    assert error <= DROP
    assert set(prefill.rows) == {0, 1, 2} - {place}
    assert prefill.tokens_before[place] == prefill.tokens_after[place] == 0
    with tp.attach(model, "similarity", 0.4):
        last = forward(model, inputs)[place, -1]
    alone = forward(model, batch_of(family, kinds, only=[place]))[0, -1]
    torch.testing.assert_close(last, alone, rtol=0, atol=1e-4)


@families
@ways
def test_one_budget_for_all_a_prompt_shows(family: str, way: Way) -> None:
    inputs = batch_of(family, FAMILIES[family].kinds[-2])
    error, prefill = drop(model_of(family), inputs, 9, way=way, unit="sample")
    assert error <= DROP
    assert prefill.tokens_after == (9, 9, 9)


@families
@pytest.mark.parametrize("strategy", ["mi-pruner", "attention", "fastv"])
def test_nothing_is_left_behind(family: str, strategy: str) -> None:
    """Neither hooks nor shadowed methods, whether the block ends well or not."""
    model, inputs = model_of(family), batch_of(family, "image", 1)
    adapter = adapter_for(model)
    plain, before = forward(model, inputs), traces(model)
    if refusal(adapter, tp.build(strategy)):
        assert (family, strategy) == ("gemma3", "fastv")
        with pytest.raises(UnsupportedError), tp.attach(model, strategy, 0.5):
            pass
    else:
        with tp.attach(model, strategy, 0.5) as run:
            assert traces(model) != before
            assert not torch.equal(forward(model, inputs)[:, -1], plain[:, -1])
        assert run.tokens_after < run.tokens_before
        with pytest.raises(RuntimeError, match="mine"), tp.attach(model, strategy, 0.5):
            raise RuntimeError("mine")
    assert traces(model) == before
    assert model.generate.__func__ is type(model).generate
    for modality in adapter.placeholders:
        name = f"get_{modality}_features"
        assert getattr(adapter.core, name).__func__ is getattr(type(adapter.core), name)
    assert torch.equal(forward(model, inputs), plain)
