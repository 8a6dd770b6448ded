"""Attention of patches that were packed into one row, segments apart: frames, pictures and windows in one call.

Encoders of native resolution hand the bounds of segments to implementations of flash attention, and to others segment
by segment: a picture of 4,800 patches in windows of 64 then takes 80 calls a layer. :data:`NAME` is an implementation
that is given the bounds; segments of one length are the rows of a batch, and where lengths differ on a GPU torch's
attention of variable lengths takes them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from itertools import groupby
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["NAME", "attend", "attend_segments", "lengths_of", "register"]

NAME: Final = "segments_flash"
"""Under which transformers finds :func:`attend_segments`; what holds "flash" is given bounds."""


HALF: Final = (torch.float16, torch.bfloat16)

LONG: Final = 1024
"""Rows from this length on are attended to by the kernel that is fastest when tried once."""

ORDER: Final = [
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


def register() -> None:
    """Make :data:`NAME` known to transformers."""
    from transformers import AttentionInterface  # takes seconds to import

    AttentionInterface.register(NAME, attend_segments)


def lengths_of(bounds: Tensor) -> tuple[int, ...]:
    """Lengths of segments, from their bounds (S + 1,), which the host reads."""
    return tuple((bounds[1:] - bounds[:-1]).tolist())


def attend_segments(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    *,
    scaling: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    segments: tuple[int, ...] | None = None,
    **_more: Any,
) -> tuple[Tensor, None]:
    """Attend within segments; called by transformers.

    Parameters
    ----------
    module : Module
        Its attention module.
    query, key, value : Tensor, (1, H, N, k)
    attention_mask : Tensor, optional
        Only where no bounds are given.
    scaling : float, optional
    cu_seq_lens_q : int32 Tensor, (S + 1,), optional
        Bounds of segments; without them all is one.
    segments : tuple of int, optional
        Their lengths, where the caller knows them: nothing is read from the device then.

    Returns
    -------
    Tensor, (1, N, H, k)
    None
    """
    if cu_seq_lens_q is None:
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, scale=scaling)
        return out.transpose(1, 2), None
    lengths = lengths_of(cu_seq_lens_q) if segments is None else segments
    return attend(query, key, value, lengths, cu_seq_lens_q, scaling), None


def attend(
    query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int], bounds: Tensor, scale: float | None = None
) -> Tensor:
    """Attention within segments.

    Parameters
    ----------
    query, key, value : Tensor, (1, H, N, k)
    lengths : sequence of int
        Of segments; their sum is N.
    bounds : int32 Tensor, (S + 1,)
        The same as bounds, on the device.
    scale : float, optional
        Factor on the logits.

    Returns
    -------
    Tensor, (1, N, H, k)
    """
    runs = _runs(lengths)
    if len(runs) > 1 and _varies(query, scale):
        from torch.nn.attention.varlen import varlen_attn

        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        longest = max(lengths)
        packed: Any = varlen_attn(q, k, v, bounds, bounds, longest, longest)
        return packed.unsqueeze(0)  # type: ignore[no-any-return]
    found, start = [], 0
    for length, count in runs:
        q, k, v = (_batch(x[0, :, start : start + length * count], count) for x in (query, key, value))
        out = _alike(q, k, v, scale)  # (count, H, length, k)
        found.append(out.transpose(1, 2).flatten(0, 1))
        start += length * count
    return (found[0] if len(found) == 1 else torch.cat(found)).unsqueeze(0)


def _runs(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """A length, and how many segments of it follow each other."""
    return [(length, len(list(same))) for length, same in groupby(lengths)]


def try_kernels(lengths: Sequence[int], heads: int, hidden: Tensor | None) -> None:
    """Find the fastest kernels for segments of features (N, d) now: a compiler is given only what is known."""
    if hidden is not None and heads:
        for length, count in _runs(lengths):
            tried((count, heads, length, hidden.shape[-1] // heads), hidden.dtype, hidden.device)


def _alike(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    """Attention of (B, H, N, k) by the kernel that is fastest."""
    place = tried(tuple(query.shape), query.dtype, query.device)
    if place == 0:
        return F.scaled_dot_product_attention(query, key, value, scale=scale)
    with sdpa_kernel([ORDER[place], *ORDER], set_priority=True):
        return F.scaled_dot_product_attention(query, key, value, scale=scale)


def tried(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> int:
    """Place in :data:`ORDER` of the kernel to take for queries of a shape; 0 leaves it to torch.

    Kernels are tried for long rows (B, H, N, k) of half precision on a GPU.
    """
    if device.type != "cuda" or dtype not in HALF or shape[2] < LONG:
        return 0
    place: int = _constant(*shape, dtype, device.index)
    return place


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _constant(batch: int, heads: int, length: int, width: int, dtype: torch.dtype, device: int) -> int:
    """What a compiler finds has been tried before, and is a number to it."""
    return _fastest(batch, heads, length, width, dtype, device)


@lru_cache(maxsize=1024)
def _fastest(batch: int, heads: int, length: int, width: int, dtype: torch.dtype, device: int) -> int:
    """Try torch's kernels on zeros of a shape; another than flash attention has to be a twentieth faster.

    Zeros, since drawing numbers would change what is drawn later.
    """
    times = [math.inf] * len(ORDER)
    for place, backend in enumerate(ORDER[:-1]):
        try:
            zeros = torch.zeros(batch, length, 3, heads, width, dtype=dtype, device=f"cuda:{device}")
            query, key, value = zeros.permute(2, 0, 3, 1, 4)
            with sdpa_kernel(backend):
                times[place] = _milliseconds(partial(F.scaled_dot_product_attention, query, key, value))
        except RuntimeError:  # it does not take this shape, or there is no room to try
            continue
    best = min(range(len(ORDER)), key=times.__getitem__)
    return best if times[best] < 0.95 * times[0] else 0


def _milliseconds(call: Callable[[], Any], repeats: int = 5) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    for _ in range(2):
        call()
    start.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / repeats


def _batch(row: Tensor, count: int) -> Tensor:
    """Segments of one length side by side, (H, N, k), as (count, H, N / count, k)."""
    heads, length, width = row.shape
    return row.view(heads, count, length // count, width).transpose(0, 1)


def _varies(query: Tensor, scale: float | None) -> bool:
    """Whether torch's attention of variable lengths takes these: it came with torch 2.10, and knows one factor."""
    width = query.shape[-1]
    if query.device.type != "cuda" or query.dtype not in HALF or width % 8 or width > 256:
        return False
    if scale is not None and abs(scale - width**-0.5) > 1e-9:
        return False
    return _VARIES


def _there() -> bool:
    try:
        from torch.nn.attention.varlen import varlen_attn  # noqa: F401
    except ImportError:
        return False
    return True


_VARIES: Final = _there()
