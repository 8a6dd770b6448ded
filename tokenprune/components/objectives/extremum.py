"""Objectives that see the picks through one extremum over a pairwise table: max-min dispersion, marginal relevance."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenprune.components import pairwise
from tokenprune.components.objectives.bounds import dispersion_optimality, sequence_optimality, stands
from tokenprune.components.objectives.modular import Modular
from tokenprune.components.pairwise import Cosine, CosineTable, DeferredTable, SelfPMI, reduced
from tokenprune.components.rounds import greedy_rounds, nearest_cosines
from tokenprune.core.errors import ConfigError, NonFiniteError
from tokenprune.core.features import Features, on_host
from tokenprune.core.kinds import (
    Objective,
    Oracle,
    PairTable,
    Pairwise,
    Problem,
    check_number,
    entries_of,
    extrema_of,
    overridden,
)
from tokenprune.core.optimality import Optimality, top_optimality
from tokenprune.kernels import run_columns, usable

__all__ = ["ExtremumObjective", "ExtremumState", "MaxMin", "MaximalMarginalRelevance"]


@dataclass(frozen=True)
class ExtremumState:
    """A bonus per token, the pairwise table, and the extremum over the picks' columns.

    The extremum is infinite in rows without a pick, None before any pick. Without a table picks change nothing: the
    bonus is the gain throughout.
    """

    bonus: Tensor
    table: PairTable | None
    extremum: Tensor | None = None


class ExtremumObjective(Objective):
    """An objective that sees the picks through one extremum over a pairwise table's columns.

    Extrema are exact in floating point, so folding the columns in one by one, or all from scratch for one candidate,
    gives the same bits: naive, lazy and vectorised greedy agree, ties included.
    """

    largest: ClassVar[bool]
    """True where the extremum is the maximum."""

    @abstractmethod
    def entry(self, column: Tensor) -> Tensor:
        """Turn a column of the table into what the extremum is taken over."""

    @abstractmethod
    def gain(self, bonus: Any, extremum: Any) -> Any:
        """Gain of candidates, elementwise, once something has been picked (tensors or NumPy numbers)."""

    def gains(self, state: ExtremumState) -> Tensor:
        """The bonus before the first pick, the gain from then on."""
        if state.extremum is None:
            return state.bonus
        return torch.where(state.extremum.isinf(), state.bonus, self.gain(state.bonus, state.extremum))

    @property
    def _fold(self) -> tuple[float, Callable[..., Tensor], Callable[..., Tensor]]:
        """The extremum over nothing, of two tensors, and along an axis."""
        return (-math.inf, torch.maximum, torch.amax) if self.largest else (math.inf, torch.minimum, torch.amin)

    def take(self, state: ExtremumState, index: Tensor) -> ExtremumState:
        """Fold in the picked token's column, in rows that pick one."""
        if state.table is None:
            return state
        nothing, of_two, _ = self._fold
        column = self.entry(state.table.column(index.clamp_min(0)))
        picked = index.unsqueeze(-1) >= 0
        if state.extremum is None:
            return replace(state, extremum=column.where(picked, nothing))
        return replace(state, extremum=torch.where(picked, of_two(state.extremum, column), state.extremum))

    def resume(self, state: ExtremumState, picks: Tensor) -> ExtremumState:
        """Fold all columns at once: an extremum does not depend on the order."""
        if state.table is None or not picks.shape[1]:
            return state
        nothing, of_two, along = self._fold
        columns = self.entry(state.table.columns(picks.clamp_min(0)))
        folded = along(columns.masked_fill((picks < 0).unsqueeze(-1), nothing), 1)
        return replace(state, extremum=folded if state.extremum is None else of_two(state.extremum, folded))

    def columns(self, state: ExtremumState, gain: str, **options: Any) -> dict[str, Any] | None:
        """Options of a program over columns or in rounds, where the table has entries for one and dtypes agree."""
        if state.table is None or not usable(state.bonus):
            return None
        entries = extrema_of(state.table) if state.bonus.dtype == torch.float32 else None
        entries = entries_of(state.table) if entries is None else entries
        if entries is None or entries.get("cosine", state.bonus).dtype != state.bonus.dtype:
            return None
        fold = "max" if self.largest else "min"
        return {**entries, "bonus": state.bonus, "folded": state.extremum, "fold": fold, "gain": gain, **options}

    def rounds(self, state: ExtremumState, available: Tensor, counts: tuple[int, ...], repeats: bool) -> Tensor | None:
        """Picks of one long sample on the host, in rounds; None elsewhere."""
        table, alone = state.table, len(counts) == 1 and counts[0] > 0 and not repeats
        if table is None or not alone or not on_host(state.bonus) or overridden(table, "between") or not table.long:
            return None
        before = None if state.extremum is None else state.extremum[0]

        def gains(bonus: Tensor, extremum: Tensor) -> Tensor:
            return self.gains(ExtremumState(bonus, table, extremum))

        known = (table, gains, self.entry, self._fold, state.bonus[0], before, available[0])
        try:
            return greedy_rounds(*known, counts[0], pairwise.BLOCK).unsqueeze(0)
        except NonFiniteError as error:
            raise NonFiniteError(f"{self!r}: {error}") from None

    def oracle(self, state: ExtremumState, row: int) -> Oracle:
        """Read single entries of the picks' columns, or none where there is no table."""
        return Modular().oracle(state.bonus, row) if state.table is None else _ExtremumOracle(self, state, row)


