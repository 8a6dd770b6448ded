"""Tiny models of every family and batches for them, shared by the law suite."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from tokenprune.diagnostics.laws import forward, widen_windows
from tokenprune.hf.encoded import takes_encoded
from tokenprune.zoo.tiny import FAMILIES, Kind, tiny_inputs, tiny_model

CASES = [(family, kind) for family, known in FAMILIES.items() for kind in known.kinds if kind != "text"]
"""Every kind of prompt that shows something, by family."""

WAYS = ("attach", "prepare") if takes_encoded(tiny_model("llava")) else ("attach",)
"""Older versions of transformers have no way to hand image features to a model."""

families = pytest.mark.parametrize("family", FAMILIES)
cases = pytest.mark.parametrize(("family", "kind"), CASES, ids=lambda value: value)
ways = pytest.mark.parametrize("way", WAYS)
attentions = pytest.mark.parametrize("attention", ["sdpa", pytest.param("eager", marks=pytest.mark.slow)])


@functools.cache
def model_of(family: str, attention: str = "sdpa", dtype: torch.dtype = torch.float32) -> Any:
    """A tiny model whose layers see whole prompts; tests leave it as it was."""
    model = tiny_model(family, attention).to(dtype)
    widen_windows(model)
    for kind in {"image", "video"} & set(FAMILIES[family].kinds):
        # transformers puts hooks of its own into an encoder when it runs for the first time
        forward(model, in_dtype(tiny_inputs(family, kind), dtype))
    return model


def batch_of(family: str, kind: Kind | Sequence[Kind], size: int = 3, **options: Any) -> dict[str, Tensor]:
    """Left-padded prompts that differ in question, and in the sizes of their images where the family knows several."""
    inputs = tiny_inputs(family, kind, size, **options)
    if len(inputs["input_ids"]) > 1:
        assert not bool(inputs["attention_mask"].all())
    return inputs


def in_dtype(inputs: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Pixels in the model's precision."""
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}


def traces(model: Any) -> Any:
    """What an attach block could leave behind: attributes of modules, hooks, and the names of attention functions."""
    modules = {
        name: (
            # a shadowed method is an attribute of the module itself
            sorted(vars(module)),
            {key: id(value) for key, value in vars(module).items() if callable(value)},
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
        )
        for name, module in model.named_modules()
    }
    configs = [module.config._attn_implementation for module in model.modules() if hasattr(module, "config")]
    return modules, configs
