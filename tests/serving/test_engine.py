"""The engine without HTTP: families, several pictures, 16-bit weights, and limits that make no sense."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tokenprune as tp
from tokenprune.core.errors import ConfigError, OptionTypeError
from tokenprune.hf.chat import conversation_inputs
from tokenprune.serving import ChatRequest, Engine, Limits
from tokenprune.zoo.tiny import picture, tiny_model, tiny_processor

SHOWN = (picture(1), picture(2))


def conversation(pictures: int) -> tuple[dict[str, Any], ...]:
    """A question about each picture, the first one answered."""
    turns: list[dict[str, Any]] = []
    for said in ("what color is the dog ?", "and that one ?")[:pictures]:
        turns.append({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": said}]})
        turns.append({"role": "assistant", "content": [{"type": "text", "text": "red"}]})
    return tuple(turns[:-1])


@pytest.mark.parametrize("family", ["llava", "llava_next", "qwen2_5_vl", "internvl"])
@pytest.mark.parametrize("pictures", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_families_answer_as_attached(family: str, pictures: int, dtype: torch.dtype) -> None:
    model, processor = tiny_model(family).to(dtype), tiny_processor(family)
    messages, shown = conversation(pictures), SHOWN[:pictures]
    request = ChatRequest(messages, shown, tp.build("divprune"), 0.5, max_tokens=6, stream=False, usage=False)
    heard: list[str] = []
    engine = Engine(model, processor)
    try:
        answer = engine.submit(request, heard.append).result(60)
    finally:
        engine.close()
    inputs = conversation_inputs(processor, messages, shown).to(model.device, dtype)
    with torch.no_grad(), tp.attach(model, "divprune", 0.5, processor=processor) as run:
        out = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    new = out[0, inputs["input_ids"].shape[1] :]
    assert answer.text == processor.tokenizer.decode(new, skip_special_tokens=True)
    assert "".join(heard) == answer.text
    assert answer.completion_tokens == len(new)
    assert answer.visual_tokens >= run.tokens_before > run.tokens_after


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"pictures": 0}, ConfigError, "limit pictures must be at least 1, got 0"),
        ({"tokens": 1.5}, OptionTypeError, "limit tokens must be an int, got float 1.5"),
        ({"waiting": True}, OptionTypeError, "limit waiting must be an int"),
    ],
)
def test_limits_are_counts(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Limits(**options)
