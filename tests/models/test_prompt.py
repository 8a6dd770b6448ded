"""Which tokens count as the prompt's own text."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.models.conftest import QUESTIONS
from tokenprune.hf.prompt_text import Scaffold, prompt_text

IMAGE = 4


def words(processor: Any, inputs: dict[str, Any], marked: torch.Tensor, row: int) -> str:
    return processor.tokenizer.decode(inputs["input_ids"][row][marked[row]])


def marked(processor: Any, inputs: dict[str, Any], **options: Any) -> torch.Tensor:
    ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
    return prompt_text(ids, mask, ids == IMAGE, frozenset({0, 1, 2, IMAGE}), **options)


@pytest.mark.parametrize("images", [1, 2])
def test_the_chat_template_is_left_out(processor: Any, prompts: Any, images: int) -> None:
    inputs = prompts(QUESTIONS, images=images)
    text = marked(processor, inputs, scaffold=Scaffold.of(processor, (IMAGE,)))
    assert [words(processor, inputs, text, b) for b in range(3)] == list(QUESTIONS)


def test_without_a_processor_what_follows_the_image_counts(processor: Any, prompts: Any) -> None:
    inputs = prompts(QUESTIONS)
    text = marked(processor, inputs)
    assert words(processor, inputs, text, 2) == "how many ASSISTANT :"


def test_all_is_everything_but_images_and_padding(processor: Any, prompts: Any) -> None:
    inputs = prompts(QUESTIONS)
    text = marked(processor, inputs, text="all")
    assert words(processor, inputs, text, 2) == "USER : how many ASSISTANT :"
    assert not text[2, 0]


def test_a_question_before_the_image_counts_too(processor: Any) -> None:
    ids = processor.tokenizer(["is it red ? <image> <image>"], return_tensors="pt")
    text = marked(processor, dict(ids))
    assert words(processor, dict(ids), text, 0) == "is it red ?"


def test_a_mask_or_function_of_the_callers(processor: Any, prompts: Any) -> None:
    inputs = prompts()
    own = inputs["input_ids"] == processor.tokenizer.convert_tokens_to_ids("dog")
    for given in (own, lambda ids: ids == processor.tokenizer.convert_tokens_to_ids("dog")):
        text = marked(processor, inputs, text=given)
        assert words(processor, inputs, text, 0) == "dog"


def test_a_processor_without_template_gives_no_scaffold(processor: Any) -> None:
    assert Scaffold.of(processor.tokenizer, (IMAGE,)) is None
