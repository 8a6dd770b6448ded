"""Encoder attention, whole."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from tokenprune.core.errors import ConfigError
from tokenprune.core.features import working_precision


def attention(
    keep: int,
    *,
    received_attention: Tensor | None = None,
    cls_attention: Tensor | None = None,
    source: Literal["received", "cls"] = "received",
) -> Tensor:
    """Keep the tokens that receive most attention: (N,) of the other patches, or (H, N) of [CLS] -> (K,)."""
    signal = received_attention if source == "received" else cls_attention
    if signal is None:
        raise ConfigError(f"attention: source {source!r} needs the signal '{source}_attention'")
    score = working_precision(signal)
    score = score if source == "received" else score.mean(0)
    return score.argsort(descending=True, stable=True)[:keep]
