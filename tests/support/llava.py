"""A tiny LLaVA and prompts for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from tokenprune.zoo.tiny import picture, tiny_llava, tiny_processor

SIDE = 5
N = SIDE * SIDE
QUESTIONS = ("what color is the dog ?", "is there a cat in the picture ?", "how many")

MODES: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "temperature": 0.7},
    "two samples": {"do_sample": True, "num_return_sequences": 2},
    "beams": {"num_beams": 3, "num_return_sequences": 2, "do_sample": False},
    "no cache": {"use_cache": False, "do_sample": False},
}


def generate(model: Any, inputs: dict[str, Any], mode: str = "greedy", tokens: int = 5) -> torch.Tensor:
    """New tokens only."""
    torch.manual_seed(0)
    out = model.generate(**inputs, max_new_tokens=tokens, **MODES[mode])
    return out[:, inputs["input_ids"].shape[1] :]


@pytest.fixture(scope="session")
def model() -> Any:
    return tiny_llava(side=SIDE)


@pytest.fixture(scope="session")
def processor() -> Any:
    return tiny_processor(side=SIDE)


@pytest.fixture(scope="session")
def prompts(processor: Any) -> Callable[..., dict[str, torch.Tensor]]:
    """Inputs for some questions, left-padded, each about ``images`` pictures."""

    def make(questions: Sequence[str] = QUESTIONS[:1], images: int = 1) -> dict[str, torch.Tensor]:
        texts = []
        for question in questions:
            content = [{"type": "image"}] * images + [{"type": "text", "text": question}]
            texts.append(
                processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
            )
        pictures = [picture(seed) for seed in range(images * len(questions))]
        return dict(processor(images=pictures, text=texts, padding=True, return_tensors="pt"))

    return make
