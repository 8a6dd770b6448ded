"""Every registered strategy inside a model, at the edges: keep one or all, half precision, equal tokens, one word."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from PIL import Image

import tokenprune as tp
from tests.support.llava import QUESTIONS, N
from tokenprune.core.selection import Selection
from tokenprune.hf.adapters import adapter_for
from tokenprune.hf.chat import prompt_inputs
from tokenprune.hf.sources import usable_strategies
from tokenprune.zoo.tiny import tiny_llava, tiny_processor

SIDE = 5
MODEL = tiny_llava(side=SIDE, layers=4)
STRATEGIES = pytest.mark.parametrize("name", usable_strategies(adapter_for(MODEL)))


@pytest.fixture(scope="module")
def half() -> Any:
    return tiny_llava(side=SIDE, layers=4).to(torch.bfloat16)


def run(model: Any, name: str, keep: Any, inputs: dict[str, Any], **options: Any) -> tp.Run:
    """Prune one batch; whatever was decided on the way must be sound."""
    inputs = {**inputs, "pixel_values": inputs["pixel_values"].to(model.dtype)}
    with torch.no_grad(), tp.attach(model, name, keep, **options) as record:
        logits = model(**inputs).logits
    assert logits.isfinite().all()
    (prefill,) = record.history
    for stage in prefill.stages:
        sound(stage.selection)
    sound(prefill.selection)
    for layers in prefill.layer_tokens:
        assert list(layers) == sorted(layers, reverse=True)
        assert layers[-1] >= 1
    return record


def sound(selection: Selection) -> None:
    """Distinct, ascending, in range, and as many as counted."""
    for b, count in enumerate(selection.counts.tolist()):
        kept = selection.row(b)
        assert len(kept) == count >= 1
        assert kept == sorted(set(kept))
        assert 0 <= kept[0] <= kept[-1] < selection.n_visual
        placed = selection.sequence[b]
        assert len(placed[placed >= 0].unique()) == len(placed[placed >= 0])


@STRATEGIES
@pytest.mark.parametrize("keep", [1, 2, 7, N - 1, N, 0.3, [1, N, 8]], ids=str)
def test_any_budget_on_a_padded_batch(prompts: Any, name: str, keep: Any) -> None:
    run(MODEL, name, keep, prompts(QUESTIONS))


@STRATEGIES
@pytest.mark.parametrize("keep", [1, 7, N])
def test_half_precision(half: Any, prompts: Any, name: str, keep: int) -> None:
    run(half, name, keep, prompts(QUESTIONS[:1]))


@STRATEGIES
def test_tokens_that_are_all_alike(name: str) -> None:
    processor = tiny_processor(side=SIDE)
    # a picture of one colour: patches differ by their position embedding only, once that is gone not at all
    model = tiny_llava(side=SIDE, layers=4)
    torch.nn.init.zeros_(model.model.vision_tower.embeddings.position_embedding.weight)
    inputs = dict(prompt_inputs(processor, [Image.new("RGB", (64, 64), "grey")], ["how many"]))
    with pytest.warns(tp.TokenPruneWarning) if name in ("mi-pruner", "mi-attention") else nullcontext():
        run(model, name, 7, inputs)


@STRATEGIES
def test_one_word_of_text(name: str, prompts: Any) -> None:
    inputs = prompts(("red",))
    own = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
    own[0, -3] = True  # the word; the template's last two tokens follow it
    with pytest.warns(tp.TokenPruneWarning) if name in ("mi-pruner", "mi-attention") else nullcontext():
        run(MODEL, name, 7, inputs, text=own)
