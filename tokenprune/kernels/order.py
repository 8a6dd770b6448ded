# mypy: disable-error-code="import-untyped, import-not-found, no-untyped-def, no-untyped-call, untyped-decorator"
"""The best scores of a row, and picks put in ascending order, in one launch each."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenprune.kernels import power_of_two

__all__ = ["ascending", "best_scores"]


@triton.jit(do_not_specialize=["n", "most"])
def _best(scores, available, out, n, most, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    inside = i < n
    score = tl.load(scores + row * n + i, mask=inside, other=0.0)
    open_ = tl.load(available + row * n + i, mask=inside, other=0) != 0
    # floats in the order of integers, -0.0 as 0.0; what is not available comes after all scores, padding last
    bits = tl.where(score == 0, 0.0, score).to(tl.int32, bitcast=True)
    key = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    key = tl.where(open_, key.to(tl.int64), -0x80000000)
    key = tl.where(inside, key, -0x80000001)
    # ascending in (-score, position): ties go to the lowest position
    word = ((-key) << 24) | i.to(tl.int64)
    ranked = tl.sort(word) & 0xFFFFFF
    tl.store(out + row * most + i, ranked, mask=i < most)


def best_scores(scores: Tensor, available: Tensor, most: int) -> Tensor:
    """Positions of the ``most`` largest scores of each row, best first, ties to the lowest, the unavailable last.

    Parameters
    ----------
    scores : float32 Tensor, (B, N)
        N at most ``LONGEST_SORT``, no NaN.
    available : bool Tensor, (B, N)
    most : int

    Returns
    -------
    int64 Tensor, (B, most)
    """
    batch, n = scores.shape
    out = torch.empty(batch, most, dtype=torch.int64, device=scores.device)
    block = power_of_two(n, 16)
    known = available.contiguous().view(torch.uint8)
    _best[batch,](scores.contiguous(), known, out, n, most, BLOCK=block, num_warps=min(16, max(1, block // 128)))
    return out


@triton.jit(do_not_specialize=["n", "most"])
def _ascending(order, indices, counts, n, most, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    inside = at < most
    pick = tl.load(order + row * most + at, mask=inside, other=-1)
    real = pick >= 0
    ranked = tl.sort(tl.where(real, pick, n).to(tl.int32)).to(tl.int64)
    tl.store(indices + row * most + at, tl.where(ranked < n, ranked, -1), mask=inside)
    tl.store(counts + row, tl.sum(real.to(tl.int64), axis=0))


def ascending(order: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Positions in ascending order with -1 last, and how many: int64 (B, K), K <= ``LONGEST_SORT`` -> (B, K), (B,)."""
    batch, most = order.shape
    indices = torch.empty_like(order)
    counts = torch.empty(batch, dtype=torch.int64, device=order.device)
    block = power_of_two(most, 16)
    _ascending[batch,](
        order.contiguous(), indices, counts, n, most, BLOCK=block, num_warps=min(16, max(1, block // 128))
    )
    return indices, counts
