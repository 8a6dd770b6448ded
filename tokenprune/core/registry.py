"""Find strategies and components by name: entry points of installed packages, and ``register`` for notebooks.

Listing reads package metadata only. A plugin's module is imported when one of its names is asked for, so a broken
plugin costs nothing until then, and never hides the others.
"""

from __future__ import annotations

import fnmatch
import functools
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Final, TypeVar

from tokenprune.core.errors import (
    ConfigError,
    DuplicateNameError,
    OptionTypeError,
    PluginError,
    TokenPruneError,
    UnknownNameError,
    UnknownOptionError,
    closest,
)
from tokenprune.core.kinds import Component
from tokenprune.core.schedule import from_parts
from tokenprune.core.strategy import AnyStrategy

__all__ = [
    "KINDS",
    "Entry",
    "Registry",
    "build",
    "build_component",
    "list_components",
    "list_strategies",
    "register",
    "strategy_in",
]

KINDS: Final = {
    "strategies": "strategy",
    "scorers": "scorer",
    "aggregators": "aggregator",
    "normalizers": "normalizer",
    "priors": "prior",
    "pairwise": "pairs",
    "objectives": "objective",
    "selectors": "selector",
    "budgets": "rule",
    "mergers": "merger",
    "stages": "stage",
    "adapters": "adapter",
    "signals": "signal",
    "metrics": "metric",
}
"""Kind (entry-point group ``tokenprune.<kind>``) and the option name under which parts of that kind are nested."""

# an option called "signal" is the name of one that a part reads; collectors are no parts of parts
_KIND_OF_OPTION: Final = {option: kind for kind, option in KINDS.items() if kind != "signals"} | {
    "salience": "scorers",
    "fill": "selectors",
}

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """A name and where it comes from.

    Attributes
    ----------
    name, kind : str
    origin : str
        Distribution and version, or the module of a registered object.
    target : str
        ``module:attribute``.
    clashes : tuple of str
        Other origins that claim the same name, none of which ships with tokenprune; asking for the name then raises.
        Each is found under ``DISTRIBUTION:NAME``. A name that ships stays what it is, whoever else claims it.
    """

    name: str
    kind: str
    origin: str
    target: str
    clashes: tuple[str, ...] = ()
    load: Callable[[], Any] = field(repr=False, compare=False, default=lambda: None)

    @property
    def ships(self) -> bool:
        """Whether it is one of those that come with tokenprune."""
        return self.target.partition(":")[0].partition(".")[0] in ("tokenprune", "tokenprune_strategies")


