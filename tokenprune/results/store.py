"""A folder of results: what was asked for, one line an answer, appended whole, read back to resume."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from tokenprune.core.errors import ConfigError, NonFiniteError
from tokenprune.results.files import append_whole, as_csv, drop_partial_files, drop_partial_line, write_atomically
from tokenprune.results.lines import LineKind, parsed, read_lines, read_results
from tokenprune.results.provenance import differences, short

__all__ = ["ResultFolder", "as_csv", "check_same", "read_results", "segment", "write_atomically"]

_OURS = frozenset({".lock", "config.json.part", "ranks"})
"""What a run that was killed at its start leaves, and what other processes of a team make before the first."""


def segment(out: Path, record: Mapping[str, Any], new: bool) -> Path:
    """The folder in which a run goes on: ``out``, or one of ``out/segments``, each complete in itself.

    Parameters
    ----------
    out : Path
    record : mapping
        The run's configuration.
    new : bool
        Whether a run of another configuration than any that is there begins a segment of its own; without, the folder
        that is returned refuses it.
    """
    stored = out / "config.json"
    if not stored.exists() or _stored(stored) == _plain(record):
        return out
    for other in sorted((out / "segments").glob("*/config.json")):
        if _stored(other) == _plain(record):
            return other.parent
    return out / "segments" / short(record) if new else out


def check_same(path: Path, config: Mapping[str, Any], way_out: str = "use another --out") -> None:
    """Raise ``ConfigError`` where a folder holds results of another configuration; says what differs."""
    stored = path / "config.json"
    if stored.exists() and (changed := differences(_stored(stored), _plain(config))):
        where = f"{str(path)!r} holds results of another configuration"
        raise ConfigError(f"{where} ({'; '.join(changed)}); {way_out}")


def _stored(path: Path) -> dict[str, Any]:
    return parsed(path.read_bytes(), repr(str(path)))


def _plain(record: Mapping[str, Any]) -> dict[str, Any]:
    """As it comes back from JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(record)))
    return plain


class ResultFolder:
    """``config.json`` and ``results.jsonl``, held by one process at a time; a context manager.

    Parameters
    ----------
    path : Path
        Made if it does not exist.
    config : mapping
        What decides an answer (model, seed, data ...); a folder that was begun with another one is refused.
    kind : LineKind, optional
        What its lines are; any JSON object by default.
    way_out : str
        What the error for another configuration offers.
    patience : float, default 0
        Seconds to wait for a process that has the folder.

    Attributes
    ----------
    run : str
        Short hash of the configuration, for lines.

    Raises
    ------
    ConfigError
        The folder belongs to another configuration or is in use, is damaged, cannot be written, or is no folder.
    """

    def __init__(
        self,
        path: Path,
        config: Mapping[str, Any],
        kind: LineKind | None = None,
        way_out: str = "use another --out",
        patience: float = 0,
    ) -> None:
        self.path, self.lines, self.kind = path, path / "results.jsonl", kind
        self.run = short(config)
        self._lock = FileLock(path / ".lock", timeout=patience)
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
            self._begin(stored, config, way_out)
        except BaseException:
            self.close()
            raise

    def _begin(self, stored: Path, config: Mapping[str, Any], way_out: str) -> None:
        """Write the configuration, or compare it with the one that is there."""
        check_same(self.path, config, way_out)
        if not stored.exists():
            write_atomically(stored, json.dumps(_plain(config), indent=1) + "\n")
        drop_partial_line(self.lines)
        drop_partial_files(self.path)

    def close(self) -> None:
        """Let other processes use the folder."""
        self._lock.release()

    def __enter__(self) -> ResultFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows in one write, all or none.

        Raises
        ------
        NonFiniteError
            A number is NaN or infinite, which no reader of JSON has to accept.
        """
        try:
            text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        except ValueError as error:
            raise NonFiniteError(f"a line of {str(self.lines)!r} would hold NaN or infinity") from error
        append_whole(self.lines, text.encode("utf-8"))

    def read(self) -> list[dict[str, Any]]:
        """All rows so far."""
        return read_lines(self.lines, self.kind)
