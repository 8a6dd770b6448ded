"""Signals of encoder layers, on every family: over the tokens, whatever attention is used, refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipVisionModel

from tests.support.families import CASES, batch_of, cases, model_of
from tokenprune.core.features import signal_of
from tokenprune.diagnostics.laws import forward
from tokenprune.hf.adapters import Block, Observation, adapter_for
from tokenprune.hf.adapters.pooling import pooling_head, read_pooling
from tokenprune.zoo.tiny import Kind


def read(model: Any, inputs: dict[str, Any], names: frozenset[str]) -> list[Block]:
    seen = Observation()
    with adapter_for(model).observe(names, seen):
        forward(model, inputs)
    return [block for blocks in seen.blocks.values() for block in blocks]


@cases
def test_layers_give_the_same_signals_however_they_attend(family: str, kind: Kind) -> None:
    inputs, adapter = batch_of(family, kind), adapter_for(model_of(family))
    layered = sorted(name for name in adapter.on_demand if signal_of(name).layered)
    assert {"hidden", "wide_keys", "mean_attention"} <= set(layered)
    assert adapter.gives("cls_attention@0") == adapter.gives("cls_attention")
    names = frozenset(f"{name}@{layer}" for name in layered for layer in (0, -1))
    sdpa, eager = (read(model_of(family, attention), inputs, names) for attention in ("sdpa", "eager"))
    assert len(sdpa) == len(eager) > 0
    for ours, theirs in zip(sdpa, eager, strict=True):
        assert ours.signals.keys() == theirs.signals.keys() == names
        for name, value in ours.signals.items():
            torch.testing.assert_close(value, theirs.signals[name], rtol=0, atol=1e-4)
            axis = signal_of(name).shape.split()[1:].index("n")
            assert value.shape[axis] == ours.free
        assert not torch.equal(ours.signals["hidden@0"], ours.signals["hidden@-1"])


@pytest.mark.parametrize("family", sorted({family for family, _ in CASES}))
def test_what_a_family_lacks_it_does_not_claim(family: str) -> None:
    adapter = adapter_for(model_of(family))
    depth = len(adapter.encoder_layers("image"))
    assert depth > 0
    assert not adapter.gives(f"keys@{depth}")
    assert not adapter.gives("visual@0")
    assert not adapter.gives("nobody@0")
    assert adapter.gives(f"keys@{depth - 1}")


def test_a_pooling_head_s_attention_is_that_of_its_probe() -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = SiglipVisionConfig(**sizes, image_size=32, patch_size=8, vision_use_head=True)
    torch.manual_seed(0)
    model = SiglipVisionModel(config).eval()
    tower = getattr(model, "vision_model", model)
    head = pooling_head(tower)
    assert head is not None
    weights: list[torch.Tensor] = []
    pixels = torch.randn(3, 3, 32, 32)
    with torch.no_grad(), read_pooling(head) as found:
        states = model(pixel_values=pixels).last_hidden_state
        _, rows = head.attention(head.probe.expand(3, -1, -1), states, states, average_attn_weights=False)
        weights.append(rows[:, :, 0])
    torch.testing.assert_close(torch.stack(found), weights[0], rtol=0, atol=1e-5)
    assert pooling_head(torch.nn.Identity()) is None
