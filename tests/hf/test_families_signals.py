"""What is read of the encoders: the tokens' own features, in their order, whatever attention is used."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.families import CASES, batch_of, cases, model_of
from tokenprune.core.features import SIGNALS
from tokenprune.diagnostics.laws import forward
from tokenprune.hf.adapters import Block, Observation, adapter_for
from tokenprune.zoo.tiny import Kind

AFTER_THE_PROJECTOR = "llava_onevision"
"""Pictures of many tiles and videos are scaled down once they are projected: tokens are means of projected patches."""


def read(model: Any, inputs: dict[str, Tensor]) -> Iterator[tuple[str, Block, Tensor]]:
    """Each visual input with its prunable tokens, as they enter the language model."""
    adapter, seen = adapter_for(model), Observation()
    entered: list[Tensor] = []
    hook = adapter.language_model.register_forward_pre_hook(
        lambda _module, _args, kwargs: entered.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    with adapter.observe(adapter.available, seen):
        forward(model, inputs)
    hook.remove()
    for modality, blocks in seen.blocks.items():
        tokens = entered[0][adapter.image_mask(inputs["input_ids"], modality)]
        for block, part in zip(blocks, tokens.split([block.size for block in blocks]), strict=True):
            yield modality, block, part if block.fixed is None else part[~block.fixed]


@cases
def test_the_projector_makes_tokens_of_encoder_features(family: str, kind: Kind) -> None:
    model = model_of(family)
    project = adapter_for(model).project
    scaled = 0
    for modality, block, tokens in read(model, batch_of(family, kind)):
        with torch.no_grad():
            projected = project(block.signals["encoder"])
        if family == AFTER_THE_PROJECTOR and (modality == "video" or not torch.allclose(projected, tokens, atol=1e-4)):
            scaled += 1
        else:
            torch.testing.assert_close(projected, tokens, rtol=0, atol=1e-4)
    assert bool(scaled) == (family == AFTER_THE_PROJECTOR and kind != "two-images")


@pytest.mark.parametrize("kind", [kind for family, kind in CASES if family == AFTER_THE_PROJECTOR])
def test_scaled_tokens_differ_by_the_projector_s_bend_alone(kind: Kind) -> None:
    """With a projector that is linear, means before and after it are the same."""
    model = model_of(AFTER_THE_PROJECTOR)
    with straight(adapter_for(model).core.multi_modal_projector):
        for _, block, tokens in read(model, batch_of(AFTER_THE_PROJECTOR, kind)):
            with torch.no_grad():
                projected = adapter_for(model).project(block.signals["encoder"])
            torch.testing.assert_close(projected, tokens, rtol=0, atol=1e-4)


@contextlib.contextmanager
def straight(projector: Any) -> Iterator[None]:
    bend = projector.act
    projector.act = nn.Identity()
    yield
    projector.act = bend


@cases
def test_signals_do_not_depend_on_how_the_encoder_attends(family: str, kind: Kind) -> None:
    inputs, available = batch_of(family, kind), adapter_for(model_of(family)).available
    sdpa, eager = (list(read(model_of(family, attention), inputs)) for attention in ("sdpa", "eager"))
    assert len(sdpa) == len(eager) >= 3
    for (_, ours, _), (_, theirs, _) in zip(sdpa, eager, strict=True):
        assert ours.signals.keys() == theirs.signals.keys() == available - {"visual", "text"}
        assert ours.grids == theirs.grids
        for name, value in ours.signals.items():
            torch.testing.assert_close(value, theirs.signals[name], rtol=0, atol=1e-4)
            letters = SIGNALS[name].shape.split()[1:]
            if "n" in letters:
                assert value.shape[letters.index("n")] == ours.free