class Registry:
    """Names of every kind. The module-level functions use one instance; make your own in tests."""

    def __init__(self) -> None:
        self._local: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}

    def register(self, kind: str, name: str) -> Callable[[T], T]:
        """Return a decorator that makes an object known by name in this process.

        Defining the same object again (running a notebook cell twice) replaces it; any other use of a name that is
        taken raises ``DuplicateNameError``.
        """
        _check_kind(kind)
        _check_text(f"a name of {kind}", name)

        def add(thing: T) -> T:
            if not callable(thing):
                raise OptionTypeError(f"{kind} {name!r} must be a class or function, got {type(thing).__name__}")
            for entry in self.entries(kind):
                if entry.name == name and entry.target != _target(thing):
                    raise DuplicateNameError(f"{kind} {name!r} is already taken by {entry.origin} ({entry.target})")
            self._local[kind][name] = thing
            return thing

        return add

    def entries(self, kind: str, pattern: str = "*") -> list[Entry]:
        """Entries whose name matches the wildcard pattern, sorted by name; imports nothing.

        What claims a name that ships is listed as ``DISTRIBUTION:NAME``.
        """
        _check_kind(kind)
        _check_text("a wildcard pattern", pattern)
        merged = []
        for first, *others in self._claims(kind).values():
            if first.ships:
                merged += [first, *(replace(other, name=_address(other)) for other in others)]
            else:
                merged.append(replace(first, clashes=tuple(f"{e.origin} ({e.target})" for e in others)))
        return sorted((e for e in merged if fnmatch.fnmatchcase(e.name, pattern)), key=lambda e: e.name)

    def _claims(self, kind: str) -> dict[str, list[Entry]]:
        """All that claim each name, what ships with tokenprune first."""
        found: dict[str, list[Entry]] = {}
        for entry in _installed(kind, _path_state())[0]:
            found.setdefault(entry.name, []).append(entry)
        for name, thing in self._local[kind].items():
            entry = Entry(name, kind, f"registered in {thing.__module__}", _target(thing), load=lambda t=thing: t)  # type: ignore[misc]
            found.setdefault(name, []).append(entry)
        for name, entries in found.items():
            # one object under one name twice is no clash: a distribution found twice on the path, or a plugin whose
            # entry point and ``register`` agree
            distinct: dict[str, Entry] = {}
            for entry in entries:
                distinct.setdefault(entry.target, entry)
            found[name] = sorted(distinct.values(), key=lambda entry: not entry.ships)
        return found

    def _addresses(self, kind: str, name: str) -> bool:
        """Whether a name says whose it is: ``DISTRIBUTION:NAME``."""
        return any(_address(entry) == name for claims in self._claims(kind).values() for entry in claims)

    def broken(self) -> list[str]:
        """Distributions whose list of entry points cannot be read, and why; nobody finds what they bring."""
        return list(dict.fromkeys(why for kind in KINDS for why in _installed(kind, _path_state())[1]))

    def load(self, kind: str, name: str) -> Any:
        """Import what a name stands for.

        Raises
        ------
        UnknownNameError
            With the closest names.
        DuplicateNameError
            Two packages claim the name.
        PluginError
            Importing it failed; names the distribution and the cause.
        """
        _check_text(f"a name of {kind}", name)
        entries = {entry.name: entry for entry in self.entries(kind)}
        if ":" in name and name not in entries:
            entries |= {_address(entry): entry for claims in self._claims(kind).values() for entry in claims}
        if name not in entries:
            raise UnknownNameError(f"no {KINDS[kind]} named {name!r}; {closest(name, entries)}")
        entry = entries[name]
        if entry.clashes:
            others = ", ".join(entry.clashes)
            raise DuplicateNameError(
                f"{kind} {name!r} is claimed by {entry.origin} ({entry.target}) and {others}; say whose, as "
                f"{_address(entry)!r}"
            )
        try:
            return entry.load()
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"{KINDS[kind]} {name!r} of {entry.origin} ({entry.target}) cannot be loaded: "
                f"{type(error).__name__}: {error}"
            ) from error

    def build_component(self, kind: str, spec: str | Mapping[str, Any] | Component) -> Any:
        """Make a part from a name, from ``{"name": ..., option: ...}``, or return the part itself."""
        if not isinstance(spec, str | Mapping):
            return _checked_kind(kind, spec)
        options = {} if isinstance(spec, str) else dict(spec)
        if not isinstance(spec, str) and "name" not in options:
            raise ConfigError(f"a {KINDS[kind]} given as a mapping needs a 'name', got {dict(spec)!r}")
        name = spec if isinstance(spec, str) else options.pop("name")
        return _checked_kind(kind, self._call(f"{KINDS[kind]} {name!r}", self.load(kind, name), options))

    def build(self, strategy: AnyStrategy | str | Mapping[str, Any], **options: Any) -> AnyStrategy:
        """See :func:`build`."""
        if isinstance(strategy, AnyStrategy):
            if options:
                raise UnknownOptionError(f"{strategy!r} is built already: options {sorted(options)} cannot be applied")
            return strategy
        if isinstance(strategy, str) and strategy.endswith((".yaml", ".yml")):
            return self.build(strategy_in(Path(strategy)), **options)
        if isinstance(strategy, Mapping):
            parts = {**strategy, **options}
            if "strategy" in parts:
                return self.build(parts.pop("strategy"), **parts)
            return self._checked(self._call("a strategy from parts", from_parts, parts), "parts")
        if isinstance(strategy, str) and ":" in strategy and not self._addresses("strategies", strategy):
            addressed = self._addresses("strategies", ":".join(strategy.split(":")[:2]))
            name, given = _options_in(strategy, 2 if addressed else 1)
            if twice := given.keys() & options.keys():
                raise UnknownOptionError(f"strategy {strategy!r}: {sorted(twice)[0]!r} was given twice")
            factory = self.load("strategies", name)
            made = self._checked(self._call(f"strategy {name!r}", factory, {**given, **options}), name)
            try:
                return replace(made, name=strategy)  # type: ignore[type-var]
            except (TypeError, ValueError) as error:
                what = f"strategy {name!r} is no dataclass with a field 'name', so that its name cannot hold options"
                raise OptionTypeError(f"{what}; give them to tokenprune.build") from error
        made = self._call(f"strategy {strategy!r}", self.load("strategies", strategy), options)
        return self._checked(made, strategy)

    def _checked(self, made: Any, name: object) -> AnyStrategy:
        if not isinstance(made, AnyStrategy):
            raise OptionTypeError(f"strategy {name!r} must make a tokenprune.AnyStrategy, got {type(made).__name__}")
        return made

    def _call(self, what: str, factory: Any, options: Mapping[str, Any]) -> Any:
        """Call a factory with options checked against its signature and nested parts made first."""
        if not callable(factory):
            raise PluginError(f"{what} is {factory!r}, which cannot be called")
        known = {
            name
            for name, parameter in inspect.signature(factory).parameters.items()
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        }
        ready: dict[str, Any] = {}
        for option, value in options.items():
            if option not in known:
                raise UnknownOptionError(f"{what} has no option {option!r}; {closest(option, known)}")
            kind = _KIND_OF_OPTION.get(option)
            ready[option] = value if kind is None or value is None else self.build_component(kind, value)
        try:
            return factory(**ready)
        except TokenPruneError:
            raise
        except TypeError as error:
            raise OptionTypeError(f"{what}: {error}") from error
        except (Exception, SystemExit) as error:
            raise PluginError(f"{what} ({_target(factory)}) cannot be made: {type(error).__name__}: {error}") from error


