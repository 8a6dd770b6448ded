"""One folder of results that several processes fill, on one host or on several that share its disk.

Every process (a rank of ``torchrun`` or ``accelerate launch``) writes to a folder of its own, ``ranks/<rank>``, in the
form of any folder of results. Work is cut into pieces; a process holds the lock of a piece while it works on it, which
the operating system takes back if the process dies, so that another does what is left of the piece. No process waits
for a slower one before everything else is done. In the end the first rank gathers all lines by their keys, and the
ranks' folders go.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from tokenprune.core.errors import ConfigError
from tokenprune.results.files import remove_whole, write_atomically
from tokenprune.results.lines import LineKind, keyed, read_line, read_lines
from tokenprune.results.store import ResultFolder, check_same

__all__ = ["Team", "TeamFolder"]

_TOLD = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
"""What a launcher puts into the environment, and what holds without one."""

_PAUSE = 0.1
"""Seconds between two looks at pieces that others hold."""

_PATIENCE = 60.0
"""Seconds for which a folder may still be held by a process that is about to end."""


@dataclass(frozen=True)
class Team:
    """Which of how many processes this one is.

    Attributes
    ----------
    rank, size : int
    local_rank : int
        Which of the processes of its host.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Team:
        """Read what ``torchrun`` and ``accelerate launch`` tell: RANK, WORLD_SIZE, LOCAL_RANK; alone without them.

        Raises
        ------
        ConfigError
            They are no numbers, or do not fit.
        """
        told = os.environ if environment is None else environment
        rank, size, local = (told.get(name, least) for name, least in _TOLD.items())
        if not (rank.isdecimal() and size.isdecimal() and local.isdecimal() and int(rank) < int(size)):
            raise ConfigError(
                f"the environment says RANK={rank!r}, WORLD_SIZE={size!r}, LOCAL_RANK={local!r}: give counts, the rank "
                "below the size, as torchrun does, or none of them"
            )
        return cls(int(rank), int(size), int(local))

    def alone(self, command: str, way_out: str) -> None:
        """Refuse to begin what processes do not share, before any of them works.

        Parameters
        ----------
        command : str
        way_out : str
            What to run instead.

        Raises
        ------
        ConfigError
            There are several processes.
        """
        if self.size > 1:
            raise ConfigError(f"{command} is for one process, and a launcher began {self.size}: {way_out}")

    def device(self, name: str) -> str:
        """The device of this process: of "cuda" without a number its own one of the host's."""
        return f"cuda:{self.local_rank}" if name == "cuda" and self.size > 1 else name

    @property
    def leads(self) -> bool:
        """Whether this process gathers what all found, and tells."""
        return self.rank == 0


