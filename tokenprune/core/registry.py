"""Find strategies and components by name: entry points of installed packages, and ``register`` for notebooks.

Listing reads package metadata only. A plugin's module is imported when one of its names is asked for, so a broken
plugin costs nothing until then, and never hides the others.
"""

from __future__ import annotations

import fnmatch
import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
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
from tokenprune.core.strategy import AnyStrategy, Strategy

__all__ = ["KINDS", "Entry", "Registry", "build", "build_component", "list_components", "list_strategies", "register"]

KINDS: Final = {
    "strategies": "strategy",
    "scorers": "scorer",
    "aggregators": "aggregator",
    "normalizers": "normalizer",
    "priors": "prior",
    "pairwise": "pairs",
    "objectives": "objective",
    "selectors": "selector",
    "mergers": "merger",
    "stages": "stage",
    "adapters": "adapter",
}
"""Kind (entry-point group ``tokenprune.<kind>``) and the option name under which parts of that kind are nested."""

_KIND_OF_OPTION: Final = {option: kind for kind, option in KINDS.items()} | {"salience": "scorers", "fill": "selectors"}

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
        Other origins that claim the same name; asking for the name then raises.
    """

    name: str
    kind: str
    origin: str
    target: str
    clashes: tuple[str, ...] = ()
    load: Callable[[], Any] = field(repr=False, compare=False, default=lambda: None)


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
        """Entries whose name matches the wildcard pattern, sorted by name; imports nothing."""
        _check_kind(kind)
        _check_text("a wildcard pattern", pattern)
        found: dict[str, list[Entry]] = {}
        for entry in _installed(kind, _path_state()):
            found.setdefault(entry.name, []).append(entry)
        for name, thing in self._local[kind].items():
            entry = Entry(name, kind, f"registered in {thing.__module__}", _target(thing), load=lambda t=thing: t)  # type: ignore[misc]
            found.setdefault(name, []).append(entry)
        merged = []
        for name in sorted(found):
            # one object under one name twice is no clash: a distribution found twice on the path, or a plugin whose
            # entry point and ``register`` agree
            distinct: dict[str, Entry] = {}
            for entry in found[name]:
                distinct.setdefault(entry.target, entry)
            first, *others = distinct.values()
            clashes = tuple(f"{e.origin} ({e.target})" for e in others)
            merged.append(Entry(name, kind, first.origin, first.target, clashes, first.load))
        return [entry for entry in merged if fnmatch.fnmatchcase(entry.name, pattern)]

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
        if name not in entries:
            raise UnknownNameError(f"no {KINDS[kind]} named {name!r}; {closest(name, entries)}")
        entry = entries[name]
        if entry.clashes:
            others = ", ".join(entry.clashes)
            raise DuplicateNameError(f"{kind} {name!r} is claimed by {entry.origin} ({entry.target}) and {others}")
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
        if isinstance(strategy, Mapping):
            parts = {**strategy, **options}
            if "strategy" in parts:
                return self.build(parts.pop("strategy"), **parts)
            return self._checked(self._call("a strategy from parts", Strategy, parts), "parts")
        if isinstance(strategy, str) and ":" in strategy:
            name, given = _options_in(strategy)
            if twice := given.keys() & options.keys():
                raise UnknownOptionError(f"strategy {strategy!r}: {sorted(twice)[0]!r} was given twice")
            made = self.build(name, **given, **options)
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


def _options_in(spec: str) -> tuple[str, dict[str, Any]]:
    """Take ``name:option=value:option=value`` apart; values as in YAML."""
    import yaml

    name, *options = spec.split(":")
    given: dict[str, Any] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or not key:
            raise ConfigError(f"strategy {spec!r}: options are written name:option=value, got {option!r}")
        given[key] = yaml.safe_load(value)
    return name, given


@functools.lru_cache(maxsize=2 * len(KINDS))
def _installed(kind: str, path_state: tuple[tuple[str, int], ...]) -> tuple[Entry, ...]:
    """Entry points of a kind, read again only where the import path has changed (reading takes milliseconds)."""
    entries = []
    for point in metadata.entry_points(group=f"tokenprune.{kind}"):
        origin = "unknown distribution" if point.dist is None else f"{point.dist.name} {point.dist.version}"
        entries.append(Entry(point.name, kind, origin, point.value, load=point.load))
    return tuple(entries)


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
        A strategy, which is returned; a registered name, with options where one line has to do
        (``"mi-pruner:lam=0.7:tau=0.02"``); or the parts: ``{"scorer": ..., "selector": ..., "merger": ...}``, each a
        name, a mapping with "name" and options, or an object. A mapping with "strategy" is a name with options, as
        read from YAML.
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
