"""What replays of methods inside the language model share."""

from __future__ import annotations

import torch
from torch import Tensor


def spliced(sequence: Tensor, start: int, n: int, visual: Tensor) -> Tensor:
    """Exchange the ``n`` visual entries from ``start`` on: (L, ...) -> (L - n + m, ...)."""
    return torch.cat([sequence[:start], visual, sequence[start + n :]])
