"""Stand in for a function of somebody's object for a while, and read a call to it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any

__all__ = ["arguments_of", "replaced"]

_NOTHING = object()


@contextmanager
def replaced(table: MutableMapping[str, Any], name: str, value: Any) -> Iterator[None]:
    """While open, a table holds ``value`` under ``name``; then what it held before, be it nothing.

    Where somebody put something else there meanwhile, theirs stays.

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
        if table.get(name, _NOTHING) is not value:
            pass
        elif before is _NOTHING:
            table.pop(name, None)
        else:
            table[name] = before


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
