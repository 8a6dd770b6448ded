"""Stand in for a function of somebody's object for a while, and read a call to it: its arguments, its cache.

What stands in knows its place: in a deep copy of the object it becomes what the object had before, so that a copy made
in the meantime is a plain one.
"""

from __future__ import annotations

import copy
import functools
import inspect
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from torch import nn

from tokenprune.core.errors import UnsupportedError

__all__ = [
    "CACHE_NAMES",
    "MARK",
    "Hook",
    "Mark",
    "StandIn",
    "arguments_of",
    "attached",
    "cache_argument",
    "cache_in",
    "replaced",
    "standing_in",
    "turn_of",
]

_NOTHING = object()

_TURNS: weakref.WeakKeyDictionary[Any, threading.RLock] = weakref.WeakKeyDictionary()
_LOOKUP = threading.Lock()


def turn_of(thing: Any) -> threading.RLock:
    """A lock for whoever replaces functions of an object: two at once would put each other's back."""
    with _LOOKUP:
        return _TURNS.setdefault(thing, threading.RLock())


@contextmanager
def replaced(table: MutableMapping[str, Any], name: str, value: Any) -> Iterator[None]:
    """While open, a table holds ``value`` under ``name``; then what it held before, be it nothing.

    Parameters
    ----------
    table : mutable mapping
        ``vars(thing)`` for an attribute of one object: others put functions of their own there too (accelerate its
        ``forward``), which have to outlive ours.
    name : str
    value : object
    """
    before = table.get(name, _NOTHING)
    table[name] = value
    try:
        yield
    finally:
        if before is _NOTHING:
            table.pop(name, None)
        else:
            table[name] = before


@contextmanager
def standing_in(owner: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """While open, ``function`` is what ``owner.name`` calls; not in deep copies of the owner.

    Parameters
    ----------
    owner : object
    name : str
        Of one of its methods.
    function : callable
        Called with the method's arguments.
    """
    with replaced(vars(owner), name, StandIn(owner, name, function)):
        yield


class StandIn:
    """A function in place of a method of one object.

    Parameters
    ----------
    owner : object
    name : str
    function : callable
    """

    def __init__(self, owner: Any, name: str, function: Callable[..., Any]) -> None:
        self._owner, self._name, self._function = owner, name, function
        self._before = vars(owner).get(name, _NOTHING)
        functools.update_wrapper(self, getattr(owner, name))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self._function(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """What the method was before, of the copy."""
        if self._before is not _NOTHING:
            return copy.deepcopy(self._before, memo)
        owner = memo.get(id(self._owner))
        return None if owner is None else getattr(type(owner), self._name).__get__(owner)


class Hook:
    """A hook on a module that does nothing in deep copies of the module.

    Parameters
    ----------
    function : callable
    """

    def __init__(self, function: Callable[..., Any] | None) -> None:
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return None if self._function is None else self._function(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Hook:
        """An idle one."""
        return Hook(None)


MARK = "_tokenprune_attached"
"""Attribute of a model and of its core while they are attached."""


class Mark:
    """Says that an object is attached; its deep copies are not."""

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """Nothing."""
        return

    def __reduce__(self) -> NoReturn:
        """Refuse: hooks belong to a block of this process."""
        raise UnsupportedError(
            "an attached model cannot be pickled (torch.save, another process): leave the attach block first, or save "
            "its weights (save_pretrained, state_dict)"
        )


def attached(adapter: Any) -> bool:
    """Whether an adapter's model, or another head over the same core, is attached."""
    return any(vars(owner).get(MARK) is not None for owner in (adapter.model, adapter.core))


def arguments_of(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What a function is called with, by the names of its parameters, however it was passed.

    Raises
    ------
    TypeError
        The function does not take these, as calling it would say.
    """
    signature = inspect.signature(function)
    given = dict(signature.bind(*args, **kwargs).arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            given |= given.pop(name, {})
    return given


CACHE_NAMES = ("cache", "past_key_values")
"""Names that versions of transformers have for a key-value cache among a model's arguments, the newest first."""


def cache_in(arguments: Mapping[str, Any]) -> Any:
    """The key-value cache that a call was given, or None."""
    return next((arguments[name] for name in CACHE_NAMES if arguments.get(name) is not None), None)


def cache_argument(model: nn.Module) -> str:
    """What a model's forward calls its cache."""
    known = inspect.signature(model.forward).parameters
    return next((name for name in CACHE_NAMES if name in known), CACHE_NAMES[-1])
