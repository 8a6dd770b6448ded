"""What a strategy decided."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune.components.base import Merged
from tokenprune.indexing import as_mask, gather_tokens

__all__ = ["Selection"]


@dataclass(frozen=True)
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
    """

    indices: Tensor
    order: Tensor
    counts: Tensor
    n_visual: int
    scores: Tensor | None = None
    merged: Merged | None = None

    @classmethod
    def from_order(
        cls, order: Tensor, n_visual: int, scores: Tensor | None = None, merged: Merged | None = None
    ) -> Selection:
        """Derive the rest from the picks."""
        ranked = order.where(order >= 0, n_visual).sort(dim=1).values
        indices = ranked.where(ranked < n_visual, -1)
        return cls(indices, order, (order >= 0).sum(1), n_visual, scores, merged)

    @property
    def mask(self) -> Tensor:
        """Bool (B, N), True at kept tokens."""
        return as_mask(self.indices, self.n_visual)

    @property
    def sequence(self) -> Tensor:
        """Positions in the order in which tokens enter the language model, (B, K): ascending unless merged."""
        return self.indices if self.merged is None else self.merged.source

    def gather(self, tokens: Tensor) -> Tensor:
        """Rows of (B, N, ...) at the kept positions, ascending, zero at padding: (B, K, ...)."""
        return gather_tokens(tokens, self.indices)

    def row(self, b: int) -> list[int]:
        """Kept positions of one unit, ascending, without padding."""
        return [int(i) for i in self.indices[b, : int(self.counts[b])].tolist()]

    def __repr__(self) -> str:
        kept = torch.unique(self.counts).tolist()
        return f"Selection(units={len(self.counts)}, kept={kept[0] if len(kept) == 1 else kept} of {self.n_visual})"
