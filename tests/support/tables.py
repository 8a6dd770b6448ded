"""Parts made of given numbers, so that ties are exact and every entry is known."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from tokenprune import Features, PairTable, Pairwise, Problem, Scorer


class GivenTable(PairTable):
    """A stored table."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def column(self, index: Tensor) -> Tensor:
        return self.values[torch.arange(len(index)), :, index]

    def dense(self) -> Tensor:
        return self.values


@dataclass(frozen=True)
class GivenPairs(Pairwise):
    """Entries [candidate, selected] as given, (B, N, N)."""

    values: Tensor = field(hash=False, compare=False)

    def table(self, features: Features) -> GivenTable:
        return GivenTable(self.values)


@dataclass(frozen=True)
class ForbiddenPairs(Pairwise):
    """Must not be asked."""

    def table(self, features: Features) -> PairTable:
        raise AssertionError("the pairwise table was made")


@dataclass(frozen=True)
class GivenScores(Scorer):
    """Scores as given, (B, N)."""

    values: Tensor = field(hash=False, compare=False)

    def score(self, features: Features) -> Tensor:
        return self.values


def blank_features(batch: int, n: int) -> Features:
    """Features for parts that look at none."""
    return Features(torch.ones(batch, n, 1))


def problem(
    scores: Tensor,
    counts: tuple[int, ...],
    available: Tensor | None = None,
    context: Tensor | None = None,
    features: Features | None = None,
) -> Problem:
    """A problem over blank features, with every token available unless told otherwise."""
    batch, n = scores.shape
    available = torch.ones(batch, n, dtype=torch.bool) if available is None else available
    return Problem(features or blank_features(batch, n), scores, counts, available, context)


def rows(order: Tensor) -> list[list[int]]:
    """Picks of each row, without padding."""
    return [[i for i in row if i >= 0] for row in order.tolist()]