class _ExtremumOracle(Oracle):
    def __init__(self, objective: ExtremumObjective, state: ExtremumState, row: int) -> None:
        self.objective, self.state, self.row = objective, state, row
        self.bonus: NDArray[np.floating[Any]] = state.bonus[row].cpu().numpy()
        self.columns: list[NDArray[np.floating[Any]]] = []
        self.known: dict[int, tuple[int, Any]] = {}
        self.fold: Callable[[Any, Any], Any] = max if objective.largest else min

    def gain(self, candidate: int) -> float:
        if not self.columns:
            return float(self.bonus[candidate])
        done, extremum = self.known.get(candidate) or (1, self.columns[0][candidate])
        for column in self.columns[done:]:
            extremum = self.fold(extremum, column[candidate])
        self.known[candidate] = (len(self.columns), extremum)
        return float(self.objective.gain(self.bonus[candidate], extremum))

    def take(self, pick: int) -> None:
        assert self.state.table is not None
        index = torch.full(self.state.bonus.shape[:1], pick, device=self.state.bonus.device)
        column = self.objective.entry(self.state.table.column(index))
        self.columns.append(column[self.row].cpu().numpy())


@dataclass(frozen=True)
class MaximalMarginalRelevance(ExtremumObjective):
    """lam * relevance - (1 - lam) * redundancy with the most similar pick (MI-Pruner, Eqn 22 and Algorithm 1).

    The first pick is the most relevant token (Algorithm 1 leaves the maximum over no pick open). These are the gains
    of a greedy sequence, not of a set function: the same tokens picked in another order add up to another total.
    With ``lam=1`` the pairwise table is never made.

    Parameters
    ----------
    lam : float, default 0.5
        Weight of relevance, in [0, 1]. With 0 the first pick is a tie, so index 0.
    pairs : Pairwise, default ``SelfPMI()``
        What redundancy is measured with, entry [candidate, selected].
    """

    lam: float = 0.5
    pairs: Pairwise = SelfPMI()  # noqa: RUF009  (immutable)
    non_increasing_gains = True
    largest = True

    def __post_init__(self) -> None:
        check_number(self, "lam", 0, 1)

    @property
    def relevance_only(self) -> bool:
        """Whether redundancy counts for nothing, so that the picks are the top scores."""
        return self.lam == 1

    def start(self, features: Features, scores: Tensor) -> ExtremumState:
        """Relevance alone; the table, if there is to be one, waits until it is read."""
        table = None if self.relevance_only else DeferredTable(self.pairs, features)
        return ExtremumState(self.lam * scores, table)

    def entry(self, column: Tensor) -> Tensor:
        """Redundancy as it stands."""
        return column

    def gain(self, bonus: Any, extremum: Any) -> Any:
        """lam c_i - (1 - lam) max_j D_ij."""
        return bonus - (1 - self.lam) * extremum

    def optimality(self, problem: Problem, picks: Tensor) -> Optimality:
        """Against the best sequence of as many tokens, since there is no set function; with ``lam=1`` exactly."""
        stands(self)
        state = self.start(problem.features, problem.scores)
        if state.table is None:
            return top_optimality(replace(problem, scores=state.bonus), picks)
        if problem.context is not None:
            state = self.resume(state, problem.context)
        price = 1 - self.lam
        assert state.table is not None
        return sequence_optimality(self, problem, picks, state.bonus, state.table, state.extremum, price)

    def run(self, state: ExtremumState, available: Tensor, counts: tuple[int, ...], repeats: bool) -> Tensor | None:
        """A program, where redundancy counts and is cosine or self-PMI by softmax."""
        picks = run_columns(self.columns(state, "relevance", price=1 - self.lam), available, counts, repeats)
        return self.rounds(state, available, counts, repeats) if picks is None else picks


