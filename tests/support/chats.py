"""Chat templates in the style of each family, and processors with tokenizers that cut text as real ones do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tests.support.vocabularies import Kind, real_tokenizer
from tokenprune.zoo.tiny import FAMILIES

PARTS = "{%% for c in m['content'] %%}{%% if c['type'] == 'image' %%}%s{%% elif c['type'] == 'video' %%}%s{%% else %%}%s{%% endif %%}{%% endfor %%}"  # noqa: E501
"""A turn's parts in their order, given what stands for a picture, a video and a text."""

TEXT = "{{ c['text'] }}"


def _first(kind: str, written: str) -> str:
    """Parts of one kind, before all others."""
    return "{% for c in m['content'] if c['type'] == '" + kind + "' %}" + written + "{% endfor %}"


def _roles(**roles: str) -> str:
    """What is written for each role."""
    cases = "".join(
        "{% " + ("if" if n == 0 else "elif") + f" m['role'] == '{role}' %}}{written}"
        for n, (role, written) in enumerate(roles.items())
    )
    return cases + "{% endif %}"


def _chat(each: str, answer: str, begin: str = "") -> str:
    return (
        begin + "{% for m in messages %}" + each + "{% endfor %}{% if add_generation_prompt %}" + answer + "{% endif %}"
    )


SHOWN_FIRST = _first("image", "<image>\n") + _first("video", "<video>\n") + _first("text", TEXT + " ")

VICUNA = _chat(_roles(system="", user="USER: ", assistant="ASSISTANT: ") + SHOWN_FIRST, "ASSISTANT:")

INSTRUCT = _chat(
    _roles(
        system="<<SYS>>\n" + _first("text", TEXT) + "\n<</SYS>>\n\n",
        user="[INST] " + _first("image", "<image>\n") + _first("text", TEXT) + " [/INST]",
        assistant=" " + _first("text", TEXT) + "</s> ",
    ),
    "",
)

ONEVISION = _chat(
    "<|im_start|>{{ m['role'] }} "
    + _first("image", "<image>")
    + _first("video", "<video>")
    + _first("text", "\n" + TEXT)
    + "<|im_end|>",
    "<|im_start|>assistant\n",
)

VISION = "<|vision_start|><|%s_pad|><|vision_end|>"
NUMBERED = "{% if add_vision_id %}Picture {{ loop.index }}: {% endif %}"

QWEN = _chat(
    "<|im_start|>{{ m['role'] }}\n" + PARTS % (NUMBERED + VISION % "image", VISION % "video", TEXT) + "<|im_end|>\n",
    "<|im_start|>assistant\n",
)

QWEN_WITH_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    + QWEN
)

INTERN = _chat(
    "<|im_start|>{{ m['role'] }}\n" + PARTS % ("<IMG_CONTEXT>\n", "<video>\n", TEXT) + "<|im_end|>\n",
    "<|im_start|>assistant\n",
)

UTTERANCES = _chat(
    "{{ m['role'].capitalize() }}:{% if m['content'][0]['type'] == 'text' %} {% endif %}"
    + PARTS % ("<image>", "<video>", TEXT)
    + "<end_of_utterance>\n",
    "Assistant:",
    "<s>",
)

GEMMA = (
    "<s>{% if messages[0]['role'] == 'system' %}{% set said = messages[0]['content'][0]['text'] + '\n\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set said = '' %}{% set turns = messages %}{% endif %}"
    "{% for m in turns %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{% if loop.first %}{{ said }}{% endif %}"
    + PARTS % ("<start_of_image>", "", "{{ c['text'] | trim }}")
    + "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


@dataclass(frozen=True)
class Real:
    """A family with the tokenizer and template that its checkpoints have.

    Attributes
    ----------
    model_type : str
    kind : str
        Of the tokenizer.
    template : str
    begin : bool
        Whether the tokenizer puts a begin before every text, in addition to the template's own.
    ordinary : tuple of str
        Beginnings of what is special in tiny models, and ordinary text here.
    video : callable, optional
        From a number of frames and the placeholder to what stands for a video.
    mark : str
        What the template writes for a video.
    """

    model_type: str
    kind: Kind
    template: str
    begin: bool = False
    ordinary: tuple[str, ...] = ()
    video: Callable[[int], str] | None = None
    mark: str = "<video>"

    @property
    def special(self) -> tuple[str, ...]:
        found = FAMILIES[self.model_type].special
        return tuple(token for token in found if not token.startswith(self.ordinary or ("\0",)))

    def tokenizer(self) -> Any:
        return real_tokenizer(self.kind, self.special, begin=self.begin, **FAMILIES[self.model_type].named)

    def processor(self) -> Any:
        build = FAMILIES[self.model_type].processor
        assert build is not None
        return build(self.tokenizer(), self.template)

    @property
    def placeholders(self) -> tuple[str, ...]:
        known = ("<image>", "<video>", "<|image_pad|>", "<|video_pad|>", "<IMG_CONTEXT>", "<image_soft_token>")
        return tuple(token for token in known if token in self.special)


def _frames(n: int) -> str:
    return "\n".join(f"Frame{i + 1}: <img>{'<IMG_CONTEXT>' * 4}</img>" for i in range(n))


def _times(n: int) -> str:
    return "".join(f"<{i * 0.5 + 0.2:.1f} seconds>{VISION % 'video'}" for i in range(n))


def _clock(n: int) -> str:
    around, whole = "<fake_token_around_image>", "<global-img>"
    frames = "".join(
        f"\nFrame from {i // 60:02d}:{i % 60:02d}:{around}{whole}{'<image>' * 4}{around}" for i in range(n)
    )
    return f"You are provided the following series of {n} frames from a 0:00:{n:02d} [H:MM:SS] video.\n{frames}\n\n"


REAL = {
    real.model_type: real
    for real in (
        Real("llava", "pieces", VICUNA, begin=True),
        Real("llava_next", "pieces", INSTRUCT, begin=True),
        Real("llava_onevision", "bytes", ONEVISION, video=lambda n: "<video>" * 5 * n),
        Real("video_llava", "pieces", VICUNA, begin=True, video=lambda n: "<video>" * 5 * n),
        Real("qwen2_vl", "bytes", QWEN_WITH_SYSTEM, video=lambda n: "<|video_pad|>" * 4 * n, mark="<|video_pad|>"),
        Real("qwen2_5_vl", "bytes", QWEN_WITH_SYSTEM, video=lambda n: "<|video_pad|>" * 4 * n, mark="<|video_pad|>"),
        Real("qwen3_vl", "bytes", QWEN, video=_times, mark=VISION % "video"),
        Real("internvl", "bytes", INTERN, video=_frames),
        Real("idefics3", "bytes", UTTERANCES, begin=True, ordinary=("<row", "<global")),
        Real("smolvlm", "bytes", UTTERANCES, video=_clock),
        Real("gemma3", "pieces", GEMMA, begin=True),
    )
}
"""Model type -> what real checkpoints of it look like to a tokenizer."""


@lru_cache(maxsize=len(REAL))
def real_processor(model_type: str) -> Any:
    return REAL[model_type].processor()
