"""How many tokens to keep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from tokenprune.core.errors import BudgetError, closest

if TYPE_CHECKING:
    from tokenprune.core.adaptive import BudgetRule

__all__ = ["Budget", "Keep", "Unit"]

Unit = Literal["image", "tile", "frame", "sample"]

Keep = int | float | Sequence[int | float]
"""A count (int), a ratio in (0, 1] (float), or one of either for each unit."""


@dataclass(frozen=True)
class Budget:
    """How many visual tokens each unit keeps.

    Parameters
    ----------
    keep : int, float or sequence
        An int is a count from 1 to N. A float is a ratio in (0, 1] of the unit's tokens, rounded half up and at
        least 1 token (``1.0`` keeps all, ``1`` keeps one). A sequence has one entry for each unit.
    unit : str, default "image"
        The pool that one budget applies to: an "image" (or whole video), each "tile" that a large image was cut into
        (its thumbnail counts as one), each "frame" of a video, or all images of a "sample".
    clip : bool, default False
        Let units with fewer tokens than the count keep all they have instead of raising.
    adaptive : BudgetRule, str or mapping, optional
        A rule by which each unit keeps as many as it needs, or its name with options (``tokenprune list budgets``);
        ``keep`` then caps each unit, or is the average where the batch shares its tokens.
    floor, ceiling, shared, bucket
        Of the rule; see :class:`~tokenprune.core.adaptive.Adaptive`.

    Raises
    ------
    BudgetError
        Not a count or ratio in range.
    """

    keep: Keep
    unit: Unit = "image"
    clip: bool = False
    adaptive: BudgetRule | str | Mapping[str, Any] | None = None
    floor: int | float = 1
    ceiling: int | float | None = None
    shared: bool = False
    bucket: int = 1

    def __post_init__(self) -> None:
        if self.unit not in get_args(Unit):
            raise BudgetError(f"unit: no {self.unit!r}; {closest(str(self.unit), get_args(Unit))}")
        if isinstance(self.keep, str | bytes) or not isinstance(self.keep, int | float | Sequence):
            raise BudgetError(f"keep must be an int count, a float ratio or a sequence of them, got {self.keep!r}")
        if not isinstance(self.clip, bool):
            raise BudgetError(f"clip must be True or False, got {type(self.clip).__name__} {self.clip!r}")
        if isinstance(self.keep, Sequence):
            object.__setattr__(self, "keep", tuple(self.keep))
            if not self.keep:
                raise BudgetError("keep is an empty sequence: give one budget for each unit")
        for one in self.keep if isinstance(self.keep, tuple) else (self.keep,):
            _check(one)
        if self.adaptive is not None:
            from tokenprune.core.registry import build_component  # which knows budgets

            object.__setattr__(self, "adaptive", build_component("budgets", self.adaptive))
        elif (self.floor, self.ceiling, self.shared, self.bucket) != (1, None, False, 1):
            raise BudgetError("floor, ceiling, shared and bucket are about adaptive=, which is not given")

    @property
    def fixed(self) -> Budget:
        """The same without its rule."""
        return Budget(self.keep, self.unit, self.clip)

    @classmethod
    def of(cls, keep: Keep | Budget, unit: Unit | None = None) -> Budget:
        """Make a budget from what a caller gave; ``unit`` overrides the budget's own."""
        budget = keep if isinstance(keep, Budget) else cls(keep)
        return budget if unit is None else replace(budget, unit=unit)

    def counts(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Tokens to keep of units with ``sizes`` tokens; what is asked for, where a rule decides.

        Raises
        ------
        BudgetError
            More than a unit has (unless ``clip``), or a sequence of another length.
        """
        keeps = self.keep if isinstance(self.keep, Sequence) else (self.keep,) * len(sizes)
        if len(keeps) != len(sizes):
            raise BudgetError(f"keep has {len(keeps)} budgets for {len(sizes)} units ({self.unit}s)")
        return tuple(self._count(k, n, i) for i, (k, n) in enumerate(zip(keeps, sizes, strict=True)))

    def _count(self, keep: int | float, size: int, row: int) -> int:
        if isinstance(keep, float):
            return min(size, max(1, math.floor(keep * size + 0.5)))
        if keep > size and not self.clip:
            raise BudgetError(
                f"keep={keep} but unit {row} ({self.unit}) has only {size} visual tokens: "
                f"give 1..{size}, a ratio in (0, 1], or Budget({keep}, clip=True)"
            )
        return min(keep, size)


def _check(keep: object) -> None:
    if isinstance(keep, bool) or not isinstance(keep, int | float):
        raise BudgetError(f"keep must be an int count or a float ratio, got {type(keep).__name__} {keep!r}")
    if isinstance(keep, int) and keep < 1:
        raise BudgetError(f"keep={keep}: a count must be at least 1")
    if isinstance(keep, float) and not 0 < keep <= 1:
        hint = f"; for a count give the int {int(keep)}" if keep > 1 and keep.is_integer() else ""
        raise BudgetError(f"keep={keep}: a ratio must lie in (0, 1]{hint}")
