"""Objectives made of sums over pairs: mean dispersion and graph cut."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tokenprune.components.pairwise import Cosine, CosineTable, reduced
from tokenprune.core.features import Features
from tokenprune.core.kinds import Objective, PairTable, Pairwise, check_number, entries_of
from tokenprune.kernels import run_columns, usable

__all__ = ["GraphCut", "MeanDispersion"]


@dataclass(frozen=True)
class _MeanState:
    """Minus the mean similarity to all tokens (B, N), sum over the picks' columns (B, N), number of picks (B, 1)."""

    isolation: Tensor
    table: PairTable
    total: Tensor
    picks: Tensor


@dataclass(frozen=True)
class MeanDispersion(Objective):
    """Max-sum dispersion: minus the mean similarity to the picks (TrimTokenator's RepMax).

    The first pick is the token that is least similar to all on average, itself included. Averaging over a growing
    number of picks makes these gains of a sequence: a gain may rise, and no set function has them.

    Parameters
    ----------
    pairs : Pairwise, default ``Cosine("visual")``
    """

    pairs: Pairwise = Cosine()  # noqa: RUF009  (immutable)
    uses_scores = False

    def start(self, features: Features, scores: Tensor) -> _MeanState:
        """Mean similarity of each token to all real tokens."""
        table = self.pairs.table(features)
        valid = features.valid()
        seen = reduced(table, lambda _, block: block.masked_fill(~valid.unsqueeze(1), 0).sum(-1))
        mean = seen / valid.sum(1, keepdim=True)
        return _MeanState(-mean, table, torch.zeros_like(mean), torch.zeros_like(mean[:, :1]))

    def gains(self, state: _MeanState) -> Tensor:
        """Minus the mean similarity to the picks; to all tokens before the first pick."""
        return torch.where(state.picks > 0, -state.total / state.picks.clamp_min(1), state.isolation)

    def take(self, state: _MeanState, index: Tensor) -> _MeanState:
        """Add the pick's column, in rows that pick one."""
        picked = (index >= 0).unsqueeze(-1)
        column = state.table.column(index.clamp_min(0))
        total = torch.where(picked, state.total + column, state.total)
        return replace(state, total=total, picks=state.picks + picked)

    def run(self, state: _MeanState, available: Tensor, counts: tuple[int, ...], repeats: bool) -> Tensor | None:
        """A program, where similarity is cosine or self-PMI by softmax."""
        options = entries_of(state.table) if usable(state.total) else None
        if options is not None:
            own = {"bonus": state.isolation, "folded": state.total, "picks": state.picks}
            options = {**options, **own, "fold": "sum", "gain": "mean"}
        return run_columns(options, available, counts, repeats)


@dataclass(frozen=True)
class _CutState:
    """Similarity to all tokens less lam times the self-similarity (B, N), and the sum over the picks' columns."""

    bonus: Tensor
    table: CosineTable
    total: Tensor


@dataclass(frozen=True)
class GraphCut(Objective):
    """Graph cut: f(S) = sum_{i in V, j in S} s_ij - lam sum_{i, j in S} s_ij, similarity s = (1 + cosine) / 2.

    Similarities are non-negative, so f is submodular; it is monotone only up to lam = 0.5.

    Parameters
    ----------
    lam : float, default 0.5
        Price of similarity among the picks, in [0, 10].
    signal : str, default "visual"
        Which signal's tokens are compared.
    """

    lam: float = 0.5
    signal: str = "visual"
    submodular = True
    non_increasing_gains = True
    uses_scores = False

    def __post_init__(self) -> None:
        check_number(self, "lam", 0, 10)

    @property
    def requires(self) -> frozenset[str]:  # type: ignore[override]
        """The signal compared."""
        return frozenset({self.signal})

    def start(self, features: Features, scores: Tensor) -> _CutState:
        """Similarity of each token to all real tokens, the first half of f."""
        table = CosineTable(features[self.signal])
        valid = features.valid().unsqueeze(1)
        seen = reduced(table, lambda _, block: _similarity(block).masked_fill(~valid, 0).sum(-1))
        own = _similarity(table.unit.square().sum(-1))
        return _CutState(seen - self.lam * own, table, torch.zeros_like(seen))

    def gains(self, state: _CutState) -> Tensor:
        """Marginal gain of f: s is symmetric, so a pair counts twice."""
        return state.bonus - 2 * self.lam * state.total

    def take(self, state: _CutState, index: Tensor) -> _CutState:
        """Add the pick's column, in rows that pick one."""
        column = _similarity(state.table.column(index.clamp_min(0)))
        return replace(state, total=torch.where((index >= 0).unsqueeze(-1), state.total + column, state.total))

    def run(self, state: _CutState, available: Tensor, counts: tuple[int, ...], repeats: bool) -> Tensor | None:
        """A program, where the cosine matrix is kept."""
        options = entries_of(state.table) if usable(state.total) else None
        if options is not None:
            own = {"bonus": state.bonus, "folded": state.total, "price": 2 * self.lam}
            options = {**options, **own, "entry": "similarity", "fold": "sum", "gain": "cut"}
        return run_columns(options, available, counts, repeats)


def _similarity(cosine: Tensor) -> Tensor:
    # rounding may put a cosine just outside [-1, 1]; a negative similarity would let gains rise
    return ((1 + cosine) / 2).clamp(0, 1)
