"""From a table of visual tokens by columns (text tokens) to one score a visual token.

With PMI tables these stand in a fixed order (the Renyi ladder): ``mean <= renyi(a) <= max <= lse <= max + log M``,
where mean is the Kullback-Leibler divergence of p(. | v_i) from the marginal and max its limit of infinite order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune.core.errors import ConfigError
from tokenprune.core.features import on_host
from tokenprune.core.kinds import Aggregator, check_count, check_number

__all__ = ["LogSumExp", "Max", "Mean", "Renyi", "Sum", "TopM"]


def _fill(table: Tensor, mask: Tensor | None, value: float) -> Tensor:
    return table if mask is None else table.masked_fill(~mask.unsqueeze(-2), value)


@dataclass(frozen=True)
class Max(Aggregator):
    """The strongest column (MI-Pruner, Eqn 19)."""

    def __call__(self, table: Tensor, log_weights: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """max_j table_ij."""
        return _fill(table, mask, -math.inf).amax(-1)


@dataclass(frozen=True)
class Mean(Aggregator):
    """Probability-weighted mean (MI-Pruner, Eqn 18): sum_j p(x_j | v_i) table_ij, with 0 * log 0 = 0.

    For PMI this is the Kullback-Leibler divergence of p(. | v_i) from the marginal. Without a distribution
    (plain similarities) all columns weigh the same.
    """

    def __call__(self, table: Tensor, log_weights: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """sum_j p_ij table_ij."""
        if log_weights is None:
            size = table.shape[-1] if mask is None else mask.sum(-1, keepdim=True)
            return _fill(table, mask, 0).sum(-1) / size
        weights = log_weights.exp()
        return _fill(torch.where(weights > 0, weights * table, 0), mask, 0).sum(-1)


@dataclass(frozen=True)
class Sum(Aggregator):
    """Unweighted sum over columns (the right side of MI-Pruner's Eqn 47).

    Not an estimate of mutual information: outcomes that a token makes improbable dominate it. Refuses tables with
    entries of -inf (the min-max normaliser makes one in every row).
    """

    def __call__(self, table: Tensor, log_weights: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """sum_j table_ij."""
        total = _fill(table, mask, 0).sum(-1)
        if on_host(total) and bool((total == -math.inf).any()):
            raise ConfigError(
                "aggregator 'sum' meets outcomes of probability 0 (PMI -inf), which normalizer 'minmax' always makes; "
                "use normalizer 'softmax', or aggregator 'max', 'mean', 'lse' or 'renyi'"
            )
        return total


@dataclass(frozen=True)
class LogSumExp(Aggregator):
    """log sum_j exp(table_ij), between max and max + log M (MI-Pruner, Eqns 40-41)."""

    def __call__(self, table: Tensor, log_weights: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """LSE over columns."""
        return torch.logsumexp(_fill(table, mask, -math.inf), dim=-1)


@dataclass(frozen=True)
class Renyi(Aggregator):
    """Renyi divergence of p(. | v_i) from the marginal: one knob from ``mean`` (order 1) to ``max`` (order inf).

    Parameters
    ----------
    order : float, default 2
        In (0, inf]. Divergences do not decrease with the order.
    """

    order: float = 2.0

    def __post_init__(self) -> None:
        check_number(self, "order", 0, math.inf, open_low=True)

    def __call__(self, table: Tensor, log_weights: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """log sum_j p_ij exp((order - 1) table_ij) / (order - 1)."""
        if log_weights is None:
            raise ConfigError("aggregator 'renyi' needs a table with a distribution (scorer 'pmi'), got similarities")
        if self.order == 1:
            return Mean()(table, log_weights, mask)
        if self.order == math.inf:
            return Max()(table, log_weights, mask)
        excess = self.order - 1
        if abs(excess) <= 0.5:
            # the sum is close to 1 here, and its logarithm would be mostly the rounding error of that 1
            weights = log_weights.exp()
            terms = torch.where(weights > 0, weights * torch.expm1(excess * table), 0)
            return _fill(terms, mask, 0).sum(-1).log1p() / excess
        # an order beyond the dtype's range is the limit of infinite order
        excess = min(excess, torch.finfo(table.dtype).max)
        top = Max()(table, mask=mask)
        terms = log_weights + excess * (table - top.unsqueeze(-1))
        terms = terms.masked_fill(log_weights == -math.inf, -math.inf)
        return top + torch.logsumexp(_fill(terms, mask, -math.inf), dim=-1) / excess


@dataclass(frozen=True)
class TopM(Aggregator):
    """Mean of the ``m`` largest columns (all of them where a row has fewer).

    Parameters
    ----------
    m : int, default 3
        At least 1; 1 is ``max``.
    """

    m: int = 3

    def __post_init__(self) -> None:
        check_count(self, "m", 1)

    def __call__(self, table: Tensor, log_weights: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Mean of the largest entries that exist and are finite."""
        top = _fill(table, mask, -math.inf).topk(min(self.m, table.shape[-1]), dim=-1).values
        real = top > -math.inf
        return torch.where(real, top, 0).sum(-1) / real.sum(-1).clamp_min(1)
