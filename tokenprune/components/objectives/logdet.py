"""Log-determinant: quality and diversity in one volume."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tokenprune.components.pairwise import CosineTable, too_long
from tokenprune.core.features import Features
from tokenprune.core.kinds import Objective, check_number
from tokenprune.kernels import usable

__all__ = ["LogDeterminant"]

LEAST_QUALITY = 1e-6
"""Scores below it count as this much: a quality is positive."""


@dataclass(frozen=True)
class _VolumeState:
    """Quality (B, N), cosine table, rows of the Cholesky factor so far (B, t, N), conditional variances (B, N).

    No variance lies below ``least`` (B, N), the ridge's share of it, whatever rounding says.
    """

    quality: Tensor
    table: CosineTable
    rows: Tensor
    variance: Tensor
    least: Tensor


@dataclass(frozen=True)
class LogDeterminant(Objective):
    """log det L_S with L_ij = q_i (s_ij + ridge [i = j]) q_j: MAP of a determinantal point process (CDPruner).

    The scores are the qualities q, cosine of a signal is the similarity s. A gain is the log of a candidate's variance
    given the picks. Each pick adds one row to the Cholesky factor (the fast greedy MAP of Chen et al., NeurIPS 2018):
    O(t N) for pick t, O(K^2 N) in all, in float64.

    The ridge keeps L positive definite: with more picks than the rank of the features the exact variance is 0, and
    a rounded one may be negative. Tokens that add no volume are then taken by quality.

    Parameters
    ----------
    signal : str, default "visual"
        Whose cosines are the similarity.
    ridge : float, default 1e-10
        In [1e-12, 1].
    """

    signal: str = "visual"
    ridge: float = 1e-10
    submodular = True
    non_increasing_gains = True

    def __post_init__(self) -> None:
        check_number(self, "ridge", 1e-12, 1)

    @property
    def requires(self) -> frozenset[str]:  # type: ignore[override]
        """The signal compared."""
        return frozenset({self.signal})

    def start(self, features: Features, scores: Tensor) -> _VolumeState:
        """Variances with nothing picked: q_i^2 (s_ii + ridge)."""
        table = CosineTable(features[self.signal].double())
        quality = scores.double().clamp_min(LEAST_QUALITY)
        square = quality.square()
        variance = square * (table.unit.square().sum(-1) + self.ridge)
        none = variance.new_empty(len(variance), 0, variance.shape[1])
        return _VolumeState(quality, table, none, variance, self.ridge * square)

    def gains(self, state: _VolumeState) -> Tensor:
        """Log of the conditional variances."""
        return state.variance.log()

    def take(self, state: _VolumeState, index: Tensor) -> _VolumeState:
        """Add the picked token's row to the factor; a row of zeros where none is picked."""
        pick = index.clamp_min(0).unsqueeze(-1)
        quality = state.quality.gather(1, pick)
        kernel = quality * state.quality * state.table.column(pick.squeeze(-1))
        kernel = kernel.scatter_add(1, pick, self.ridge * quality.square())
        at_pick = state.rows.gather(2, pick.unsqueeze(1).expand(-1, state.rows.shape[1], 1))
        row = (kernel - (state.rows * at_pick).sum(1)) / state.variance.gather(1, pick).sqrt()
        row = torch.where((index >= 0).unsqueeze(-1), row, 0.0)
        variance = torch.maximum(state.variance - row.square(), state.least)
        return replace(state, rows=torch.cat([state.rows, row.unsqueeze(1)], dim=1), variance=variance)

    def run(self, state: _VolumeState, available: Tensor, counts: tuple[int, ...], repeats: bool) -> Tensor | None:
        """A program, where the cosine matrix is kept or in rounds; its rounding differs in the last bits."""
        if not usable(state.variance):
            return None
        known = (state.quality, state.variance, state.least, state.rows)
        if not repeats and too_long(state.table.tokens):
            from tokenprune.kernels.volume import volume_rounds  # needs Triton

            return volume_rounds(state.table.unit, *known, available, counts)
        if state.table.gram is None:
            return None
        from tokenprune.kernels.volume import greedy_volume

        return greedy_volume(state.table.gram, *known, available, counts, repeats=repeats)
