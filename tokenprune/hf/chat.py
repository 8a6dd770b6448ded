"""From a question and its pictures to model inputs, by the processor's chat template."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from PIL import Image

from tokenprune.core.errors import ConfigError
from tokenprune.data.video import Video
from tokenprune.hf.adapters.base import adapter_for
from tokenprune.hf.patching import replaced
from tokenprune.hf.prompt_text import Scaffold, Text, prompt_text

__all__ = ["Pictures", "check_questions", "conversation_inputs", "prompt_inputs", "words_of"]

Pictures = Image.Image | Sequence[Image.Image] | Video
"""What one question is about: a picture, several, or a video."""


def prompt_inputs(processor: Any, images: Sequence[Pictures], questions: Sequence[str]) -> Any:
    """Model inputs for one question about each picture or video, by the processor's chat template, left-padded.

    Parameters
    ----------
    processor
    images : sequence of Image, of sequence of Image or of Video
        What each question is about: a picture, several, or a video; videos and pictures in separate calls.
    questions : sequence of str

    Raises
    ------
    ConfigError
        A question holds what stands for a picture in a prompt; some questions are about videos and some about pictures.
    """
    texts = []
    videos = [one for one in images if isinstance(one, Video)]
    if videos and len(videos) < len(images):
        raise ConfigError("questions about videos and questions about pictures cannot be asked at once")
    kind = "video" if videos else "image"
    shown = [[one] if isinstance(one, Image.Image | Video) else list(one) for one in images]
    check_questions(processor, questions)
    for pictures, question in zip(shown, questions, strict=True):
        content = [*({"type": kind} for _ in pictures), {"type": "text", "text": question}]
        message = [{"role": "user", "content": content}]
        texts.append(processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False))
    with replaced(vars(processor.tokenizer), "padding_side", "left"):
        if videos:
            # the frames are chosen: a processor that chose among them again would show the model others
            return processor(
                videos=[np.stack([np.asarray(frame) for frame in video.frames]) for video in videos],
                video_metadata=[_facts(video) for video in videos],
                do_sample_frames=False,
                text=texts,
                padding=len(texts) > 1,
                return_tensors="pt",
            )
        # one list a prompt: some processors take a flat list for the images of the first one
        return processor(images=shown, text=texts, padding=len(texts) > 1, return_tensors="pt")


def conversation_inputs(
    processor: Any, messages: Sequence[Mapping[str, Any]], pictures: Sequence[Image.Image] = ()
) -> Any:
    """Model inputs for one conversation that waits for an answer, by the processor's chat template.

    Parameters
    ----------
    processor
    messages : sequence of mapping
        ``role`` and ``content``, a list of ``{"type": "text", "text": ...}`` and ``{"type": "image"}``.
    pictures : sequence of Image
        In the order in which messages show them.

    Raises
    ------
    ConfigError
        A text holds what stands for a picture in a prompt.
    """
    parts = [part for message in messages for part in message["content"]]
    check_questions(processor, [part["text"] for part in parts if part["type"] == "text"])
    text = [processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)]
    if not pictures:
        return processor(text=text, return_tensors="pt")
    return processor(images=[list(pictures)], text=text, return_tensors="pt")


def check_questions(processor: Any, questions: Iterable[str]) -> None:
    """Raise for a question that holds what stands for a picture in a prompt.

    Raises
    ------
    ConfigError
        Names it.
    """
    marks = _marks(processor)
    for question in questions:
        if (mark := next((mark for mark in marks if mark in question), None)) is not None:
            raise ConfigError(f"question {question!r}: {mark!r} stands for a picture in prompts of this model; drop it")


def _facts(video: Video) -> dict[str, Any]:
    """What processors that write times between frames need to know."""
    known = {} if video.fps is None else {"duration": video.total / video.fps}
    width, height = video.size
    return {
        "total_num_frames": video.total,
        "fps": video.fps,
        "frames_indices": list(video.indices),
        "width": width,
        "height": height,
        **known,
    }


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
