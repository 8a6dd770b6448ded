"""The whole prompt with the dropped tokens masked out instead of dropped: what pruning must equal."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tokenprune.core.strategy import Positions
from tokenprune.hf.adapters.base import adapter_for
from tokenprune.hf.masks import additive, causal
from tokenprune.hf.record import Prefill

__all__ = ["mask_out"]


def mask_out(model: Any, inputs: Mapping[str, Any], prefill: Prefill, positions: Positions = "keep") -> Tensor:
    """Logits of the last token of the whole prompt, with the dropped tokens masked instead of dropped: (B, vocab).

    Where a strategy renumbers ("compact"), masked tokens take no position of their own. Between layers, tokens are
    masked from the layer on after which they were dropped; nothing may have been dropped before the first layer then.
    """
    ids = inputs["input_ids"]
    mask = inputs["attention_mask"]
    if not prefill.stages:
        mask = torch.zeros_like(ids).scatter_(1, prefill.splice.index, prefill.splice.mask.long())
    adapter = adapter_for(model)
    place = (mask.cumsum(1) - 1).clamp_min(0)
    if positions == "keep" or adapter.multi_axis:
        place = adapter.position_ids(inputs, inputs["attention_mask"].bool())
    with ExitStack() as stack:
        layers: Any = adapter.language_model.layers
        for number, seen in _seen_by_layer(inputs, prefill, len(layers)).items():
            hook = partial(_with_mask, seen)
            stack.callback(layers[number].register_forward_pre_hook(hook, with_kwargs=True).remove)
        logits: Tensor = model(**{**inputs, "attention_mask": mask, "position_ids": place}).logits[:, -1]
    return logits


def _seen_by_layer(inputs: Mapping[str, Any], prefill: Prefill, n_layers: int) -> dict[int, Tensor]:
    """Tokens that layers after an event may see, bool (B, S), by layer."""
    seen = inputs["attention_mask"].bool()
    found: dict[int, Tensor] = {}
    present = list(prefill.places)
    for stage in prefill.stages:
        seen = seen.clone()
        for unit, row in enumerate(prefill.rows):
            seen[row, present[unit]] = False
            present[unit] = present[unit][stage.selection.row(unit)]
            seen[row, present[unit]] = True
        found.update(dict.fromkeys(range(stage.layer + 1, n_layers), seen))
    return found


def _with_mask(seen: Tensor, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Give a layer a causal mask over the tokens seen; what is masked is finite, because whole rows may be."""
    hidden = args[0] if args else kwargs["hidden_states"]
    mask = causal(hidden.shape[1], hidden.device) & seen.unsqueeze(1)
    return args, {**kwargs, "attention_mask": additive(mask, hidden.dtype).unsqueeze(1)}
