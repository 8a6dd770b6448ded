"""Numbers of the host where kernels and tensor operations need them, without making the host wait."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["constant"]


def constant(values: tuple[int, ...], device: torch.device) -> Tensor:
    """Whole numbers of the host as an int64 tensor (B,) that is not to be written to.

    Equal numbers are filled in where they are needed. Others are copied to an accelerator once and remembered, because
    a copy makes the host wait and cannot be part of a captured graph.
    """
    if len(set(values)) == 1:
        return torch.full((len(values),), values[0], device=device)
    return torch.tensor(values) if device.type == "cpu" else _copied(values, device)


@lru_cache(maxsize=256)
def _copied(values: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device)
