# mypy: disable-error-code="import-untyped, import-not-found, no-untyped-def, no-untyped-call, untyped-decorator"
"""What a layer attends to, without its maps: the row of one query, and what each token receives from all others.

Products of half-precision numbers are added up in float32 on tensor cores; those of float32 stay in float32.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenprune.kernels import power_of_two

__all__ = ["query_row", "received"]


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


@triton.jit
def _logits(queries, keys, i, j, c, length, width, token_q, token_k, scale, PRECISION: tl.constexpr):
    """Scaled products of some queries with some keys of one head."""
    own = (i < length)[:, None] & (c < width)[None, :]
    q = tl.load(queries + i[:, None].to(tl.int64) * token_q + c[None, :], mask=own, other=0.0)
    other = (j < length)[None, :] & (c < width)[:, None]
    k = tl.load(keys + j[None, :].to(tl.int64) * token_k + c[:, None], mask=other, other=0.0)
    return tl.dot(q.to(tl.float32), k.to(tl.float32), input_precision=PRECISION) * scale


@triton.jit
def _seen(visible, at, length, MASKED: tl.constexpr):
    inside = at < length
    if MASKED:
        inside = inside & (tl.load(visible + at, mask=inside, other=0) != 0)
    return inside


@triton.jit(do_not_specialize=["length"])
def _partitions(
    queries,
    keys,
    visible,
    out,
    length,
    width,
    scale,
    batch_q,
    head_q,
    token_q,
    batch_k,
    head_k,
    token_k,
    heads,
    PRECISION: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Log of the sum of exponentials of each query's logits."""
    head = tl.program_id(1)
    sample = tl.program_id(2).to(tl.int64)
    queries += sample * batch_q + head * head_q
    keys += sample * batch_k + head * head_k
    visible += sample * length
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    at = tl.arange(0, BLOCK)
    c = tl.arange(0, WIDTH)
    top = tl.full((BLOCK,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, length, BLOCK):
        j = start + at
        logits = _logits(queries, keys, i, j, c, length, width, token_q, token_k, scale, PRECISION)
        logits = tl.where(_seen(visible, j, length, MASKED)[None, :], logits, float("-inf"))
        higher = tl.maximum(top, tl.max(logits, axis=1))
        safe = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(top - safe) + tl.sum(tl.exp(logits - safe[:, None]), axis=1)
        top = higher
    tl.store(out + (sample * heads + head) * length + i, top + tl.log(total), mask=i < length)


@triton.jit(do_not_specialize=["length", "skip"])
def _received(
    queries,
    keys,
    visible,
    partition,
    out,
    length,
    width,
    skip,
    scale,
    batch_q,
    head_q,
    token_q,
    batch_k,
    head_k,
    token_k,
    heads,
    PRECISION: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Sum of each key's probabilities over other patches' queries, of one head."""
    head = tl.program_id(1)
    sample = tl.program_id(2).to(tl.int64)
    queries += sample * batch_q + head * head_q
    keys += sample * batch_k + head * head_k
    visible += sample * length
    partition += (sample * heads + head) * length
    j = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    at = tl.arange(0, BLOCK)
    c = tl.arange(0, WIDTH)
    columns = _seen(visible, j, length, MASKED)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, length, BLOCK):
        i = start + at
        logits = _logits(queries, keys, i, j, c, length, width, token_q, token_k, scale, PRECISION)
        rows = _seen(visible, i, length, MASKED) & (i >= skip)
        whole = tl.load(partition + i, mask=rows, other=0.0)
        counted = rows[:, None] & columns[None, :] & (i[:, None] != j[None, :])
        total += tl.sum(tl.where(counted, tl.exp(logits - whole[:, None]), 0.0), axis=0)
    tl.store(out + (sample * heads + head) * length + j, total, mask=j < length)


def received(queries: Tensor, keys: Tensor, scale: float, skip: int, visible: Tensor | None = None) -> Tensor:
    """Sum over patches i != j of the head-mean attention A_ij, as ``models.encoder_attention.attention_received``.

    Parameters
    ----------
    queries, keys : Tensor, (B, H, L, k)
        float16, bfloat16 or float32, numbers of a token next to each other.
    scale : float
        Factor on the logits.
    skip : int
        Leading tokens that are no patches.
    visible : bool Tensor, (B, L), optional
        False at patches that are padding.

    Returns
    -------
    float32 Tensor, (B, L - skip)
        Equal to that of tensor operations up to the rounding of sums and exponentials.
    """
    batch, heads, length, width = keys.shape
    partition = torch.empty(batch, heads, length, dtype=torch.float32, device=keys.device)
    out = torch.empty_like(partition)
    mask = keys if visible is None else visible.contiguous().view(torch.uint8)
    block = min(64, power_of_two(length, 16))
    strides = (*queries.stride()[:3], *keys.stride()[:3], heads)
    shape: dict[str, Any] = {
        # what 16 bits hold, tf32 holds too
        "PRECISION": "ieee" if keys.dtype == torch.float32 else "tf32",
        "MASKED": visible is not None,
        "BLOCK": block,
        "WIDTH": power_of_two(width, 16),
        "num_warps": 4,
    }
    grid = (-(-length // block), heads, batch)
    _partitions[grid](queries, keys, mask, partition, length, width, scale, *strides, **shape)
    _received[grid](queries, keys, mask, partition, out, length, width, skip, scale, *strides, **shape)
    return out.mean(1)[:, skip:]
