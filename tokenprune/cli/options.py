"""Lists on the command line."""

from __future__ import annotations

from tokenprune.core.errors import ConfigError

__all__ = ["numbers", "words", "words_or_all"]


def words(text: str) -> list[str]:
    """Comma-separated words."""
    return [word.strip() for word in text.split(",") if word.strip()]


def words_or_all(option: str, text: str) -> list[str] | None:
    """Comma-separated words, or None for "all"; ``option`` names them in the error."""
    if text.strip() == "all":
        return None
    if not (found := words(text)):
        raise ConfigError(f"{option} names none: give names separated by commas, or 'all'; got {text!r}")
    return found


def numbers(option: str, text: str) -> list[int]:
    """Comma-separated counts, each once; ``option`` names them in the error."""
    found = words(text)
    if not found or not all(word.isdecimal() and len(word) <= 9 and int(word) > 0 for word in found):
        raise ConfigError(f"{option} must be counts separated by commas, e.g. 192,128,64,32; got {text!r}")
    return list(dict.fromkeys(map(int, found)))
