"""Commands in processes of their own that are forked from this one: what takes seconds to import is there already."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tokenprune.cli import main

PATIENCE = 900.0
"""Seconds after which a process is said to hang."""


@dataclass
class Command:
    """A command that runs in a process of its own.

    Attributes
    ----------
    process : int
    told : Path
        What it has written so far, to either stream.
    code : int, optional
        How it ended; negative for a signal.
    """

    process: int
    told: Path
    code: int | None = None

    @property
    def output(self) -> str:
        return self.told.read_text(encoding="utf-8")

    def running(self) -> bool:
        if self.code is None:
            number, status = os.waitpid(self.process, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if number else None
        return self.code is None

    def wait(self) -> int:
        """Its exit code, when it has ended."""
        end = time.monotonic() + PATIENCE
        while self.running():
            if time.monotonic() > end:
                self.end(signal.SIGKILL)
                raise TimeoutError(self.output)
            time.sleep(0.02)
        assert self.code is not None
        return self.code

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal, and wait until it has ended; nothing where it has already."""
        if self.running():
            os.kill(self.process, how)
            self.wait()


def begin(
    words: Iterable[str],
    told: Path,
    environment: Mapping[str, str] | None = None,
    program: Callable[[], object] = main,
) -> Command:
    """Begin a command line as the console script does.

    Parameters
    ----------
    words : iterable of str
        Without the name of the program.
    told : Path
        A file for all that it writes.
    environment : mapping of str to str, optional
        What its environment holds besides.
    program : callable
        Reads the command line; by default it is that of ``tokenprune``.
    """
    number = os.fork()
    if number:
        return Command(number, told)
    code = 1
    try:
        os.environ |= environment or {}
        with told.open("w", encoding="utf-8", buffering=1) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            sys.stdout = sys.stderr = file
            sys.argv = ["program", *words]
            try:
                program()
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
            else:
                code = 0
    finally:
        os._exit(code)


def run(words: Iterable[str], told: Path, program: Callable[[], object] = main) -> str:
    """Run a command line to its good end: what it wrote."""
    command = begin(words, told, program=program)
    assert command.wait() == 0, command.output
    return command.output


class Team:
    """Processes that share one command: told who they are as a launcher tells it.

    Parameters
    ----------
    processes : int
    words : iterable of str
        The command line.
    folder : Path
        For what they write, a file each.
    """

    def __init__(self, processes: int, words: Iterable[str], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        words = list(words)
        self.ranks = [
            begin(
                words,
                folder / f"{rank} of {processes}",
                {"RANK": str(rank), "WORLD_SIZE": str(processes), "LOCAL_RANK": str(rank)},
            )
            for rank in range(processes)
        ]

    def running(self) -> bool:
        """Whether none has ended."""
        return all(rank.running() for rank in self.ranks)

    def wait(self) -> str:
        """What all wrote, when all have come to a good end."""
        codes = [rank.wait() for rank in self.ranks]
        assert codes == [0] * len(codes), "\n".join(rank.output for rank in self.ranks)
        return "".join(rank.output for rank in self.ranks)

    def kill(self, victim: int) -> None:
        """Kill one process; the others are stopped before they can finish, and ended as a launcher ends them."""
        others = [rank for rank in self.ranks if rank is not self.ranks[victim]]
        assert self.running(), "one ended before anybody could be killed"
        for rank in others:
            os.kill(rank.process, signal.SIGSTOP)
        self.ranks[victim].end(signal.SIGKILL)
        for rank in others:
            os.kill(rank.process, signal.SIGTERM)
            os.kill(rank.process, signal.SIGCONT)
        for rank in others:
            assert rank.wait() != 0
