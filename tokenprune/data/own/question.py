"""A question from a table, and how it is put to a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tokenprune.core.errors import ConfigError, closest

__all__ = ["TYPES", "OwnQuestion", "Prompts"]

Box = tuple[int, int, int, int]

TYPES = ("open", "yes-no", "choice")
"""Types of questions: a template and a metric each."""

_QUESTION = "{question}"


@dataclass(frozen=True)
class OwnQuestion:
    """A question about one or several pictures.

    Attributes
    ----------
    text : str
        What is asked, options included; this counts as the question for strategies that read one.
    answer : str
        The right one; of several the first; the letter where options are listed.
    family, subfamily : str
        Task and part of it, as in results.
    choices : tuple of str
        Yes and No, or letters of the options; empty for an open question.
    boxes : tuple of boxes, optional
        What it is about, in pixels; None where nobody knows.
    answers : tuple of str
        All right answers; for VQA accuracy one a person.
    options : tuple of str
        What the letters stand for.
    prompt : str
        What is shown to the model: the text, and what the benchmark says about the form of the answer.
    metric : str
        Name of the metric.
    """

    text: str
    answer: str
    family: str
    subfamily: str
    choices: tuple[str, ...] = ()
    boxes: tuple[Box, ...] | None = None
    answers: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    prompt: str = ""
    metric: str = "words"

    @property
    def binary(self) -> bool:
        """Whether the answer is yes or no."""
        return tuple(choice.lower() for choice in self.choices) == ("yes", "no")

    @property
    def kind(self) -> str:
        """One of :data:`TYPES`."""
        return "yes-no" if self.binary else "choice" if self.options else "open"


@dataclass(frozen=True)
class Prompts:
    """How questions are put: a template for each type, ``{question}`` where the question goes.

    Parameters
    ----------
    templates : mapping of str to str
        By type; where there is none the question stands alone.
    """

    templates: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind, template in self.templates.items():
            if kind not in TYPES:
                raise ConfigError(f"--prompt: no type of question {kind!r}; {closest(kind, TYPES)}")
            if template.count(_QUESTION) != 1:
                raise ConfigError(f"--prompt {template!r}: {_QUESTION} has to stand in it, once")

    @classmethod
    def parse(cls, given: list[str] | None) -> Prompts | None:
        """Read ``TEMPLATE`` (every type) and ``TYPE=TEMPLATE``, a backslash and n for a new line; None for none."""
        if not given:
            return None
        templates: dict[str, str] = {}
        for one in given:
            kind, equals, rest = one.partition("=")
            named = bool(equals) and _QUESTION not in kind
            if named and kind not in TYPES:
                raise ConfigError(f"--prompt {one!r}: no type of question {kind!r}; {closest(kind, TYPES)}")
            template = (rest if named else one).replace("\\n", "\n")
            for name in (kind,) if named else TYPES:
                if named or name not in templates:
                    templates[name] = template
        return cls(templates)

    def of(self, text: str, kind: str) -> str:
        """A question as it is shown."""
        return self.templates.get(kind, _QUESTION).replace(_QUESTION, text)
