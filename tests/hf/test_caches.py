"""A cache is found under either of its names, and given under the one that a model knows."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from tokenprune.hf.patching import cache_argument, cache_in
from tokenprune.zoo.tiny import tiny_model


class Newer(nn.Module):
    def forward(self, cache: Any = None) -> Any:
        return cache


class Older(nn.Module):
    def forward(self, past_key_values: Any = None) -> Any:
        return past_key_values


class Hidden(nn.Module):
    def forward(self, **kwargs: Any) -> Any:
        return kwargs


@pytest.mark.parametrize(
    ("module", "name"), [(Newer(), "cache"), (Older(), "past_key_values"), (Hidden(), "past_key_values")]
)
def test_the_name_a_forward_has(module: nn.Module, name: str) -> None:
    assert cache_argument(module) == name


def test_the_installed_transformers_takes_it_by_that_name() -> None:
    from transformers import DynamicCache

    from tokenprune.hf.adapters import adapter_for

    model: Any = adapter_for(tiny_model("llava")).language_model
    cache = DynamicCache(config=model.config)
    embeds = model.get_input_embeddings().weight[:3].unsqueeze(0)
    model(inputs_embeds=embeds, use_cache=True, **{cache_argument(model): cache})
    assert cache.get_seq_length() == 3


def test_the_cache_of_a_call() -> None:
    cache = object()
    assert cache_in({"cache": cache}) is cache
    assert cache_in({"past_key_values": cache, "cache": None}) is cache
    assert cache_in({"past_key_values": None}) is None
    assert cache_in({}) is None
