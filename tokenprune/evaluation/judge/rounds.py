"""Many requests to a judge: some at a time, at a pace, again where none came, until each has a verdict or has not."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any

from tokenprune.core.errors import ConfigError, JudgeError
from tokenprune.core.metric import JudgedMetric
from tokenprune.evaluation.judge.endpoint import Endpoint, NoReplyError
from tokenprune.evaluation.judge.journal import Journal

__all__ = ["Judge", "Request"]

_THOUGHTS = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
"""What reasoning models write before they answer."""

LONGEST = 60.0
"""Seconds that a pause doubles up to; a server may ask for more."""


@dataclass(frozen=True)
class Request:
    """What a judge is asked about an answer.

    Attributes
    ----------
    name : str
        The same for what needs to be asked once.
    messages : sequence of mapping
    metric : JudgedMetric
        Reads the reply.
    """

    name: str
    messages: Sequence[Mapping[str, str]]
    metric: JudgedMetric


class _Stopped(Exception):
    """Others have ended the round."""


class Pace:
    """Beginnings of requests, evenly spread: at most so many a minute, None for any number."""

    def __init__(self, per_minute: float | None, stop: threading.Event) -> None:
        self._step = 60.0 / per_minute if per_minute else 0.0
        self._next, self._lock, self._stop = 0.0, threading.Lock(), stop

    def wait(self) -> None:
        """Until the next may begin."""
        with self._lock:
            begin = max(time.monotonic(), self._next)
            self._next = begin + self._step
        self.rest(begin - time.monotonic())

    def hold(self, seconds: float) -> None:
        """Nobody begins for so long: the server asked for it."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)

    def end(self) -> None:
        """Nobody begins any more."""
        self._stop.set()

    def rest(self, seconds: float) -> None:
        """A pause that ends when the round does."""
        if self._stop.wait(max(0.0, seconds)):
            raise _Stopped


@dataclass
class Judge:
    """A judge, and how hard it is tried.

    Parameters
    ----------
    endpoint : Endpoint
    workers : int, default 4
        Requests at a time.
    per_minute : float, optional
        Requests that begin in a minute, at most.
    tries : int, default 6
        Requests until one has a reply; pauses between them double from ``pause`` seconds on.
    readings : int, default 3
        Replies until one is a verdict; the judge is shown its own and told what a verdict is.
    pause : float, default 1
    """

    endpoint: Endpoint
    workers: int = 4
    per_minute: float | None = None
    tries: int = 6
    readings: int = 3
    pause: float = 1.0
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        for name, value in (("workers", self.workers), ("tries", self.tries), ("readings", self.readings)):
            if value < 1:
                raise ConfigError(f"judge: {name} must be 1 or more, got {value}")
        if self.per_minute is not None and self.per_minute <= 0:
            raise ConfigError(f"--per-minute must be more than 0, got {self.per_minute}")

    def ask(
        self,
        requests: Sequence[Request],
        journal: Journal,
        progress: Callable[[int, int, str], None] = lambda done, total, what: None,
    ) -> list[str]:
        """Ask what has no verdict yet; each reply is kept before anything else happens.

        Parameters
        ----------
        requests : sequence of Request
            Each name is asked once.
        journal : Journal
        progress : callable

        Returns
        -------
        list of str
            Why some have no verdict; empty where all have.

        Raises
        ------
        JudgeError
            The judge refuses, or does not reply to anybody any more.
        """
        wanted = {one.name: one for one in requests if one.name not in journal.verdicts}
        stop = threading.Event()
        pace = Pace(self.per_minute, stop)
        without: list[str] = []
        silent = 0  # requests in a row that got no reply at all
        with ThreadPoolExecutor(self.workers, "judge") as pool:
            running: dict[Future[str | None], str] = {
                pool.submit(self._one, one, journal, pace): one.name for one in wanted.values()
            }
            try:
                for done, future in enumerate(as_completed(running), 1):
                    try:
                        why, silent = future.result(), 0
                    except _Stopped:
                        continue  # who ended the round comes as well
                    except NoReplyError as error:
                        why, silent = str(error), silent + 1
                        if silent >= max(3, self.workers):
                            raise JudgeError(f"the judge does not reply ({why})") from None
                    if why is not None:
                        without.append(why)
                    progress(done, len(wanted), "judge")
            finally:
                # requests under way are waited for, and what they bring is kept
                stop.set()
                for future in running:
                    future.cancel()
        return without

    def _one(self, one: Request, journal: Journal, pace: Pace) -> str | None:
        """Until there is a verdict; why there is none otherwise."""
        messages = [dict(message) for message in one.messages]
        why = "no reply was read"
        with self._lock:
            before = journal.attempts(one.name)
        for attempt in range(before + 1, before + self.readings + 1):
            reply = self._reply(messages, pace)
            verdict: dict[str, bool | float] | None = None
            said = _THOUGHTS.sub("", reply.text).strip()
            try:
                if not reply.whole:
                    raise ConfigError("the reply was cut off; answer in fewer words")
                verdict = one.metric.verdict(said)
            except ConfigError as error:
                why = f"no verdict: {error}; the last reply was {said[:80]!r}"
                messages = [dict(m) for m in one.messages]
                messages += [{"role": "assistant", "content": said[:2000]}, {"role": "user", "content": str(error)}]
            with self._lock:
                journal.add(one.name, attempt, reply, verdict)
            if verdict is not None:
                return None
        return why

    def _reply(self, messages: Sequence[Mapping[str, str]], pace: Pace) -> Any:
        for i in range(self.tries):
            pace.wait()
            try:
                return self.endpoint.ask(messages)
            except JudgeError:
                pace.end()
                raise
            except NoReplyError as error:
                if i + 1 == self.tries:
                    raise
                # half of it by chance, so that workers do not come back together
                longest = min(self.pause * 2**i, LONGEST)
                pause = longest * (0.5 + random.random() / 2)
                if error.after is not None:
                    pause = max(pause, error.after)
                    pace.hold(error.after)
                pace.rest(pause)
        raise AssertionError("unreachable")
