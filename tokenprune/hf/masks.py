"""Which tokens see which, as attention masks: made in one place, in the form that an attention implementation takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokenprune.hf.attention_tap import implementation

__all__ = ["additive", "as_taken", "causal", "causal_over", "narrow_layers"]


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
