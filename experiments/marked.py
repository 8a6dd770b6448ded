"""Parts of a page that a command writes: what stands between two comments."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["between", "put"]


def between(mark: str) -> re.Pattern[str]:
    """A pattern of the two comments of a mark (groups 1 and 3) and of what stands between them (group 2)."""
    return re.compile(rf"(<!-- {mark}: made by [^\n]* -->\n\n)(.*?)(\n\n<!-- end of {mark} -->)", re.DOTALL)


def put(page: Path, mark: str, made: str) -> None:
    """Write a text between the two comments of a mark.

    Raises
    ------
    SystemExit
        The page has not exactly one such mark.
    """
    text, found = between(mark).subn(lambda m: m[1] + made + m[3], page.read_text(encoding="utf-8"))
    if found != 1:
        raise SystemExit(f"{page}: {mark!r} is marked {found} times, not once")
    page.write_text(text, encoding="utf-8")
