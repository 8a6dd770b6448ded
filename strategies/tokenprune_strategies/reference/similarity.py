"""Similarity to the prompt, whole."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn.functional import normalize

from tokenprune.core.features import working_precision


def similarity(visual: Tensor, text: Tensor, keep: int, *, aggregator: Literal["max", "mean"] = "max") -> Tensor:
    """Keep the tokens most similar to the prompt: (N, d), (T, d) -> (K,)."""
    v, t = (normalize(working_precision(x), dim=-1) for x in (visual, text))
    cosine = v @ t.T
    score = cosine.amax(1) if aggregator == "max" else cosine.mean(1)
    return score.argsort(descending=True, stable=True)[:keep]
