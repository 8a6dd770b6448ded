"""From a question and its pictures to model inputs, by the processor's chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from tokenprune.core.errors import ConfigError
from tokenprune.hf.patching import replaced

__all__ = ["prompt_inputs"]


def prompt_inputs(processor: Any, images: Sequence[Image.Image], questions: Sequence[str]) -> Any:
    """Model inputs for one question about each picture, by the processor's chat template, left-padded.

    Raises
    ------
    ConfigError
        A question holds what stands for a picture in a prompt.
    """
    texts = []
    for question in questions:
        if (mark := next((mark for mark in _marks(processor) if mark in question), None)) is not None:
            raise ConfigError(f"question {question!r}: {mark!r} stands for a picture in prompts of this model; drop it")
        content = [{"type": "image"}, {"type": "text", "text": question}]
        message = [{"role": "user", "content": content}]
        texts.append(processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False))
    with replaced(vars(processor.tokenizer), "padding_side", "left"):
        # one list a prompt: some processors take a flat list for the images of the first one
        return processor(images=[[image] for image in images], text=texts, padding=len(texts) > 1, return_tensors="pt")


def _marks(processor: Any) -> list[str]:
    """What a processor puts visual tokens in for, wherever it stands in the text."""
    names = ("image_token", "video_token", "boi_token")
    return [str(mark) for name in names if (mark := getattr(processor, name, None))]
