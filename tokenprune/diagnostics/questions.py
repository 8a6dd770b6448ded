"""Whether exactly the user's words count in prompts of many kinds, as a processor itself makes them."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from tokenprune.core.errors import QuestionWarning, UnsupportedError
from tokenprune.data.images import picture
from tokenprune.diagnostics.asked import BY_HAND, CHATS, HAND, IMAGE, Asked, user
from tokenprune.hf.prompt_learning import Learner, Template
from tokenprune.hf.prompt_spelling import Speller
from tokenprune.hf.prompt_text import Scaffold, prompt_text

__all__ = ["READERS", "Reading", "emitted", "miscounted", "read_questions", "rendered"]

READERS: Final = ("processor", "tokenizer", "tokenizer without a template")
"""By what a prompt is read: what a caller may hand to ``attach``."""

_FRAMES: Final = 4


@dataclass(frozen=True)
class Reading:
    """What counted in one prompt.

    Attributes
    ----------
    kind, name : str
        Of the prompt; see :mod:`tokenprune.diagnostics.asked`.
    reader : str
        One of :data:`READERS`.
    wrong : str or None
        What is wrong with the tokens that counted; None where they are exactly the user's.
    warned : str or None
        What was said to be a guess.
    """

    kind: str
    name: str
    reader: str
    wrong: str | None
    warned: str | None


def read_questions(
    processor: Any, placeholders: Sequence[int], special: frozenset[int] = frozenset()
) -> Iterator[Reading]:
    """Let a processor make every prompt that it can, and see what counts in it for each reader.

    Parameters
    ----------
    processor : ProcessorMixin
    placeholders : sequence of int
        Ids that stand for visual tokens (``adapter.image_token_ids``).
    special : frozenset of int
        Ids that the model takes for special (``adapter.special_ids``).

    Yields
    ------
    Reading
        What the chat template does not take as a conversation, the processor as a picture or video, or the tokenizer
        as words (those of tiny models know few), is left out.
    """
    speller = Speller(processor.tokenizer)
    prompts = [
        (asked.kind, name, inputs, asked.said)
        for name, asked in CHATS.items()
        if _spells(speller, asked.said) and (inputs := emitted(processor, asked)) is not None
    ]
    prompts += [hand for hand in _by_hand(processor, placeholders) if _spells(speller, hand[-1])]
    bare = copy.deepcopy(processor.tokenizer)
    bare.chat_template = None
    for reader, by in zip(READERS, (processor, processor.tokenizer, bare), strict=True):
        scaffold = Scaffold.of(by, placeholders)
        for kind, name, inputs, said in prompts:
            ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
            shown = torch.isin(ids, torch.tensor(list(placeholders)))
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                counts = prompt_text(ids, mask, shown, special, scaffold=scaffold)
            doubts = [str(one.message) for one in caught if issubclass(one.category, QuestionWarning)]
            wrong = miscounted(speller, ids[0], counts[0], said)
            yield Reading(kind, name, reader, wrong, doubts[0] if doubts else None)


def miscounted(speller: Speller, ids: Tensor, counts: Tensor, said: Sequence[str]) -> str | None:
    """What is wrong with the tokens of a prompt that count; None if they are exactly those of what is said.

    Parameters
    ----------
    speller : Speller
    ids : int64 Tensor, (S,)
    counts : bool Tensor, (S,)
    said : sequence of str
        In the order of the prompt. A token that is half of it ("?" and a template's newline in one) counts. Spaces and
        newlines at its ends may count or not.

    Notes
    -----
    Tokens are read one after the other, spaces left out: each has to be the next piece of what is said, and only the
    first and the last of a stretch may hold something else beside it.
    """
    rest = b"".join("".join(said).encode().split())
    spaced = any(words != words.strip() for words in said)
    places = counts.nonzero().flatten().tolist()
    read = [b"".join(speller.piece(int(ids[place])).split()) for place in places]
    told = b" ".join(speller.piece(int(ids[place])) for place in places).decode(errors="replace")
    for n, piece in enumerate(read):
        first = n == 0 or places[n] > places[n - 1] + 1
        last = n + 1 == len(places) or places[n + 1] > places[n] + 1
        taken = _taken(piece, rest, first=first, last=last)
        if taken is None or (not piece and (first or last) and not spaced):
            return f"{told!r} counts, said is {' '.join(said)!r}"
        rest = rest[taken:]
    return f"{told!r} counts, {rest.decode(errors='replace')!r} is missing" if rest else None


def _taken(piece: bytes, rest: bytes, *, first: bool, last: bool) -> int | None:
    """How much of what is still to be said a token holds; None where it is none of it."""
    if rest.startswith(piece):
        return len(piece)
    parts = [piece[start:stop] for start in range(len(piece)) for stop in range(len(piece), start, -1)]
    allowed = [part for part in parts if (first or piece.startswith(part)) and (last or piece.endswith(part))]
    return next((len(part) for part in sorted(allowed, key=len, reverse=True) if rest.startswith(part)), None)


def rendered(processor: Any, turns: Sequence[Mapping[str, Any]], **switches: Any) -> str | None:
    """A conversation as the chat template writes it, with an answer to follow; None where it refuses it."""
    return Template(processor).write(turns, answer=True, **switches)


def emitted(processor: Any, asked: Asked) -> Any:
    """Inputs that a processor makes of a conversation; None where it does not take such a one."""
    images = getattr(processor, "image_processor", None)
    unknown = [name for name in asked.options if not hasattr(images, name)]
    unknown += [name for name in asked.switches if name not in (Template(processor).source or "")]
    if unknown or (asked.shown("video") and getattr(processor, "video_processor", None) is None):
        return None
    prompt = rendered(processor, asked.turns, **asked.switches)
    try:
        return None if prompt is None else _inputs(processor, prompt, asked)
    except UnsupportedError:  # tiny processors take no videos
        return None


def _inputs(processor: Any, prompt: str, asked: Asked) -> Any:
    shown: dict[str, Any] = {}
    if images := asked.shown("image"):
        shown["images"] = [[picture(seed).resize(asked.size) for seed in range(images)]]
    if videos := asked.shown("video"):
        frames = np.full((_FRAMES, 64, 64, 3), 128, dtype=np.uint8)
        indices = list(range(_FRAMES))
        shown["videos"] = [frames] * videos
        shown["video_metadata"] = [
            {"total_num_frames": _FRAMES, "fps": 2.0, "duration": _FRAMES / 2, "frames_indices": indices}
        ] * videos
    return processor(text=[prompt], return_tensors="pt", **shown, **asked.options)


def _spells(speller: Speller, said: Sequence[str]) -> bool:
    """Whether a tokenizer gives words back as they are."""
    return all(speller.line(words).text.split() == words.split() for words in said)


def _by_hand(processor: Any, placeholders: Sequence[int]) -> Iterator[tuple[str, str, Any, tuple[str, ...]]]:
    """Prompts written by hand, with the begin that the tokenizer puts before them and with one more."""
    shown = _picture_mark(processor, placeholders)
    begin = processor.tokenizer.bos_token
    plain = Asked("by hand", (user(IMAGE),))
    for name, hand in BY_HAND.items():
        for front, told in (("", name), *([(begin, f"{name}, another begin")] if begin else [])):
            yield "by hand", told, _inputs(processor, front + hand.prompt.replace(HAND, shown), plain), hand.said


def _picture_mark(processor: Any, placeholders: Sequence[int]) -> str:
    """What somebody who writes a prompt by hand puts where a picture stands: as the chat template does."""
    learner = Learner(processor, Speller(processor.tokenizer), placeholders)
    mark = learner.marks["image"]
    written = rendered(processor, [user(IMAGE, learner.words[0])]) or mark
    tags = r"(?:<\|[^<>\s]*\|>)*"
    found = re.search(f"{tags}{re.escape(mark)}{tags}", written)
    return mark if found is None else found[0]
