"""Which column of a table is which field of a question."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokenprune.core.errors import ConfigError, closest
from tokenprune.data.own.rows import Row

__all__ = ["FIELDS", "SHOWN", "columns_of", "parse_map"]

FIELDS: dict[str, tuple[str, ...]] = {
    "id": ("id", "question_id", "questionId", "qid", "index"),
    "image": ("image", "file_name", "image_path", "img", "photo", "picture"),
    "images": ("images", "image_paths", "file_names"),
    "video": ("video", "video_path", "video_name", "gif_name", "clip", "frames"),
    "image_id": ("image_id",),
    "question": ("question", "query", "text"),
    "answer": ("answers", "answer", "label", "gold", "ground_truth"),
    "choices": ("choices", "options"),
    "boxes": ("boxes", "bboxes"),
    "task": ("task",),
    "family": ("family", "category"),
    "context": ("hint", "context"),
}
"""Fields of a question, and the columns that each is looked for in, in this order."""

NONE = "none"
"""Instead of a column: there is none for this field."""

SHOWN = ("image", "images", "video")
"""Fields of what a question is about; a table has one of them."""


def parse_map(text: str) -> dict[str, str]:
    """``image=photo,answer=gold`` as a mapping from field to column.

    Raises
    ------
    ConfigError
        Not written like that, a field given twice, or no such field; names the closest.
    """
    found: dict[str, str] = {}
    for pair in text.split(",") if text.strip() else ():
        name, equals, column = (word.strip() for word in pair.partition("="))
        if not equals or not column:
            raise ConfigError(
                f"--map {text!r}: write field=column, separated by commas, e.g. image=photo; got {pair.strip()!r}"
            )
        if name not in FIELDS:
            raise ConfigError(f"--map: no field {name!r}; {closest(name, FIELDS)}")
        if name in found:
            raise ConfigError(f"--map: {name!r} is given twice")
        found[name] = column
    return found


def columns_of(rows: Sequence[Row], given: Mapping[str, str]) -> dict[str, str]:
    """Column of each field that the rows have.

    Parameters
    ----------
    rows : sequence of Row
    given : mapping of str to str
        Field to column, as :func:`parse_map` returns it; the others are looked for by :data:`FIELDS`.

    Raises
    ------
    ConfigError
        A column that was given, or that is needed, is in no row; names what there is.
    """
    there: dict[str, None] = {}
    for row in rows:
        there |= dict.fromkeys(map(str, row.values))
    for name, column in given.items():
        if column not in there and column != NONE:
            raise ConfigError(f"--map {name}={column}: {rows[0].where}: no such column; {closest(column, there)}")
    found = {name: column for name, column in given.items() if column != NONE}
    taken = set(found.values())
    for name, aliases in FIELDS.items():
        usual = next((a for a in aliases if a in there and a not in taken), None)
        if name not in given and usual is not None:
            found[name] = usual
    # what was named counts; else the first column that is not empty
    several = [name for name in SHOWN if name in found]
    named = [name for name in several if name in given]
    chosen = next((n for n in named or several if len(several) == 1 or _used(rows, found[n])), None)
    for name in several:
        if name != (chosen or several[0]):
            found.pop(name)
    _check(rows, found, there)
    return found


def _used(rows: Sequence[Row], column: str) -> bool:
    return any(row.values.get(column) is not None for row in rows)


def _check(rows: Sequence[Row], found: Mapping[str, Any], there: Iterable[str]) -> None:
    shown = ", ".join(there)
    if not any(name in found for name in SHOWN):
        raise ConfigError(
            f"{rows[0].where}: no column of pictures or videos; say which with --map image=COLUMN (images=, video=); "
            f"there are {shown}"
        )
    for name in ("question", "answer"):
        if name not in found:
            raise ConfigError(
                f"{rows[0].where}: no column for the {name}; say which with --map {name}=COLUMN; there are {shown}"
            )
