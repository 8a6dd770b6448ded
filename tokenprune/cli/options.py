"""Lists on the command line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tokenprune.core.errors import ConfigError

if TYPE_CHECKING:
    import typer

__all__ = ["MODEL", "STRATEGIES", "check_spelling", "command_line", "numbers", "words", "words_or_all"]

MODEL: Final = "'embedded', 'embedded-qwen', 'embedded-video', 'tiny', folder or hub id."
"""What commands say of ``--model``."""

STRATEGIES: Final = (
    "Names or wildcards, comma-separated, with options as mi-pruner:lam=0.3:tau=0.05; 'all' for every one."
)
"""What every command says of ``--strategies``."""


def words(option: str, text: str) -> list[str]:
    """Comma-separated words, none where there is nothing between commas; ``option`` names them in the error.

    Raises
    ------
    ConfigError
        Some are empty and others are not; says which.
    """
    found = [word.strip() for word in text.split(",")]
    if not any(found):
        return []
    if "" in found:
        raise ConfigError(
            f"{option} {text!r}: entry {found.index('') + 1} of {len(found)} is empty; separate by single commas, and "
            "end with none"
        )
    return found


def words_or_all(option: str, text: str) -> list[str] | None:
    """Comma-separated words, or None for "all"; ``option`` names them in the error."""
    if text.strip() == "all":
        return None
    if not (found := words(option, text)):
        raise ConfigError(f"{option} names none: give names separated by commas, or 'all'; got {text!r}")
    check_spelling(option, found)
    return found


def check_spelling(option: str, names: Sequence[str]) -> None:
    """Answer the ways in which options of a strategy are usually misspelt.

    Raises
    ------
    ConfigError
        An option stands alone (``mi-pruner,lam=0.3``), in brackets or after a space; says how it is written.
    """
    before = ""
    for name in names:
        head = re.split(r"[:=(\s]", name, maxsplit=1)[0]
        call = re.fullmatch(r"([\w-]+)\s*\((.*)\)?|([\w-]+)\s+(\w+=.*)", name)
        if call is not None:
            owner, rest = call[1] or call[3], (call[2] or call[4] or "").rstrip(")")
            raise ConfigError(f"{option}: {name!r} is written {':'.join([owner, *rest.split()])!r}")
        if re.fullmatch(r"\w+=[^:]*(:\w+=[^:]*)*", name):
            owner = before or "NAME"
            raise ConfigError(f"{option}: {name!r} is an option and no name; it is written {f'{owner}:{name}'!r}")
        if re.fullmatch(r"[\w-]+:\w+:[^:=]+", name):
            owner, key, value = name.split(":")
            raise ConfigError(f"{option}: {name!r} is written {f'{owner}:{key}={value}'!r}")
        before = head


def numbers(option: str, text: str) -> list[int]:
    """Comma-separated counts, each once; ``option`` names them in the error."""
    found = words(option, text)
    if not found or not all(word.isdecimal() and len(word) <= 9 and int(word) > 0 for word in found):
        raise ConfigError(f"{option} must be counts separated by commas, e.g. 192,128,64,32; got {text!r}")
    return list(dict.fromkeys(map(int, found)))


def command_line(context: typer.Context, leave_out: Sequence[str] = ("out",)) -> str:
    """The command as it was given, for whoever reads its results: no folders of the machine, and not where they went.

    Parameters
    ----------
    context : Context
        Of the command.
    leave_out : sequence of str
        Parameters that decide no result.
    """
    names = []
    at: Any = context
    while at.parent is not None:
        names.append(at.info_name)
        at = at.parent
    said = ["tokenprune", *reversed(names)]
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is None or source.name != "COMMANDLINE" or parameter.name in leave_out:
            continue
        value = context.params[parameter.name or ""]
        values = list(value) if isinstance(value, (list, tuple)) else [value]
        if parameter.param_type_name == "argument":
            said += [_named(one) for one in values]
        elif isinstance(value, bool):
            said.append((parameter.opts if value else parameter.secondary_opts or parameter.opts)[0])
        else:
            said += [word for one in values for word in (parameter.opts[0], _named(one))]
    return shlex.join(said)


def _named(value: Any) -> str:
    """A value as it was typed; of a path from the root of the machine, its last part."""
    text = str(value)
    return Path(text).name if Path(text).is_absolute() else text
