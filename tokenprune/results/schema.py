"""What files of results hold, as JSON schemas, and whether one does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tokenprune.core.errors import ConfigError

__all__ = ["SCHEMAS", "check_schema", "schema"]

SCHEMAS = Path(__file__).with_name("schemas")
"""``results.json`` (a line of results.jsonl), ``summary.json``, ``config.json``, ``strategies.json``, ``judged.json``
(a line of judged.jsonl)."""


def schema(name: str) -> dict[str, Any]:
    """A schema by name.

    Parameters
    ----------
    name : str
        "results", "summary", "config", "strategies" or "judged".
    """
    found: dict[str, Any] = json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))
    return found


@cache
def _validator(name: str) -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(schema(name))


def check_schema(name: str, document: Mapping[str, Any], where: str) -> None:
    """Raise if a document is not what its schema says.

    Parameters
    ----------
    name : str
        Of the schema.
    document : mapping
    where : str
        What the error names: a file, or a file and a line.

    Raises
    ------
    ConfigError
        Names the place in the document and what is wrong there.
    """
    error = next(iter(_validator(name).iter_errors(document)), None)
    if error is not None:
        place = ".".join(str(part) for part in error.absolute_path)
        said = error.message if len(error.message) <= 200 else error.message[:200] + " ..."
        raise ConfigError(
            f"{where} is not what the schema {name!r} says: {place + ': ' if place else ''}{said}; mend it, or use "
            "another --out"
        )
