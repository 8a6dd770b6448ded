"""A budget for each run of tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from tokenprune.core.features import working_precision
from tokenprune.core.indexing import gather_tokens
from tokenprune.core.information import cosine_similarity
from tokenprune.core.kinds import Problem, Selector, check_choice, check_count, check_number
from tokenprune.kernels import constant

__all__ = ["CropBudgets"]

EPS = 1e-6


@dataclass(frozen=True)
class CropBudgets(Selector):
    """Share the budget among contiguous runs of tokens by their mean score, then take the best of each (HoloV).

    A token's holistic score is 1000 times its score plus ``alpha`` times the variance of its cosines within the run,
    scaled to the same mean. Because of that scaling a run's mean holistic score is (1 + alpha) times that of the
    plain scores, and the factor cancels in the shares: the features only matter in runs whose variance is close to 0,
    and where runs of one token (whose weight is the bare score, not 1000 times it) mix with longer ones.

    Parameters
    ----------
    crops : int, optional
        Number of runs. Default: max(1, floor(16/9 N/K)), which is 16 for 64 of 576 tokens (8 for 128, 5 for 192).
    overflow : str, default "redistribute"
        Where a run is given more places than it has tokens: ``redistribute`` the rest to the next best runs, or
        ``lose`` it, as the official code does (rows then keep fewer tokens than asked).
    within : str, default "scores"
        What ranks tokens inside a run: the ``scores`` (official code) or the ``holistic`` score (the paper's idea).
    alpha : float, default 0.09
        Weight of the variance, in [0, 100]; 0 never reads the features.
    signal : str, default "visual"
        Whose cosines the variance is of.
    """

    crops: int | None = None
    overflow: Literal["redistribute", "lose"] = "redistribute"
    within: Literal["scores", "holistic"] = "scores"
    alpha: float = 0.09
    signal: str = "visual"

    def __post_init__(self) -> None:
        check_choice(self, "overflow", ("redistribute", "lose"))
        check_choice(self, "within", ("scores", "holistic"))
        check_number(self, "alpha", 0, 100)
        if self.crops is not None:
            check_count(self, "crops", 1)

    @property
    def requires(self) -> frozenset[str]:  # type: ignore[override]
        """The signal, unless alpha is 0."""
        return frozenset({self.signal}) if self.alpha else frozenset()

    @property
    def fills_budget(self) -> bool:  # type: ignore[override]
        """Not where the places that overflow are lost."""
        return self.overflow != "lose"

    def select(self, problem: Problem) -> Tensor:
        """Run after run; inside a run best first, or ascending where all of it is kept."""
        runs = self._runs(problem)
        count = constant(problem.counts, runs.size.device).unsqueeze(1)
        scores = working_precision(problem.scores).gather(1, runs.places.flatten(1)).view(runs.places.shape)
        holistic = self._holistic(problem, runs, scores)
        given = self._places(runs, runs.mean(holistic).clamp_min(0), count)
        kept = torch.minimum(given, runs.size)
        ranking = (scores if self.within == "scores" else holistic).masked_fill(~runs.real, -math.inf)
        best = runs.places.gather(2, ranking.argsort(dim=2, descending=True, stable=True))
        listed = torch.where((given < runs.size).unsqueeze(2), best, runs.places)
        # a run's picks come after those of the runs before it; what is not picked goes to a spare column
        most = max(problem.counts)
        at = torch.arange(listed.shape[2], device=listed.device)
        target = (kept.cumsum(1) - kept).unsqueeze(2) + at
        target = torch.where(at < kept.unsqueeze(2), target, most)
        out = torch.full((len(listed), most + 1), -1, device=listed.device)
        return out.scatter_(1, target.flatten(1), listed.flatten(1))[:, :most]

    def _runs(self, problem: Problem) -> _Runs:
        sizes = problem.size()
        crops = tuple(
            self.crops or max(1, 16 * n // (9 * max(1, k))) for n, k in zip(sizes, problem.counts, strict=True)
        )
        device = problem.available.device
        n, c = constant(sizes, device).unsqueeze(1), constant(crops, device).unsqueeze(1)
        # as torch.tensor_split does: the first n mod c runs are longer by one, and those at the end may be empty
        run = torch.arange(max(min(pair) for pair in zip(sizes, crops, strict=True)), device=device)
        size = (n // c + (run < n % c)) * (run < c)
        first = run * (n // c) + torch.minimum(run, n % c)
        at = torch.arange(max(-(-n // c) for n, c in zip(sizes, crops, strict=True)), device=device)
        ascending = problem.available.to(torch.int8).argsort(dim=1, descending=True, stable=True)
        rank = (first.unsqueeze(2) + at).clamp_max(ascending.shape[1] - 1)
        places = ascending.gather(1, rank.flatten(1)).view(rank.shape)
        return _Runs(places, at < size.unsqueeze(2), size)

    def _holistic(self, problem: Problem, runs: _Runs, scores: Tensor) -> Tensor:
        scaled = 1000 * scores
        if self.alpha:
            # float64, so that neither rounding nor the padding of other rows decides between equal tokens
            tokens = gather_tokens(problem.features[self.signal], runs.places.flatten(1)).double()
            tokens = rearrange(tokens, "b (r l) d -> (b r) l d", l=runs.places.shape[2])
            cosine = rearrange(cosine_similarity(tokens, tokens), "(b r) l m -> b r l m", r=runs.places.shape[1])
            both = runs.real.unsqueeze(2) & runs.real.unsqueeze(3)
            cosine.masked_fill_(~both, 0).diagonal(dim1=2, dim2=3).fill_(0)
            others = (runs.size - 1).clamp_min(1).view(*runs.size.shape, 1)
            mean = cosine.sum(3) / others
            # the diagonal's zeros count too, as in the official code
            variance = (cosine - mean.unsqueeze(3)).masked_fill_(~both, 0).square().sum(3) / others
            share = runs.mean(scaled.abs()) / (runs.mean(variance) + EPS)
            scaled = scaled + (self.alpha * share.unsqueeze(2) * variance).to(scaled.dtype)
        return torch.where((runs.size == 1).unsqueeze(2), scores, scaled)

    def _places(self, runs: _Runs, weights: Tensor, count: Tensor) -> Tensor:
        """How many places each run is given: (B, R)."""
        weights = weights / (weights.sum(1, keepdim=True) + EPS)
        given = (weights * count).floor().long()
        ranked = weights.masked_fill(runs.size == 0, -1).argsort(dim=1, descending=True, stable=True)
        if self.overflow == "lose":
            return given + _first(runs.size > 0, count - given.sum(1, keepdim=True), ranked)
        given = torch.minimum(given, runs.size)
        # rounds in which every run with room is given one more; all that are complete at once
        rounds = torch.arange(runs.places.shape[2] + 1, device=count.device)
        after = torch.minimum(given.unsqueeze(2) + rounds, runs.size.unsqueeze(2))
        complete = (after.sum(1) <= count).sum(1, keepdim=True) - 1
        given = torch.minimum(given + complete, runs.size)
        return given + _first(given < runs.size, count - given.sum(1, keepdim=True), ranked)


@dataclass(frozen=True)
class _Runs:
    """Runs of candidates, padded to the longest: positions and what of them is real (B, R, L), lengths (B, R)."""

    places: Tensor
    real: Tensor
    size: Tensor

    def mean(self, values: Tensor) -> Tensor:
        """Mean over each run, (B, R, L) -> (B, R), summed in float64 so that padding does not show."""
        total = values.masked_fill(~self.real, 0).sum(2, dtype=torch.float64)
        return (total / self.size.clamp_min(1)).to(values.dtype)


def _first(flags: Tensor, limit: Tensor, ranked: Tensor) -> Tensor:
    """1 at the first ``limit`` (B, 1) flagged entries in the order ``ranked`` (B, R), else 0: (B, R)."""
    flagged = flags.gather(1, ranked)
    chosen = flagged & (flagged.cumsum(1) <= limit)
    return torch.zeros_like(ranked).scatter_(1, ranked, chosen.long())
