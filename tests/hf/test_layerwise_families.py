"""Pruning between layers in every model family whose layers allow it, deepstack features included."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune as tp
from tokenprune.core.errors import UnsupportedError
from tokenprune.hf.adapters import adapter_for
from tokenprune.zoo.tiny import FAMILIES, tiny_inputs, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore::tokenprune.core.errors.SubstituteWarning")

WINDOWED = {"gemma3"}
FULL = sorted(FAMILIES.keys() - WINDOWED)
BETWEEN_LAYERS = ("fastv", "sparsevlm", "dart", "apet", "autoprune")

families = pytest.mark.parametrize("family", FULL)


def forward(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model(**inputs).logits


def masked_by_layer(model: Any, inputs: dict[str, Tensor], prefill: Any) -> Tensor:
    """Run the full sequence; layers after an event cannot see what the event dropped."""
    adapter = adapter_for(model)
    seen = inputs["attention_mask"].bool()
    length = seen.shape[1]
    present = list(prefill.places)
    layers = list(adapter.language_model.layers)
    masks: dict[int, Tensor] = {}
    for stage in prefill.stages:
        seen = seen.clone()
        for unit, row in enumerate(prefill.rows):
            left = present[unit][stage.selection.row(unit)]
            seen[row, present[unit][~torch.isin(present[unit], left)]] = False
            present[unit] = left
        causal = torch.ones(length, length, dtype=torch.bool).tril() & seen.unsqueeze(1)
        causal |= torch.eye(length, dtype=torch.bool)
        hidden = torch.zeros(causal.shape).masked_fill(~causal, torch.finfo(torch.float32).min).unsqueeze(1)
        masks.update(dict.fromkeys(range(stage.layer + 1, len(layers)), hidden))
    with ExitStack() as stack:
        for number, mask in masks.items():

            def hook(_module: Any, args: Any, kwargs: Any, mask: Tensor = mask) -> Any:
                return args, {**kwargs, "attention_mask": mask}

            stack.callback(layers[number].register_forward_pre_hook(hook, with_kwargs=True).remove)
        return forward(model, inputs)


@families
@pytest.mark.parametrize("name", BETWEEN_LAYERS)
def test_keep_all_is_the_plain_model(family: str, name: str) -> None:
    model, inputs = tiny_model(family), tiny_inputs(family, "image", batch=2)
    plain = forward(model, inputs)
    with tp.attach(model, name, keep=1.0) as run:
        pruned = forward(model, inputs)
    assert run.tokens_after == run.tokens_before
    assert torch.equal(pruned, plain)


@families
@pytest.mark.parametrize("first", [0, 1])
def test_dropping_is_masking_out_from_that_layer_on(family: str, first: int) -> None:
    """One picture each, one event: after the first layer (before deepstack is done with) and after the second."""
    inputs = tiny_inputs(family, "image")
    strategy = tp.build("fastv", k=first + 1)
    model = tiny_model(family)
    with tp.attach(model, strategy, keep=0.5) as run:
        pruned = forward(model, inputs)
    (prefill,) = run.history
    assert run.tokens_after < run.tokens_before
    reference = masked_by_layer(tiny_model(family, "eager"), inputs, prefill)
    left = prefill.splice.index[0]
    torch.testing.assert_close(pruned[0], reference[0, left], rtol=0, atol=3e-5)


@pytest.mark.parametrize("family", sorted(WINDOWED))
def test_windows_are_refused_by_name(family: str) -> None:
    with pytest.raises(UnsupportedError, match="sliding_attention"), tp.attach(tiny_model(family), "fastv", 0.5):
        pass
