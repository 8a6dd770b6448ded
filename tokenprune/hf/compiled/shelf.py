"""Programs by what they were made for; the least recently used go when there are too many."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

from tokenprune.hf.compiled.programs import Program

__all__ = ["Entry", "Key", "Shelf"]

Key = tuple[Any, ...]
"""The stage and everything that a program's shapes follow from."""


@dataclass
class Entry:
    """A program, what it reads of others, and what the host knows about its output.

    Attributes
    ----------
    program : Program
    needs : tuple
        Keys of programs (or marks of memory) without which it cannot run.
    notes : dict
    """

    program: Program[Any]
    needs: tuple[Hashable, ...] = ()
    notes: dict[Any, Any] = field(default_factory=dict)


class Shelf:
    """At most ``limit`` programs a stage.

    Parameters
    ----------
    limit : int
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._entries: dict[Key, Entry] = {}

    def __contains__(self, key: Key) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, key: Key) -> Entry:
        """Look an entry up; it is now the one used last, and so is what it needs."""
        entry = self._entries.pop(key)
        for other in entry.needs:
            if other in self._entries:
                self._entries[other] = self._entries.pop(other)
        self._entries[key] = entry
        return entry

    def put(self, key: Key, entry: Entry) -> None:
        """Keep an entry; a stage that holds more than ``limit`` loses the one used longest ago."""
        self._entries[key] = entry
        same = self.of(key[0])
        if len(same) > self.limit:
            self.drop([same[0]])

    def of(self, stage: str) -> list[Key]:
        """Keys of a stage, the one used longest ago first."""
        return [key for key in self._entries if key[0] == stage]

    def drop(self, gone: Iterable[Hashable]) -> None:
        """Forget programs and all that cannot run without them."""
        left = list(gone)
        while left:
            name = left.pop()
            self._entries.pop(name, None)  # type: ignore[call-overload]
            left.extend(key for key, entry in self._entries.items() if name in entry.needs)
