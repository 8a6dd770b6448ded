"""What layers look at while decoding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune.core.indexing import as_mask
from tokenprune.core.kinds import check_number
from tokenprune.core.layer_kinds import DecodeRule
from tokenprune.core.ranking import top_k

__all__ = ["ChangedAttention"]


@dataclass(frozen=True)
class ChangedAttention(DecodeRule):
    """The visual tokens that a new token attends to most, wherever that has changed since the token before (DyCoke).

    Where attention is as it was, all tokens are seen: the published code falls back to the whole cache there, although
    one would expect the subset of the step before.

    Parameters
    ----------
    share : float, default 0.7
        Share of the visual tokens that is not looked at; of N tokens ``int(N * (1 - share))`` are.
    similarity : float, default 0.9
        Cosine to the attention of the step before from which on attention counts as unchanged.
    """

    share: float = 0.7
    similarity: float = 0.9

    def __post_init__(self) -> None:
        check_number(self, "share", 0, 1)
        check_number(self, "similarity", -1, 1)

    def alike(self, attention: Tensor, before: Tensor | None) -> Tensor:
        """Cosine to the step before, (U,); 0 at the first."""
        if before is None:
            return torch.zeros_like(attention[:, 0])
        return torch.cosine_similarity(attention, before, dim=-1)

    def visible(self, attention: Tensor, before: Tensor | None, valid: Tensor) -> Tensor:
        """The best tokens of rows whose attention has changed, all tokens of the others."""
        counts = tuple(int(n * (1 - self.share)) for n in valid.sum(1).tolist())
        if not self.share:
            return valid
        best = as_mask(top_k(attention, counts, valid), valid.shape[1])
        changed = self.alike(attention, before) < self.similarity
        return torch.where(changed.unsqueeze(1), best, valid)
