"""Metrics of one answer: exact match, VQA accuracy, options, yes and no, ANLS, numbers."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenprune.core.errors import ConfigError
from tokenprune.core.metric import Graded, Metric
from tokenprune.evaluation.metrics.vqa import vqa_accuracy
from tokenprune.evaluation.metrics.words import is_correct, normalized

__all__ = ["ANLS", "MME", "VQA", "Choice", "Exact", "Number", "Words", "YesNo"]

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Words(Metric):
    """The answer, punctuation and case aside; with choices, the first words decide ("yes , it is" is a yes)."""

    def score(self, prediction: str, question: Graded) -> bool:
        """Whether the prediction is one of the right answers."""
        return any(is_correct(prediction, answer, question.choices) for answer in question.answers)


@dataclass(frozen=True)
class Exact(Metric):
    """One of the right answers, case and punctuation aside: what harnesses call exact match (GQA).

    Punctuation is taken out and leaves no space, so that "t-shirt" is "tshirt".
    """

    def score(self, prediction: str, question: Graded) -> bool:
        """Whether the prediction is one of the right answers."""
        said = self._plain(prediction)
        return bool(said) and any(said == self._plain(answer) for answer in question.answers)

    @staticmethod
    def _plain(text: str) -> str:
        return " ".join(text.lower().translate(_NO_PUNCTUATION).split())


@dataclass(frozen=True)
class VQA(Metric):
    """VQA accuracy over the answers of several people, usually ten: right in so far as three others agree (TextVQA)."""

    def score(self, prediction: str, question: Graded) -> float:
        """Mean over leaving one person out of min(1, agreeing others / 3)."""
        return vqa_accuracy(prediction, question.answers)


@dataclass(frozen=True)
class Choice(Metric):
    """One of several options, by letter ("B", "b", "(B)", "B. a dog") or by its text.

    Parameters
    ----------
    strict : bool, default False
        Only the letter alone in any case, or a capital letter followed by a full stop, as harnesses grade ScienceQA.
    """

    strict: bool = False

    def score(self, prediction: str, question: Graded) -> bool:
        """Whether the prediction names the right option."""
        said, right = prediction.strip(), question.answer.strip().lower()
        if said.lower() == right:
            return True
        if self.strict:
            return len(said) >= 2 and said[0].isupper() and said[1] == "." and said[0].lower() == right
        letters = [letter.lower() for letter in question.choices]
        named = re.match(r"\(?([a-z])(?:\)|\.|:|,|$)", said.lower())
        if named and named[1] in letters:
            return named[1] == right
        options = getattr(question, "options", ())
        fitting = [letter for letter, option in zip(letters, options, strict=False) if _same(said, option)]
        return fitting == [right]


def _same(said: str, option: str) -> bool:
    return bool(normalized(said)) and normalized(said) == normalized(option)


def _yes_or_no(prediction: str) -> str:
    """The first word if it is yes or no, else nothing."""
    first = normalized(prediction).partition(" ")[0]
    return first if first in ("yes", "no") else ""


@dataclass(frozen=True)
class YesNo(Metric):
    """Yes or no, by the first word ("No." and "no, there is none" are a no); anything else is wrong.

    Further numbers: ``precision``, ``recall`` and ``f1`` of yes, ``yes_rate``, all of what was predicted.

    Parameters
    ----------
    strict : bool, default False
        The prediction must be the word and nothing else, as harnesses grade POPE: "No." is wrong then.
    """

    strict: bool = False

    def read(self, prediction: str) -> str:
        """What was said: yes, no, or nothing."""
        if self.strict:
            said = prediction.lower().strip()
            return said if said in ("yes", "no") else ""
        return _yes_or_no(prediction)

    def score(self, prediction: str, question: Graded) -> bool:
        """Whether the prediction says what is right."""
        return self.read(prediction) == _right(question.answer)

    def totals(self, answers: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Precision, recall, F1 of yes, and the rate of yes."""
        pairs = [(self.read(a["prediction"]), _yes_or_no(str(a["answer"]))) for a in answers]
        hits = sum(said == right == "yes" for said, right in pairs)
        said_yes, are_yes = (sum(pair[i] == "yes" for pair in pairs) for i in (0, 1))
        return {
            "precision": hits / said_yes if said_yes else 0.0,
            "recall": hits / are_yes if are_yes else 0.0,
            "f1": 2 * hits / (said_yes + are_yes) if said_yes + are_yes else 0.0,
            "yes_rate": said_yes / len(pairs),
        }


