"""Lists on the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from tokenprune.core.errors import ConfigError

__all__ = ["STRATEGIES", "check_spelling", "numbers", "words", "words_or_all"]

STRATEGIES: Final = (
    "Names or wildcards, comma-separated, with options as mi-pruner:lam=0.3:tau=0.05; 'all' for every one."
)
"""What every command says of ``--strategies``."""


def words(text: str) -> list[str]:
    """Comma-separated words."""
    return [word.strip() for word in text.split(",") if word.strip()]


def words_or_all(option: str, text: str) -> list[str] | None:
    """Comma-separated words, or None for "all"; ``option`` names them in the error."""
    if text.strip() == "all":
        return None
    if not (found := words(text)):
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
    found = words(text)
    if not found or not all(word.isdecimal() and len(word) <= 9 and int(word) > 0 for word in found):
        raise ConfigError(f"{option} must be counts separated by commas, e.g. 192,128,64,32; got {text!r}")
    return list(dict.fromkeys(map(int, found)))
