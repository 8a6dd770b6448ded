# mypy: disable-error-code="import-untyped, import-not-found, no-untyped-def, no-untyped-call, untyped-decorator"
"""Attention probabilities of one query a head in one launch: what an encoder's [CLS] looks at."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenprune.kernels import power_of_two

__all__ = ["query_row"]


@triton.jit(do_not_specialize=["length"])
def _row(
    query,
    keys,
    visible,
    out,
    length,
    width,
    scale,
    query_batch,
    query_head,
    keys_batch,
    keys_head,
    keys_token,
    heads,
    MASKED: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    head = tl.program_id(0)
    sample = tl.program_id(1).to(tl.int64)
    query += sample * query_batch + head * query_head
    keys += sample * keys_batch + head * keys_head
    out += (sample * heads + head) * length
    visible += sample * length
    r = tl.arange(0, ROWS)
    c = tl.arange(0, WIDTH)
    own = tl.load(query + c, mask=c < width, other=0.0).to(tl.float32)
    top = tl.full((), float("-inf"), tl.float32)
    total = tl.zeros((), tl.float32)
    for start in range(0, length, ROWS):
        i = start + r
        inside = i < length
        both = inside[:, None] & (c < width)[None, :]
        tile = tl.load(keys + i[:, None].to(tl.int64) * keys_token + c[None, :], mask=both, other=0.0)
        logit = tl.sum(tile.to(tl.float32) * own[None, :], axis=1) * scale
        seen = inside
        if MASKED:
            seen = seen & (tl.load(visible + i, mask=inside, other=0) != 0)
        logit = tl.where(seen, logit, float("-inf"))
        tl.store(out + i, logit, mask=inside)
        higher = tl.maximum(top, tl.max(logit, axis=0))
        safe = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(top - safe) + tl.sum(tl.exp(logit - safe), axis=0)
        top = higher
    tl.debug_barrier()
    for start in range(0, length, ROWS):
        i = start + r
        logit = tl.load(out + i, mask=i < length, other=0.0, volatile=True)
        tl.store(out + i, tl.exp(logit - top) / total, mask=i < length)


def query_row(queries: Tensor, keys: Tensor, scale: float, visible: Tensor | None = None) -> Tensor:
    """Attention probabilities of one query a head.

    Parameters
    ----------
    queries, keys : Tensor, (B, H, 1, k) and (B, H, L, k)
        float16, bfloat16 or float32, numbers of a token next to each other.
    scale : float
        Factor on the logits.
    visible : bool Tensor, (B, L), optional
        False at keys that are padding.

    Returns
    -------
    float32 Tensor, (B, H, 1, L)
        Equal to that of tensor operations up to the rounding of sums and exponentials.
    """
    batch, heads, length, width = keys.shape
    out = torch.empty(batch, heads, 1, length, dtype=torch.float32, device=keys.device)
    tall = min(128, power_of_two(length, 16))
    _row[heads, batch](
        queries,
        keys,
        keys if visible is None else visible.contiguous().view(torch.uint8),
        out,
        length,
        width,
        scale,
        queries.stride(0),
        queries.stride(1),
        keys.stride(0),
        keys.stride(1),
        keys.stride(2),
        heads,
        MASKED=visible is not None,
        ROWS=tall,
        WIDTH=power_of_two(width, 16),
        num_warps=8,
    )
    return out
