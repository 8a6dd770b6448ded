# mypy: disable-error-code="import-untyped, import-not-found, no-untyped-def, no-untyped-call, untyped-decorator"
"""Turn queries and keys by where they stand (rotary position embedding), both in one launch."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from tokenprune.kernels import power_of_two

__all__ = ["rotate"]


@triton.jit(do_not_specialize=["heads", "half"])
def _rotate(
    packed,
    cosines,
    sines,
    token_stride,
    kind_stride,
    head_stride,
    angle_stride,
    heads,
    half,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    packed += token * token_stride + tl.program_id(1) * kind_stride
    h = tl.arange(0, HEADS)[:, None]
    c = tl.arange(0, HALF)[None, :]
    inside = (h < heads) & (c < half)
    wide = c < half
    angle = token * angle_stride + c
    cos_low = tl.load(cosines + angle, mask=wide, other=0.0).to(tl.float32)
    cos_high = tl.load(cosines + angle + half, mask=wide, other=0.0).to(tl.float32)
    sin_low = tl.load(sines + angle, mask=wide, other=0.0).to(tl.float32)
    sin_high = tl.load(sines + angle + half, mask=wide, other=0.0).to(tl.float32)
    place = packed + h * head_stride + c
    low = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(place + half, mask=inside, other=0.0).to(tl.float32)
    tl.store(place, (low * cos_low - high * sin_low).to(packed.dtype.element_ty), mask=inside)
    tl.store(place + half, (high * cos_high + low * sin_high).to(packed.dtype.element_ty), mask=inside)


def rotate(packed: Tensor, cosines: Tensor, sines: Tensor) -> None:
    """Rotate queries and keys where they lie, in float32, halves of a head paired.

    Parameters
    ----------
    packed : Tensor, (N, 3, H, k)
        Queries, keys and values; the last are left alone. Written to.
    cosines, sines : Tensor, (N, k)
    """
    tokens, _, heads, width = packed.shape
    assert packed.stride(3) == cosines.stride(1) == sines.stride(1) == 1
    assert cosines.stride(0) == sines.stride(0)
    _rotate[tokens, 2](
        packed,
        cosines,
        sines,
        packed.stride(0),
        packed.stride(1),
        packed.stride(2),
        cosines.stride(0),
        heads,
        width // 2,
        HEADS=power_of_two(heads),
        HALF=power_of_two(width // 2),
        num_warps=4,
    )
