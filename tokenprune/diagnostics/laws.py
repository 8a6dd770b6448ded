"""The laws of pruning as numbers, on any model and any inputs: what tests of an adapter are made of.

*Keep-all is the plain model* and *dropping is masking out*. And where nothing is dropped, attention is called as the
plain model calls it, which says on a CPU that an accelerator runs the same kernels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from tokenprune.core.errors import ConfigError, closest
from tokenprune.diagnostics.mask_out import mask_out
from tokenprune.hf.adapters.base import adapter_for
from tokenprune.hf.attach import attach
from tokenprune.hf.masks import narrow_layers
from tokenprune.hf.prepare import prepare
from tokenprune.hf.record import Prefill

__all__ = ["Way", "attention_calls", "difference", "drop", "forward", "keep_all", "widen_windows"]

Way = Literal["attach", "prepare"]
"""How a model is pruned."""


def forward(model: Any, inputs: Mapping[str, Any]) -> Tensor:
    """Logits of one forward pass, (B, S, vocabulary)."""
    with torch.no_grad():
        logits: Tensor = model(**inputs).logits
    return logits


def difference(a: Tensor, b: Tensor) -> float:
    """Largest difference of logits, as a share of the second ones' standard deviation."""
    a, b = a.float(), b.float()
    return float((a - b).abs().max() / b.std())


def keep_all(model: Any, inputs: Mapping[str, Any], strategy: Any = "similarity", way: Way = "attach") -> float:
    """How far logits are from the plain model's if everything is kept; padding is left out.

    Parameters
    ----------
    model : PreTrainedModel
    inputs : mapping
        What the processor returned.
    strategy : default "similarity"
        What :func:`tokenprune.attach` takes.
    way : str, default "attach"
        Or "prepare", whose position ids count real tokens: the plain model is given the same.

    Returns
    -------
    float
        See :func:`difference`.
    """
    real = inputs["attention_mask"].bool()
    if _checked(way) == "prepare":
        plain = forward(model, {**inputs, "position_ids": adapter_for(model).position_ids(inputs, real)})
        kept = forward(model, prepare(model, strategy, 1.0, **inputs))
    else:
        plain = forward(model, inputs)
        with attach(model, strategy, 1.0):
            kept = forward(model, inputs)
    return difference(kept[real], plain[real])


def drop(
    model: Any, inputs: Mapping[str, Any], keep: Any, strategy: Any = "similarity", way: Way = "attach", **options: Any
) -> tuple[float, Prefill]:
    """How far the last token's logits are from those of the whole prompt with the dropped tokens masked out.

    Parameters
    ----------
    model, inputs, strategy, way
        As in :func:`keep_all`. Layers that see a window must see the whole prompt (:func:`widen_windows`).
    keep
        Budget.
    **options
        Further ones of :func:`tokenprune.attach`.

    Returns
    -------
    error : float
        See :func:`difference`.
    prefill : Prefill
        What was dropped.
    """
    with attach(model, strategy, keep, **options) as run:
        last = forward(model, inputs)[:, -1]
    (prefill,) = run.history
    if _checked(way) == "prepare":
        last = forward(model, prepare(model, strategy, keep, **options, **inputs))[:, -1]
    with torch.no_grad():
        return difference(last, mask_out(model, inputs, prefill)), prefill


def widen_windows(model: Any, length: int = 4096) -> None:
    """Let every layer look back at the whole prompt; changes the model.

    Windows count the tokens that are left: where they are narrower than the prompt, dropping shows a layer more than
    masking out does, and the law is not about that.
    """
    config = model.config.get_text_config()
    if narrow_layers(config):
        config.sliding_window = length
        layers: Any = adapter_for(model).language_model.layers
        for layer in layers:
            if layer.self_attn.sliding_window:
                layer.self_attn.sliding_window = length


@contextmanager
def attention_calls() -> Iterator[list[tuple[Any, ...]]]:
    """While open, note how torch's attention function is called, by whichever module.

    Which kernel an accelerator runs depends on shapes, strides and dtype, on whether there is a mask, and on flags:
    equal lists mean equal kernels. Contents of masks are noted too.
    """
    calls: list[tuple[Any, ...]] = []
    attend = functional.scaled_dot_product_attention

    def noted(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **options: Any,
    ) -> Tensor:
        tensors = tuple((tuple(t.shape), t.stride(), t.dtype) for t in (query, key, value))
        mask = None if attn_mask is None else (attn_mask.dtype, attn_mask.tolist())
        calls.append((tensors, mask, dropout_p, is_causal, tuple(sorted(options.items()))))
        return attend(query, key, value, attn_mask, dropout_p, is_causal, **options)

    functional.scaled_dot_product_attention = noted  # type: ignore[assignment]
    try:
        yield calls
    finally:
        functional.scaled_dot_product_attention = attend


def _checked(way: str) -> str:
    if way not in get_args(Way):
        raise ConfigError(f"way: no {way!r}; {closest(way, get_args(Way))}")
    return way
