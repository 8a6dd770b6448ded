"""Queries and keys turned in place are those of transformers' operations; an encoder with all stand-ins gives alike."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tokenprune.hf.adapters import adapter_for
from tokenprune.hf.compiled.encoder import quick_encoder
from tokenprune.hf.compiled.stages import sight
from tokenprune.hf.encoded import observed, vision_in
from tokenprune.kernels.rotary import rotate
from tokenprune.zoo.tiny import tiny_inputs, tiny_model


@pytest.fixture(autouse=True)
def _programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENPRUNE_KERNELS", "interpret")


def turned(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Heads (N, H, k) by angles (N, k), in float32."""
    low, high = x.float().chunk(2, -1)
    beside = torch.cat([-high, low], -1)
    return (x.float() * cosines.unsqueeze(1).float() + beside * sines.unsqueeze(1).float()).to(x.dtype)


@settings(deadline=None, max_examples=8)
@given(
    tokens=st.integers(1, 4),
    heads=st.integers(1, 3),
    half=st.integers(1, 9),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    wide=st.booleans(),
)
def test_rotate(device: str, tokens: int, heads: int, half: int, dtype: torch.dtype, wide: bool) -> None:
    draw = torch.Generator().manual_seed(tokens + 10 * half)
    packed = torch.randn(tokens, 3, heads, 2 * half, generator=draw).to(device, dtype)
    angles = torch.randn(tokens, 2 * half, generator=draw).to(device)
    cosines, sines = (x if wide else x.to(dtype) for x in (angles.cos(), angles.sin()))
    want = [turned(packed[:, kind], cosines, sines) for kind in (0, 1)]
    values = packed[:, 2].clone()
    rotate(packed, cosines, sines)
    for kind in (0, 1):
        torch.testing.assert_close(packed[:, kind], want[kind])
    assert torch.equal(packed[:, 2], values)


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
@torch.no_grad()
def test_an_encoder_with_all_stand_ins(device: str, name: str) -> None:
    model: Any = tiny_model(name).to(device)
    adapter = adapter_for(model)
    vision = {key: value.to(device) for key, value in vision_in(adapter, tiny_inputs(name, "image", 1)).items()}
    signals = frozenset({"visual", "keys", "encoder"})
    want = sight(adapter, observed(adapter, signals, vision))
    with quick_encoder(adapter):
        got = sight(adapter, observed(adapter, signals, vision))
    assert got.keys() == want.keys()
    for key, value in want.items():
        torch.testing.assert_close(got[key], value, atol=2e-5, rtol=2e-5)