def _right(answer: str) -> str:
    right = _yes_or_no(answer)
    if not right:
        raise ConfigError(f"answer {answer!r}: this metric grades questions whose answer is yes or no")
    return right


PERCEPTION = frozenset(
    "existence count position color posters celebrity scene landmark artwork ocr".split()  # MME's ten categories
)


@dataclass(frozen=True)
class MME(YesNo):
    """Yes or no as MME reads it: anywhere in the first four letters.

    Further numbers: ``mme``, the sum over categories of accuracy and accuracy+ in percent, where accuracy+ counts
    pictures with both questions right; ``mme_perception`` and ``mme_cognition`` likewise. A picture has two questions
    in each category; where one is missing there is no such number.
    """

    def read(self, prediction: str) -> str:
        """What was said: yes, no, or nothing."""
        said = prediction.lower().strip().replace(".", "")
        if len(said) == 1:
            return {"y": "yes", "n": "no"}.get(said, "")
        return next((word for word in ("yes", "no") if word in said[:4]), "")

    def totals(self, answers: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Those of yes and no, and the scores where all pairs are complete."""
        found = super().totals(answers)
        pairs: dict[str, dict[str, list[float]]] = {}
        for answer in answers:
            pairs.setdefault(str(answer["family"]), {}).setdefault(answer["image"], []).append(float(answer["correct"]))
        if any(len(scores) != 2 for category in pairs.values() for scores in category.values()):
            return found
        score = {
            name: sum(100 * (sum(s) == 2) + 50 * sum(s) for s in category.values()) / len(category)
            for name, category in pairs.items()
        }
        seen = [value for name, value in score.items() if name.lower() in PERCEPTION]
        thought = [value for name, value in score.items() if name.lower() not in PERCEPTION]
        found["mme"] = sum(score.values())
        if seen:
            found["mme_perception"] = sum(seen)
        if thought:
            found["mme_cognition"] = sum(thought)
        return found


@dataclass(frozen=True)
class ANLS(Metric):
    """Average normalised Levenshtein similarity to the closest right answer; nothing below a threshold (DocVQA).

    Parameters
    ----------
    threshold : float, default 0.5
    """

    threshold: float = 0.5

    def __post_init__(self) -> None:
        _fraction("threshold", self.threshold)

    def score(self, prediction: str, question: Graded) -> float:
        """1 - distance / length of the longer one."""
        best = max(_likeness(prediction, answer) for answer in question.answers)
        return best if best >= self.threshold else 0.0


def _likeness(a: str, b: str) -> float:
    length = max(len(a), len(b))
    if not length:
        return 1.0
    distance = _edits(" ".join(a.lower().split()), " ".join(b.lower().split()))
    return 1 - distance / length


def _edits(a: str, b: str) -> int:
    """Levenshtein distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (x != y))
    return row[-1]


@dataclass(frozen=True)
class Number(Metric):
    """A number within a relative tolerance of the right one (ChartQA); words are compared as words.

    Parameters
    ----------
    tolerance : float, default 0.05
    """

    tolerance: float = 0.05

    def __post_init__(self) -> None:
        _fraction("tolerance", self.tolerance)

    def score(self, prediction: str, question: Graded) -> bool:
        """Whether the prediction is close to one of the right answers."""
        said = _number(prediction)
        for answer in question.answers:
            right = _number(answer)
            if said is not None and right is not None:
                if abs(said - right) <= self.tolerance * abs(right):
                    return True
            elif _same(prediction, answer):
                return True
        return False


_NUMBER = re.compile(
    r"([-+]?)[$€£]?((?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e[-+]?\d{1,2})?|\.\d+)(%?)\.?", re.IGNORECASE
)


def _number(text: str) -> float | None:
    """A number, thousands separated by commas or not; a percentage is a hundredth."""
    found = re.fullmatch(
        r"([-+]?)[$€£]?((?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e[-+]?\d{1,3})?|\.\d+)(%?)\.?", text.strip().lower()
    )
    if not found:
        return None
    value = float(found[2].replace(",", "")) * (-1 if found[1] == "-" else 1)
    return value / 100 if found[3] else value


def _fraction(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ConfigError(f"{name} must be a number from 0 to below 1, got {value!r}")
