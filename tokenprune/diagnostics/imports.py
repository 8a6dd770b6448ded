"""Whether plugins can be imported, tried in a process of their own: one may hang, end the process, or print."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import IO

from tokenprune.core.registry import Entry

__all__ = ["checked"]

_WORKER = """
import json, os, sys
told = os.fdopen(os.dup(1), "w", buffering=1)  # what plugins print goes elsewhere
os.dup2(2, 1)
sys.path[:] = json.loads(sys.stdin.readline())
from tokenprune.core.errors import TokenPruneError
from tokenprune.core.registry import registry
print("ready", file=told)
for line in sys.stdin:
    kind, name = json.loads(line)
    try:
        registry.load(kind, name)
        said = "ok"
    except TokenPruneError as error:
        said = str(error)
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"
    print(json.dumps(said), file=told)
"""


class _Worker:
    """A Python process that imports what it is told to."""

    def __init__(self) -> None:
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


def checked(entries: Sequence[Entry], seconds: float = 60.0) -> dict[tuple[str, str], str]:
    """Import each entry's module in another process.

    Parameters
    ----------
    entries : sequence of Entry
        Names registered in this process only are imported already, and "ok".
    seconds : float, default 60
        How long each may take; a slower one is given up, and the others go on in a new process.

    Returns
    -------
    dict of (kind, name) to str
        "ok", or why not.
    """
    found: dict[tuple[str, str], str] = {}
    worker: _Worker | None = None
    try:
        for entry in entries:
            key = (entry.kind, entry.name)
            if entry.clashes or entry.origin.startswith("registered in "):
                found[key] = "ok"
                continue
            worker = worker or _Worker()
            try:
                worker.say(key)
                line = worker.hear(seconds)
                found[key] = json.loads(line) if line else _died(entry)
            except queue.Empty:
                line = ""
                found[key] = f"{entry.origin} ({entry.target}): its import took longer than {seconds:g} s"
            except BrokenPipeError:
                line = ""
                found[key] = _died(entry)
            if not line:
                worker.end()
                worker = None
    finally:
        if worker is not None:
            worker.end()
    return found


def _died(entry: Entry) -> str:
    return f"{entry.origin} ({entry.target}): its import ended the process"
