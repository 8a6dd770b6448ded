"""A row of token ids as text, the way back from characters to tokens, and what processors write around pictures.

What belongs to whom is decided on text, where it does not matter how a tokenizer cuts words or merges newlines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["KNOWN", "SHOWN", "Speller", "Spelling", "Written", "condensed", "pattern"]

SHOWN: Final = "\N{OBJECT REPLACEMENT CHARACTER}"
"""Stands for a run of placeholders: what is shown there."""

_BYTE: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True)
class Spelling:
    """Text of a row, character by character.

    Attributes
    ----------
    text : str
        Runs of placeholders are one :data:`SHOWN` each; bytes that are no character are lone surrogates.
    first, last : tuple of int
        For each character, the first and the last token (place in the row) that it is made of.
    special : tuple of bool
        For each character, whether it belongs to a special token or a placeholder: nobody's words.
    """

    text: str
    first: tuple[int, ...]
    last: tuple[int, ...]
    special: tuple[bool, ...]

    def tokens(self, characters: Iterable[int]) -> set[int]:
        """Tokens that share a character with those given; special tokens are left out."""
        found: set[int] = set()
        for i in characters:
            if not self.special[i]:
                found.update(range(self.first[i], self.last[i] + 1))
        return found

    def kept(self, characters: Sequence[int]) -> Spelling:
        """Only these characters."""
        return Spelling(
            "".join(self.text[i] for i in characters),
            tuple(self.first[i] for i in characters),
            tuple(self.last[i] for i in characters),
            tuple(self.special[i] for i in characters),
        )


@dataclass
class Speller:
    """Spells rows of one tokenizer's ids.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
    """

    tokenizer: Any
    _pieces: dict[int, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        added = getattr(self.tokenizer, "added_tokens_decoder", {})
        special = {i for i, token in added.items() if token.special} | set(self.tokenizer.all_special_ids)
        # a word that the tokenizer does not know is the user's all the same
        self.special = frozenset(special - {self.tokenizer.unk_token_id})
        self._added = frozenset(added)
        self._written = {i: str(token.content) for i, token in added.items() if token.special}
        # tokens are spelled behind another one: in front many tokenizers drop a space
        self._before = list(self.tokenizer.encode("a", add_special_tokens=False))
        self._start = self._decoded(self._before)

    def spell(
        self, ids: Sequence[int], shown: Sequence[bool], real: Sequence[bool], nobodys: frozenset[int]
    ) -> Spelling:
        """Spell a row.

        Parameters
        ----------
        ids : sequence of int
        shown, real : sequence of bool
            Placeholders; tokens that are no padding.
        nobodys : frozenset of int
            Ids that the model takes for special. Those that the tokenizer has not been given besides its vocabulary
            are words all the same: configs repeat defaults that belong to other tokenizers.
        """
        apart = self.special | (nobodys & self._added)
        spelled, owners, special = bytearray(), [], []
        mark = SHOWN.encode()
        open_run = -1
        runs: dict[int, int] = {}
        for place, token in enumerate(ids):
            if not real[place]:
                continue
            if shown[place]:
                if open_run < 0:
                    open_run = place
                    spelled += mark
                    owners += [place] * len(mark)
                    special += [True] * len(mark)
                runs[open_run] = place
                continue
            open_run = -1
            piece = self.piece(token)
            spelled += piece
            owners += [place] * len(piece)
            special += [token in apart] * len(piece)
        text = bytes(spelled).decode("utf-8", "surrogateescape")
        starts, stops, specials = [], [], []
        at = 0
        for character in text:
            width = len(character.encode("utf-8", "surrogateescape"))
            starts.append(owners[at])
            stops.append(runs.get(owners[at + width - 1], owners[at + width - 1]))
            specials.append(special[at])
            at += width
        return Spelling(text, tuple(starts), tuple(stops), tuple(specials))

    def line(self, text: str) -> Spelling:
        """Spell what the tokenizer makes of a text, without what it adds at the ends."""
        ids = list(self.tokenizer.encode(text, add_special_tokens=False))
        return self.spell(ids, [False] * len(ids), [True] * len(ids), frozenset())

    def piece(self, token: int) -> bytes:
        """What one token adds to a text, in bytes: a character may be made of several tokens."""
        if token not in self._pieces:
            self._pieces[token] = self._spelled(token).replace(SHOWN.encode(), "\N{REPLACEMENT CHARACTER}".encode())
        return self._pieces[token]

    def _spelled(self, token: int) -> bytes:
        if token in self._written:
            return self._written[token].encode()
        whole = self._decoded([*self._before, token])
        text = whole[len(self._start) :] if whole.startswith(self._start) else self._decoded([token])
        if "\N{REPLACEMENT CHARACTER}" not in text:
            return text.encode("utf-8", "surrogateescape")
        raw = str(self.tokenizer.convert_ids_to_tokens(token))
        if match := _BYTE.fullmatch(raw):
            return bytes([int(match[1], 16)])
        if all(character in _BYTES for character in raw):
            return bytes(_BYTES[character] for character in raw)
        return text.encode("utf-8", "surrogateescape")

    def _decoded(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _byte_alphabet() -> dict[str, int]:
    """The characters by which byte-level tokenizers write bytes: printable ones themselves, others from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTES: Final = _byte_alphabet()


