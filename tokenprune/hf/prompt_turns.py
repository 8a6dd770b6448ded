"""Whose words a prompt holds: how turns are written, and which characters of a prompt the user wrote."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from typing import Final

from tokenprune.hf.prompt_spelling import SHOWN, Spelling

__all__ = ["KNOWN", "Inside", "Style", "Turn", "adjacent", "user_turns", "words_of"]


@dataclass(frozen=True)
class Inside:
    """A system text that stands within the first user turn.

    Attributes
    ----------
    opens : str
        Pattern of what precedes it; empty where it begins with the turn (Gemma).
    separator : str
        Text between it and the user's own words.
    """

    opens: str
    separator: str


@dataclass(frozen=True)
class Style:
    """How a chat template, or somebody by hand, writes turns.

    Attributes
    ----------
    user : tuple of str
        Patterns of what begins a user's turn. None: whatever is in no other turn is the user's.
    others : tuple of str
        Patterns of what begins another turn: system, assistant.
    closers : tuple of str
        Patterns of what ends a turn; until the next one begins nothing is the user's.
    tails : tuple of str
        Spaces and newlines that the template puts behind the user's last word; what is left of those is the user's.
        Without any, spaces at the end of a turn are nobody's.
    inside : Inside, optional
        How a system text stands within a user's turn.
    results : str
        Pattern of what a tool said, where the template writes that as a turn of the user's (Qwen); empty where not.
    loose : bool
        Whether role words ("User:") may stand behind any space. Otherwise they begin the prompt, or follow a special
        token, a picture or what ends a turn, so that a role word in a question is a word like any other.
    """

    user: tuple[str, ...]
    others: tuple[str, ...] = ()
    closers: tuple[str, ...] = ()
    tails: tuple[str, ...] = ()
    inside: Inside | None = None
    results: str = ""
    loose: bool = False

    @cached_property
    def marks(self) -> re.Pattern[str]:
        """What begins or ends turns, by named groups."""
        groups = (("user", self.user), ("other", self.others), ("closer", self.closers))
        return re.compile("|".join(f"(?P<{name}>{'|'.join(found)})" for name, found in groups if found) or r"(?!)")

    @cached_property
    def tools(self) -> re.Pattern[str]:
        """A turn that holds nothing but what tools said."""
        return re.compile(rf"\s*(?:{self.results}\s*)+", re.DOTALL)

    @cached_property
    def ends(self) -> re.Pattern[str]:
        """What ends turns, at the end of a text."""
        return re.compile(f"(?:{'|'.join(self.closers) or '(?!)'})$")


@dataclass(frozen=True)
class Turn:
    """A user's turn: characters from ``start`` up to ``stop``; why these may not be its words, if that is so."""

    start: int
    stop: int
    doubt: str | None = None


PARAGRAPH: Final = (
    "the chat template puts a system text at the beginning of the first turn, where it looks like a paragraph of the "
    "user's: what precedes the first empty line was taken for it"
)
"""Doubt about a system text."""


def _role_words(mark: re.Match[str]) -> str:
    """Doubt about a role word where no turn of that role can begin."""
    return f"role words are plain text in this prompt, and {mark[0].strip()!r} stands twice with no answer in between"


def user_turns(style: Style, line: Spelling, *, loose: bool = False) -> list[Turn]:
    """Find the user's turns in a prompt whose pictures are one :data:`SHOWN` each.

    Parameters
    ----------
    style : Style
    line : Spelling
    loose : bool, default False
        Whether role words may stand behind any space, as in a style that is loose.

    Returns
    -------
    list of Turn
        Empty where the style is not that of this prompt.
    """
    loose = loose or style.loose
    marks = list(style.marks.finditer(line.text))
    if style.closers and not loose and not any(mark.lastgroup == "closer" for mark in marks):
        return []
    found: list[Turn] = []
    start = None if style.user else 0
    doubt: str | None = None
    resumes = False  # a system text within a user's turn: its end is not that of the turn
    for mark, after in zip_longest(marks, marks[1:]):
        closes = mark.lastgroup == "closer"
        follows = start is not None and not line.text[start : mark.start()].strip()
        if not closes and not follows and not _stands_free(style, line, mark, loose):
            continue
        if not line.special[mark.start()] and start is not None and not follows:
            if mark.lastgroup == "user":
                doubt = _role_words(mark)
            elif after is not None and after[0].strip() == mark[0].strip():
                doubt = _role_words(mark)
                continue  # two in a row cannot be: this one is a word of the user's
        if start is not None:
            found.append(Turn(start, mark.start(), doubt))
        doubt = doubt if mark.lastgroup == "user" else None
        begins = mark.lastgroup == "user" or (closes and (resumes or not style.user))
        resumes = mark.lastgroup == "other" and follows
        start = mark.end() if begins else None
    if start is not None:
        found.append(Turn(start, len(line.text), doubt))
    found = [turn for turn in found if style.user or line.text[turn.start : turn.stop].strip()]
    if style.results:
        found = [turn for turn in found if not style.tools.fullmatch(line.text, turn.start, turn.stop)]
    if found and style.inside is not None:
        found[0] = _behind_system(style.inside, line.text, found[0])
    return found


