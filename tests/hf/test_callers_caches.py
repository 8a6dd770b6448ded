"""What is known of a prompt stays with its cache: whatever the model reads in between, answers stay what they are."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

import tokenprune as tp
from tokenprune.core.errors import NestedAttachError, SecondTurnError, UnsupportedError
from tokenprune.hf.encoded import takes_encoded
from tokenprune.hf.patching import cache_argument, cache_in
from tokenprune.zoo.tiny import tiny_inputs, tiny_model

GREEDY = {"max_new_tokens": 6, "do_sample": False}


PREPARES = pytest.mark.skipif(not takes_encoded(tiny_model("llava")), reason="needs transformers >= 5.18")


@PREPARES
@pytest.mark.parametrize(
    ("name", "strategy", "keep", "batch"),
    [
        ("llava", "visionzip", 9, 1),
        ("llava", "mi-pruner", [3, 20, 9], 3),
        ("internvl", "mi-pruner", 0.3, 3),
        ("idefics3", "mi-pruner", 0.3, 2),
    ],
)
def test_guidance(name: str, strategy: str, keep: Any, batch: int) -> None:
    """Every step reads another prompt, without a picture and with a cache of its own."""
    model, inputs = tiny_model(name), tiny_inputs(name, "image", batch)
    with tp.attach(model, strategy, keep):
        got = model.generate(**inputs, **GREEDY, guidance_scale=1.7)
    want = model.generate(**tp.prepare(model, strategy, keep, **inputs), **GREEDY, guidance_scale=1.7)
    assert torch.equal(got[:, -6:], want[:, -6:])


def answers(model: Any, inputs: Any, between: Callable[[], Any] = lambda: None) -> list[Tensor]:
    """Logits of a decoding loop of one's own, with something else done before each step."""
    cache = DynamicCache(config=model.config.get_text_config())
    logits = [model(**inputs, past_key_values=cache, logits_to_keep=1).logits[:, -1]]
    for _ in range(4):
        between()
        token = logits[-1].argmax(-1, keepdim=True)
        logits.append(model(input_ids=token, past_key_values=cache).logits[:, -1])
    return logits


@pytest.mark.parametrize("strategy", ["mi-pruner", "fastv", "sparsevlm"])
@pytest.mark.parametrize("kind", ["image", "text"])
@pytest.mark.parametrize("name", ["llava", "internvl"])
@torch.no_grad()
def test_other_prompts_between_steps(name: str, strategy: str, kind: str) -> None:
    model, inputs, other = tiny_model(name), tiny_inputs(name, "image", 1), tiny_inputs(name, kind, 2, seed=5)
    with tp.attach(model, strategy, 0.4):
        want = answers(model, inputs)
        got = answers(model, inputs, lambda: model(**other))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("strategy", ["mi-pruner", "sparsevlm"])
@torch.no_grad()
def test_two_conversations_in_turns_and_a_copied_cache(strategy: str) -> None:
    model = tiny_model("llava")
    first, second = tiny_inputs("llava", "image", 1, seed=1), tiny_inputs("llava", "two-images", 1, seed=2)
    with tp.attach(model, strategy, 0.4):
        want = [answers(model, first), answers(model, second)]
        caches = [DynamicCache(config=model.config.get_text_config()) for _ in range(2)]
        got = [
            [model(**inputs, past_key_values=cache, logits_to_keep=1).logits[:, -1]]
            for inputs, cache in zip((first, second), caches, strict=True)
        ]
        for _ in range(4):
            for line, cache in zip(got, caches, strict=True):
                token = line[-1].argmax(-1, keepdim=True)
                branch = copy.deepcopy(cache)
                line.append(model(input_ids=token, past_key_values=cache).logits[:, -1])
                again = model(input_ids=token, past_key_values=branch).logits[:, -1]
                assert torch.equal(again, line[-1])
    assert all(torch.equal(a, b) for x, y in zip(got, want, strict=True) for a, b in zip(x, y, strict=True))


@torch.no_grad()
def test_caches_that_were_shortened_or_are_somebody_elses_are_refused() -> None:
    model, inputs = tiny_model("llava"), tiny_inputs("llava", "image", 1)
    token = torch.tensor([[5]])
    with tp.attach(model, "similarity", 9):
        cache = model(**inputs).past_key_values
        cache.crop(-(int(cache.get_seq_length()) - 9))
        with pytest.raises(UnsupportedError, match=r"holds 9 tokens, and its pruned prompt alone has \d+"):
            model(input_ids=token, past_key_values=cache)
        cache = model(**inputs).past_key_values
    with tp.attach(model, "similarity", 9):
        with pytest.raises(SecondTurnError, match="inside another attach block"):
            model(input_ids=token, past_key_values=cache)
        model(**inputs)


@torch.no_grad()
def test_deep_copies_made_inside_are_plain_models() -> None:
    model, inputs = tiny_model("llava"), tiny_inputs("llava", "image", 1)
    length = inputs["input_ids"].shape[1]
    for strategy in ("similarity", "fastv", "attention"):
        with tp.attach(model, strategy, 9):
            twin = copy.deepcopy(model)
            model(**inputs)
        for parameter in twin.parameters():
            parameter.zero_()
        assert twin.generate(**inputs, **GREEDY)[0, length:].tolist() == [0] * 6
        assert twin(**inputs).logits.shape[1] == length
        assert twin(**inputs, labels=inputs["input_ids"]).loss is not None
        with tp.attach(twin, strategy, 9) as run:
            twin(**inputs)
        assert (run.tokens_before, run.tokens_after) == (36, 9)


@PREPARES
@torch.no_grad()
def test_pruning_twice_is_refused() -> None:
    model, inputs = tiny_model("llava"), tiny_inputs("llava", "image", 1)
    prepared = tp.prepare(model, "similarity", 9, **inputs)
    head = copy.copy(model)
    with tp.attach(model, "similarity", 9):
        with pytest.raises(NestedAttachError, match="another head over the same core"), tp.attach(head, "random", 4):
            pass
        with pytest.raises(NestedAttachError, match="leave the block"):
            tp.prepare(model, "similarity", 9, **inputs)
        with pytest.raises(NestedAttachError, match=r"made by tokenprune\.prepare"):
            model(**prepared)
        model(**inputs)


def test_merged_values_do_not_stay_in_the_history() -> None:
    model, inputs = tiny_model("llava"), tiny_inputs("llava", "image", 1)
    with torch.no_grad(), tp.attach(model, "visionzip", 9) as run:
        for _ in range(3):
            model(**inputs)
    merged = run.history[-1].selection.merged
    assert merged is not None
    assert merged.tokens.numel() == 0
    assert run.selections[-1].sequence.shape == (1, 9)


def test_a_cache_made_anew_from_tensors_is_refused() -> None:
    model, inputs = tiny_model("llava"), tiny_inputs("llava", "image", 1)
    with torch.no_grad(), tp.attach(model, "mi-pruner", 9):
        out = model(**inputs, use_cache=True)
        token = out.logits[:, -1:].argmax(-1)
        anew = DynamicCache()
        for number, layer in enumerate(cache_in(out).layers):
            anew.update(layer.keys, layer.values, number)
        mask = torch.cat([inputs["attention_mask"], torch.ones_like(token)], 1)
        with pytest.raises(UnsupportedError, match="deepcopy"):
            model(input_ids=token, attention_mask=mask, **{cache_argument(model): anew})
