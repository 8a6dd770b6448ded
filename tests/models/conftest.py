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
