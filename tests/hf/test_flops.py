"""The FLOP formula against torch's own counter, on the language model of every family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tokenprune.core.errors import UnsupportedError
from tokenprune.hf.adapters.base import adapter_for
from tokenprune.hf.cost import DecoderShape, prefill_flops
from tokenprune.zoo.tiny import FAMILIES, tiny_model


@pytest.mark.parametrize("tokens", [7, 24])
@pytest.mark.parametrize("family", FAMILIES)
def test_formula_is_what_torch_counts(family: str, tokens: int) -> None:
    model = tiny_model(family, "eager")
    decoder: Any = adapter_for(model).language_model
    if hasattr(decoder.config, "_experts_implementation"):
        decoder.config._experts_implementation = "eager"  # the counter does not know grouped products
    shape = DecoderShape.of(decoder.config)
    embeds = torch.randn(1, tokens, shape.width)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        decoder(inputs_embeds=embeds, use_cache=False)
    # rotary frequencies times positions are a product too, and none that the formula is about
    layers = sum(
        sum(operations.values())
        for name, operations in counter.get_flop_counts().items()
        if name.rpartition(".")[0].endswith("layers")
    )
    assert layers == prefill_flops(shape, [tokens] * shape.layers)


def test_layers_of_two_kinds_are_refused() -> None:
    config = tiny_model("qwen3_vl_moe").config.get_text_config()
    config.mlp_only_layers = [0]
    with pytest.raises(UnsupportedError, match="dense layers"):
        DecoderShape.of(config)