@dataclass(frozen=True)
class MaxMin(ExtremumObjective):
    """Max-min dispersion: distance to the nearest pick (DivPrune; the greedy farthest-point rule).

    The first pick is the most isolated token, the one whose nearest neighbour is farthest.

    Parameters
    ----------
    pairs : Pairwise, default ``Cosine("visual")``
        Similarity s; the distance is 1 - s.
    """

    pairs: Pairwise = Cosine()  # noqa: RUF009  (immutable)
    non_increasing_gains = True
    uses_scores = False
    largest = False

    def start(self, features: Features, scores: Tensor) -> ExtremumState:
        """Distance of each token to its nearest neighbour among real tokens."""
        table = self.pairs.table(features)
        known = extrema_of(table)
        if known is not None and known["entry"] == "cosine" and not overridden(self, "start", {"requires"}):
            from tokenprune.kernels import rounds  # needs Triton

            isolation = 1 - rounds.nearest_cosines(known["tokens"], features.visual_mask)
            return ExtremumState(isolation.masked_fill(isolation.isinf(), 0), table)
        if type(table) is CosineTable and table.long and on_host(table.tokens) and type(self) is MaxMin:
            isolation = 1 - nearest_cosines(table.unit, features.visual_mask, pairwise.BLOCK)
            return ExtremumState(isolation.masked_fill(isolation.isinf(), 0), table)
        valid = features.valid()

        def nearest(rows: slice, block: Tensor) -> Tensor:
            distance = self.entry(block).masked_fill(~valid.unsqueeze(1), math.inf)
            distance.diagonal(rows.start, dim1=1, dim2=2).fill_(math.inf)
            return distance.amin(-1)

        isolation = reduced(table, nearest)
        return ExtremumState(isolation.masked_fill(isolation.isinf(), 0), table)

    def entry(self, column: Tensor) -> Tensor:
        """Cosine distance."""
        return 1 - column

    def gain(self, bonus: Any, extremum: Any) -> Any:
        """Distance to the nearest pick."""
        return extremum

    def optimality(self, problem: Problem, picks: Tensor) -> Optimality:
        """By the smallest angle between picks, in radians, which the farthest-point rule makes large.

        Raises
        ------
        ConfigError
            The similarity is not the cosine, so that angles are no metric to go by.
        """
        stands(self)
        if type(self.pairs) is not Cosine:
            raise ConfigError(f"{self!r}: the best smallest angle is bounded for Cosine pairs, got {self.pairs!r}")
        return dispersion_optimality(self, problem, picks)

    def run(self, state: ExtremumState, available: Tensor, counts: tuple[int, ...], repeats: bool) -> Tensor | None:
        """A program, where similarity is cosine."""
        options = self.columns(state, "extremum")
        if options is not None:
            options = None if options["entry"] != "cosine" else {**options, "entry": "distance"}
        picks = run_columns(options, available, counts, repeats)
        return self.rounds(state, available, counts, repeats) if picks is None else picks
