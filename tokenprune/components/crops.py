"""A budget for each run of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tokenprune.components.base import Problem, Selector, check_choice, check_count, check_number
from tokenprune.features import working_precision
from tokenprune.information import cosine_similarity

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
        out = torch.full((len(problem.counts), max(problem.counts)), -1, device=problem.scores.device)
        for row, count in enumerate(problem.counts):
            if count:
                picks = self._row(problem, row, count)
                out[row, : len(picks)] = picks
        return out

    def _row(self, problem: Problem, row: int, count: int) -> Tensor:
        places = problem.available[row].nonzero().flatten()
        n = len(places)
        crops = self.crops or max(1, 16 * n // (9 * count))
        runs = [run for run in torch.tensor_split(places, crops) if len(run)]
        scores = working_precision(problem.scores[row])
        holistic = [self._holistic(problem, row, run, scores[run]) for run in runs]
        weights = torch.stack([part.mean() for part in holistic]).clamp_min(0)
        counts = self._places(weights / (weights.sum() + EPS), [len(run) for run in runs], count)
        kept = []
        for run, part, k in zip(runs, holistic, counts, strict=True):
            ranking = scores[run] if self.within == "scores" else part
            kept.append(run if k >= len(run) else run[ranking.argsort(descending=True, stable=True)[:k]])
        return torch.cat(kept)

    def _holistic(self, problem: Problem, row: int, run: Tensor, scores: Tensor) -> Tensor:
        if len(run) == 1:
            return scores
        scaled = 1000 * scores
        if not self.alpha:
            return scaled
        tokens = problem.features[self.signal][row, run]
        cosine = cosine_similarity(tokens, tokens).fill_diagonal_(0)
        mean = cosine.sum(1, keepdim=True) / (len(run) - 1)
        # the diagonal's zeros count too, as in the official code
        variance = (cosine - mean).square().sum(1) / (len(run) - 1)
        return scaled + self.alpha * scaled.abs().mean() / (variance.mean() + EPS) * variance

    def _places(self, weights: Tensor, sizes: Sequence[int], count: int) -> list[int]:
        counts = [int(k) for k in (weights * count).floor().tolist()]
        ranked = weights.argsort(descending=True, stable=True).tolist()
        if self.overflow == "lose":
            for run in ranked[: count - sum(counts)]:
                counts[run] += 1
            return counts
        counts = [min(k, size) for k, size in zip(counts, sizes, strict=True)]
        while (left := count - sum(counts)) > 0:
            for run in [run for run in ranked if counts[run] < sizes[run]][:left]:
                counts[run] += 1
        return counts
