"""An exit code that tells the truth: lmms-eval prints what goes wrong and ends with 0."""

from __future__ import annotations

import atexit
import os
import sys
from pathlib import Path

__all__ = ["Ending"]


class Ending:
    """Ends the process with 1 unless the evaluation came to its end.

    Only under the harness's command, which catches whatever is raised; whoever calls it from Python gets the error.
    """

    def __init__(self) -> None:
        self.reached = False
        if _by_command():
            atexit.register(self._end)

    def _end(self) -> None:
        if not self.reached:
            # an exit code cannot be changed any more, other than by leaving at once
            sys.stdout.flush()
            sys.stderr.write("tokenprune: the evaluation did not come to its end; exit code 1\n")
            sys.stderr.flush()
            os._exit(1)


def _by_command() -> bool:
    """Whether we are called by ``lmms-eval`` or ``python -m lmms_eval``."""
    frame = sys._getframe()
    while frame is not None:
        if Path(frame.f_code.co_filename).parts[-2:] == ("lmms_eval", "__main__.py"):
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False
