"""Parts of layers, of several models at once: everything has the axis of the models, K, in front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

State = Mapping[str, Tensor]
"""Parameters by name, each with the axis of the models in front."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Weights (K, out, in) on x (K, ..., in)."""
    flat = x.flatten(1, -2)
    made = flat @ weight.mT if bias is None else torch.baddbmm(bias[:, None], flat, weight.mT)
    return made.unflatten(1, x.shape[1:-1])


def over_models(weight: Tensor, x: Tensor) -> Tensor:
    """A vector of each model, (K, d), to be held against x (K, ..., d)."""
    return weight.view(len(weight), *[1] * (x.dim() - 2), -1)


def layer_norm(x: Tensor, scale: Tensor, shift: Tensor, eps: float = 1e-6) -> Tensor:
    """Layer norm over the last axis; scale and shift are (K, d)."""
    return F.layer_norm(x, x.shape[-1:], eps=eps) * over_models(scale, x) + over_models(shift, x)


def rms_norm(x: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    """Root-mean-square norm over the last axis; scale is (K, d)."""
    return F.rms_norm(x, x.shape[-1:], eps=eps) * over_models(scale, x)


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of queries or keys."""
    first, second = x.chunk(2, -1)
    return (x * cos + torch.cat((-second, first), -1) * sin).to(x.dtype)


def attention(q: Tensor, k: Tensor, v: Tensor, **how: Any) -> Tensor:
    """Attention of (K, B, N, heads, d), for the models as so many more rows."""
    parts = (w.flatten(0, 1).transpose(1, 2) for w in (q, k, v))
    return F.scaled_dot_product_attention(*parts, **how).transpose(1, 2).flatten(2).unflatten(0, q.shape[:2])


def parts_of(state: State, name: str, names: Sequence[str]) -> tuple[Tensor, ...]:
    """Parameters of a layer in a fixed order, so that one compiled function serves all layers."""
    return tuple(state[f"{name}.{part}"] for part in names)
