"""Files that are whole or not there: written beside, synced, then renamed; tables as CSV."""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["append_whole", "as_csv", "drop_partial_files", "drop_partial_line", "remove_whole", "write_atomically"]


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that readers, and whoever comes after a loss of power, see the old or the new one, never a half.

    Raises
    ------
    OSError
        It cannot be written (full, read-only, too large); what was there before stays, and nothing else is left.
    """
    temporary = path.with_name(path.name + ".part")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def append_whole(path: Path, data: bytes) -> None:
    """Add bytes to the end of a file, all of them or none.

    Raises
    ------
    OSError
        They do not fit; the file is as long as it was before.
    """
    new = not path.exists()
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(before)
            raise
    if new:
        _sync_folder(path.parent)


def drop_partial_line(path: Path) -> None:
    """Cut off a last line that was not written to its end, by a process that was killed; no file is no line."""
    if path.exists():
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole != len(data):
            with path.open("r+b") as file:
                file.truncate(whole)


def drop_partial_files(folder: Path) -> None:
    """Remove what a killed process was writing or removing (a folder, too); nobody else may be at work there."""
    for left in folder.glob("*.part"):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def remove_whole(folder: Path) -> None:
    """Remove a folder so that whoever comes after a kill sees all of it, or nothing under its name.

    What a kill leaves beside it is swept by :func:`drop_partial_files`.
    """
    going = folder.with_name(folder.name + ".part")
    os.replace(folder, going)
    shutil.rmtree(going, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    """Make a name in a folder last, where folders can be synced (not on Windows)."""
    if os.name == "nt":
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError:
        pass  # some network file systems sync files only
    finally:
        os.close(number)


def as_csv(fields: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows under a line of names, the same bytes on every machine.

    A text that a spreadsheet would run as a formula (it begins with ``=``, ``+``, ``-`` or ``@``, and is no number)
    gets an apostrophe in front, which spreadsheets take for "text" and do not show.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writerow({name: _inert(name) for name in fields})
    writer.writerows({name: _inert(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _inert(value: Any) -> Any:
    if not isinstance(value, str) or not value.lstrip().startswith(("=", "+", "-", "@", "\t", "\r")):
        return value
    try:
        float(value)
    except ValueError:
        return "'" + value
    return value
