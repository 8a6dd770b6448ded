"""What may be composed: a strategy as :func:`tokenprune.build` takes it, in which some values are still open."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenprune.core.documents import read_yaml
from tokenprune.core.errors import ConfigError, TokenPruneError, closest
from tokenprune.core.registry import build

__all__ = ["DEFAULT", "Alternatives", "Choose", "Open", "Range", "Space"]

DEFAULT = Path(__file__).with_name("spaces") / "default.yaml"
"""The space that is searched where none is given."""


@dataclass(frozen=True)
class Alternatives:
    """One of several; ``labels`` name them."""

    name: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Range:
    """A number between two, ends included."""

    name: str
    low: float
    high: float
    log: bool = False


Open = Alternatives | Range
Choose = Callable[[Open], Any]
"""Answers an open value: a label, or a number."""


def _labelled(option: Any) -> tuple[str, Any]:
    """How an alternative is called, and what it is."""
    if isinstance(option, Mapping) and set(option) == {"label", "value"}:
        return str(option["label"]), option["value"]
    return str(option["name"]) if isinstance(option, Mapping) and "name" in option else str(option), option


def _alternatives(node: Mapping[str, Any], path: str) -> tuple[Alternatives, dict[str, Any]]:
    """The choice at a node, and what each label stands for."""
    if set(node) - {"any", "as"} or not isinstance(node["any"], list) or not node["any"]:
        raise ConfigError(f"space, {path}: a choice is {{any: [...]}}, with 'as' where it has a name, got {node!r}")
    named = [_labelled(option) for option in node["any"]]
    options = dict(named)
    if len(options) != len(named):
        raise ConfigError(f"space, {path}: two alternatives of one name among {[label for label, _ in named]}")
    return Alternatives(str(node.get("as", path)), tuple(options)), options


def _range(node: Mapping[str, Any], path: str) -> Range:
    numbers = [node.get("low"), node.get("high")]
    sound = not set(node) - {"low", "high", "log", "as"} and isinstance(node.get("log", False), bool)
    if not sound or not all(isinstance(x, int | float) and not isinstance(x, bool) for x in numbers):
        raise ConfigError(f"space, {path}: a range is {{low: 0.1, high: 1}}, with 'log: true' and 'as', got {node!r}")
    low, high = float(node["low"]), float(node["high"])
    if not low < high or (node.get("log", False) and low <= 0):
        raise ConfigError(f"space, {path}: low has to be below high, and above 0 on a log scale, got {node!r}")
    return Range(str(node.get("as", path)), low, high, node.get("log", False))


@dataclass(frozen=True)
class Space:
    """A template and where to begin.

    Parameters
    ----------
    strategy : mapping
        What :func:`tokenprune.build` takes, with open values: ``{any: [...]}`` or ``{low: ..., high: ...}``; itself
        such a choice, where what is open depends on where a composition acts. Values of one name (``as``) are chosen
        once; without a name it is the path, as "scorer.share". An alternative is called by its part's name, or as
        ``{label: ..., value: ...}`` says.
    start : sequence of mapping, optional
        Choices to begin with, by name.
    """

    strategy: Mapping[str, Any]
    start: Sequence[Mapping[str, Any]] = field(default_factory=tuple)

    @classmethod
    def read(cls, path: Path | None = None) -> Space:
        """Read a YAML file (the default space without one), and build one composition with every alternative.

        Raises
        ------
        ConfigError
            No mapping with ``strategy``, nothing open in it, a name that is open in two ways, or a start that chooses
            what there is not.
        TokenPruneError
            A part that does not exist or cannot be built so; says where.
        """
        given = read_yaml(path or DEFAULT)
        if not isinstance(given, Mapping) or set(given) - {"strategy", "start"} or "strategy" not in given:
            raise ConfigError(f"{path}: a space is a mapping with 'strategy' and, optionally, 'start'")
        start = given.get("start") or []
        if not isinstance(given["strategy"], Mapping) or not isinstance(start, list):
            raise ConfigError(f"{path}: 'strategy' has to be a mapping of parts, and 'start' a list")
        space = cls(given["strategy"], tuple(start))
        space.check()
        return space

    def open(self) -> dict[str, Open]:
        """Everything that is open, by name.

        Raises
        ------
        ConfigError
            One name stands for two different choices.
        """
        found: dict[str, Open] = {}
        for one in _walk(self.strategy, ""):
            if found.setdefault(one.name, one) != one:
                raise ConfigError(f"space: {one.name!r} is open in two ways, {found[one.name]} and {one}")
        return found

    def check(self) -> None:
        """Build one composition with every alternative; see :meth:`read`."""
        known = self.open()
        if not known:
            raise ConfigError("space: nothing is open in it; give {any: [...]} or {low: ..., high: ...} somewhere")
        for chosen in self.start:
            if not isinstance(chosen, Mapping):
                raise ConfigError(f"space, start: a mapping of names to values is needed, got {chosen!r}")
            for name, value in chosen.items():
                one = known.get(name)
                if one is None:
                    raise ConfigError(f"space, start: nothing is called {name!r}; {closest(str(name), known)}")
                fits = value in one.labels if isinstance(one, Alternatives) else one.low <= value <= one.high
                if not fits:
                    raise ConfigError(f"space, start: {name} cannot be {value!r}; it is {one}")
        for one in known.values():
            for value in one.labels if isinstance(one, Alternatives) else (one.low, one.high):
                self._build(self._towards(one.name, value), f"{one.name}={value}")

    def _build(self, strategy: Mapping[str, Any], where: str) -> None:
        try:
            build(strategy)
        except TokenPruneError as error:
            raise type(error)(f"space, {where}: {error}") from error

    def _towards(self, name: str, value: Any) -> dict[str, Any]:
        """A composition in which one open value is chosen, the way to it open, and all else the first."""

        def choose(one: Open, behind: Callable[[str], Iterator[Open]]) -> Any:
            if one.name == name:
                return value
            if isinstance(one, Range):
                return one.low
            leads = [label for label in one.labels if any(other.name == name for other in behind(label))]
            return leads[0] if leads else one.labels[0]

        composed: dict[str, Any] = _composed(self.strategy, "", choose, {})
        return composed

    def compose(self, choose: Choose) -> dict[str, Any]:
        """A strategy, every open value asked for once."""
        composed: dict[str, Any] = _composed(self.strategy, "", lambda one, _: choose(one), {})
        return composed


def _walk(node: Any, path: str) -> Iterator[Open]:
    """Open values, outer ones first."""
    if isinstance(node, Mapping) and "any" in node:
        one, options = _alternatives(node, path)
        yield one
        for label, option in options.items():
            yield from _walk(option, f"{path}.{label}".strip("."))
    elif isinstance(node, Mapping) and {"low", "high"} & set(node):
        yield _range(node, path)
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from _walk(value, f"{path}.{key}".strip("."))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _walk(value, f"{path}.{i}".strip("."))


def _composed(
    node: Any, path: str, choose: Callable[[Open, Callable[[str], Iterator[Open]]], Any], known: dict[str, Any]
) -> Any:
    """A copy without anything open; who chooses is told what is open behind each label."""
    if isinstance(node, Mapping) and "any" in node:
        one, options = _alternatives(node, path)
        if one.name not in known:
            known[one.name] = choose(one, lambda label: _walk(options[label], f"{path}.{label}".strip(".")))
        label = known[one.name]
        return _composed(options[label], f"{path}.{label}".strip("."), choose, known)
    if isinstance(node, Mapping) and {"low", "high"} & set(node):
        number = _range(node, path)
        if number.name not in known:
            known[number.name] = choose(number, lambda _: iter(()))
        return known[number.name]
    if isinstance(node, Mapping):
        return {key: _composed(value, f"{path}.{key}".strip("."), choose, known) for key, value in node.items()}
    if isinstance(node, list):
        return [_composed(value, f"{path}.{i}".strip("."), choose, known) for i, value in enumerate(node)]
    return node
