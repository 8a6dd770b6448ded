"""What a decoder layer would attend with, asked before it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tokenprune.core.errors import UnsupportedError
from tokenprune.hf.attention_tap import tapped
from tokenprune.hf.patching import CACHE_NAMES

__all__ = ["Ahead", "can_look_ahead", "look_ahead"]


class Ahead(NamedTuple):
    """Queries (B, H, M, k) and keys (B, G, M, k) after norms and rotary embedding, the factor on logits, a soft cap."""

    query: Tensor
    key: Tensor
    scaling: float
    softcap: float | None


def can_look_ahead(layer: nn.Module) -> bool:
    """Whether a layer norms its input and then attends, under the names that decoders have for that."""
    return all(isinstance(getattr(layer, name, None), nn.Module) for name in ("input_layernorm", "self_attn"))


@torch.no_grad()
def look_ahead(config: Any, layer: nn.Module, hidden: Tensor, arguments: Mapping[str, Any]) -> Ahead:
    """Ask a layer for the queries and keys that it would make of some hidden states.

    The layer's own code makes them, so that whatever a family does to them (norms per head, rotary embedding along
    several axes) is done. Nothing is attended to and no cache is written. Costs the layer's four projections.

    Parameters
    ----------
    config : PretrainedConfig
        The one in which its attention looks its implementation up.
    layer : Module
    hidden : Tensor, (B, M, d)
        What would enter it.
    arguments : mapping
        What it would be called with besides.
    """
    module: Any = layer
    found: list[Ahead] = []

    def see(query: Tensor, key: Tensor, scaling: float, more: Mapping[str, Any]) -> None:
        found.append(Ahead(query, key, scaling, more.get("softcap")))

    def nothing(query: Tensor, key: Tensor, value: Tensor, *_args: Any, **_more: Any) -> tuple[Tensor, None]:
        batch, heads, length, _ = query.shape
        return value.new_zeros(batch, length, heads, value.shape[-1]), None

    given = {
        name: value for name, value in arguments.items() if name not in (*CACHE_NAMES, "hidden_states", "use_cache")
    }
    with tapped(config, {module.self_attn: see}, {module.self_attn: nothing}):
        module.self_attn(hidden_states=module.input_layernorm(hidden), **given)
    if not found:
        raise UnsupportedError(f"the attention of {type(layer).__name__} cannot be looked into before it runs")
    return found[0]
