"""Read one encoder layer's attention without switching the encoder to eager attention.

Hooks keep the layer's queries and keys; only the rows asked for are multiplied out. The [CLS] row costs O(H N) numbers,
the attention each patch receives O(H N * chunk), never the whole O(H N^2) map.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune.features import working_precision
from tokenprune.models.base import Observation

__all__ = ["ENCODER_SIGNALS", "attention_received", "attention_rows", "observe_encoder_layer"]

ENCODER_SIGNALS = frozenset({"cls_attention", "received_attention", "keys", "encoder_cls"})
"""Signals that come from one encoder layer."""


def attention_rows(queries: Tensor, keys: Tensor, scale: float) -> Tensor:
    """Attention probabilities of some query rows: (B, H, r, k), (B, H, L, k) -> (B, H, r, L), float32 or better."""
    logits = working_precision(queries) @ working_precision(keys).mT * scale
    return logits.softmax(-1)


def attention_received(queries: Tensor, keys: Tensor, scale: float, skip: int, chunk: int = 128) -> Tensor:
    """Sum over patches i != j of the head-mean attention A_ij (MI-Pruner, Eqn 4, right).

    Parameters
    ----------
    queries, keys : Tensor, (B, H, L, k)
    scale : float
        Factor on the logits.
    skip : int
        Leading tokens that are no patches ([CLS]): neither rows nor columns of the result, but part of the softmax.
    chunk : int, default 128
        Query rows multiplied out at a time.

    Returns
    -------
    Tensor, (B, L - skip)
    """
    length = queries.shape[2]
    received = queries.new_zeros(queries.shape[0], length, dtype=working_precision(queries).dtype)
    for start in range(skip, length, chunk):
        rows = attention_rows(queries[:, :, start : start + chunk], keys, scale).mean(1)
        received += rows.sum(1)
        own = torch.arange(rows.shape[1], device=rows.device)
        received[:, start + own] -= rows[:, own, start + own]
    return received[:, skip:]


@contextmanager
def observe_encoder_layer(
    layer: nn.Module, signals: frozenset[str], seen: Observation, *, has_cls: bool
) -> Iterator[None]:
    """While open, append what the layer's attention says about each image to ``seen``.

    Parameters
    ----------
    layer : Module
        Encoder layer with ``self_attn.q_proj`` and ``self_attn.k_proj``.
    signals : frozenset of str
        Which of :data:`ENCODER_SIGNALS` to compute.
    has_cls : bool
        Whether token 0 is [CLS].
    """
    attention: Any = layer.self_attn
    projected: dict[str, Tensor] = {}
    skip = int(has_cls)

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Tensor) -> None:
            projected[name] = output.view(*output.shape[:-1], -1, attention.head_dim).transpose(1, 2)

        return hook

    def finish(_module: nn.Module, _args: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        queries, keys = projected.pop("q"), projected.pop("k")
        if "cls_attention" in signals:
            seen.add("cls_attention", attention_rows(queries[:, :, :1], keys, attention.scale)[:, :, 0, skip:])
        if "received_attention" in signals:
            seen.add("received_attention", attention_received(queries, keys, attention.scale, skip))
        if "keys" in signals:
            seen.add("keys", working_precision(keys).mean(1)[:, skip:])
        if "encoder_cls" in signals:
            seen.add("encoder_cls", hidden[:, 0])

    with ExitStack() as stack:
        for module, hook in (
            (attention.q_proj, keep("q")),
            (attention.k_proj, keep("k")),
            (layer, finish),
        ):
            stack.callback(module.register_forward_hook(hook).remove)
        yield
