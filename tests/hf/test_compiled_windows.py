"""Layers with windows beside layers that see everything, in fixed shapes: answers are those of ``attach``."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from transformers import MistralConfig

import tokenprune as tp
from tests.support.compiled import altered, rows_of
from tokenprune.core.errors import NotCompiledWarning
from tokenprune.hf import masks
from tokenprune.hf.adapters.gemma import Gemma3Adapter
from tokenprune.zoo.tiny import tiny_inputs, tiny_model

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


WINDOW = 10


def windowed(name: str, attention: str = "sdpa") -> Any:
    """A tiny model whose layers have windows shorter than its prompts; of both kinds, if its config knows kinds."""
    if name == "gemma3":
        return tiny_model(name, attention).to(DEVICE)
    if name == "qwen2_vl":
        kinds = ["sliding_attention", "full_attention"]
        more = {"use_sliding_window": True, "sliding_window": WINDOW, "layer_types": kinds}
        return altered(name, attention, num_hidden_layers=2, **more).to(DEVICE)
    known = {k: v for k, v in tiny_model(name).config.get_text_config().to_dict().items() if k != "model_type"}
    return altered(name, attention, text=MistralConfig(**{**known, "sliding_window": WINDOW})).to(DEVICE)


ASKED: dict[str, dict[str, Any]] = {
    "greedy": {},
    "past the window": {"max_new_tokens": 26},
    "drawn": {"do_sample": True, "temperature": 0.8, "num_return_sequences": 2},
    "beams": {"num_beams": 3},
}


@pytest.mark.parametrize(
    ("name", "attention"), [("gemma3", "sdpa"), ("gemma3", "eager"), ("qwen2_vl", "sdpa"), ("llava", "sdpa")]
)
@pytest.mark.parametrize("keep", [3, 0.6, 1.0])
def test_tokens_are_those_of_attach(name: str, attention: str, keep: Any) -> None:
    """Prompts of several lengths, one with two pictures; windows count what is left."""
    model = windowed(name, attention)
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotCompiledWarning)
        compiled = tp.compile(model, "mi-pruner", keep, bucket=8)
        for number, (how, asked) in enumerate(ASKED.items()):
            kinds = ["image", "two-images", "text"] if how == "greedy" else "two-images"
            inputs = tiny_inputs(name, kinds, 3, seed=number)
            options = {"max_new_tokens": 5, **rows_of(model, asked)}
            torch.manual_seed(number)
            got = compiled.generate(**inputs, **options)
            torch.manual_seed(number)
            with tp.attach(model, "mi-pruner", keep):
                want = model.generate(**{k: v.to(DEVICE) for k, v in inputs.items()}, **options)
            assert torch.equal(got, want), how


@pytest.mark.parametrize("part", ["window", "blocks"])
def test_tiny_prompts_are_long_enough_to_tell(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without windows, or with pictures that only look back, first logits are others."""
    model, inputs = windowed("gemma3"), tiny_inputs("gemma3", "two-images", 2)

    def first() -> torch.Tensor:
        compiled = tp.compile(model, "mi-pruner", 0.6, bucket=8)
        seen = compiled.encode(**inputs)
        prompt = compiled.select(seen, **inputs)
        assert prompt is not None
        return compiled.prefill(prompt).clone()

    right = first()
    if part == "window":
        monkeypatch.setattr(masks, "window_of", lambda _: 10**6)
    else:
        monkeypatch.setattr(Gemma3Adapter, "both_ways", lambda *_: None)
    assert not torch.allclose(first(), right, atol=1e-3)


@pytest.mark.parametrize("kind", ["chunked_attention", "linear_attention"])
def test_layers_of_a_kind_that_is_not_known_run_the_plain_way(kind: str) -> None:
    model = windowed("gemma3")
    model.config.get_text_config().layer_types[0] = kind
    with pytest.warns(NotCompiledWarning, match=kind):
        tp.compile(model, "mi-pruner", 4)
