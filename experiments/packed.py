"""Answers of experiments as small files: CSV, compressed, the same bytes for the same rows."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["write_packed"]


def write_packed(out: Path, fields: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table as ``.csv.gz``; its folder is made if it does not exist.

    Parameters
    ----------
    out : Path
    fields : sequence of str
        Names of the columns.
    rows : iterable of sequence
        In the order in which they are to stand.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(fields)
    writer.writerows(rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    # neither a name nor a time goes into the file: both would differ where the rows do not
    with out.open("wb") as file, gzip.GzipFile("", fileobj=file, mode="wb", mtime=0) as packed:
        packed.write(text.getvalue().encode())
