"""How probable each visual token is before the text is known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune.core.errors import MissingSignalError
from tokenprune.core.features import Features, working_precision
from tokenprune.core.kinds import Prior, check_number

__all__ = ["Centre", "Salience", "Uniform"]


def _normalised(log_weight: Tensor, features: Features) -> Tensor:
    if features.visual_mask is not None:
        log_weight = log_weight.masked_fill(~features.visual_mask, -math.inf)
    return log_weight - torch.logsumexp(log_weight, dim=-1, keepdim=True)


@dataclass(frozen=True)
class Uniform(Prior):
    """p(v_i) = 1/N, "to avoid spatial bias" (MI-Pruner, Sec. 4.2)."""

    def log_prior(self, features: Features) -> None:
        """None: uniform."""
        return


@dataclass(frozen=True)
class Centre(Prior):
    """A Gaussian around the middle of the picture (photographers' bias).

    Parameters
    ----------
    width : float, default 0.5
        Standard deviation as a share of the picture's half side, in (0, 100].
    """

    width: float = 0.5

    def __post_init__(self) -> None:
        check_number(self, "width", 0, 100, open_low=True)

    def log_prior(self, features: Features) -> Tensor:
        """Log-density on the grid, (B, N)."""
        grid = features.grid
        if grid is None:
            raise MissingSignalError("the prior 'centre' needs Features(grid=Grid(height, width)), and grid is None")
        size = torch.tensor([grid.height, grid.width], device=features.device)
        place = (2 * grid.coordinates(features.device)[:, 1:] + 1) / size - 1
        log_weight = -place.square().sum(-1) / (2 * self.width**2)
        return _normalised(log_weight.expand(features.batch, -1), features)


@dataclass(frozen=True)
class Salience(Prior):
    """Proportional to the encoder's [CLS] attention, head mean.

    Parameters
    ----------
    floor : float, default 1e-6
        Smallest attention counted, in (0, 1].
    """

    floor: float = 1e-6
    requires = frozenset({"cls_attention"})

    def __post_init__(self) -> None:
        check_number(self, "floor", 0, 1, open_low=True)

    def log_prior(self, features: Features) -> Tensor:
        """Log of the attention, renormalised over the patches, (B, N)."""
        attention = working_precision(features["cls_attention"]).mean(1)
        return _normalised(attention.clamp_min(self.floor).log(), features)
