"""Answers on disk as they come, a file a process: what a run that was stopped goes on from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from tokenprune.core.errors import ConfigError
from tokenprune.results.files import append_whole, drop_partial_line, write_atomically
from tokenprune.results.lines import parsed
from tokenprune.results.provenance import short

__all__ = ["Journal", "key_of", "record_in"]


def key_of(**facts: Any) -> str:
    """Hash of all that an answer depends on, whatever the order."""
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Journal:
    """``rank-N.jsonl`` of each process, and ``runs/RUN.json``, what the answers of a run rest on; a context manager.

    A process writes its own file alone and reads all of them, so that as many processes as one likes go on.

    Parameters
    ----------
    folder : Path
    record : mapping
        As :func:`tokenprune.results.provenance.provenance` makes it.
    rank : int

    Raises
    ------
    ConfigError
        Another run writes there, or nobody can; a line is damaged.
    """

    def __init__(self, folder: Path, record: Mapping[str, Any], rank: int = 0) -> None:
        self.folder, self.run = folder, short(record)
        self.lines = folder / f"rank-{rank}.jsonl"
        self._lock = FileLock(folder / f".rank-{rank}.lock", timeout=0)
        try:
            (folder / "runs").mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout:
            raise ConfigError(f"journal {str(folder)!r} is in use by another run; wait, or give another one") from None
        except OSError as error:
            raise ConfigError(f"journal {str(folder)!r} cannot be written: {error.strerror}") from error
        try:
            drop_partial_line(self.lines)
            about = folder / "runs" / f"{self.run}.json"
            if rank == 0 and not about.exists():
                write_atomically(about, json.dumps(dict(record), indent=1, default=str) + "\n")
            self._known = {line["key"]: line for line in self._all()}
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let other runs write there."""
        self._lock.release()

    def get(self, key: str) -> dict[str, Any] | None:
        """An answer that is there already."""
        return self._known.get(key)

    def add(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Add answers in one write, all or none; each has a "key"."""
        new = [dict(line) for line in lines]
        text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in new)
        append_whole(self.lines, text.encode("utf-8"))
        self._known |= {line["key"]: line for line in new}

    def _all(self) -> Iterable[dict[str, Any]]:
        for file in sorted(self.folder.glob("rank-*.jsonl")):
            # what stands behind the last end of a line is being written, or was never finished
            for number, line in enumerate(file.read_bytes().split(b"\n")[:-1], 1):
                found = parsed(line, f"{str(file)!r}, line {number},")
                if not isinstance(found.get("key"), str):
                    raise ConfigError(f"{str(file)!r}, line {number}, has no key: this is no journal's line")
                yield found


def record_in(folder: Path, run: str) -> dict[str, Any]:
    """What the answers of a run rest on.

    Raises
    ------
    ConfigError
        It is not there.
    """
    file = folder / "runs" / f"{run}.json"
    try:
        return parsed(file.read_bytes(), repr(str(file)))
    except FileNotFoundError:
        raise ConfigError(
            f"journal {str(folder)!r} knows no run {run!r}: give the folder that --model_args journal= named, with "
            "--journal"
        ) from None
