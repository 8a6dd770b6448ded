"""``prepare`` agrees with ``attach``, and works where that refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache

import tokenprune as tp
from tests.support.llava import MODES, QUESTIONS, N, generate
from tokenprune.core.errors import BudgetError, UnsupportedError
from tokenprune.hf.encoded import takes_encoded
from tokenprune.zoo.tiny import tiny_llava

# older versions of transformers have no way to hand image features to generate; test_llava.py tests the refusal
pytestmark = pytest.mark.skipif(not takes_encoded(tiny_llava(side=2)), reason="needs transformers >= 5.18")


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "no cache"])
@pytest.mark.parametrize("questions", [QUESTIONS[:1], QUESTIONS], ids=["B=1", "B=3"])
def test_keep_all_is_the_plain_model(model: Any, prompts: Any, questions: Any, mode: str) -> None:
    inputs = prompts(questions)
    plain = generate(model, inputs, mode)
    assert torch.equal(generate(model, tp.prepare(model, "mi-pruner", 1.0, **inputs), mode), plain)


@pytest.mark.parametrize("mode", ["greedy", "sampling", "two samples", "beams"])
@pytest.mark.parametrize("form", ["vispruner", "visionzip"])
def test_attach_and_prepare_agree(model: Any, processor: Any, prompts: Any, mode: str, form: str) -> None:
    inputs = prompts(QUESTIONS)
    strategy = tp.build("mi-attention", form=form)
    with tp.attach(model, strategy, [6, 9, 4], processor=processor) as run:
        attached = generate(model, inputs, mode)
    assert len(run.history) == 1
    assert (run.tokens_before, run.tokens_after) == (3 * N, 6 + 9 + 4)
    shorter = tp.prepare(model, strategy, [6, 9, 4], processor=processor, **inputs)
    assert shorter["input_ids"].shape[1] == run.history[0].sequence_after < run.history[0].sequence_before
    assert torch.equal(generate(model, shorter, mode), attached)


def test_positions_can_be_renumbered(model: Any, prompts: Any) -> None:
    inputs = prompts(QUESTIONS)
    kept = generate(model, tp.prepare(model, "similarity", 5, positions="compact", **inputs))
    with tp.attach(model, "similarity", 5, positions="compact"):
        assert torch.equal(generate(model, inputs), kept)
    shorter = tp.prepare(model, "similarity", 5, positions="compact", **inputs)
    assert shorter["position_ids"][1].tolist() == list(range(shorter["position_ids"].shape[1]))


def test_a_second_turn_works_through_prepare(model: Any, processor: Any, prompts: Any) -> None:
    first = tp.prepare(model, "mi-pruner", 5, processor=processor, **prompts())
    cache = DynamicCache(config=model.config.get_text_config())
    out = model.generate(**first, past_key_values=cache, max_new_tokens=3, do_sample=False)
    turn = processor.tokenizer("is it red ? ASSISTANT :", return_tensors="pt", add_special_tokens=False)["input_ids"]
    ids = torch.cat([out, turn], 1)
    new = ids.shape[1] - first["position_ids"].shape[1]
    last = first["position_ids"][:, -1:]
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "position_ids": torch.cat([first["position_ids"], last + 1 + torch.arange(new)], 1),
    }
    reused = model.generate(**inputs, past_key_values=cache, max_new_tokens=3, do_sample=False)
    fresh = model.generate(**inputs, mm_encoder_outputs=first["mm_encoder_outputs"], max_new_tokens=3, do_sample=False)
    assert torch.equal(reused, fresh)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"keep": 0}, BudgetError, "at least 1"),
        ({"strategy": "mi-prunner"}, tp.TokenPruneError, "mi-pruner"),
        ({"use_cache": False}, UnsupportedError, "attach"),
        ({"pixel_values": None}, UnsupportedError, "pixel_values"),
        ({"strategy": "fastv"}, UnsupportedError, "attach"),
    ],
)
def test_bad_requests_raise(
    model: Any, prompts: Any, change: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        tp.prepare(model, **{"strategy": "mi-pruner", "keep": 5, **prompts(), **change})


def test_images_share_a_budget_per_sample(model: Any, processor: Any, prompts: Any) -> None:
    inputs = prompts(QUESTIONS, images=2)
    with torch.no_grad(), tp.attach(model, "mi-pruner", 9, unit="sample", processor=processor):
        pruned = model(**inputs).logits[:, -1]
    shorter = tp.prepare(model, "mi-pruner", 9, unit="sample", processor=processor, **inputs)
    assert [len(f) for f in shorter["mm_encoder_outputs"]["image"].pooler_output] == [9, 9, 9]
    positions = torch.arange(inputs["input_ids"].shape[1]).expand(3, -1)
    shorter = tp.prepare(model, "mi-pruner", 9, unit="sample", processor=processor, **inputs, position_ids=positions)
    with torch.no_grad():
        torch.testing.assert_close(model(**shorter).logits[:, -1], pruned, rtol=0, atol=1e-5)
