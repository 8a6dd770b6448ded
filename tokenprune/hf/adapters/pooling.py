"""Attention of an encoder's pooling head (SigLIP), which stands where other encoders have [CLS]."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from tokenprune.hf.adapters.encoder_attention import attention_rows

__all__ = ["pooling_head", "read_pooling"]


def pooling_head(tower: nn.Module) -> Any:
    """The head of an encoder that pools patches by attention to a learned probe; None where there is none."""
    head = getattr(tower, "head", None)
    fits = isinstance(getattr(head, "attention", None), nn.MultiheadAttention) and hasattr(head, "probe")
    return head if fits else None


@contextmanager
def read_pooling(head: Any) -> Iterator[list[Tensor]]:
    """While open, note what the head's probe attends to in each picture, (H, N), after softmax.

    The head itself runs as ever; the one row of its attention is multiplied out besides.
    """
    found: list[Tensor] = []

    @torch.no_grad()
    def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states = args[0] if args else kwargs["hidden_state"]
        attention = head.attention
        width, heads = attention.embed_dim, attention.num_heads
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        queries = nn.functional.linear(head.probe.to(states.dtype), weight[:width], bias[:width])
        keys = nn.functional.linear(states, weight[width : 2 * width], bias[width : 2 * width])
        q, k = (
            rearrange(x.expand(len(states), -1, -1), "b n (h k) -> b h n k", h=heads).contiguous()
            for x in (queries, keys)
        )
        found.extend(attention_rows(q, k, (width // heads) ** -0.5)[:, :, 0])

    handle = head.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield found
    finally:
        handle.remove()
