"""Whether plugins can be imported and tried, in a process of their own: one may hang, end the process, or print."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from tokenprune.core.registry import Entry

__all__ = ["Tried", "checked"]

_WORKER = """
import json, os, sys
told = os.fdopen(os.dup(1), "w", buffering=1)  # what plugins print goes elsewhere
os.dup2(2, 1)
sys.path[:] = json.loads(sys.stdin.readline())
then = json.loads(sys.stdin.readline())
from importlib import import_module
from tokenprune.core.errors import TokenPruneError
from tokenprune.core.registry import registry
tries = [] if then is None else [getattr(import_module(then[0]), then[1])]
print("ready", file=told)
for line in sys.stdin:
    kind, name = json.loads(line)
    said = [False, ""]
    try:
        registry.load(kind, name)
        said = [True, "imported"]
        for one in tries:
            said = list(one(kind, name))
    except TokenPruneError as error:
        said = [False, str(error)]
    except BaseException as error:
        said = [False, f"{type(error).__name__}: {error}"]
    print(json.dumps(said), file=told)
"""


class _Worker:
    """A Python process that imports what it is told to, and tries it."""

    def __init__(self, then: tuple[str, str] | None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin: IO[str] = self.process.stdin
        self.lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True).start()
        self.say(sys.path)
        self.say(then)
        # importing torch takes its time, and is nobody's plugin
        self.hear(600)

    def _read(self, pipe: IO[str]) -> None:
        for line in pipe:
            self.lines.put(line)
        self.lines.put("")

    def say(self, what: object) -> None:
        self.stdin.write(json.dumps(what) + "\n")
        self.stdin.flush()

    def hear(self, seconds: float) -> str:
        """The next line; "" if the process ended; queue.Empty if it takes longer."""
        return self.lines.get(timeout=seconds)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.stdin.close()


@dataclass(frozen=True)
class Tried:
    """Whether an entry is sound, and what was done with it, or what is wrong."""

    ok: bool
    said: str


def checked(
    entries: Sequence[Entry], seconds: float = 60.0, then: tuple[str, str] | None = None
) -> dict[tuple[str, str], Tried]:
    """Import each entry's module in another process, and do with it what is asked for.

    Parameters
    ----------
    entries : sequence of Entry
        Names registered in this process only are imported already; the other process does not know them.
    seconds : float, default 60
        How long each may take; a slower one is given up, and the others go on in a new process.
    then : (module, function), optional
        Called there with kind and name after the import; returns whether all is well, and a line about it.

    Returns
    -------
    dict of (kind, name) to Tried
    """
    found: dict[tuple[str, str], Tried] = {}
    worker: _Worker | None = None
    try:
        for entry in entries:
            key = (entry.kind, entry.name)
            if entry.clashes or entry.origin.startswith("registered in "):
                found[key] = Tried(True, "imported")
                continue
            worker = worker or _Worker(then)
            line = ""
            try:
                worker.say(key)
                line = worker.hear(seconds)
                found[key] = Tried(*json.loads(line)) if line else _died(entry)
            except queue.Empty:
                what = "its import" if then is None else "its import, or trying it,"
                found[key] = Tried(False, f"{entry.origin} ({entry.target}): {what} took longer than {seconds:g} s")
            except BrokenPipeError:
                found[key] = _died(entry)
            if not line:
                worker.end()
                worker = None
    finally:
        if worker is not None:
            worker.end()
    return found


def _died(entry: Entry) -> Tried:
    return Tried(False, f"{entry.origin} ({entry.target}): its import ended the process")
