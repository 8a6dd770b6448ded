"""Which tokens see which, as attention masks: made in one place, in the form that an attention implementation takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokenprune.hf.attention_tap import implementation

__all__ = [
    "additive",
    "as_taken",
    "by_layer",
    "causal",
    "causal_over",
    "narrow_layers",
    "of_prompt",
    "of_step",
    "window_of",
]

SLIDING = "sliding_attention"
"""A kind of layer, as configs name it: it looks back at the last tokens."""


def causal(length: int, device: torch.device) -> Tensor:
    """Bool (S, S), True where a token sees another: itself and what comes before."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


def causal_over(real: Tensor, *, new: int = 0) -> Tensor:
    """What the last tokens of a sequence see of the real ones up to themselves.

    Parameters
    ----------
    real : bool Tensor, (B, M)
        False at padding, and at what is not to be seen.
    new : int, optional
        How many tokens at the end ask; by default all of them do, and padding then sees itself, so that its softmax
        is over something.

    Returns
    -------
    bool Tensor, (B, L, M)
    """
    length = real.shape[1]
    if new:
        before = torch.ones(new, length, dtype=torch.bool, device=real.device).tril(length - new)
        return before & real.unsqueeze(1)
    own = torch.eye(length, dtype=torch.bool, device=real.device)
    return (causal(length, real.device) & real.unsqueeze(1)) | own


def additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where seen and the lowest number of a dtype elsewhere: finite, since whole rows may be hidden."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)


def as_taken(config: Any, seen: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask (B, 1, L, M) as the attention implementation takes it: added to logits by eager, else as it is."""
    return additive(seen, dtype) if implementation(config) == "eager" else seen


def narrow_layers(config: Any) -> list[str]:
    """Kinds of decoder layers that do not look back at all tokens (sliding windows), sorted."""
    return sorted(set(getattr(config, "layer_types", None) or ()) - {"full_attention"})


def window_of(config: Any) -> int | None:
    """How many tokens sliding layers see, themselves among them; None where no layer slides."""
    kinds = getattr(config, "layer_types", None)
    # where a config tells layers not apart, all of them slide
    slides = SLIDING in kinds if kinds else getattr(config, "use_sliding_window", True)
    window = getattr(config, "sliding_window", None)
    return int(window) if slides and window is not None else None


def by_layer(config: Any, full: Tensor | None, sliding: Tensor | None) -> Any:
    """Masks of both kinds, as a language model takes them: by name where its config tells layers apart."""
    return {"full_attention": full, SLIDING: sliding} if getattr(config, "layer_types", None) else sliding


def of_prompt(config: Any, mask: Tensor, dtype: torch.dtype, blocks: Tensor | None = None) -> Any:
    """Masks of prompts that are padded behind their ends, made of what is on the device.

    Parameters
    ----------
    config : PretrainedConfig
        Of the language model.
    mask : bool Tensor, (B, L)
        Real tokens; only its shape counts, since nobody looks at what comes behind an end.
    dtype : torch.dtype
        Of the hidden states.
    blocks : int64 Tensor, (B, L), optional
        Tokens with the same number see each other both ways; -1 at those that only look back.

    Returns
    -------
    Tensor, dict of str to Tensor, or None
        None where nothing is hidden but what comes later, and attention sees to that itself.
    """
    length, window = mask.shape[1], window_of(config)
    alone = implementation(config) != "eager" and blocks is None
    if window is None and alone:
        return None
    seen = causal(length, mask.device).expand(len(mask), 1, -1, -1)
    if blocks is not None:
        same = (blocks.unsqueeze(2) == blocks.unsqueeze(1)) & (blocks >= 0).unsqueeze(1)
        seen = seen | same.unsqueeze(1)
    full = None if alone else as_taken(config, seen, dtype)
    if window is None:
        return full
    if window >= length and getattr(config, "layer_types", None):
        return by_layer(config, full, full)
    near = ~torch.ones(length, length, dtype=torch.bool, device=mask.device).tril(-window)
    return by_layer(config, full, as_taken(config, seen & near, dtype))


def of_step(config: Any, seen: Tensor, dtype: torch.dtype) -> Any:
    """Masks of one new token over a cache.

    Parameters
    ----------
    config : PretrainedConfig
        Of the language model.
    seen : bool Tensor, (B, 1, 1, C)
        Places of real tokens, the new one among them, in the order in which they came.
    dtype : torch.dtype
        Of the hidden states.

    Returns
    -------
    Tensor, or dict of str to Tensor
    """
    full, window = as_taken(config, seen, dtype), window_of(config)
    if window is None:
        return full
    back = seen.long().flip(-1).cumsum(-1).flip(-1)
    return by_layer(config, full, as_taken(config, seen & (back <= window), dtype))
