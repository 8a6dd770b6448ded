"""From what a task asks to a conversation: turns for a chat template, pictures, and which words are the question."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from PIL import Image

from tokenprune.core.errors import ConfigError, UnsupportedError
from tokenprune.data.images import open_image
from tokenprune.integrations.lmms_eval.videos import Clip, clip_of

__all__ = ["Chat", "bare", "chat_of", "wrapping"]


@dataclass(frozen=True)
class Chat:
    """One prompt.

    Attributes
    ----------
    turns : tuple of mapping
        Role and contents of each, as chat templates take them; a picture is ``{"type": "image"}`` where it stands.
    images : tuple of Image
        In the order in which they stand.
    videos : tuple of Clip
    question : tuple of str
        What the user says in the last turn, without what the task writes around its questions.
    """

    turns: tuple[Mapping[str, Any], ...]
    images: tuple[Image.Image, ...]
    videos: tuple[Clip, ...]
    question: tuple[str, ...]

    @property
    def shows(self) -> tuple[bool, bool]:
        """Whether there are pictures, and videos."""
        return bool(self.images), bool(self.videos)

    @cached_property
    def media(self) -> str:
        """Hash of all that is shown, pixel by pixel; the same for the same pictures, wherever they come from."""
        digest = hashlib.sha256()
        for image in self.images:
            digest.update(f"image {image.size};".encode() + image.tobytes())
        for clip in self.videos:
            digest.update(f"video {clip.frames.shape} {clip.about};".encode() + clip.frames.tobytes())
        return digest.hexdigest()[:16]


def wrapping(task: Any) -> tuple[str, str]:
    """What a task of the harness writes before and behind each question: its pre and post prompt."""
    given = getattr(task, "lmms_eval_specific_kwargs", None)
    given = given if isinstance(given, Mapping) else {}
    return str(given.get("pre_prompt") or ""), str(given.get("post_prompt") or "")


def bare(text: str, around: tuple[str, str]) -> str:
    r"""A text without what was written around it; all of it where nothing else is left.

    >>> bare("What is it?\nBe brief.", ("", "\nBe brief."))
    'What is it?'
    """
    before, behind = (part.strip() for part in around)
    found = text.strip()
    if before and found.startswith(before):
        found = found[len(before) :].strip()
    if behind and found.endswith(behind):
        found = found[: -len(behind)].strip()
    return found or text.strip()


def chat_of(messages: Sequence[Mapping[str, Any]], around: tuple[str, str], num_frames: int) -> Chat:
    """Take messages of the harness apart: ``{"role": ..., "content": [{"type": "text", "text": ...}, ...]}``.

    Parameters
    ----------
    messages : sequence of mapping
        Pictures and videos lie under "url".
    around : tuple of str
        As :func:`wrapping` returns it.
    num_frames : int
        Frames that are taken of each video.

    Raises
    ------
    UnsupportedError
        Sound.
    ConfigError
        A picture or video that cannot be read; nothing is said.
    """
    turns, images, videos, question = [], [], [], []
    for message in messages:
        contents: list[dict[str, Any]] = []
        said = []
        given = message["content"]
        for content in [{"type": "text", "text": given}] if isinstance(given, str) else given:
            kind = content["type"]
            if kind == "text":
                contents.append({"type": "text", "text": content["text"]})
                said.append(content["text"])
            elif kind == "image":
                contents.append({"type": "image"})
                images.append(_picture(content["url"]))
            elif kind == "video":
                contents.append({"type": "video"})
                videos.append(clip_of(content["url"], num_frames))
            else:
                raise UnsupportedError(f"this task shows {kind!r}, and only pictures and videos are shown to a model")
        turns.append({"role": message["role"], "content": contents})
        if message["role"] == "user":
            question = [words for text in said if (words := bare(text, around))]
    if not question:
        raise ConfigError("a task asks nothing: no turn of the user's holds words")
    return Chat(tuple(turns), tuple(images), tuple(videos), tuple(question))


def _picture(given: Any) -> Image.Image:
    if isinstance(given, Image.Image):
        return given.convert("RGB")
    if isinstance(given, str):
        return open_image(given)
    raise ConfigError(f"a picture is an image or a file, got {type(given).__name__}: this task gives another kind")
