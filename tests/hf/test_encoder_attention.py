"""What the hooks read of the encoder equals what eager attention would have returned."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.support.llava import N
from tokenprune.hf.adapters import Observation, adapter_for
from tokenprune.hf.adapters.encoder_attention import ENCODER_SIGNALS, attention_received
from tokenprune.zoo.tiny import tiny_llava


@pytest.mark.parametrize("layer", [-2, -1, 1, 3])
def test_signals_equal_eager_attention(prompts: Any, layer: int) -> None:
    model = tiny_llava(side=5)
    model.config.vision_feature_layer = layer
    pixels = prompts(("how many", "is it red ?"))["pixel_values"]
    adapter, seen = adapter_for(model), Observation()
    with torch.no_grad(), adapter.observe(ENCODER_SIGNALS | {"encoder"}, seen):
        adapter.encode("image", pixel_values=pixels)
    tower = model.model.vision_tower
    tower.set_attn_implementation("eager")
    with torch.no_grad():
        out = tower(pixels, output_attentions=True, output_hidden_states=True)
    # hidden_states[k] is the output of layer k - 1; negative numbers count alike in both tuples
    attention = out.attentions[layer if layer < 0 else layer - 1]
    hidden = out.hidden_states[layer]
    blocks = seen.blocks["image"]
    assert [block.size for block in blocks] == [N, N]
    for name, expected in {
        "cls_attention": attention[:, :, 0, 1:],
        "received_attention": attention.mean(1)[:, 1:, 1:].sum(1) - attention.mean(1)[:, 1:, 1:].diagonal(0, 1, 2),
        "encoder": hidden[:, 1:],
        "encoder_cls": hidden[:, 0],
    }.items():
        torch.testing.assert_close(torch.stack([block.signals[name] for block in blocks]), expected, rtol=0, atol=1e-5)
    assert torch.stack([block.signals["keys"] for block in blocks]).shape == (2, N, 16)


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_the_received_attention_does_not_depend_on_the_chunk(chunk: int) -> None:
    torch.manual_seed(0)
    queries, keys = torch.randn(2, 2, 3, 11, 4)
    whole = attention_received(queries, keys, 0.5, skip=1, chunk=1000)
    torch.testing.assert_close(attention_received(queries, keys, 0.5, skip=1, chunk=chunk), whole)


def test_an_encoder_without_cls_says_so() -> None:
    model = tiny_llava(side=5)
    model.config.vision_feature_select_strategy = "full"
    available = adapter_for(model).available
    assert "received_attention" in available
    assert "cls_attention" not in available


def test_nothing_is_read_that_was_not_asked_for(prompts: Any) -> None:
    model = tiny_llava(side=5)
    seen = Observation()
    adapter = adapter_for(model)
    with torch.no_grad(), adapter.observe(frozenset({"visual", "text"}), seen):
        adapter.encode("image", pixel_values=prompts()["pixel_values"])
    (block,) = seen.blocks["image"]
    assert block.signals == {}
    assert block.size == N
