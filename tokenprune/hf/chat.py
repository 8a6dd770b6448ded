"""From a question and its pictures to model inputs, by the processor's chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from PIL import Image

from tokenprune.core.errors import ConfigError
from tokenprune.hf.adapters.base import adapter_for
from tokenprune.hf.patching import replaced
from tokenprune.hf.prompt_text import Scaffold, Text, prompt_text

__all__ = ["Pictures", "prompt_inputs", "video_inputs", "words_of"]

Pictures = Image.Image | Sequence[Image.Image]
"""What one question is about: a picture, or several."""


def prompt_inputs(processor: Any, images: Sequence[Pictures], questions: Sequence[str]) -> Any:
    """Model inputs for one question about each picture, by the processor's chat template, left-padded.

    Parameters
    ----------
    processor
    images : sequence of Image or sequence of sequence of Image
        What each question is about: a picture, or several.
    questions : sequence of str

    Raises
    ------
    ConfigError
        A question holds what stands for a picture in a prompt.
    """
    texts = []
    shown = [[one] if isinstance(one, Image.Image) else list(one) for one in images]
    for pictures, question in zip(shown, questions, strict=True):
        _check_question(processor, question)
        content = [*({"type": "image"} for _ in pictures), {"type": "text", "text": question}]
        message = [{"role": "user", "content": content}]
        texts.append(processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False))
    with replaced(vars(processor.tokenizer), "padding_side", "left"):
        # one list a prompt: some processors take a flat list for the images of the first one
        return processor(images=shown, text=texts, padding=len(texts) > 1, return_tensors="pt")


def video_inputs(processor: Any, frames: Sequence[Image.Image], question: str) -> Any:
    """Model inputs for one question about a video, by the processor's chat template.

    Parameters
    ----------
    processor
    frames : sequence of Image
        All of them are shown: how many are taken of a film is the caller's choice.
    question : str

    Raises
    ------
    ConfigError
        A question holds what stands for a picture in a prompt.
    """
    _check_question(processor, question)
    message = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": question}]}]
    text = processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    film = np.stack([np.asarray(frame.convert("RGB")) for frame in frames])
    given = {"do_sample_frames": False} if "do_sample_frames" in _video_options(processor) else {}
    return processor(videos=[film], text=[text], return_tensors="pt", **given)


def _video_options(processor: Any) -> set[str]:
    """What a processor's own video processor can be told."""
    kwargs = getattr(getattr(processor, "video_processor", None), "valid_kwargs", None)
    return set(getattr(kwargs, "__annotations__", ()))


def _check_question(processor: Any, question: str) -> None:
    if (mark := next((mark for mark in _marks(processor) if mark in question), None)) is not None:
        raise ConfigError(f"question {question!r}: {mark!r} stands for a picture in prompts of this model; drop it")


def words_of(
    model: Any, processor: Any, inputs: Mapping[str, Any], text: Text = "prompt"
) -> list[tuple[bool, list[str]]]:
    """The first prompt in stretches of tokens that count as its text, and that do not.

    Parameters
    ----------
    model : PreTrainedModel
    processor : ProcessorMixin or PreTrainedTokenizerBase
    inputs : mapping
        What the processor returned.
    text : Text, default "prompt"
        As in :func:`~tokenprune.attach`.

    Returns
    -------
    list of (bool, list of str)
        In the order of the prompt: whether a stretch counts, and its tokens, decoded; a run of placeholders is one.
    """
    adapter = adapter_for(model)
    scaffold = Scaffold.of(processor, adapter.image_token_ids)
    ids, mask = inputs["input_ids"][:1], inputs["attention_mask"][:1].bool()
    shown = adapter.image_mask(ids)
    counts = prompt_text(ids, mask, shown, adapter.special_ids, text=text, scaffold=scaffold)
    tokens: list[tuple[bool, str]] = []
    row = zip(*(value[0].tolist() for value in (ids, shown, counts, mask)), strict=True)
    for (placed, counted, real), run in groupby(row, key=lambda token: token[1:]):
        decoded = [scaffold.speller.piece(token[0]).decode(errors="replace") for token in run]
        if real:
            tokens += [(counted, f"<{len(decoded)} visual tokens>")] if placed else [(counted, one) for one in decoded]
    return [(counted, [one for _, one in run]) for counted, run in groupby(tokens, key=lambda token: token[0])]


def _marks(processor: Any) -> list[str]:
    """What a processor puts visual tokens in for, wherever it stands in the text."""
    names = ("image_token", "video_token", "boi_token")
    return [str(mark) for name in names if (mark := getattr(processor, name, None))]
