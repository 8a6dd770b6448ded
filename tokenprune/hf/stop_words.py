"""Words of English that say nothing about a picture by themselves: the plain way to tell keywords from the rest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

__all__ = ["STOP_WORDS", "keywords"]

STOP_WORDS: Final = frozenset(
    """
    a an the this that these those some any each every both either neither no not
    i me my mine we us our you your he him his she her it its they them their one
    am is are was were be been being do does did done has have had having can could will would shall should may might
    must
    and or but nor so if then than as because while
    of in on at by to from with without for about into onto over under out up off
    what which who whom whose where when why how there here
    please tell say give answer
    """.split()
)
"""Articles, pronouns, auxiliaries, conjunctions, prepositions, question words, and what asks for an answer."""

_WORD: Final = re.compile(r"[^\W_]+(?:['\N{RIGHT SINGLE QUOTATION MARK}][^\W_]+)*")


def keywords(text: str, characters: Sequence[int]) -> list[int]:
    """Those of some characters of a text that lie in words that are no stop words; all of them where none does.

    Parameters
    ----------
    text : str
    characters : sequence of int
        Ascending; where some are left out between two, a word ends.
    """
    found: list[int] = []
    start = 0
    for end in range(1, len(characters) + 1):
        if end < len(characters) and characters[end] == characters[end - 1] + 1:
            continue
        run = characters[start:end]
        said = "".join(text[i] for i in run)
        for word in _WORD.finditer(said):
            if word[0].lower() not in STOP_WORDS:
                found += run[word.start() : word.end()]
        start = end
    return found or list(characters)
