"""Which pictures choose, which choose among the chosen, and which judge."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tokenprune.core.errors import ConfigError
from tokenprune.data.items import Item

__all__ = ["LEAST_PICTURES", "SHARES", "Split", "split"]

SHARES = {"train": 0.3, "validation": 0.2, "test": 0.5}
"""Of the pictures. The search looks often and needs few; the verdict looks once, and its test needs many."""

LEAST_PICTURES = 6
"""Of each part: with fewer a sign-flip test cannot come below 1/32."""


@dataclass(frozen=True)
class Split:
    """Questions by what they are for; no picture is in two parts."""

    train: list[Item]
    validation: list[Item]
    test: list[Item]

    def parts(self) -> dict[str, list[Item]]:
        """By name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def split(items: Sequence[Item], seed: int) -> Split:
    """Divide questions by picture.

    Raises
    ------
    ConfigError
        Too few pictures.
    """
    pictures = sorted({item.image_id for item in items})
    random.Random(seed).shuffle(pictures)
    first = round(SHARES["train"] * len(pictures))
    second = first + round(SHARES["validation"] * len(pictures))
    parts = (set(pictures[:first]), set(pictures[first:second]), set(pictures[second:]))
    if min(map(len, parts)) < LEAST_PICTURES:
        need = next(
            n
            for n in range(len(pictures), 10_000)
            if min(round(SHARES["train"] * n), round(SHARES["validation"] * n)) >= LEAST_PICTURES
        )
        raise ConfigError(
            f"{len(items)} questions about {len(pictures)} pictures are too few to choose by some and judge by others: "
            f"each of {', '.join(SHARES)} needs {LEAST_PICTURES} pictures, which takes {need}"
        )
    return Split(*([item for item in items if item.image_id in part] for part in parts))
