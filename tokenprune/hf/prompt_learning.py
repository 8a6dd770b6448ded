"""Learn from a processor how it writes turns and pictures, by running it on words and pictures that are known."""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from tokenprune.hf.prompt_spelling import SHOWN, Speller, Spelling, Written
from tokenprune.hf.prompt_turns import Inside, Style

__all__ = ["Learner", "Template"]

_WORDS: Final = ("Zebra", "Quartz", "Violin", "Harbour")
"""Words to try first; a tokenizer that does not know them is asked about words of its own vocabulary."""

_SIZES: Final = ((96, 96), (384, 128), (128, 384))
"""Widths and heights of pictures, in pixels."""

_SWITCHES: Final = (
    ("do_pan_and_scan", True, (1200, 400)),
    ("do_image_splitting", False, (96, 96)),
    ("crop_to_patches", False, (96, 96)),
)
"""Options of image processors by which a picture gets other text around it, and a size at which it does."""

_FRAMES: Final = (4, 8)

_LABELS: Final = ("Picture 1: <|vision_start|>", "Video 1: <|vision_start|>")
"""What published templates write before pictures, for tokenizers that have these tokens and no template."""

_START, _END = "start", "end"

Gap = tuple[str, str, str]
"""What stands on the left, on the right, and the text between them."""


@dataclass(frozen=True)
class Template:
    """A chat template, wherever it is kept.

    Parameters
    ----------
    processor : ProcessorMixin or PreTrainedTokenizerBase
    """

    processor: Any

    @property
    def source(self) -> str | None:
        """The template's text; None where there is none."""
        found = getattr(self._owner, "chat_template", None)
        return found if isinstance(found, str) else found.get("default") if isinstance(found, Mapping) else None

    @property
    def _owner(self) -> Any:
        tokenizer = getattr(self.processor, "tokenizer", None)
        return tokenizer if not getattr(self.processor, "chat_template", None) and tokenizer else self.processor

    @property
    def switches(self) -> list[str]:
        """Names that the template asks for and nobody gives by default: ``add_vision_id``."""
        asked = re.findall(r"\bif\s+(?:not\s+)?([a-zA-Z_]\w*)\s*(?:-?%}|\s(?:and|or)\b)", self.source or "")
        return sorted(set(asked) - {"add_generation_prompt", "messages", "message", "tools", "documents", "loop"})

    def write(self, turns: Sequence[Mapping[str, Any]], *, answer: bool, **switches: Any) -> str | None:
        """Write a conversation; None where the template refuses it."""
        plain = [{**turn, "content": _words_only(turn["content"])} for turn in turns]
        mixed = [one if one["role"] == "user" else other for one, other in zip(turns, plain, strict=True)]
        for conversation in (turns, mixed, plain):
            if any(turn["content"] is None for turn in conversation):
                continue
            try:
                text = self._owner.apply_chat_template(
                    list(conversation), add_generation_prompt=answer, tokenize=False, **switches
                )
            except Exception:  # whatever a template raises for what it does not take
                continue
            if isinstance(text, str) and "'type'" not in text:
                return text
        return None


def _words_only(content: Sequence[Mapping[str, str]]) -> str | None:
    """A content of one text as older templates take it."""
    return content[0]["text"] if len(content) == 1 and content[0]["type"] == "text" else None


def turn(role: str, *content: str) -> dict[str, Any]:
    """One turn: words, or :data:`SHOWN` for a picture."""
    parts = [{"type": "image"} if part == SHOWN else {"type": "text", "text": part} for part in content]
    return {"role": role, "content": parts}