def strategy_in(path: Path) -> str | Mapping[str, Any]:
    """The strategy in a YAML file: what is under ``strategy`` where there is more, else all of it.

    Raises
    ------
    ConfigError
        The file cannot be read, or holds no strategy.
    """
    from tokenprune.core.documents import read_yaml

    given = read_yaml(path)
    if isinstance(given, Mapping) and "tuned" in given:
        given = given.get("strategy")
    if not isinstance(given, str | Mapping) or not given:
        raise ConfigError(f"{path}: a strategy is a name or a mapping of parts, got {given!r}")
    return given


def _address(entry: Entry) -> str:
    """``DISTRIBUTION:NAME``, which says whose."""
    return f"{entry.origin.partition(' ')[0]}:{entry.name}"


def _options_in(spec: str, names: int) -> tuple[str, dict[str, Any]]:
    """Take ``name:option=value:option=value`` apart, where the name has so many parts itself."""
    parts = spec.split(":")
    name, options = ":".join(parts[:names]), parts[names:]
    given: dict[str, Any] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or not key.isidentifier() or not value.strip():
            raise ConfigError(f"strategy {spec!r}: options are written name:option=value, got {option!r}")
        if key in given:
            raise UnknownOptionError(f"strategy {spec!r}: {key!r} was given twice")
        given[key] = _value(value.strip(), f"strategy {spec!r}: option {key!r}")
    return name, given


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_WORD = re.compile(r"[A-Za-z][\w.+/-]*")


def _value(text: str, where: str) -> Any:
    """A number, true, false, null, a word; a list or mapping as in YAML."""
    if text in ("true", "false", "null"):
        return {"true": True, "false": False, "null": None}[text]
    if _NUMBER.fullmatch(text):
        return float(text) if any(c in text for c in ".eE") else int(text)
    if _WORD.fullmatch(text):
        return text
    if text[0] in "[{\"'":
        from tokenprune.core.documents import parse_yaml

        return parse_yaml(text, where)
    raise ConfigError(
        f"{where}: got {text!r}; a number (0.5, 1e-2), true, false, null, a word, or a list or mapping as in YAML"
    )


@functools.lru_cache(maxsize=2 * len(KINDS))
def _installed(kind: str, path_state: tuple[tuple[str, int], ...]) -> tuple[tuple[Entry, ...], tuple[str, ...]]:
    """Entry points of a kind, and distributions whose entry points cannot be read.

    Read again only where the import path has changed (reading takes milliseconds).
    """
    group, broken = f"tokenprune.{kind}", []
    try:
        points = list(metadata.entry_points(group=group))
    except Exception:
        # a damaged line in one package hides those of all others: read each on its own
        points, seen = [], set()
        for distribution in metadata.distributions():
            name = str(distribution.metadata["Name"])
            if name in seen:
                continue
            seen.add(name)
            try:
                points += list(distribution.entry_points.select(group=group))
            except Exception as error:
                broken.append(f"{name}: entry_points.txt cannot be read: {type(error).__name__}: {error}")
    entries = []
    for point in points:
        origin = "unknown distribution" if point.dist is None else f"{point.dist.name} {point.dist.version}"
        entries.append(Entry(point.name, kind, origin, point.value, load=point.load))
    return tuple(entries), tuple(broken)