class TeamFolder:
    """A folder of results and this process's part in filling it; a context manager.

    Parameters
    ----------
    path, config, kind, way_out
        As of :class:`~tokenprune.results.store.ResultFolder`.
    team : Team, optional
        Alone by default: lines then go where they stay.

    Raises
    ------
    ConfigError
        As of :class:`~tokenprune.results.store.ResultFolder`.
    """

    def __init__(
        self, path: Path, config: Mapping[str, Any], kind: LineKind, way_out: str, team: Team | None = None
    ) -> None:
        self.path, self.config, self.kind, self.team = path, config, kind, team or Team()
        self.ranks = path / "ranks"
        self._held: list[ResultFolder] = []
        self._read: dict[Path, tuple[int, int]] = {}
        self._known: set[tuple[Any, ...]] = set()
        try:
            if self.team.leads:
                self._held.append(ResultFolder(path, config, kind, way_out))
            else:
                check_same(path, config, way_out)
            if self.team.size > 1:
                own = self.ranks / str(self.team.rank)
                self._held.append(ResultFolder(own, config, kind, way_out, patience=_PATIENCE))
                for stale in self.ranks.glob("*/failures.json"):  # of a team that was stopped
                    stale.unlink(missing_ok=True)
        except BaseException:
            self.close()
            raise
        self._mine = self._held[-1]
        self.run = self._mine.run

    def close(self) -> None:
        """Let other processes use the folder."""
        for folder in self._held:
            folder.close()

    def __enter__(self) -> TeamFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add lines in one write, all or none."""
        self._mine.append(rows)

    def known(self) -> set[tuple[Any, ...]]:
        """Keys of all lines that any process has written so far.

        Raises
        ------
        ConfigError
            A line is not what it has to be, or two that were there before contradict each other.
        """
        if not self._read:
            read_lines(self.path / "results.jsonl", self.kind)
        for file in self._files():
            start, number = self._read.get(file, (0, 0))
            with file.open("rb") as source:
                source.seek(start)
                data = source.read()
            whole = data.rfind(b"\n") + 1  # a line that somebody is writing counts next time
            for line in data[:whole].split(b"\n")[:-1]:
                number += 1
                if line:
                    self._known.add(self._key(read_line(line, file, number, self.kind)))
            self._read[file] = start + whole, number
        return self._known

    def _key(self, line: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(line[name] for name in self.kind.key)

    def _files(self) -> list[Path]:
        files = [self.path / "results.jsonl", *sorted(self.ranks.glob("*/results.jsonl"))]
        return [file for file in files if file.exists()]

    def turns(self, pieces: int) -> Iterator[int]:
        """Numbers of pieces of work that are this process's while the loop's body runs; ends when all are done.

        A piece comes up in every process, whoever did it; what is left of it is for the caller to find out (`known`).
        """
        if self.team.size == 1:
            yield from range(pieces)
            return
        claims = self.ranks / "claims"
        claims.mkdir(parents=True, exist_ok=True)
        waiting = list(range(pieces))
        # each begins elsewhere, so that they meet late
        start = pieces * self.team.rank // self.team.size
        waiting = waiting[start:] + waiting[:start]
        while waiting:
            held = []
            for piece in waiting:
                lock = FileLock(claims / f"{pieces}-{piece}.lock", timeout=0)
                try:
                    lock.acquire()
                except Timeout:
                    held.append(piece)
                    continue
                try:
                    yield piece
                finally:
                    lock.release()
            if len(held) == len(waiting):
                time.sleep(_PAUSE)
            waiting = held

    def tell_failures(self, failures: Sequence[Mapping[str, Any]]) -> None:
        """Let the others know what need not be tried."""
        if self.team.size > 1:
            write_atomically(self._mine.path / "failures.json", json.dumps([dict(one) for one in failures]) + "\n")

    def failures(self) -> list[dict[str, Any]]:
        """What any process has told, itself included."""
        found: list[dict[str, Any]] = []
        if self.team.size == 1:
            return found
        for file in sorted(self.ranks.glob("*/failures.json")):
            with suppress(FileNotFoundError, json.JSONDecodeError):
                found += json.loads(file.read_text(encoding="utf-8"))
        return found

    def gather(self) -> None:
        """Bring the lines of all processes together in ``results.jsonl``; for the process that leads.

        Raises
        ------
        ConfigError
            Two lines of one key differ.
        """
        main = self._held[0]
        if not self.ranks.is_dir():
            return
        lines = read_lines(main.lines, self.kind)
        there = {self._key(line) for line in lines}
        everything = list(enumerate(lines, 1))
        for folder in self._held[1:]:
            folder.close()
        for file in sorted(self.ranks.glob("*/results.jsonl")):
            # held once more, so that a line is cut off which a process that died had begun
            with ResultFolder(file.parent, self.config, self.kind, patience=_PATIENCE) as folder:
                everything += enumerate(folder.read(), 1)
        whole = keyed(everything, self.kind.key, str(self.ranks))
        main.append(line for line in whole if self._key(line) not in there)
        self._clear()

    def _clear(self) -> None:
        """Take the ranks' folders away, once every rank has begun and nobody holds one."""
        end = time.monotonic() + (_PATIENCE if self.team.size > 1 else 0)
        # one that begins when all is done would make a folder after these are gone, or lose it while it makes it
        while self.team.size > 1 and not all(
            (self.ranks / str(i) / "config.json").exists() for i in range(self.team.size)
        ):
            if time.monotonic() > end:
                return
            time.sleep(_PAUSE)
        for lock in sorted(self.ranks.glob("*/.lock")):
            try:
                with FileLock(lock, timeout=max(0, end - time.monotonic())):
                    pass
            except Timeout:
                return  # somebody is still at work; what is there is gathered next time
        remove_whole(self.ranks)  # half of a rank's folder would be refused as somebody else's