@dataclass
class Learner:
    """Runs one processor on what is known beforehand.

    Parameters
    ----------
    processor : ProcessorMixin or PreTrainedTokenizerBase
    speller : Speller
    image_token_ids : sequence of int
        Ids of placeholders.
    """

    processor: Any
    speller: Speller
    image_token_ids: Sequence[int]

    def __post_init__(self) -> None:
        self.template = Template(self.processor)
        self.words = self._probes()

    def _probes(self) -> tuple[str, ...]:
        """Four words that come back from the tokenizer as they are, and do not occur in the template."""
        found: list[str] = []
        source = (self.template.source or "").lower()
        for word in itertools.chain(_WORDS, self._vocabulary()):
            if not (word.isascii() and word.isalpha() and len(word) > 2) or word.lower() in source:
                continue
            if any(word.lower() in other.lower() or other.lower() in word.lower() for other in found):
                continue
            if self.speller.line(f"{word} {word}").text.split() == [word, word]:
                found.append(word)
            if len(found) == len(_WORDS):
                break
        return tuple(found)

    def _vocabulary(self) -> Iterator[str]:
        """Tokens in the order of their ids, without marks of spaces."""
        entries = self.speller.tokenizer.get_vocab().items()
        for token, _ in sorted(entries, key=lambda entry: entry[1]):
            yield re.sub(r"^(?:▁|Ġ)", "", token)

    # turns

    def style(self) -> Style | None:
        """How the chat template writes turns; None where there is no template, or it cannot be made out."""
        if self.template.source is None or len(self.words) < len(_WORDS):
            return None
        found = self._style({})
        if found is None:
            return None
        for name in self.template.switches:
            if (other := self._style({name: True})) is not None:
                found = replace(
                    found,
                    user=_union(found.user, other.user),
                    others=_union(found.others, other.others),
                    closers=_union(found.closers, other.closers),
                    tails=_union(found.tails, other.tails),
                )
        return found

    def labels(self) -> list[str]:
        """What the template writes before a picture besides special tokens ("Picture 1: ")."""
        if self.template.source is None:
            return [label for label in _LABELS if label.rpartition(" ")[2] in self.speller.tokenizer.get_vocab()]
        if len(self.words) < len(_WORDS):
            return []
        found = []
        for switches in ({}, *({name: True} for name in self.template.switches)):
            for between in _between(
                self._gaps([turn("user", SHOWN, SHOWN, self.words[0])], switches), "shown", "shown"
            ):
                label = re.sub(r"^(?:<[^<>\s]*>|\s)+", "", between)
                if re.search(r"\w", re.sub(r"<[^<>\s]*>", "", label)):
                    found.append(label)
        return found

    def _style(self, switches: Mapping[str, Any]) -> Style | None:
        """Read openers and ends of turns off conversations with and without answers, history and system text."""
        s, a, b, c = self.words
        words = self._gaps([turn("user", a)], switches)
        shown = self._gaps([turn("user", SHOWN, a)], switches)
        last = self._gaps([turn("user", a, SHOWN)], switches)
        ended = [
            self._gaps([turn("user", *content)], switches, answer=False) for content in ((a,), (SHOWN, a), (a, SHOWN))
        ]
        answer = [turn("user", a), turn("assistant", b)]
        history = self._gaps([*answer, turn("user", c)], switches)
        answered = self._gaps(answer, switches, answer=False)
        system = self._gaps([turn("system", s), turn("user", a)], switches)
        asked = words or shown
        if not asked:
            return None
        close_user = [gap for end in ("user", "shown") for gaps in ended for gap in _between(gaps, end, _END)]
        close_answer = _between(answered, "assistant", _END)
        again = [
            _without_start(_rest(gap, close_answer), self.speller) for gap in _between(history, "assistant", "user")
        ]
        begun = [_without_start(gap, self.speller) for gap in _between(words, _START, "user")]
        opener = (again or begun or [""])[0].strip()
        if again and begun and not _flat(begun[0]).endswith(_flat(opener)):
            return None
        ahead = [gap for gaps in (words, shown, last) for end in ("user", "shown") for gap in _between(gaps, end, _END)]
        ahead += _between(history, "user", "assistant")
        answers = {_rest(gap, close_user).strip() for gap in ahead}
        closers = {gap.strip() for gap in (*(_between(ended[0], "user", _END) or close_user), *close_answer)}
        others = set(answers)
        inside = None
        for gap, start in zip(_between(system, "system", "user"), _between(system, _START, "system"), strict=True):
            begins = _without_start(start, self.speller).strip()
            apart = opener and re.search(f"(.*){_pattern(opener)}", gap, re.DOTALL)
            if apart:
                closers.add(apart[1].strip())
                others.add(begins)
            elif opener and (within := re.match(_pattern(opener), begins)) and gap.strip(" "):
                opens = begins[within.end() :].strip()
                inside = Inside(_pattern(opens) if opens else "", gap.strip() if opens else gap)
        tails = {
            gap[: len(gap) - len(gap.lstrip())]
            for gaps in (*ended, words, shown)
            for gap in _between(gaps, "user", _END)
        }
        called = self._gaps([*answer, turn("tool", c), turn("user", s)], switches)
        return Style(
            user=(_pattern(opener),) if opener else (),
            others=_patterns(others - {opener}),
            closers=_patterns(closers),
            tails=tuple(sorted(tails)),
            inside=inside,
            results=_results(opener, _between(called, "assistant", "tool"), _between(called, "tool", "user"), closers),
            loose=not all(closers),
        )

    def _gaps(
        self, turns: Sequence[Mapping[str, Any]], switches: Mapping[str, Any], *, answer: bool = True
    ) -> list[Gap]:
        """What the template writes between words and pictures; empty where it does not take the conversation."""
        text = self.template.write(turns, answer=answer, **switches)
        if text is None:
            return []
        line = self.speller.line(text).text
        if (mark := self.marks.get("image")) is not None:
            line = line.replace(mark, SHOWN)
        places = [(at, at + 1, "shown") for at, character in enumerate(line) if character == SHOWN]
        parts = [(said["role"], part) for said in turns for part in said["content"]]
        if len(places) != sum(part["type"] == "image" for _, part in parts):
            return []
        for role, part in parts:
            if part["type"] == "text":
                if line.count(part["text"]) != 1:
                    return []
                at = line.index(part["text"])
                places.append((at, at + len(part["text"]), role))
        ends = (0, 0, _START), (len(line), len(line), _END)
        pairs = itertools.pairwise([ends[0], *sorted(places), ends[1]])
        return [(one, other, line[stop:start]) for (_, stop, one), (start, _, other) in pairs]

    # pictures

    @cached_property
    def marks(self) -> dict[str, str]:
        """What the template writes for a picture and for a video, before the processor has seen them."""
        if not self.words:
            return {}
        found: dict[str, str] = {}
        word = self.words[0]
        without = self.template.write([turn("user", word)], answer=True) or ""
        owners = (self.processor, self.speller.tokenizer)
        for kind, names in (("image", ("boi_token", "image_token")), ("video", ("video_token",))):
            content = [{"type": kind}, {"type": "text", "text": word}]
            text = self.template.write([{"role": "user", "content": content}], answer=True)
            known = [getattr(owner, name, None) for name in names for owner in owners]
            known += self.speller.tokenizer.convert_ids_to_tokens(list(self.image_token_ids))
            for mark in (*known, f"<{kind}>"):
                if isinstance(mark, str) and mark and (text is None or (mark in text and mark not in without)):
                    found.setdefault(kind, mark)
        return found

    def pictures(self) -> list[Written]:
        """What the processor writes for pictures of some sizes, and for a video if it takes any."""
        if len(self.words) < 2:
            return []
        return [found for found in (*self._images(), *self._videos()) if found is not None]

    def _images(self) -> Iterator[Written | None]:
        images = getattr(self.processor, "image_processor", None)
        if images is None or (mark := self.marks.get("image")) is None:
            return
        for size in _SIZES:
            yield self._written(mark, images=[[Image.new("RGB", size, "grey")]])
        for name, value, size in _SWITCHES:
            if hasattr(images, name):
                yield self._written(mark, images=[[Image.new("RGB", size, "grey")]], **{name: value})

    def _videos(self) -> Iterator[Written | None]:
        if getattr(self.processor, "video_processor", None) is None or (mark := self.marks.get("video")) is None:
            return
        for count in _FRAMES:
            frames = np.full((count, 64, 64, 3), 128, dtype=np.uint8)
            facts = {"total_num_frames": count, "fps": 2.0, "duration": count / 2, "frames_indices": list(range(count))}
            yield self._written(mark, videos=[frames], video_metadata=[facts]) or self._written(mark, videos=[frames])

    def _written(self, mark: str, **shown: Any) -> Written | None:
        first, last = self.words[:2]
        line = self.emitted(f"{first}{mark}{last}", **shown)
        if line is None:
            return None
        _, found, rest = line.text.partition(first)
        between, ends, _ = rest.partition(last)
        return Written.of(between) if found and ends else None

    def emitted(self, text: str, **shown: Any) -> Spelling | None:
        """What the processor makes of a text with pictures; None where it refuses."""
        if getattr(self.processor, "image_processor", None) is None:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                inputs = self.processor(text=[text], return_tensors="pt", **shown)
            except Exception:  # a processor may lack a package, or an option
                return None
        ids = inputs["input_ids"][0]
        placed = torch.isin(ids, torch.tensor(list(self.image_token_ids), dtype=ids.dtype))
        row = ids.tolist()
        return self.speller.spell(row, placed.tolist(), [True] * len(row), frozenset())

    def conversations(self) -> Iterator[tuple[Spelling, list[str]]]:
        """Conversations as the processor emits them, and the user's words in each: the hardest to read first."""
        if len(self.words) < len(_WORDS) or self.template.source is None:
            return
        s, a, b, c = self.words
        rest = [turn("assistant", b), turn("user", c)]
        for before, after, said in (([turn("system", s)], rest, [a, c]), ([], rest, [a, c]), ([], [], [a])):
            shown = self.template.write([*before, turn("user", SHOWN, a), *after], answer=True)
            line = shown and self.emitted(shown, images=[[Image.new("RGB", _SIZES[0], "grey")]])
            plain = self.template.write([*before, turn("user", a), *after], answer=True)
            line = line or (self.speller.line(plain) if plain is not None else None)
            if line is not None and all(line.text.count(word) == 1 for word in (*said, *([s] if before else []))):
                yield line, said


