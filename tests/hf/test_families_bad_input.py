"""Inputs that cannot be pruned raise, say what is wrong, and leave the model as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune as tp
from tests.support.families import WAYS, batch_of, families, model_of, traces, ways
from tokenprune.core.errors import BudgetError, MissingSignalError, UnsupportedError
from tokenprune.diagnostics.laws import Way, forward
from tokenprune.hf.adapters import adapter_for


def prune(way: Way, model: Any, inputs: dict[str, Tensor], keep: Any, strategy: str = "similarity") -> Tensor:
    if way == "prepare":
        return forward(model, tp.prepare(model, strategy, keep, **inputs))
    with tp.attach(model, strategy, keep):
        return forward(model, inputs)


@families
def test_a_prompt_without_images(family: str) -> None:
    model, inputs = model_of(family), batch_of(family, "text")
    with tp.attach(model, "mi-pruner", 5) as run:
        found = forward(model, inputs)
    assert torch.equal(found, forward(model, inputs))
    assert run.history == []
    if "prepare" in WAYS:
        with pytest.raises(UnsupportedError, match="pixel_values"):
            tp.prepare(model, "mi-pruner", 5, **inputs)


@families
@ways
@pytest.mark.parametrize("more", [True, False], ids=["images", "placeholders"])
def test_more_images_than_placeholders_or_fewer(family: str, way: Way, more: bool) -> None:
    """Transformers or ``prepare`` raises; nothing is pruned by guess."""
    model = model_of(family)
    before = traces(model)
    one, two = batch_of(family, "image", 1), batch_of(family, ["image", "image"])
    shown, told = (two, one) if more else (one, two)
    prompt = {name: value for name, value in told.items() if value.shape == told["input_ids"].shape}
    inputs = {**{name: value for name, value in shown.items() if value.shape != shown["input_ids"].shape}, **prompt}
    with pytest.raises((ValueError, RuntimeError, IndexError), match=r"(?i)match|placeholder|size|shape|number of"):
        prune(way, model, inputs, 0.5)
    assert traces(model) == before


@families
@ways
@pytest.mark.parametrize("keep", [0, 1.5, [2, 3], "many"])
def test_budgets_that_are_none(family: str, way: Way, keep: Any) -> None:
    with pytest.raises(tp.TokenPruneError, match=r"keep|budget|units"):
        prune(way, model_of(family), batch_of(family, "image"), keep)


@families
@ways
def test_a_budget_larger_than_one_of_the_images(family: str, way: Way) -> None:
    model, inputs = model_of(family), batch_of(family, "image")
    before = traces(model)
    with tp.attach(model, "similarity", 1.0) as run:
        forward(model, inputs)
    sizes = [len(places) for places in run.history[0].places]
    smallest = sizes.index(min(sizes))
    with pytest.raises(BudgetError, match=rf"{min(sizes) + 1}.*{min(sizes)}|{min(sizes)}.*{min(sizes) + 1}") as caught:
        prune(way, model, inputs, [min(sizes) + 1 if size == min(sizes) else size for size in sizes])
    assert str(smallest) in str(caught.value)
    assert traces(model) == before
    with tp.attach(model, "similarity", tp.Budget(min(sizes) + 1, clip=True)) as run:
        forward(model, inputs)
    assert run.history[0].selection.counts.tolist() == [min(size, min(sizes) + 1) for size in sizes]


@families
def test_a_strategy_without_its_signal_is_refused_by_name(family: str) -> None:
    """VisionZip reads the [CLS] feature; where [CLS] attends only, a substitute is not enough."""
    model = model_of(family)
    if "encoder_cls" in adapter_for(model).available:
        with tp.attach(model, "visionzip", 5) as run:
            forward(model, batch_of(family, "image", 1))
        assert run.tokens_after < run.tokens_before
    else:
        with pytest.raises(MissingSignalError, match=r"encoder_cls.*mi-pruner"), tp.attach(model, "visionzip", 5):
            pass
