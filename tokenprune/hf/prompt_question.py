"""Find a question that the caller names in a prompt."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

from tokenprune.hf.prompt_spelling import Speller, Spelling

__all__ = ["locate"]


def locate(question: str, line: Spelling, speller: Speller, within: Iterable[int] = ()) -> list[int]:
    """Find a question's characters in a prompt, whatever spaces its template or tokenizer has changed.

    Parameters
    ----------
    question : str
    line : Spelling
        The prompt.
    speller : Speller
    within : iterable of int
        Characters that are known to be the user's: where the question is found among them, it is looked for nowhere
        else.

    Returns
    -------
    list of int
        Characters of every place where it stands, as whole words; empty where it does not.
    """
    wanted = list(within)
    for characters in ([wanted] if wanted else []) + [list(range(len(line.text)))]:
        # what a tokenizer that changes letters, or does not know some, makes of the question
        for text in dict.fromkeys((question, unicodedata.normalize("NFKC", question), speller.line(question).text)):
            found = _places(text, line, [i for i in characters if not line.special[i]])
            if found:
                return found
    return []


def _places(text: str, line: Spelling, characters: Sequence[int]) -> list[int]:
    """Characters of all occurrences of a text, spaces left out of account."""
    there = [i for i in characters if not line.text[i].isspace()]
    flat = "".join(line.text[i] for i in there)
    wanted = "".join(text.split())
    if not wanted:
        return []
    whole = []
    at = flat.find(wanted)
    while at >= 0:
        first, last = there[at], there[at + len(wanted) - 1]
        if not _joined(line.text, first) and not _joined(line.text, last + 1):
            whole.append((first, last))
        at = flat.find(wanted, at + 1)
    return [i for first, last in whole for i in range(first, last + 1)]


def _joined(text: str, at: int) -> bool:
    """Whether a place is in the middle of a word, in scripts that write spaces between words."""
    if not 0 < at < len(text):
        return False
    return all(character.isalnum() and not _without_spaces(character) for character in text[at - 1 : at + 1])


def _without_spaces(character: str) -> bool:
    """Scripts in which words follow one another without a space."""
    code = ord(character)
    return 0x0E00 <= code < 0x0F00 or 0x1000 <= code < 0x10A0 or 0x1780 <= code < 0x1800 or code >= 0x2E80
