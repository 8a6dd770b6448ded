"""Positions padded with -1: the few operations on them that everything shares."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["as_mask", "gather_tokens", "left_aligned", "to_batch"]


def as_mask(indices: Tensor, n: int) -> Tensor:
    """Bool (B, n), True at the positions in ``indices`` (B, K); -1 is padding."""
    marked = torch.zeros(indices.shape[0], n + 1, dtype=torch.bool, device=indices.device)
    marked.scatter_(1, indices % (n + 1), True)  # -1 becomes n
    return marked[:, :n]


def left_aligned(indices: Tensor) -> Tensor:
    """Move each row's -1 padding behind its positions, keeping their order."""
    return indices.gather(1, (indices < 0).to(torch.int8).argsort(dim=1, stable=True))


def gather_tokens(tokens: Tensor, indices: Tensor) -> Tensor:
    """Rows of ``tokens`` (B, N, ...) at ``indices`` (B, K), zero at padding: (B, K, ...)."""
    view = indices.clamp_min(0).view(*indices.shape, *[1] * (tokens.ndim - 2))
    rows = tokens.gather(1, view.expand(*indices.shape, *tokens.shape[2:]))
    return rows.masked_fill((indices < 0).view(view.shape), 0)


def to_batch(x: Tensor, batch: int) -> Tensor:
    """Repeat rows where decoding runs on more rows than the prompt did (several candidates a prompt)."""
    return x if x.shape[0] == batch else x.repeat_interleave(batch // x.shape[0], dim=0)