def _union(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*one, *other)))


def _between(gaps: Iterable[Gap], left: str, right: str) -> list[str]:
    """What stands between two kinds of neighbours."""
    return [text for one, other, text in gaps if (one, other) == (left, right)]


def _rest(gap: str, ends: Sequence[str]) -> str:
    """What follows the end of a turn."""
    for end in sorted(set(ends), key=len, reverse=True):
        if gap.startswith(end):
            return gap[len(end) :]
        if end.strip() and gap.lstrip().startswith(end.strip()):
            return gap.lstrip()[len(end.strip()) :]
    return gap


def _results(opener: str, ahead: Sequence[str], behind: Sequence[str], closers: Iterable[str]) -> str:
    """Pattern of what stands around a tool's words in a turn that is opened as the user's are; empty where none is."""
    if not (opener and ahead and behind and (opened := ahead[0].rpartition(opener))[1]):
        return ""
    opens, closes = opened[2].strip(), behind[0]
    for closer in filter(None, closers):
        closes = closes.partition(closer)[0]
    closes = closes.strip()
    return f"{_pattern(opens)}.*?{_pattern(closes)}" if opens and closes else ""


def _without_start(gap: str, speller: Speller) -> str:
    begin = speller.tokenizer.bos_token
    gap = gap.lstrip()
    return gap.removeprefix(begin) if isinstance(begin, str) else gap


def _flat(text: str) -> str:
    return "".join(text.split())


def _pattern(text: str) -> str:
    """A text with any spaces in it, that is no part of a longer word."""
    words = r"\s*".join(re.escape(word) for word in text.split())
    return (r"(?<!\w)" if re.match(r"\w", text) else "") + words + (r"(?!\w)" if re.search(r"\w$", text) else "")


def _patterns(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(_pattern(text) for text in sorted(filter(None, texts), key=lambda text: (-len(text), text)))
