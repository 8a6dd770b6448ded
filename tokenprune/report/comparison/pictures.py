"""Drawn examples, kept beside the answers: a page can be made again without a model, with its pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple

from PIL import Image

from tokenprune.report.pages import embedded
from tokenprune.results.store import write_atomically

__all__ = ["FILE", "Kept", "keep_pictures", "kept_pictures"]

FILE: Final = "examples.json"

_PICTURE: Final = re.compile(r"data:image/webp;base64,[A-Za-z0-9+/]+=*")
"""All that a page takes from the file without drawing it itself."""


class Kept(NamedTuple):
    """What folders hold of drawn examples.

    Attributes
    ----------
    examples : list of (caption, address)
        Of each picture the address of itself.
    absent : list of str
        Why a folder gives none, for a reader.
    """

    examples: list[tuple[str, str]]
    absent: list[str]


def keep_pictures(
    folder: Path, sheets: Iterable[tuple[str, Image.Image]], lines: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str]]:
    """Write ``examples.json`` into a folder of results.

    Parameters
    ----------
    folder : Path
    sheets : iterable of (caption, picture)
    lines : sequence of mapping
        Rows of results.jsonl from which the examples were chosen.

    Returns
    -------
    list of (caption, address)
        As :func:`~tokenprune.report.comparison.report` takes them.
    """
    made = [(caption, embedded(picture, "WEBP")) for caption, picture in sheets]
    examples = [{"caption": caption, "picture": picture} for caption, picture in made]
    write_atomically(folder / FILE, json.dumps({"answers": _digest(lines), "examples": examples}, indent=1) + "\n")
    return made


def kept_pictures(folders: Mapping[Path, Sequence[Mapping[str, Any]]]) -> Kept:
    """Read what :func:`keep_pictures` wrote; what no longer fits the answers is left out, and said.

    Parameters
    ----------
    folders : mapping
        Folder to the rows of its results.jsonl as they are now.
    """
    found: dict[tuple[str, str], None] = {}
    absent = []
    for folder, lines in folders.items():
        where = f"{folder.name or str(folder)}: " if len(folders) > 1 else ""
        file = folder / FILE
        if not file.exists():
            absent.append(f"{where}none are kept beside the answers; compare on the same folder draws them")
            continue
        examples, answers = _read(file)
        if examples is None:
            absent.append(f"{where}{FILE} is damaged; compare on the same folder draws them again")
        elif answers != _digest(lines):
            absent.append(f"{where}answers changed after they were drawn; compare on the same folder draws them again")
        elif not examples:
            absent.append(f"{where}compare found none to draw")
        else:
            found.update((one, None) for one in examples)
    return Kept(list(found), absent)


def _read(file: Path) -> tuple[list[tuple[str, str]] | None, str]:
    """Examples, or None where they are none, and of which answers."""
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
        examples = [(one["caption"], one["picture"]) for one in read["examples"]]
        whole = all(isinstance(caption, str) and _PICTURE.fullmatch(picture) for caption, picture in examples)
        return (examples if whole else None), str(read["answers"])
    except (ValueError, KeyError, TypeError):
        return None, ""


def _digest(lines: Iterable[Mapping[str, Any]]) -> str:
    """Which answers were right: what examples are chosen by."""
    each = sorted(
        json.dumps([line["strategy"], line["keep"], line["draw"], line["sample"], line["correct"]]) for line in lines
    )
    return sha256("\n".join(each).encode()).hexdigest()[:16]