def _stands_free(style: Style, line: Spelling, mark: re.Match[str], loose: bool) -> bool:
    """Whether a role word stands where roles do: it is no word of somebody's text."""
    before = line.text[: mark.start()].rstrip()
    if not before or not mark[0][0].isalnum() or (loose and mark.start() > len(before)):
        return True
    return line.special[len(before) - 1] or style.ends.search(before) is not None


def _behind_system(inside: Inside, text: str, turn: Turn) -> Turn:
    """The first turn without the system text within it."""
    said = text[turn.start : turn.stop]
    if inside.opens:
        opened = re.match(rf"\s*{inside.opens}", said)
        if opened is None:
            return turn
        _, _, rest = said[opened.end() :].partition(inside.separator)
        return Turn(turn.stop - len(rest), turn.stop, turn.doubt)
    # a system text comes first of all; behind a picture it cannot be
    before, _, _ = said.partition(SHOWN)
    skipped = len(before) - len(before.lstrip())
    _, separator, rest = before[skipped:].partition(inside.separator)
    if not separator:
        return turn
    if before.endswith(inside.separator):
        return Turn(turn.start + len(before), turn.stop, turn.doubt)
    # a paragraph of the user's looks the same as a system text
    return Turn(turn.start + len(before) - len(rest), turn.stop, PARAGRAPH if rest.strip() else turn.doubt)


def adjacent(style: Style, line: Spelling, one: Turn, other: Turn) -> bool:
    """Whether nobody speaks between two turns of the user."""
    between = line.text[one.stop : other.start]
    answered = any(mark.lastgroup == "other" for mark in style.marks.finditer(between))
    return not answered and not style.marks.sub("", between).strip()


def words_of(style: Style | None, line: Spelling, turn: Turn) -> list[int]:
    """Characters of a turn that are the user's: without pictures, special tokens, and the template's spaces."""
    tails: Sequence[str] = () if style is None else sorted(style.tails, key=len, reverse=True)
    words: list[int] = []
    for start, stop in _plain(line, turn):
        piece = line.text[start:stop]
        first = start + len(piece) - len(piece.lstrip())
        last = start + len(piece.rstrip())
        if stop == turn.stop and stop < len(line.text):
            last = next((stop - len(tail) for tail in tails if piece.endswith(tail)), last)
        if piece.strip():
            words.extend(range(first, last))
    return words


def _plain(line: Spelling, turn: Turn) -> Iterator[tuple[int, int]]:
    """Stretches of a turn without special tokens."""
    start = turn.start
    for i in range(turn.start, turn.stop):
        if line.special[i]:
            if i > start:
                yield start, i
            start = i + 1
    if turn.stop > start:
        yield start, turn.stop


_WORD_ROLES: Final = "system|assistant|tool|developer|ipython|model"

KNOWN: Final[tuple[Style, ...]] = (
    # ChatML (Qwen, InternVL, LLaVA-OneVision)
    Style(
        (r"<\|im_start\|>\s*user\b",),
        (r"<\|im_start\|>\s*\w+",),
        (r"<\|im_end\|>",),
        tails=("",),
        results="<tool_response>.*?</tool_response>",
    ),
    # Llama 3
    Style(
        (r"<\|start_header_id\|>\s*user\s*<\|end_header_id\|>",),
        (r"<\|start_header_id\|>\s*\w+\s*<\|end_header_id\|>",),
        (r"<\|eot_id\|>", r"<\|end_of_text\|>"),
        tails=("",),
    ),
    # Gemma: the system text, if there is one, is the beginning of the first turn
    Style(
        (r"<start_of_turn>\s*user\b",),
        (r"<start_of_turn>\s*\w+",),
        (r"<end_of_turn>",),
        inside=Inside("", "\n\n"),
    ),
    # Zephyr, Phi
    Style((r"<\|user\|>",), (rf"<\|(?:{_WORD_ROLES})\|>",), (r"<\|end\|>", r"<\|endoftext\|>", r"</s>")),
    # Llama 2, Mistral
    Style((r"\[INST\]",), (), (r"\[/INST\]", r"</s>"), inside=Inside("<<SYS>>", "<</SYS>>"), tails=(" ",), loose=True),
    # Idefics, SmolVLM
    Style((r"User\s*:",), (r"(?:Assistant|System)\s*:",), (r"<end_of_utterance>",), tails=("",)),
    # Vicuna, LLaVA
    Style((r"USER\s*:",), (r"(?:ASSISTANT|SYSTEM)\s*:",), (r"</s>",), tails=(" ",), loose=True),
    Style((r"###\s*Human\s*:",), (r"###\s*(?:Assistant|System)\s*:",), (r"###",), loose=True),
    Style((r"###\s*(?:User|Instruction)\s*:",), (r"###\s*\w+\s*:",), (r"</s>",), loose=True),
    Style((r"Human\s*:",), (r"(?:Assistant|AI|System)\s*:",), (r"</s>",), loose=True),
    Style((r"User\s*:",), (r"(?:Assistant|System)\s*:",), (r"</s>", r"<end_of_utterance>"), loose=True),
)
"""Ways of writing turns that are in use, for prompts without a template, or written by hand in another way."""
