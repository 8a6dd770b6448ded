"""From what a model wrote to right or wrong."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["f1_of_yes", "is_correct", "normalized", "yes_rate"]

# a minus before a number is part of it, one between words or numbers is a dash
_PUNCTUATION = re.compile(r"(?!(?<!\w)-\d)[^\w\s]")


def normalized(text: str) -> str:
    """Lower case, no punctuation but the sign of a number, single spaces."""
    return " ".join(_PUNCTUATION.sub(" ", text.lower()).split())


def is_correct(prediction: str, answer: str, choices: Sequence[str] = ()) -> bool:
    """Whether the prediction is the answer.

    An exact match after normalisation; nothing but punctuation matches nothing. With choices, the prediction's first
    words decide, so that "yes , it is" is a "yes" and "b . dog" is choice "b"; the longest choice that fits is meant.
    """
    said, right = normalized(prediction), normalized(answer)
    fitting = [choice for choice in map(normalized, choices) if f"{said} ".startswith(f"{choice} ")]
    return bool(said) and max(fitting, key=len, default=said) == right


def _is_yes(text: str) -> bool:
    return normalized(text).split(" ")[0] == "yes"


def f1_of_yes(predictions: Sequence[str], answers: Sequence[str]) -> float:
    """F1 of the answer "yes" (POPE's measure); 0 where nothing is right."""
    hits = sum(_is_yes(p) and _is_yes(a) for p, a in zip(predictions, answers, strict=True))
    total = sum(map(_is_yes, predictions)) + sum(map(_is_yes, answers))
    return 2 * hits / total if total else 0.0


def yes_rate(predictions: Sequence[str]) -> float:
    """Share of predictions that say yes."""
    return sum(map(_is_yes, predictions)) / len(predictions)
