"""Every word that a question or an answer can hold, and the tokenizer made of them."""

from __future__ import annotations

import re

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tokenprune.data.scenes.world import COLORS, NAMES, NUMBERS, WORDS, plural

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
PAD, BOS, EOS, _, IMAGE = range(len(SPECIAL))

_PLAIN = (
    "USER ASSISTANT : ? . , A B C D Yes No Is there a an the in image picture What What's color does have are How many "
    "to left or right of above below Which object one is on sign say word number it only top bottom side half shown "
    "this you see can Are"
)
_KINDS = ("animal", "food", "vehicle", "plant", "tool", "toy")


def _words() -> list[str]:
    # the order is the order of the embedding's rows in every checkpoint: append, never insert
    # what has no plural of its own keeps its row, under a name that no text holds
    plurals = [_unused(name, plural(name)) for name in NAMES if not name.endswith("s")]
    return list(
        dict.fromkeys([*SPECIAL, *_PLAIN.split(), *NAMES, *plurals, *COLORS, *NUMBERS, *_KINDS, *WORDS, *"0123456789"])
    )


def _unused(name: str, many: str | None) -> str:
    return many if many is not None and many != name else f"<{name}s>"


WORDS_BY_ID = _words()
ID = {word: i for i, word in enumerate(WORDS_BY_ID)}
OF_CLIPS = (
    "<video> <vision_start> <vision_end> seconds < > happens video appears disappears moves up down way does move"
).split()
"""What models that see clips know besides."""
ALL_WORDS = [*WORDS_BY_ID, *(word for word in OF_CLIPS if word not in ID)]
ALL_ID = {word: i for i, word in enumerate(ALL_WORDS)}
MARKS = {f"{mark}_token": f"<{mark}>" for mark in ("video", "vision_start", "vision_end")}
VIDEO, VISION_START, VISION_END = (ALL_ID[word] for word in OF_CLIPS[:3])
_WORD = re.compile(r"\d|[^\W\d]+|[^\w\s]")


def encode(text: str) -> list[int]:
    """Tokens of a text without a beginning; what :func:`tokenizer` gives, ten times as fast."""
    return [ALL_ID[word] for word in _WORD.findall(text)]


def tokenizer(clips: bool = False) -> PreTrainedTokenizerFast:
    """Word-level tokenizer; digits are tokens of their own and are joined again when decoded.

    Parameters
    ----------
    clips : bool, default False
        Whether it knows the words of clips, and what stands around pictures and clips.
    """
    backend = Tokenizer(models.WordLevel(ALL_ID if clips else ID, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS)]
    )
    # a space on both sides of everything but digits, then single spaces
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace(Regex(r"^(?=\D)"), " "),
            decoders.Replace(Regex(r"(?<=\D)$"), " "),
            decoders.Fuse(),
            decoders.Replace(Regex(r" +"), " "),
            decoders.Replace(Regex("^ | $"), ""),  # Strip would panic on an empty answer
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"} | (MARKS if clips else {}),
        padding_side="left",
    )
