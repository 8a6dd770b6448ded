"""The laws on every device there is, in single and half precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tokenprune as tp
from tests.support.llava import QUESTIONS, N
from tokenprune.diagnostics.doctor import ROUNDING
from tokenprune.diagnostics.mask_out import mask_out
from tokenprune.zoo.tiny import tiny_llava

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
STRATEGIES = ("random", "similarity", "attention", "mi-pruner", "mi-attention")


@pytest.fixture(scope="module", params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16, torch.float16], ids=str)
def placed(request: pytest.FixtureRequest, device: str) -> Any:
    return tiny_llava(side=5).to(device, request.param)


def on(model: Any, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    moved = {name: value.to(model.device) for name, value in inputs.items()}
    return {**moved, "pixel_values": moved["pixel_values"].to(model.dtype)}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_laws_hold(placed: Any, prompts: Any, strategy: str) -> None:
    inputs = on(placed, prompts(QUESTIONS))
    positions = torch.arange(inputs["input_ids"].shape[1], device=placed.device).expand(3, -1)
    with torch.no_grad():
        plain = placed(**inputs).logits
        with tp.attach(placed, strategy, keep=N):
            assert torch.equal(placed(**inputs).logits, plain)
        with tp.attach(placed, strategy, keep=[7, 3, 12]) as run:
            pruned = placed(**inputs, position_ids=positions).logits[:, -1].float()
        masked = mask_out(placed, inputs, run.history[0]).float()
    assert run.tokens_after == 22
    assert float((pruned - masked).abs().max() / masked.std()) < ROUNDING[placed.dtype]


@pytest.mark.parametrize("strategy", [s for s in STRATEGIES if s != "attention"])
def test_selection_does_not_depend_on_the_device(device: str, strategy: str) -> None:
    torch.manual_seed(0)
    tensors = {
        "visual": torch.randn(3, 200, 32),
        "text": torch.randn(3, 9, 32),
        "cls_attention": torch.rand(3, 4, 200),
    }
    here = tp.build(strategy).select(tp.Features(**tensors), keep=[20, 5, 11])
    there = tp.build(strategy).select(tp.Features(**{k: v.to(device) for k, v in tensors.items()}), keep=[20, 5, 11])
    assert torch.equal(here.order, there.order.cpu())