# What stands around and between the tokens of a picture or video: names of tiles, frames, times.

_AROUND: Final = r"<fake_token_around_image>\s*"
_TILE: Final = r"(?:<row_\d+_col_\d+>|<global-img>)?\s*"
_FRAME: Final = rf"Frame\s+from\s+\d+\s*:\s*\d+\s*:\s*{_AROUND}{_TILE}{SHOWN}\s*{_AROUND}"
_INTRODUCED: Final = r"You are provided the following series of [\w\s-]+? frames from a [\d:]+ \[H:MM:SS\] video\.\s*"
_SOFT: Final = rf"<start_of_image>\s*{SHOWN}\s*<end_of_image>"

KNOWN: Final[tuple[str, ...]] = (
    # SmolVLM: a video
    rf"(?:{_INTRODUCED})?(?:{_FRAME}\s*)+",
    # Idefics3, SmolVLM: a picture, cut into tiles or not
    rf"(?:{_AROUND}{_TILE}{SHOWN}\s*)+(?:<fake_token_around_image>)?",
    # Qwen3-VL: a video
    rf"(?:<\d+(?:\.\d+)? seconds>\s*<\|vision_start\|>\s*{SHOWN}\s*<\|vision_end\|>\s*)+",
    # InternVL: a video, or pictures shown as its frames
    rf"(?:Frame\s*-?\d+\s*:\s*<img>\s*{SHOWN}\s*</img>\s*)+",
    # Gemma 3: a picture with pan and scan
    rf"Here is the original image\s*{_SOFT}\s*and here are some crops to help you see better(?:\s*{_SOFT})+(?:\n\n)?",
    rf"(?:\n\n)?{_SOFT}(?:\n\n)?",
)
"""Patterns of published processors, for prompts whose processor is not at hand or cannot be run here."""


@dataclass(frozen=True)
class Written:
    """What a processor wrote for one picture or video: before its tokens, between runs of them, behind them."""

    before: str
    between: tuple[str, ...]
    behind: str

    @classmethod
    def of(cls, text: str) -> Written | None:
        """Take apart what stands between two words in whose middle something was shown."""
        parts = text.strip(" ").split(SHOWN)
        return cls(parts[0], tuple(parts[1:-1]), parts[-1]) if len(parts) > 1 else None


def pattern(learned: Iterable[Written], labels: Iterable[str] = ()) -> re.Pattern[str]:
    """A pattern of one picture or video: as it was learned, or as published processors write it.

    Parameters
    ----------
    learned : iterable of Written
        Pictures of other sizes have other numbers, and other numbers of tiles.
    labels : iterable of str
        What the chat template itself writes before a picture ("Picture 1: ").
    """
    found = list(learned)
    before = _any_of({_numbered(one.before) for one in found} or {""})
    between = _any_of({_numbered(text) for one in found for text in one.between})
    behind = _any_of({_numbered(one.behind) for one in found} or {""})
    more = f"(?:{between}{SHOWN})*" if any(one.between for one in found) else ""
    label = _any_of({_numbered(label) for label in labels} | {""})
    alternatives = [*KNOWN, f"{before}{SHOWN}{more}{behind}"]
    return re.compile("|".join(f"(?:{label}{alternative})" for alternative in alternatives))


def _numbered(text: str) -> str:
    """The text with any other numbers in it, as a pattern."""
    return re.sub(r"\d+", r"\\d+", re.escape(text))


def _any_of(patterns: Iterable[str]) -> str:
    return "(?:" + "|".join(sorted(patterns, key=lambda p: (-len(p), p))) + ")"


def condensed(line: Spelling, pictures: re.Pattern[str]) -> Spelling:
    """The same prompt with one :data:`SHOWN` for each picture and all that belongs to it."""
    kept: list[int] = []
    at = 0
    for found in pictures.finditer(line.text):
        kept.extend(range(at, found.start()))
        kept.append(line.text.index(SHOWN, found.start()))
        at = found.end()
    kept.extend(range(at, len(line.text)))
    return line.kept(kept)
