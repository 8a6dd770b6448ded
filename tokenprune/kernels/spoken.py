# mypy: disable-error-code="import-untyped, import-not-found, no-untyped-def, no-untyped-call, untyped-decorator"
"""What some tokens pay to each token in a layer's attention, summed over them, without a map."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenprune.kernels import power_of_two

__all__ = ["spoken"]


@triton.jit(do_not_specialize=["length", "count", "width", "group"])
def _spoken(
    query,
    key,
    rows,
    real,
    out,
    query_batch,
    query_head,
    query_token,
    key_batch,
    key_head,
    key_token,
    length,
    count,
    width,
    group,
    heads,
    scale,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    KEYS: tl.constexpr,
):
    head = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    r = tl.arange(0, ROWS)
    c = tl.arange(0, WIDTH)
    place = tl.load(rows + row * count + r, mask=r < count, other=0)
    says = tl.load(real + row * count + r, mask=r < count, other=-1) >= 0
    wide = c < width
    start_q = query + row * query_batch + head * query_head
    start_k = key + row * key_batch + (head // group) * key_head
    q = tl.load(
        start_q + place[:, None] * query_token + c[None, :], mask=(r < count)[:, None] & wide[None, :], other=0.0
    )
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    for start in range(0, length, KEYS):
        m = start + tl.arange(0, KEYS)
        k = tl.load(
            start_k + m[None, :] * key_token + c[:, None], mask=(m < length)[None, :] & wide[:, None], other=0.0
        )
        logits = tl.dot(q, k, input_precision="ieee") * scale
        logits = tl.where(m[None, :] <= place[:, None], logits, float("-inf"))
        higher = tl.maximum(top, tl.max(logits, axis=1))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(logits - higher[:, None]), axis=1)
        top = higher
    for start in range(0, length, KEYS):
        m = start + tl.arange(0, KEYS)
        k = tl.load(
            start_k + m[None, :] * key_token + c[:, None], mask=(m < length)[None, :] & wide[:, None], other=0.0
        )
        logits = tl.dot(q, k, input_precision="ieee") * scale
        paid = tl.exp(logits - top[:, None]) / total[:, None]
        paid = tl.where((m[None, :] <= place[:, None]) & says[:, None], paid, 0.0)
        tl.store(out + (row * heads + head) * length + m, tl.sum(paid, axis=0), mask=m < length)


def spoken(query: Tensor, key: Tensor, rows: Tensor, real: Tensor, scale: float) -> Tensor:
    """Attention that some tokens pay to each token, mean over heads and sum over them: (B, M), float32.

    Parameters
    ----------
    query, key : Tensor, (B, H, M, k) and (B, G, M, k)
        After rotary embedding; numbers of a token next to each other.
    rows : int64 Tensor, (B, R)
        Their places, all of real tokens; what comes before a real token is real. R is small: a program holds them.
    real : int64 Tensor, (B, R)
        The same with -1 at those that do not count.
    scale : float
        Factor on the logits.
    """
    batch, heads, length, width = query.shape
    out = torch.empty(batch, heads, length, dtype=torch.float32, device=query.device)
    assert query.stride(3) == key.stride(3) == 1
    _spoken[heads, batch](
        query,
        key,
        rows.contiguous(),
        real.contiguous(),
        out,
        query.stride(0),
        query.stride(1),
        query.stride(2),
        key.stride(0),
        key.stride(1),
        key.stride(2),
        length,
        rows.shape[1],
        width,
        heads // key.shape[1],
        heads,
        scale,
        ROWS=power_of_two(rows.shape[1], 16),
        WIDTH=power_of_two(width, 16),
        KEYS=64,
        num_warps=4,
    )
    return out.mean(1)
