"""FasterVLM, whole."""

from __future__ import annotations

from torch import Tensor

from tokenprune.core.features import working_precision


def fastervlm(cls_attention: Tensor, keep: int) -> Tensor:
    """Keep the patches that [CLS] attends to most: (H, N) -> (K,)."""
    return working_precision(cls_attention).mean(0).argsort(descending=True, stable=True)[:keep]
