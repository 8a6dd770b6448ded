"""Random draws that are the same on every machine: integers only, keyed by words."""

from __future__ import annotations

import hashlib
import random
from collections.abc import MutableSequence, Sequence
from typing import TypeVar

from tokenprune.core.errors import ConfigError, closest

__all__ = ["SPLITS", "Draws", "key_number"]

T = TypeVar("T")

SPLITS = {"train": 0, "validation": 1, "test": 2}
"""Splits, and the remainder that a split's generator seeds leave when divided by three."""


def key_number(split: str, seed: int, index: int, purpose: str) -> int:
    """Generator seed of one purpose in one scene.

    The remainder modulo ``len(SPLITS)`` is the split's, so two splits never share a seed.

    Raises
    ------
    ConfigError
        Unknown split.
    """
    if split not in SPLITS:
        raise ConfigError(f"split {split!r} is unknown; {closest(split, SPLITS)}")
    digest = hashlib.blake2b(f"{split}/{seed}/{index}/{purpose}".encode(), digest_size=15).digest()
    return int.from_bytes(digest, "big") * len(SPLITS) + SPLITS[split]


class Draws:
    """A stream of integers from a seed.

    Only the generator's raw bits are used: how the standard library turns them into choices differs between versions,
    its bits do not.

    Parameters
    ----------
    number : int
        The seed, by :func:`key_number`.
    """

    def __init__(self, number: int) -> None:
        self._bits = random.Random(number).getrandbits

    def below(self, n: int) -> int:
        """Integer in 0..n-1 (bias under n / 2**32)."""
        return self._bits(32) * n >> 32

    def between(self, low: int, high: int) -> int:
        """Integer in low..high, both included."""
        return low + self.below(high - low + 1)

    def chance(self, percent: int) -> bool:
        """True in so many of a hundred draws."""
        return self.below(100) < percent

    def pick(self, items: Sequence[T]) -> T:
        """One of the items."""
        return items[self.below(len(items))]

    def weighted(self, items: Sequence[T], weights: Sequence[int]) -> T:
        """One of the items, as likely as its weight."""
        left = self.below(sum(weights))
        for item, weight in zip(items, weights, strict=True):
            left -= weight
            if left < 0:
                return item
        raise AssertionError("unreachable: the draw is below the sum of the weights")

    def shuffle(self, items: MutableSequence[T]) -> None:
        """Bring the items into a random order, in place."""
        for i in range(len(items) - 1, 0, -1):
            j = self.below(i + 1)
            items[i], items[j] = items[j], items[i]

    def sample(self, items: Sequence[T], n: int) -> list[T]:
        """Pick n different items."""
        pool = list(items)
        self.shuffle(pool)
        return pool[:n]
