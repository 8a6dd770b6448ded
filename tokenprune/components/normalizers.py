"""From similarities to log conditional probabilities."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune.core.information import log_partition
from tokenprune.core.kinds import Normalizer, check_number

__all__ = ["MinMax", "Softmax"]


@dataclass(frozen=True)
class Softmax(Normalizer):
    """Temperature-scaled softmax (MI-Pruner, Eqn 15).

    Parameters
    ----------
    tau : float, default 0.1
        Temperature, in (0, 100]; the paper's ablation spans 0.01 to 0.5.
    """

    tau: float = 0.1

    def __post_init__(self) -> None:
        check_number(self, "tau", 0, 100, open_low=True)

    def statistics(self, similarity: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log of the row's partition function, (..., N, 1)."""
        return log_partition(similarity, self.tau, mask).unsqueeze(-1)

    def log_prob(self, similarity: Tensor, statistics: Tensor) -> Tensor:
        """Log softmax, elementwise."""
        return similarity * (1 / self.tau) - statistics


@dataclass(frozen=True)
class MinMax(Normalizer):
    """Min-max scaling of each row, divided by its sum (MI-Pruner, appendix B.2, Eqns 51-52 in the form they mean).

    Eqn 52 as printed sums only the entry itself, which would make every probability 1/M; the sum over the row is
    meant. A row's smallest entry gets probability 0. A row that is constant up to rounding becomes uniform: equal
    columns differ by rounding after a matrix product, and scaling would turn that noise into probabilities of 0 and 1.
    No temperature: the map does not change when a row is scaled or shifted.
    """

    def statistics(self, similarity: Tensor, mask: Tensor | None = None) -> Tensor:
        """Smallest entry, sum of the rises above it, and number of columns: (..., N, 3)."""
        columns = similarity.shape[-1]
        if mask is None:
            low, high = similarity.aminmax(dim=-1)
            total = (similarity - low.unsqueeze(-1)).sum(-1)
            size = torch.full_like(low, columns)
        else:
            seen = mask.unsqueeze(-2)
            low = similarity.masked_fill(~seen, math.inf).amin(-1)
            high = similarity.masked_fill(~seen, -math.inf).amax(-1)
            total = (similarity - low.unsqueeze(-1)).masked_fill(~seen, 0).sum(-1)
            size = mask.sum(-1, keepdim=True).to(low.dtype).expand_as(low)
        total = total.masked_fill(high - low <= 16 * torch.finfo(low.dtype).eps, 0)
        return torch.stack((low, total, size), dim=-1)

    def log_prob(self, similarity: Tensor, statistics: Tensor) -> Tensor:
        """Log of the scaled entry; -inf at the row's minimum."""
        low, total, size = (s.unsqueeze(-1) for s in statistics.unbind(-1))
        rise = (similarity - low).clamp_min(0)
        varied = total > 0
        return torch.where(varied, rise / torch.where(varied, total, 1.0), 1 / size).log()
