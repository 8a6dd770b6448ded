"""Coverage of long inputs on the host: rows of visual tokens are made again where they are read, and never kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune.core.features import on_host
from tokenprune.core.indexing import gather_tokens
from tokenprune.core.information import log_partition, unit_norm

__all__ = ["KEPT", "Similar", "too_long"]

KEPT = 2**27
"""Bytes of the largest table of all pairs that is kept on the host; several are alive while one is made."""

ROWS = 256
"""Rows that are reduced at a time."""

WIDTH = 16
"""Columns that are made at a time. Always as many, so that a column has the same bits whatever it is made beside."""


def too_long(tokens: Tensor) -> bool:
    """Whether a table of all pairs of tokens (B, N, e) is not to be kept."""
    batch, n, _ = tokens.shape
    return on_host(tokens) and batch * n * n * max(4, tokens.element_size()) > KEPT


@dataclass(frozen=True)
class Similar:
    """Columns of softmax over tokens of cosine / tau, times a weight for each row.

    The entries of :func:`~tokenprune.components.objectives.facility.softmax_coverage` of tokens with themselves.

    Attributes
    ----------
    unit : Tensor, (B, N, e)
        Tokens of norm 1.
    partition : Tensor, (B, N)
        Log of each row's partition function.
    weight : float
        Of all rows together.
    mask : bool Tensor, (B, N), or None
        True at real tokens.
    tau : float
    """

    unit: Tensor
    partition: Tensor
    weight: float
    mask: Tensor | None
    tau: float

    @classmethod
    def of(cls, tokens: Tensor, tau: float, weight: float, mask: Tensor | None) -> Similar:
        """Normalise rows, some at a time."""
        unit = unit_norm(tokens)
        batch, n, _ = unit.shape
        partition = unit.new_empty(batch, n)
        for start in range(0, n, ROWS):
            rows = slice(start, start + ROWS)
            partition[:, rows] = log_partition(unit[:, rows] @ unit.mT, tau, mask)
        return cls(unit, partition, weight, mask, tau)

    def columns(self, index: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Entries of some tokens' columns, (B, C), ``WIDTH`` at a time: which of them, and (B, WIDTH, N).

        Where fewer are left, others stand behind them.
        """
        for start in range(0, index.shape[1], WIDTH):
            some = index[:, start : start + WIDTH]
            some = torch.nn.functional.pad(some, (0, WIDTH - some.shape[1]))
            part = gather_tokens(self.unit, some) @ self.unit.mT
            part.mul_(1 / self.tau).sub_(self.partition.unsqueeze(1)).exp_()
            # step by step as where the table is kept, so that entries have the same bits
            if self.mask is None:
                part.div_(self.unit.shape[1])
            else:
                part.masked_fill_(~(self.mask.gather(1, some).unsqueeze(2) & self.mask.unsqueeze(1)), 0)
                part.div_(self.mask.sum(1).view(-1, 1, 1))
            yield slice(start, start + WIDTH), part.mul_(self.weight)
