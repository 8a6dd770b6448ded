"""Parts by name: made with their defaults, and tried."""

from __future__ import annotations

from typing import Any, Final

from tokenprune.core.errors import CheckError, ConfigError, TokenPruneError
from tokenprune.core.registry import KINDS, build, registry
from tokenprune.testing.check import check

__all__ = ["TRIED", "fault", "made", "tried", "with_defaults"]

TRIED: Final = tuple(kind for kind in KINDS if kind not in ("adapters", "signals", "metrics"))
"""Kinds that are made of tensors; of the others nothing can be tried without a model or answers."""

QUICK: Final = 2
"""Most visual tokens of an instance where everything that is installed is tried."""


def made(kind: str, name: str) -> Any:
    """A part with its defaults.

    Raises
    ------
    ConfigError
        It cannot be made without options.
    """
    return build(name) if kind == "strategies" else with_defaults(name, registry.load(kind, name))


def with_defaults(name: str, what: Any) -> Any:
    """An instance of a class, or what a function makes, without options; anything else is one."""
    if not callable(what):
        return what
    try:
        return what()
    except TypeError as error:
        raise ConfigError(
            f"check: {name!r} cannot be made without options ({error}): use tokenprune.testing.check(part) in a test"
        ) from error


def fault(spec: str) -> str | None:
    """What is wrong with the parts of a strategy, in a line; None where nothing was found, or it cannot be built.

    Strategies that ship are not tried again: their own tests have done so, and no model changes what they do.
    """
    name = spec.partition(":")[0]
    if any(entry.ships and entry.name == name for entry in registry.entries("strategies")):
        return None
    try:
        check(build(spec), largest=QUICK)
    except CheckError as error:
        return f"{spec}: wrong: {str(error).splitlines()[0]} (tokenprune check {spec} shows where)"
    except TokenPruneError:
        return None
    return None


def tried(kind: str, name: str) -> tuple[bool, str]:
    """Try a part quickly: whether nothing is wrong with it, and what was tried or found, in a line."""
    if kind not in TRIED:
        return True, "imported"
    try:
        part = made(kind, name)
    except TokenPruneError:
        return True, "imported; needs options"
    try:
        report = check(part, largest=QUICK)
    except CheckError as error:
        return False, f"wrong: {str(error).splitlines()[0]} (tokenprune check {name} shows where)"
    return True, f"tried on {report.instances} instances" if report.instances else f"not tried: {report.unchecked[0]}"
