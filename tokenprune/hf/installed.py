"""Hooks that are on a model for the time of a block: taken off for a copy, kept for calls that outlast the block."""

from __future__ import annotations

import copy
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

__all__ = ["Installed"]


class Installed:
    """What one block puts on a model.

    A call of ``generate`` that is still running in another thread when the block ends (a streamer's) goes on as it
    began: the hooks are taken off when the last such call returns. Whoever else calls the model meanwhile waits for
    that and gets the plain model.

    Parameters
    ----------
    put_on : callable
        Gives a context manager that puts the hooks on and takes them off again; used anew each time.

    Attributes
    ----------
    turn : RLock
        Held during a forward pass: modules of one model see one prompt at a time.
    """

    def __init__(self, put_on: Callable[[], AbstractContextManager[None]]) -> None:
        self.turn = threading.RLock()
        self._put_on = put_on
        self._stack = ExitStack()
        self._gate = threading.Condition()
        self._running: Counter[int] = Counter()
        self._left = False

    def open(self) -> None:
        """Put the hooks on."""
        self._stack.enter_context(self._put_on())

    def close(self) -> None:
        """End the block: take the hooks off, or leave that to the last call under way."""
        with self._gate:
            self._left = True
            self._end()

    def _end(self) -> None:
        if self._left and not self._running:
            self._stack.close()
            self._gate.notify_all()

    def applies(self) -> bool:
        """Whether a forward pass in this thread is pruned; waits while another thread still needs the hooks."""
        me = threading.get_ident()
        with self._gate:
            if not self._left or me in self._running:
                return True
            self._gate.wait_for(lambda: not self._running)
            return False

    @contextmanager
    def call(self) -> Iterator[bool]:
        """One call of ``generate``; yields whether it is pruned."""
        me = threading.get_ident()
        with self._gate:
            pruned = self.applies()  # the condition's lock is one that a thread may take twice
            if pruned:
                self._running[me] += 1
        try:
            yield pruned
        finally:
            if pruned:
                with self._gate:
                    self._running[me] -= 1
                    self._running += Counter()  # forget those at nought
                    self._end()

    def deepcopy(self, module: Any) -> Callable[[dict[int, Any]], Any]:
        """What stands as ``module.__deepcopy__`` meanwhile: the copy is a plain model of its own."""

        def without_hooks(memo: dict[int, Any]) -> Any:
            with self.turn:
                self._stack.close()
                try:
                    return copy.deepcopy(module, memo)
                finally:
                    self.open()

        return without_hooks
