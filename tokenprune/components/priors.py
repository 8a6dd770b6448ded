"""How probable each visual token is before the text is known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from tokenprune.core.features import Features, Grid, working_precision
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
    """A Gaussian around the middle of each picture (photographers' bias).

    Parameters
    ----------
    width : float, default 0.5
        Standard deviation as a share of the picture's half side, in (0, 100].

    Notes
    -----
    A unit of several pictures (a thumbnail and tiles, all frames) has a middle in each, and all pictures weigh alike
    token by token. Where tiles lie in the whole picture is not known.
    """

    width: float = 0.5
    requires = frozenset({"places"})

    def __post_init__(self) -> None:
        check_number(self, "width", 0, 100, open_low=True)

    def log_prior(self, features: Features) -> Tensor:
        """Log-density on the grids, (B, N)."""
        if features.pictures is None:
            features["places"]  # raises, saying what is missing
        rows = [torch.cat([_off_middle(grid, features.device) for grid in grids]) for grids in features.pictures or ()]
        padded = torch.stack([pad(row, (0, features.n_visual - len(row))) for row in rows])
        return _normalised(-padded / (2 * self.width**2), features)


def _off_middle(grid: Grid, device: torch.device) -> Tensor:
    """Squared distance of each token from the middle of its frame, half sides as units, (frames height width,)."""
    row, column = (
        ((2 * torch.arange(side, device=device) + 1) / side - 1).square() for side in (grid.height, grid.width)
    )
    return (row.unsqueeze(1) + column).flatten().repeat(grid.frames)


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
