"""From what a model wrote to right or wrong."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["f1_of_yes", "is_correct", "normalized", "yes_rate"]

_PUNCTUATION = re.compile(r"[^\w\s]")


def normalized(text: str) -> str:
    """Lower case, no punctuation, single spaces."""
    return " ".join(_PUNCTUATION.sub(" ", text.lower()).split())


def is_correct(prediction: str, answer: str, choices: Sequence[str] = ()) -> bool:
    """Whether the prediction is the answer.

    An exact match after normalisation. With choices, the prediction's first words decide, so that "yes , it is" is a
    "yes" and "b . dog" is choice "b".
    """
    said, right = normalized(prediction), normalized(answer)
    if not choices:
        return said == right
    picked = next((c for c in map(normalized, choices) if said == c or said.startswith(c + " ")), said)
    return picked == right


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
