"""VQA accuracy, and how the VQA evaluation writes answers before it compares them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tokenprune.core.errors import ConfigError

__all__ = ["vqa_accuracy", "vqa_normalized"]

_WHOLE = """ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't
not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've""".split()


def _one_missing(word: str) -> list[str]:
    """A word with each of its apostrophes left out in turn."""
    return [word[:i] + word[i + 1 :] for i, letter in enumerate(word) if letter == "'"]


_CONTRACTIONS = {short: word for word in _WHOLE for short in _one_missing(word)} | {"somebody'd": "somebodyd"}
_NUMBERS = {word: str(i) for i, word in enumerate("zero one two three four five six seven eight nine ten".split())}
_NUMBERS["none"] = "0"
_ARTICLES = frozenset(("a", "an", "the"))
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_BETWEEN_DIGITS = re.compile(r"(?<=\d),+(?=\d)")
_FULL_STOP = re.compile(r"\.(?!\d)")


def vqa_normalized(text: str) -> str:
    """An answer as the VQA evaluation compares it.

    Lower case; no articles; numbers up to ten in digits; contractions with their apostrophe; a punctuation mark becomes
    a space where it joins words and vanishes elsewhere, full stops vanish but in numbers.
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    grouped = _BETWEEN_DIGITS.search(text) is not None
    out = text
    for mark in _PUNCTUATION:
        alone = f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if alone or grouped else " ")
    words = [_NUMBERS.get(word, word) for word in _FULL_STOP.sub("", out).split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Agreement with several people's answers, each left out once: mean of min(1, agreeing others / 3).

    Raises
    ------
    ConfigError
        Fewer than four answers: nobody could be fully right.
    """
    if len(answers) < 4:
        raise ConfigError(
            f"VQA accuracy needs the answers of at least 4 people, got {len(answers)}; use metric 'exact'"
        )
    said = vqa_normalized(prediction)
    same = [vqa_normalized(answer) == said for answer in answers]
    return sum(min(1.0, (sum(same) - mine) / 3) for mine in same) / len(answers)
