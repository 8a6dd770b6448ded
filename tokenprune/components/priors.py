"""How probable each visual token is before the text is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from tokenprune.core.errors import ConfigError, OptionTypeError
from tokenprune.core.features import Features, Grid, working_precision
from tokenprune.core.kinds import Prior, check_number

__all__ = ["Centre", "FittedPrior", "GoldenRatio", "PowerPoints", "Salience", "Thirds", "Uniform"]


def _normalised(log_weight: Tensor, features: Features) -> Tensor:
    if features.visual_mask is not None:
        log_weight = log_weight.masked_fill(~features.visual_mask, -math.inf)
    return log_weight - torch.logsumexp(log_weight, dim=-1, keepdim=True)


def _places(features: Features) -> Tensor:
    """Middle of each token in its picture or frame, (B, N, 2): down and across, from -1 to 1; 0 at padding.

    Each row by its own grids, so that rows of different pictures, and units of several, may stand in one batch.
    """
    if features.pictures is None:
        features["places"]  # raises, saying what is missing
    rows = [torch.cat([_middles(grid, features.device) for grid in grids]) for grids in features.pictures or ()]
    return torch.stack([pad(row, (0, 0, 0, features.n_visual - len(row))) for row in rows])


def _middles(grid: Grid, device: torch.device) -> Tensor:
    size = torch.tensor([grid.height, grid.width], device=device)
    return (2 * grid.coordinates(device)[:, 1:] + 1) / size - 1


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
    requires = frozenset({"places"})

    def __post_init__(self) -> None:
        check_number(self, "width", 0, 100, open_low=True)

    def log_prior(self, features: Features) -> Tensor:
        """Log-density on the grid, (B, N)."""
        log_weight = -_places(features).square().sum(-1) / (2 * self.width**2)
        return _normalised(log_weight, features)


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


@dataclass(frozen=True)
class PowerPoints(Prior):
    """A Gaussian around each of four points, left and right, above and below the middle.

    Parameters
    ----------
    width : float, default 0.25
        Standard deviation as a share of the picture's half side, in (0, 100].

    Attributes
    ----------
    away : float
        Of the points from the middle, as a share of the picture's half side.
    """

    width: float = 0.25
    away: ClassVar[float]
    requires = frozenset({"places"})

    def __post_init__(self) -> None:
        check_number(self, "width", 0, 100, open_low=True)

    def log_prior(self, features: Features) -> Tensor:
        """Log-density of the mixture on the grid, (B, N)."""
        # down and across are independent, and a point on either side is the nearer one's mirror image
        place = _places(features).unsqueeze(-1)
        points = torch.tensor([-self.away, self.away], device=features.device)
        log_weight = torch.logsumexp(-(place - points).square() / (2 * self.width**2), dim=-1).sum(-1)
        return _normalised(log_weight, features)


class Thirds(PowerPoints):
    """Around the four points where thirds of the picture meet, a rule of composition."""

    away = 1 / 3


class GoldenRatio(PowerPoints):
    """Around the four points that divide both sides of the picture by the golden ratio."""

    away = math.sqrt(5) - 2


@dataclass(frozen=True)
class FittedPrior(Prior):
    """Probabilities of coarse cells of the picture, estimated from questions (``tokenprune tune`` does).

    The tokens of a cell share its weight, whatever the grid; finer cells than tokens count where a token's middle lies.

    Parameters
    ----------
    weights : sequence of rows of float
        Relative weight per area of each cell, positive.
    """

    weights: tuple[tuple[float, ...], ...] = ((1.0,),)
    requires = frozenset({"places"})

    def __post_init__(self) -> None:
        rows = self.weights
        whole = isinstance(rows, Sequence) and not isinstance(rows, str) and rows
        if not whole or not all(isinstance(row, list | tuple) and row for row in rows):
            raise OptionTypeError(f"FittedPrior.weights must be rows of numbers, got {rows!r}")
        cells = [cell for row in rows for cell in row]
        if not all(isinstance(cell, int | float) and not isinstance(cell, bool) for cell in cells):
            raise OptionTypeError(f"FittedPrior.weights must be rows of numbers, got {rows!r}")
        if len({len(row) for row in rows}) != 1 or not all(0 < cell < math.inf for cell in cells):
            raise ConfigError(f"FittedPrior.weights must be positive, in rows of one length, got {rows!r}")
        object.__setattr__(self, "weights", tuple(tuple(map(float, row)) for row in rows))

    def log_prior(self, features: Features) -> Tensor:
        """Log-weight of the cell that each token's middle lies in, (B, N)."""
        table = torch.tensor(self.weights, device=features.device).log()
        size = torch.tensor(table.shape, device=features.device)
        cell = ((_places(features) + 1) / 2 * size).long().minimum(size - 1)
        return _normalised(table[cell[..., 0], cell[..., 1]], features)