def _path_state() -> tuple[tuple[str, int], ...]:
    """Folders searched for packages, and when something was last added to or removed from each."""
    state = []
    for folder in sys.path:
        try:
            state.append((folder, os.stat(folder or ".").st_mtime_ns))
        except OSError:
            state.append((folder, 0))
    return tuple(state)


def _check_kind(kind: str) -> None:
    _check_text("a kind", kind)
    if kind not in KINDS:
        raise UnknownNameError(f"no kind {kind!r}; {closest(kind, KINDS)}")


def _check_text(what: str, value: object) -> None:
    if not isinstance(value, str):
        raise OptionTypeError(f"{what} must be a str, got {type(value).__name__} {value!r}")


def _checked_kind(kind: str, part: Any) -> Any:
    """Return the part if it is one of its kind; strategies and adapters are no parts and are checked elsewhere."""
    if kind not in ("strategies", "adapters") and not (isinstance(part, Component) and part.kind == kind):
        what = f"a part of kind {part.kind}" if isinstance(part, Component) else type(part).__name__
        raise OptionTypeError(
            f"{KINDS[kind]}: a name, a mapping with 'name', or a part of kind {kind} is needed, got {what} {part!r}"
        )
    return part


def _target(thing: Any) -> str:
    return f"{thing.__module__}:{getattr(thing, '__qualname__', type(thing).__qualname__)}"


registry = Registry()


def register(kind: str, name: str) -> Callable[[T], T]:
    """Make a class or function known by name in this process (for notebooks; packages use entry points).

    Parameters
    ----------
    kind : str
        One of :data:`KINDS`, e.g. "scorers" or "strategies".
    name : str

    Examples
    --------
    >>> import tokenprune as tp
    >>> @tp.register("scorers", "norm")
    ... class Norm(tp.Scorer):
    ...     def score(self, features):
    ...         return features.visual.norm(dim=-1)
    >>> tp.build({"scorer": "norm"}).scorer is not None
    True
    """
    return registry.register(kind, name)


def build(strategy: AnyStrategy | str | Mapping[str, Any], **options: Any) -> AnyStrategy:
    """Make a strategy by name with options, or from parts.

    Parameters
    ----------
    strategy : AnyStrategy, str or mapping
        A strategy, which is returned; a YAML file that holds one (``strategy.yaml``); a registered name,
        with options where one line has to do
        (``"mi-pruner:lam=0.7:tau=0.02"``); or the parts: ``{"scorer": ..., "selector": ..., "merger": ...}``, each a
        name, a mapping with "name" and options, or an object, with "after_layer" inside the language model, with "text"
        for other words than the user's (:func:`~tokenprune.core.schedule.from_parts`). A mapping with "strategy" is a
        name with options, as read from YAML.
    **options
        Options of the strategy; parts among them (``normalizer=``, ``aggregator=`` ...) by name or mapping too.

    Raises
    ------
    UnknownNameError, UnknownOptionError
        With the closest matches.
    ConfigError
        An option that is not written ``name:option=value``.
    PluginError
        The plugin that provides the name is broken, or what makes the strategy or a part failed.
    """
    return registry.build(strategy, **options)


def build_component(kind: str, spec: str | Mapping[str, Any] | Component) -> Any:
    """Make one part, e.g. ``build_component("aggregators", {"name": "renyi", "order": 4})``."""
    return registry.build_component(kind, spec)


def list_strategies(pattern: str = "*") -> list[str]:
    """Names of strategies that match a wildcard pattern; imports no plugin."""
    return [entry.name for entry in registry.entries("strategies", pattern)]


def list_components(kind: str, pattern: str = "*") -> list[str]:
    """Names of parts of one kind (``"scorers"``, ``"aggregators"``, ...) that match a wildcard pattern."""
    return [entry.name for entry in registry.entries(kind, pattern)]


def all_entries(kinds: Iterable[str] = KINDS) -> list[Entry]:
    """Every entry of some kinds, for listings."""
    return [entry for kind in kinds for entry in registry.entries(kind)]
