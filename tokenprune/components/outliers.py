"""How many tokens stay where the scores themselves say so: as many as there are outliers among them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from tokenprune.components.selectors import Strided
from tokenprune.core.errors import ConfigError
from tokenprune.core.indexing import as_mask, left_aligned
from tokenprune.core.kinds import Problem, Selector, check_choice, check_count
from tokenprune.core.ranking import top_k

__all__ = ["OutlierGrid", "Outliers", "SalientAndGrid", "outlier_counts", "outliers"]

Pool = Literal["row", "batch"]


def outliers(scores: Tensor, valid: Tensor) -> Tensor:
    """Scores above the third quartile by more than 1.5 times the distance between quartiles, bool (B, N).

    Parameters
    ----------
    scores : Tensor, (B, N)
        Quartiles are those of each row's real tokens, interpolated linearly.
    valid : bool Tensor, (B, N)
    """
    known = scores.double().masked_fill(~valid, torch.nan)
    low, high = known.nanquantile(torch.tensor([0.25, 0.75], dtype=known.dtype, device=known.device), dim=1)
    above: Tensor = (known > (high + 1.5 * (high - low)).unsqueeze(1)) & valid
    return above


def outlier_counts(scores: Tensor, valid: Tensor, over: Pool = "row") -> tuple[int, ...]:
    """Outliers of each row.

    Over the ``batch`` quartiles are those of all rows together, and each row has the same share, ``int(n * share)``
    in floating point: what the published code of two methods does.
    """
    if over == "row":
        return tuple(outliers(scores, valid).sum(1).tolist())
    together = outliers(scores[valid].unsqueeze(0), valid[valid].unsqueeze(0))
    share = int(together.sum()) / together.numel()
    return tuple(int(size * share) for size in valid.sum(1).tolist())


@dataclass(frozen=True)
class Outliers(Selector):
    """As many tokens as there are outliers among the scores; the budget plays no part (PruMerge, TRIM).

    Parameters
    ----------
    fill : Selector
        Chooses so many, and the places held back.
    reserve : int, default 1
        Places on top, for tokens that a merger makes.
    over : str, default "row"
        Quartiles are those of each ``row``, or of the whole ``batch`` (official code: then the other images of a batch
        decide about this one, and all keep equally many).
    """

    fill: Selector
    reserve: int = 1
    over: Pool = "row"
    own_counts = True
    uses_budget = False

    def __post_init__(self) -> None:
        check_count(self, "reserve", 0)
        check_choice(self, "over", ("row", "batch"))

    def select(self, problem: Problem) -> Tensor:
        """Picks of ``fill``; at least one."""
        found = outlier_counts(problem.scores, problem.available, self.over)
        counts = tuple(max(1, count + self.reserve) for count in found)
        return self.fill.select(replace(problem, counts=counts))


@dataclass(frozen=True)
class SalientAndGrid(Selector):
    """Half of the budget by the scores, the other half at a regular stride; the last pick is held back (PruMerge+).

    Parameters
    ----------
    ratio : float, optional
        Share of the salient tokens that the published code was given; only with ``repeats``.
    repeats : bool, default False
        Do as the published code: the grid is laid over all tokens but the last, so that salient ones may be picked
        again, and budgets whose grid has another number of members are refused. By default the stride runs over the
        tokens that are left.
    """

    ratio: float | None = None
    repeats: bool = False
    neutral = False

    @property
    def distinct(self) -> bool:  # type: ignore[override]
        """Not where the grid repeats salient tokens."""
        return not self.repeats

    def select(self, problem: Problem) -> Tensor:
        """Salient tokens best first, then the grid, then the place held back."""
        grids = tuple((count - 1) // 2 for count in problem.counts)
        salient = tuple(count - 1 - grid for count, grid in zip(problem.counts, grids, strict=True))
        picks = top_k(problem.scores, salient, problem.available)
        if self.repeats:
            rows = [self._published(problem.available[row], count) for row, count in enumerate(grids)]
            return _with_grid(problem.available, picks, rows)[:, : max(problem.counts)]
        n = problem.available.shape[1]
        left = problem.available & ~as_mask(picks, n)
        grid = Strided().select(replace(problem, counts=grids, available=left, sizes=None))
        held = top_k(torch.zeros_like(problem.scores), (1,) * len(grids), left & ~as_mask(grid, n))
        return left_aligned(torch.cat([picks, grid, held], dim=1))[:, : max(problem.counts)]

    def _published(self, available: Tensor, count: int) -> Tensor:
        real = available.nonzero().flatten()
        step = int(1 / self.ratio) if self.ratio else len(real) // max(1, count)
        ranks = torch.arange(step // 2, len(real) - 1, step) if count else torch.arange(0)
        if len(ranks) != count:
            raise ConfigError(
                f"SalientAndGrid.repeats: a grid of stride {step} over {len(real)} tokens has {len(ranks)} members and "
                f"needs {count}, as the published code insists: leave repeats out, or give another budget"
            )
        return real[ranks.to(real.device)]


@dataclass(frozen=True)
class OutlierGrid(Selector):
    """The outliers among the scores and a regular grid, the finer the more outliers there are (PruMerge+).

    With k outliers of N tokens every ``int(int(N / k) / 3)``-th token is on the grid. The last pick is held back; the
    budget plays no part.

    Parameters
    ----------
    omit_last : bool, default False
        Never put the last token on the grid, as the published code.
    """

    omit_last: bool = False
    own_counts = True
    uses_budget = False

    def select(self, problem: Problem) -> Tensor:
        """Outliers best first, then the grid less the outliers, ascending, then the place held back."""
        counts = outlier_counts(problem.scores, problem.available)
        picks = top_k(problem.scores, counts, problem.available)
        rows = []
        for row, count in enumerate(counts):
            real = problem.available[row].nonzero().flatten()
            if not count:
                rows.append(real[:0])
                continue
            stride = max(1, int(int(1 / (count / len(real))) / 3))
            grid = real[: len(real) - self.omit_last : stride]
            rows.append(grid[~torch.isin(grid, picks[row, :count])])
        return _with_grid(problem.available, picks, rows)


def _with_grid(available: Tensor, picks: Tensor, grids: list[Tensor]) -> Tensor:
    """Put each row's grid behind its picks, and behind both the lowest position that is in neither."""
    grid = torch.nn.utils.rnn.pad_sequence(grids, batch_first=True, padding_value=-1)
    both = torch.cat([picks, grid], dim=1)
    free = available & ~as_mask(both, available.shape[1])
    held = top_k(torch.zeros(available.shape, device=available.device), (1,) * len(grids), free)
    # where nothing is left there is no place to hold back
    held = held.masked_fill(~free.any(1, keepdim=True), -1)
    order = left_aligned(torch.cat([both, held], dim=1))
    return order[:, : int((order >= 0).sum(1).max())]
