"""RMS norms in one program each, where a model takes seven small operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenprune.hf.patching import standing_in, turn_of

__all__ = ["fused_norm", "fused_norms"]


def fused_norm(module: nn.Module) -> Callable[..., Tensor] | None:
    """What does a norm's work in one program, up to rounding; None for other modules.

    None also for float32 on a GPU, where a program sums in another order: who computes in float32 wants the model's own
    numbers, and time is in half precision.
    """
    if not type(module).__name__.endswith("RMSNorm") or not hasattr(module, "variance_epsilon"):
        return None
    norm: Any = module
    if norm.weight.is_cuda and norm.weight.dtype == torch.float32:
        return None

    def forward(hidden_states: Tensor) -> Tensor:
        return F.rms_norm(hidden_states, norm.weight.shape, norm.weight, norm.variance_epsilon)

    return forward


@contextmanager
def fused_norms(model: nn.Module) -> Iterator[None]:
    """While open, all such norms of a model take one program each."""
    with turn_of(model), ExitStack() as stack:
        for module in model.modules():
            if (fused := fused_norm(module)) is not None:
                stack.enter_context(standing_in(module, "forward", fused))
        yield
