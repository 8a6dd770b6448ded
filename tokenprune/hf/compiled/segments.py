"""Attention of patches that were packed into one row, segments apart: frames, pictures and windows in one call.

Encoders of native resolution hand the bounds of segments to implementations of flash attention, and to others segment
by segment: a picture of 4,800 patches in windows of 64 then takes 80 calls a layer. :data:`NAME` is an implementation
that is given the bounds; segments of one length are the rows of a batch, and where lengths differ on a GPU torch's
attention of variable lengths takes them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from itertools import groupby
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["NAME", "attend", "attend_segments", "lengths_of", "register"]

NAME: Final = "segments_flash"
"""Under which transformers finds :func:`attend_segments`; what holds "flash" is given bounds."""


HALF: Final = (torch.float16, torch.bfloat16)


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
    runs = [(length, len(list(same))) for length, same in groupby(lengths)]
    if len(runs) > 1 and _varies(query, scale):
        from torch.nn.attention.varlen import varlen_attn

        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        longest = max(lengths)
        packed: Any = varlen_attn(q, k, v, bounds, bounds, longest, longest)
        return packed.unsqueeze(0)  # type: ignore[no-any-return]
    found, start = [], 0
    for length, count in runs:
        q, k, v = (_batch(x[0, :, start : start + length * count], count) for x in (query, key, value))
        out = F.scaled_dot_product_attention(q, k, v, scale=scale)  # (count, H, length, k)
        found.append(out.transpose(1, 2).flatten(0, 1))
        start += length * count
    return (found[0] if len(found) == 1 else torch.cat(found)).unsqueeze(0)


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


_VARIES: Final = find_spec("torch.nn.attention.varlen") is not None  # importing it takes seconds: it brings dynamo
