"""Prompts of which it is known what the user says in them: by a chat template, and written by hand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = [
    "BY_HAND",
    "CHATS",
    "HAND",
    "IMAGE",
    "KINDS",
    "QUESTION",
    "VIDEO",
    "Asked",
    "HandWritten",
    "assistant",
    "said_in",
    "system",
    "user",
]

Turn = dict[str, Any]

IMAGE: Final = {"type": "image"}
VIDEO: Final = {"type": "video"}

HAND: Final = "{picture}"
"""Where a picture stands in a prompt by hand."""


def user(*parts: Any) -> Turn:
    """A turn of the user's: words, :data:`IMAGE`, :data:`VIDEO`."""
    return {"role": "user", "content": [_text(part) if isinstance(part, str) else part for part in parts]}


def assistant(words: str) -> Turn:
    """An answer."""
    return {"role": "assistant", "content": [_text(words)]}


def system(words: str) -> Turn:
    """A system text."""
    return {"role": "system", "content": [_text(words)]}


def _text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def said_in(turns: Iterable[Turn]) -> tuple[str, ...]:
    """What the user says in a conversation."""
    spoken = (part for turn in turns if turn["role"] == "user" for part in turn["content"])
    return tuple(part["text"] for part in spoken if part["type"] == "text")


@dataclass(frozen=True)
class Asked:
    """A conversation.

    Attributes
    ----------
    kind : str
        What is hard about it; several conversations are of one kind.
    turns : tuple of dict
        As chat templates take them.
    switches : dict
        Options of the chat template.
    options : dict
        Options of the processor.
    size : tuple of int
        Width and height of its pictures, in pixels.
    """

    kind: str
    turns: tuple[Turn, ...]
    switches: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    size: tuple[int, int] = (96, 72)

    @property
    def said(self) -> tuple[str, ...]:
        """What the user says."""
        return said_in(self.turns)

    def shown(self, what: str) -> int:
        """How many pictures ("image") or videos ("video") are shown."""
        return sum(part["type"] == what for turn in self.turns for part in turn["content"])


@dataclass(frozen=True)
class HandWritten:
    """A prompt as papers and harnesses write them; :data:`HAND` is where its picture stands."""

    prompt: str
    said: tuple[str, ...]


QUESTION: Final = "What color is the cup?"

CHOICES: Final = (
    "Which animal is shown?\nA. a cat\nB. a dog\n\nAnswer with the option's letter from the given choices directly."
)

LONG: Final = " ".join(f"Item {i} of the list describes a red bicycle near the old harbour." for i in range(140))
"""More than 2,000 tokens in any tokenizer of a language model."""

KINDS: Final = (
    "plain",
    "question first",
    "several pictures",
    "system text",
    "history",
    "other scripts",
    "long",
    "choices",
    "options of processors",
    "video",
    "by hand",
)

