"""What a strategy decided."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tokenprune.core.errors import ConfigError, FeatureError, NonFiniteError
from tokenprune.core.groups import Groups
from tokenprune.core.indexing import as_mask, gather_tokens
from tokenprune.core.kinds import Merged
from tokenprune.core.optimality import Optimality
from tokenprune.kernels import LONGEST_SORT, usable

__all__ = ["Selection"]


@dataclass(frozen=True, eq=False)
class Selection:
    """Kept tokens of a batch of units.

    Attributes
    ----------
    indices : int64 Tensor, (B, K)
        Kept positions, ascending; rows that keep fewer than K end with -1.
    order : int64 Tensor, (B, K)
        The same positions in the order picked, -1 as padding.
    counts : int64 Tensor, (B,)
        Kept tokens a row.
    n_visual : int
        Tokens there were, padding included.
    scores : Tensor, (B, N), or None
        What the scorer gave, None where the selector uses none.
    merged : Merged or None
        New tokens, where the strategy merges.
    valid : bool Tensor, (B, N), or None
        True at real tokens; None where there is no padding.
    groups : Groups or None
        What else the selector found: segments, roles, who joins whom.
    optimality : Optimality or None
        How far the picks are from the best, where that was asked for: see :meth:`tokenprune.Strategy.assess`.
    """

    indices: Tensor
    order: Tensor
    counts: Tensor
    n_visual: int
    scores: Tensor | None = None
    merged: Merged | None = None
    valid: Tensor | None = None
    groups: Groups | None = None
    optimality: Optimality | None = None

    @classmethod
    def from_order(
        cls,
        order: Tensor,
        n_visual: int,
        scores: Tensor | None = None,
        merged: Merged | None = None,
        valid: Tensor | None = None,
    ) -> Selection:
        """Derive the rest from the picks."""
        if order.shape[1] <= LONGEST_SORT and order.dtype == torch.int64 and usable(order):
            from tokenprune.kernels.order import ascending  # needs Triton

            indices, counts = ascending(order, n_visual)
            return cls(indices, order, counts, n_visual, scores, merged, valid)
        ranked = order.where(order >= 0, n_visual).sort(dim=1).values
        indices = ranked.where(ranked < n_visual, -1)
        return cls(indices, order, (order >= 0).sum(1), n_visual, scores, merged, valid)

    @property
    def mask(self) -> Tensor:
        """Bool (B, N), True at kept tokens."""
        return as_mask(self.indices, self.n_visual)

    @property
    def sequence(self) -> Tensor:
        """Positions in the order in which tokens enter the language model, (B, K): ascending unless merged."""
        return self.indices if self.merged is None else self.merged.source

    @property
    def margin(self) -> Tensor:
        """Worst kept score minus best dropped score of each unit, (B,): the gap at the cut.

        Infinite where nothing was kept or nothing dropped; negative where the selector did not keep the best scores.

        Raises
        ------
        ConfigError
            The selector uses no scores.
        """
        if self.scores is None:
            raise ConfigError("Selection.margin needs scores, and this strategy has no scorer")
        kept = self.mask
        dropped = ~kept if self.valid is None else ~kept & self.valid
        return self.scores.where(kept, math.inf).amin(1) - self.scores.where(dropped, -math.inf).amax(1)

    def certified(self, error: float) -> Tensor:
        """Whether scores that are off by at most ``error`` have the same best tokens, bool (B,).

        True says that every table of scores within ``error`` of these has the kept tokens as its top k. If logits
        move by at most eta, PMI relevance moves by at most 4 eta, so ``certified(4 * eta)``.

        Parameters
        ----------
        error : float
            Largest error of a score, not negative.

        Raises
        ------
        ConfigError
            A negative error or NaN, or a selector that uses no scores.
        """
        if not error >= 0:
            raise ConfigError(f"Selection.certified: error must be at least 0, got {error!r}")
        return self.margin > 2 * error

    def verify(self) -> Selection:
        """Read what ``select`` leaves unread on an accelerator, and return the selection itself.

        Raises
        ------
        NonFiniteError
            A score is NaN or infinite, or a row kept nothing because a gain was NaN.
        FeatureError
            A pick is no position of a real token, or a row picked a token twice (which only ``divprune`` and
            ``mmtok`` with ``faithful=True`` may do, as their official code does).
        """
        if self.scores is not None and not bool(torch.isfinite(self.scores).all()):
            raise NonFiniteError("the scores of this selection hold NaN or infinity")
        if not bool(self.counts.all()):
            row = int((self.counts == 0).nonzero()[0, 0])
            raise NonFiniteError(f"row {row} of this selection kept nothing: the gain of a token was NaN")
        wrong = (self.order < -1) | (self.order >= self.n_visual)
        if self.valid is not None:
            wrong = wrong | ~(self.order < 0) & ~self.valid.gather(1, self.order.clamp(0, self.n_visual - 1))
        if bool(wrong.any()):
            raise FeatureError(f"this selection holds positions of no real token: {self.order[wrong].tolist()}")
        ranked = self.order.sort(dim=1).values
        twice = (ranked[:, 1:] == ranked[:, :-1]) & (ranked[:, 1:] >= 0)
        if bool(twice.any()):
            raise FeatureError(f"this selection holds tokens twice in a row: {ranked[:, 1:][twice].tolist()}")
        return self

    def gather(self, tokens: Tensor) -> Tensor:
        """Rows of (B, N, ...) at the kept positions, ascending, zero at padding: (B, K, ...)."""
        return gather_tokens(tokens, self.indices)

    def row(self, b: int) -> list[int]:
        """Kept positions of one unit, ascending, without padding."""
        return [int(i) for i in self.indices[b, : int(self.counts[b])].tolist()]

    def units(self, chosen: Sequence[int]) -> Selection:
        """The selection of some of the units, in the order given."""
        found: Selection = _of_rows(self, list(chosen))
        return found

    def __eq__(self, other: object) -> bool:
        """Whether two are equal in all that they hold, to the bit; tokens kept in another order are not."""
        if not isinstance(other, Selection):
            return NotImplemented
        return all(_equal(getattr(self, field.name), getattr(other, field.name)) for field in fields(self))

    __hash__ = None  # type: ignore[assignment]  # tensors can change

    def __repr__(self) -> str:
        kept = torch.unique(self.counts).tolist()
        told = "" if self.optimality is None else f", {self.optimality!r}"
        return (
            f"Selection(units={len(self.counts)}, kept={kept[0] if len(kept) == 1 else kept} of {self.n_visual}{told})"
        )


def _equal(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return False
    if is_dataclass(a) and not isinstance(a, type) and type(a) is type(b):
        return all(_equal(getattr(a, field.name), getattr(b, field.name)) for field in fields(a))
    return a == b


def _of_rows(value: Any, rows: list[int]) -> Any:
    """Rows of every tensor in it."""
    if isinstance(value, Tensor):
        return value[rows]
    if isinstance(value, Mapping):
        return {name: _of_rows(one, rows) for name, one in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{one.name: _of_rows(getattr(value, one.name), rows) for one in fields(value)})
    return value
