"""A folder of results: what was asked for, one line an answer, appended whole, read back to resume."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from tokenprune.core.errors import ConfigError

__all__ = ["ResultFolder", "as_csv", "read_results", "write_atomically"]

_OURS = frozenset({".lock", "config.json.part"})
"""What a run that was killed at its start leaves."""


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that readers see the old or the new one, never a half."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def as_csv(fields: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows under a line of names, the same bytes on every machine."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _parsed(text: str, where: str) -> dict[str, Any]:
    """One JSON object; ``where`` is what a ConfigError names if it is none."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where} is damaged ({error}); mend it, or use another --out") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{where} is damaged (not a JSON object); mend it, or use another --out")
    return found


def read_results(path: Path) -> list[dict[str, Any]]:
    """All rows of a folder's ``results.jsonl``; none where there is no such file.

    Raises
    ------
    ConfigError
        A line is no JSON object; names file and line.
    """
    lines = path / "results.jsonl"
    if not lines.exists():
        return []
    numbered = enumerate(lines.read_text(encoding="utf-8").split("\n"), 1)
    return [_parsed(line, f"{str(lines)!r}, line {number},") for number, line in numbered if line]


class ResultFolder:
    """``config.json`` and ``results.jsonl``, held by one process at a time; a context manager.

    Parameters
    ----------
    path : Path
        Made if it does not exist.
    config : mapping
        What decides an answer (model, seed, data ...); a folder that was begun with another one is refused.

    Raises
    ------
    ConfigError
        The folder belongs to another configuration or is in use, is damaged, cannot be written, or is no folder.
    """

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self.path, self.lines = path, path / "results.jsonl"
        self._lock = FileLock(path / ".lock", timeout=0)
        if path.exists() and not path.is_dir():
            raise ConfigError(f"--out {str(path)!r} is a file; give a folder")
        # a folder of somebody else's is refused before anything is written into it
        stored = path / "config.json"
        if path.is_dir() and not stored.exists() and any(entry.name not in _OURS for entry in path.iterdir()):
            raise ConfigError(f"{str(path)!r} is not empty and holds no results of ours; use another --out")
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout:
            raise ConfigError(f"{str(path)!r} is in use by another run; wait for it, or use another --out") from None
        except OSError as error:
            raise ConfigError(
                f"--out {str(path)!r} cannot be written: {error.strerror}; give another folder"
            ) from error
        try:
            self._begin(stored, json.loads(json.dumps(dict(config))))
        except BaseException:
            self.close()
            raise

    def _begin(self, stored: Path, wanted: dict[str, Any]) -> None:
        """Write the configuration, or compare it with the one that is there."""
        if stored.exists():
            before = _parsed(stored.read_text(encoding="utf-8"), repr(str(stored)))
            changed = sorted(k for k in before.keys() | wanted.keys() if before.get(k) != wanted.get(k))
            if changed:
                details = "; ".join(f"{k}: {before.get(k)!r} there, {wanted.get(k)!r} now" for k in changed)
                where = f"{str(self.path)!r} holds results of another configuration"
                raise ConfigError(f"{where} ({details}); use another --out")
        else:
            write_atomically(stored, json.dumps(wanted, indent=1) + "\n")
        self._drop_partial_line()

    def close(self) -> None:
        """Let other processes use the folder."""
        self._lock.release()

    def __enter__(self) -> ResultFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _drop_partial_line(self) -> None:
        """Cut off a last line that was not written to its end."""
        if self.lines.exists():
            data = self.lines.read_bytes()
            whole = data.rfind(b"\n") + 1
            if whole != len(data):
                with self.lines.open("r+b") as file:
                    file.truncate(whole)

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows in one write."""
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        with self.lines.open("ab") as file:
            file.write(text.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> list[dict[str, Any]]:
        """All rows so far."""
        return read_results(self.path)