CHATS: Final[dict[str, Asked]] = {
    "plain": Asked("plain", (user(IMAGE, QUESTION),)),
    "one word": Asked("plain", (user(IMAGE, "Describe"),)),
    "numbers": Asked("plain", (user(IMAGE, "12 + 30 = ?"),)),
    "role words": Asked("plain", (user(IMAGE, 'Does the sign say "USER: go" or "Assistant: stop"?'),)),
    "tags": Asked(
        "plain", (user(IMAGE, "What is <b>bold</b> in row_1_col_2, and what after 3.5 seconds of Frame 2?"),)
    ),
    "a newline at its end": Asked("plain", (user(IMAGE, QUESTION + "\n"),)),
    "a space at its end": Asked("plain", (user(IMAGE, QUESTION + " "),)),
    "a picture later": Asked("plain", (user("Hello there."), assistant("Hi!"), user(IMAGE, QUESTION))),
    "paragraphs": Asked("plain", (user(IMAGE, f"Look closely.\n\n{QUESTION}\n\nAnswer in one word."),)),
    "a list and code": Asked("plain", (user(IMAGE, "1. cat\n2. dog\n```python\nprint([x for x in y])\n```\nWhich?"),)),
    "several texts": Asked("plain", (user("Look.", IMAGE, "What is it?", "Be brief."),)),
    "question first": Asked("question first", (user(QUESTION, IMAGE),)),
    "a tall picture": Asked("question first", (user(QUESTION, IMAGE),), size=(40, 400)),
    "two pictures": Asked(
        "several pictures", (user("First picture:", IMAGE, "Second picture:", IMAGE, "What differs?"),)
    ),
    "pictures in a row": Asked("several pictures", (user(IMAGE, IMAGE, IMAGE, "What differs?"),)),
    "pictures of two turns": Asked(
        "several pictures", (user(IMAGE, "What is this?"), assistant("A cup."), user(IMAGE, "And this?"))
    ),
    "system": Asked("system text", (system("You are a careful radiologist.\nDo not guess."), user(IMAGE, QUESTION))),
    "system with the question": Asked(
        "system text", (system(f"Somebody will ask: {QUESTION} Reply in one word."), user(IMAGE, QUESTION))
    ),
    "system, question first": Asked("system text", (system("You are terse."), user(QUESTION, IMAGE))),
    "history": Asked(
        "history", (user(IMAGE, "What is on the table?"), assistant("A cup of espresso."), user("What color is it?"))
    ),
    "system and history": Asked(
        "history",
        (
            system("You are terse."),
            user(IMAGE, "这是什么？"),
            assistant("杯子。"),
            user("What color is it?"),
            assistant("It is red."),
            user("Are you sure?"),
        ),
    ),
    "a picture without a word": Asked("history", (user(IMAGE), assistant("A nice picture."), user(QUESTION))),
    "Chinese": Asked("other scripts", (user(IMAGE, "杯子是什么颜色的？"),)),
    "Chinese first": Asked("other scripts", (user("杯子是什么颜色的？", IMAGE),)),
    "Japanese": Asked("other scripts", (user(IMAGE, "カップは何色ですか。\n一語で答えてください。"),)),
    "Arabic and emoji": Asked("other scripts", (user(IMAGE, "ما لون الكوب؟ ☕🐶"),)),
    "2,000 tokens": Asked("long", (user(IMAGE, LONG + " How many items?"),)),
    "multiple choice": Asked("choices", (user(IMAGE, CHOICES),)),
    "numbered pictures": Asked(
        "options of processors", (user(IMAGE, IMAGE, QUESTION),), switches={"add_vision_id": True}
    ),
    "pictures not split": Asked(
        "options of processors", (user(QUESTION, IMAGE),), options={"do_image_splitting": False}, size=(400, 300)
    ),
    "pictures not cut": Asked(
        "options of processors", (user(QUESTION, IMAGE),), options={"crop_to_patches": False}, size=(900, 300)
    ),
    "pan and scan": Asked(
        "options of processors", (user(QUESTION, IMAGE),), options={"do_pan_and_scan": True}, size=(1200, 400)
    ),
    "video": Asked("video", (user(VIDEO, QUESTION),)),
    "video, system": Asked("video", (system("Be brief."), user(VIDEO, QUESTION))),
    "video, question first": Asked("video", (user("Watch this.", VIDEO, QUESTION),)),
}
"""Name -> conversation."""

_PREAMBLE: Final = (
    "A chat between a curious user and an assistant. The assistant gives polite answers to the user's questions."
)

BY_HAND: Final[dict[str, HandWritten]] = {
    "Vicuna": HandWritten(f"{_PREAMBLE} USER: {HAND}\nWhat is it? ASSISTANT:", ("What is it?",)),
    "Vicuna, question first": HandWritten(f"{_PREAMBLE} USER: What is it?\n{HAND} ASSISTANT:", ("What is it?",)),
    "Vicuna, history": HandWritten(
        f"{_PREAMBLE} USER: {HAND}\nWhat is it? ASSISTANT: A cup.</s>USER: What color? ASSISTANT:",
        ("What is it?", "What color?"),
    ),
    "Vicuna, no spaces": HandWritten(f"USER: {HAND}\nWhat is it?\nASSISTANT:", ("What is it?",)),
    "ChatML": HandWritten(
        f"<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\n{HAND}\nWhat is it?<|im_end|>\n"
        "<|im_start|>assistant\n",
        ("What is it?",),
    ),
    "ChatML, history": HandWritten(
        f"<|im_start|>user\n{HAND}\nWhat is it?<|im_end|>\n<|im_start|>assistant\nA cup.<|im_end|>\n"
        "<|im_start|>user\nWhat color?<|im_end|>\n<|im_start|>assistant\n",
        ("What is it?", "What color?"),
    ),
    "Llama 2": HandWritten(
        f"[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n{HAND}\nWhat is it? [/INST] A cup. [INST] What color? [/INST]",
        ("What is it?", "What color?"),
    ),
    "Llama 3": HandWritten(
        "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
        f"{HAND}\nWhat is it?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        ("What is it?",),
    ),
    "Zephyr": HandWritten(
        f"<|system|>\nBe brief.</s>\n<|user|>\n{HAND}\nWhat is it?</s>\n<|assistant|>\n", ("What is it?",)
    ),
    "hashes": HandWritten(f"{_PREAMBLE}###Human: {HAND}\nWhat is it?###Assistant:", ("What is it?",)),
    "instructions": HandWritten(
        f"{_PREAMBLE}\n\n### Instruction:\n{HAND}\nWhat is it?\n\n### Response:\n", ("What is it?",)
    ),
    "names": HandWritten(f"Human: {HAND}\nWhat is it?\nAssistant:", ("What is it?",)),
    "names, as Idefics": HandWritten(f"User: {HAND}\nWhat is it?\nAssistant:", ("What is it?",)),
}
"""Style -> prompt."""
