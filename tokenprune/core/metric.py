"""The kind of part that grades answers. It reads no features: it stands beside the others to be found like them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from tokenprune.core.errors import ConfigError
from tokenprune.core.kinds import Component

__all__ = ["Graded", "JudgedMetric", "Metric"]


class Graded(Protocol):
    """What a metric reads of a question."""

    @property
    def text(self) -> str:
        """What is asked."""

    @property
    def answer(self) -> str:
        """The right answer, or the first of them; the letter where options are listed."""

    @property
    def answers(self) -> Sequence[str]:
        """All right answers."""

    @property
    def choices(self) -> Sequence[str]:
        """All possible answers, or the letters of the options; empty for an open question."""


class Metric(Component):
    """From a prediction to how right it is.

    Register one under the entry-point group ``tokenprune.metrics`` or with ``tokenprune.register("metrics", name)``.
    """

    kind = "metrics"

    @abstractmethod
    def score(self, prediction: str, question: Graded) -> bool | float:
        """How right a prediction is: a bool, or a number in 0..1."""

    def totals(self, answers: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Further numbers of one row of the table, by name; none by default.

        Parameters
        ----------
        answers : sequence of mapping
            Lines of results.jsonl of one row and part of a data set; every draw counts.
        """
        return {}


class JudgedMetric(Metric):
    """A metric whose grade another language model gives, after all answers are there.

    Answers are written down without a grade; what a judge says is kept beside them
    (:mod:`tokenprune.evaluation.judge`), so that a judge that fails costs no answer.
    """

    @abstractmethod
    def messages(self, answer: Mapping[str, Any]) -> list[dict[str, str]]:
        """What a judge is asked about an answer, as chat messages.

        Parameters
        ----------
        answer : mapping
            A line of results.jsonl: ``question``, ``answer`` (one, or a list) and ``prediction``.
        """

    @abstractmethod
    def verdict(self, reply: str) -> dict[str, bool | float]:
        """Read a judge's reply strictly.

        Returns
        -------
        dict
            ``correct``, a bool or a number in 0..1, and further numbers by name.

        Raises
        ------
        ConfigError
            It is no verdict; says what one is, for the judge to read.
        """

    def score(self, prediction: str, question: Graded) -> bool | float:
        """Refuse: a judge gives the grade."""
        raise ConfigError(f"{type(self).__name__}: a judge grades these answers: tokenprune judge DIR")
