"""What processors write around and between the tokens of a picture or video: names of tiles, frames, times."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tokenprune.hf.prompt_spelling import SHOWN, Spelling

__all__ = ["KNOWN", "Written", "condensed", "pattern"]

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
