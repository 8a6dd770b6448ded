"""The one progress bar, or lines about progress where there is no terminal, and the width of what is printed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Progress", "console", "progress"]

Progress = Callable[[int, int, str], None]
"""Told how many are done, of how many, and which is next."""

EVERY = 30.0
"""Seconds between two lines about progress where there is no terminal."""


def console(width: int = 200, quiet: bool = False) -> Console:
    """A terminal, or ``width`` columns where output is no terminal and tables must not break; says nothing if quiet."""
    from rich.console import Console

    return Console(width=None if Console().is_terminal else width, quiet=quiet)


@contextmanager
def progress(to: Console, what: str = "loading", width: int = 36) -> Iterator[Progress]:
    """Show a bar while open; it vanishes at the end. Where there is no terminal, a line every half minute.

    Parameters
    ----------
    to : Console
    what : str
        Shown until something is told.
    width : int, default 36
        Columns of the description.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    if not to.is_terminal:
        yield _lines()
        return
    columns = (
        TextColumn(f"{{task.description:{width}}}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=to, transient=True) as bars:
        task = bars.add_task(what)
        yield lambda done, total, next_: bars.update(task, completed=done, total=total, description=next_)


def _lines() -> Progress:
    """Writes a line where the last one is long ago."""
    begun = said = time.monotonic()

    def told(done: int, total: int, next_: str) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said < EVERY:
            return
        said = now
        about = f", about {(now - begun) * (total - done) / done / 60:.0f} min left" if done else ""
        sys.stderr.write(f"{next_}: {done} of {total}{about}\n")
        sys.stderr.flush()

    return told
