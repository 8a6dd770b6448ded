"""What a name stands for, in words: asked of the object itself and of its docstring."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from tokenprune.core.kinds import Component, Objective, Selector
from tokenprune.core.registry import Entry, registry
from tokenprune.core.strategy import AnyStrategy

__all__ = ["Described", "Docstring", "Option", "described", "markdown"]

_PROPERTIES: Final[dict[type, tuple[str, ...]]] = {
    Objective: ("modular", "submodular", "monotone", "non_increasing_gains"),
    Selector: ("nested", "fills_budget"),
}
"""What parts of a kind say of themselves; shown where it is True."""


@dataclass(frozen=True)
class Docstring:
    """A docstring, taken apart.

    Attributes
    ----------
    paragraphs : tuple of str
        Text at the margin; the first one holds the citation.
    sections : dict of str to str
        Title and text of what is a title with indented text below.
    parameters : tuple of (str, str, str)
        Names, type with default, and meaning.
    """

    paragraphs: tuple[str, ...]
    sections: dict[str, str]
    parameters: tuple[tuple[str, str, str], ...]

    @classmethod
    def of(cls, text: str) -> Docstring:
        """Parse a numpy-style docstring."""
        body, _, rest = text.partition("\nParameters\n----------\n")
        paragraphs, sections = [], {}
        for title, below in _blocks(body):
            if below:
                sections[title] = below
            else:
                paragraphs.append(title)
        parameters = []
        for title, below in _blocks(rest):
            names, _, kind = title.partition(" : ")
            parameters.append((names, kind, below))
        return cls(tuple(paragraphs), sections, tuple(parameters))


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """Titles and the indented text below them; paragraphs, as titles without text."""
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        start = at
        at += 1
        if not lines[start].strip():
            continue
        if at < len(lines) and lines[at].startswith(" "):
            while at < len(lines) and (lines[at].startswith(" ") or not lines[at].strip()):
                at += 1
            yield lines[start], " ".join(" ".join(lines[start + 1 : at]).split())
            continue
        # a line that has indented text below begins a block of its own; so does a parameter
        while at < len(lines) and lines[at].strip() and not _begins(lines, at):
            at += 1
        yield " ".join(" ".join(lines[start:at]).split()), ""


def _begins(lines: list[str], at: int) -> bool:
    return " : " in lines[at] or (at + 1 < len(lines) and lines[at + 1].startswith(" "))


def markdown(text: str) -> str:
    """Text of a docstring as Markdown that fits into a table, too."""
    text = re.sub(r":\w+:`~?([^`]+)`", lambda role: f"``{role[1].rpartition('.')[2]}``", text)
    parts = text.split("``")
    for i in range(0, len(parts), 2):
        plain = re.sub(r"([\\*_<>|\[\]])", r"\\\1", parts[i])
        plain = re.sub(r"\\\*(\w+)\\\*", r"*\1*", plain).replace("^2", "²")
        parts[i] = re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", plain)
    return "".join(f"`{part.replace('|', chr(92) + '|')}`" if i % 2 else part for i, part in enumerate(parts))


@dataclass(frozen=True)
class Option:
    """An option of a strategy or part.

    Attributes
    ----------
    name : str
    default : str
        As it is written; empty where it has to be given.
    meaning : str
        From the docstring, or the type that it tells; empty where that says nothing.
    """

    name: str
    default: str
    meaning: str

    def __str__(self) -> str:
        return f"{self.name}={self.default}" if self.default else self.name


@dataclass(frozen=True)
class Described:
    """A registered name in words.

    Attributes
    ----------
    entry : Entry
    about : str
        First paragraph of its docstring.
    text : str
        The whole docstring.
    options : tuple of Option
    signals : tuple of str
        What it reads with its default options; empty where it cannot be made without options.
    properties : tuple of str
        What it says of itself.
    """

    entry: Entry
    about: str
    text: str
    options: tuple[Option, ...]
    signals: tuple[str, ...]
    properties: tuple[str, ...]


def described(entry: Entry) -> Described:
    """Import what a name stands for and describe it.

    Raises
    ------
    PluginError, DuplicateNameError
        As :meth:`~tokenprune.core.registry.Registry.load`.
    """
    thing = registry.load(entry.kind, entry.name)
    text = inspect.getdoc(thing) or ""
    doc = Docstring.of(text)
    meanings = {
        name: meaning or kind
        for one in reversed(_docs(thing))
        for names, kind, meaning in one.parameters
        for name in names.split(", ")
    }
    options = tuple(
        Option(name, _default(parameter), meanings.get(name, ""))
        for name, parameter in _parameters(entry.kind, thing).items()
    )
    made = None
    if all(option.default for option in options) and entry.kind != "adapters":
        made = (
            registry.build(entry.name)
            if entry.kind == "strategies"
            else registry.build_component(entry.kind, entry.name)
        )
    signals: frozenset[str] = frozenset()
    if isinstance(made, AnyStrategy):
        signals = made.requires
    elif isinstance(made, Component):
        signals = made.required_signals()
    about = doc.paragraphs[0] if doc.paragraphs else ""
    return Described(entry, about, text, options, tuple(sorted(signals)), _properties(made))


def _docs(thing: Any) -> list[Docstring]:
    """What is said of it, and of the classes whose options it inherits."""
    owners = thing.__mro__ if inspect.isclass(thing) else (thing,)
    return [Docstring.of(inspect.cleandoc(owner.__doc__)) for owner in owners if owner.__doc__]


def _parameters(kind: str, thing: Any) -> dict[str, inspect.Parameter]:
    """Options by name: what a function takes by keyword, what a dataclass has as fields."""
    if kind == "adapters":
        return {}
    if inspect.isclass(thing) and not dataclasses.is_dataclass(thing) and thing.__init__ is object.__init__:
        return {}
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: one for name, one in inspect.signature(thing).parameters.items() if one.kind in named}


def _default(parameter: inspect.Parameter) -> str:
    """A default as a reader writes it: a part by its class, options of its own left out."""
    value = parameter.default
    if value is inspect.Parameter.empty:
        return ""
    return type(value).__name__ if isinstance(value, Component) else repr(value)


def _properties(made: Any) -> tuple[str, ...]:
    found = [name for kind, names in _PROPERTIES.items() if isinstance(made, kind) for name in names]
    said = [name.replace("_", " ") for name in found if getattr(made, name)]
    if isinstance(made, AnyStrategy) and made.merges:
        said.append("merges")
    return tuple(said)
