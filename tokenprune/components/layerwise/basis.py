"""How badly a few basis tokens reconstruct the others, and what becomes of the basis (ApET)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tokenprune.components.mergers import sum_of_members
from tokenprune.core.features import Features, working_precision
from tokenprune.core.indexing import as_mask, gather_tokens, left_aligned
from tokenprune.core.kinds import (
    Merged,
    Merger,
    Problem,
    Scorer,
    Selector,
    check_choice,
    check_count,
    check_number,
)
from tokenprune.core.ranking import top_k
from tokenprune.core.selection import Selection

__all__ = [
    "BasisMerge",
    "FarthestPoints",
    "ReconstructionError",
    "WithBasis",
    "farthest_points",
    "reconstruction_error",
]


def farthest_points(tokens: Tensor, count: int, valid: Tensor, start: Tensor) -> Tensor:
    """Pick tokens one by one, each farthest (Euclid) from those picked: (B, N, d) -> (B, count), -1 as padding.

    Parameters
    ----------
    tokens : Tensor, (B, N, d)
    count : int
        How many; rows with fewer real tokens give what they have.
    valid : bool Tensor, (B, N)
    start : Tensor, (B,)
        The first pick of each row.
    """
    x = working_precision(tokens)
    nearest = torch.full(valid.shape, math.inf, dtype=x.dtype, device=x.device).masked_fill(~valid, -math.inf)
    picks = []
    pick = start
    for step in range(min(count, x.shape[1])):
        picks.append(pick.masked_fill(step >= valid.sum(1), -1))
        squared = (x - gather_tokens(x, pick.unsqueeze(1))).pow(2).sum(-1)
        nearest = torch.minimum(nearest, squared).scatter(1, pick.unsqueeze(1), -math.inf)
        pick = nearest.argmax(-1)
    return torch.stack(picks, dim=1)


def reconstruction_error(tokens: Tensor, basis: Tensor, ridge: float, *, double: bool = True) -> Tensor:
    """Distance of tokens to their ridge-regularised combination of basis tokens.

    Parameters
    ----------
    tokens : Tensor, (B, N, d)
    basis : Tensor, (B, k, d)
        Rows of zeros (padding) take no part.
    ridge : float
        Added to the diagonal of the basis tokens' Gram matrix.
    double : bool, default True
        Solve in float64. Nearly parallel basis tokens make the system so badly conditioned that float32 errors are
        noise.

    Returns
    -------
    Tensor, (B, N), in the precision of ``tokens``, float32 at least
    """
    x, s = working_precision(tokens), working_precision(basis)
    precision = x.dtype
    if double:
        x, s = x.double(), s.double()
    gram = s @ s.mT + ridge * torch.eye(s.shape[1], dtype=s.dtype, device=s.device)
    coefficients = torch.linalg.solve(gram, s @ x.mT)
    error: Tensor = (x - coefficients.mT @ s).norm(dim=-1)
    return error.to(precision)


@dataclass(frozen=True)
class FarthestPoints:
    """A basis of tokens that lie far from one another.

    Parameters
    ----------
    size : int, default 10
    start : int, default 0
        Index of the first basis token, or the next one that exists; the features' extra ``basis_start``, (B,),
        overrides it. (Published code draws it at random.)
    """

    size: int = 10
    start: int = 0

    def __post_init__(self) -> None:
        check_count(self, "size", 1)
        check_count(self, "start", 0)

    def of(self, features: Features, signal: str, among: Tensor | None = None) -> Tensor:
        """Indices of the basis tokens, (B, size), -1 as padding; of real tokens, or ``among`` these, bool (B, N)."""
        valid = features.valid() if among is None else among
        if "basis_start" in features:
            start = features["basis_start"]
        else:
            wanted = valid & (torch.arange(valid.shape[1], device=valid.device) >= self.start)
            start = torch.where(wanted.any(1), wanted.to(torch.int8).argmax(1), valid.to(torch.int8).argmax(1))
        return farthest_points(features[signal], self.size, valid, start)


@dataclass(frozen=True)
class ReconstructionError(Scorer):
    """Distance of each token to its best combination of basis tokens (ApET, Sec. 3).

    Parameters
    ----------
    basis : FarthestPoints, default 10 tokens
    ridge : float, default 1e-5
    signal : str, default "visual"
    double : bool, default True
        Solve in float64; published code does in float32.
    """

    basis: FarthestPoints = FarthestPoints()
    ridge: float = 1e-5
    signal: str = "visual"
    double: bool = True

    def __post_init__(self) -> None:
        check_number(self, "ridge", 0, math.inf, open_low=True)

    @property
    def requires(self) -> frozenset[str]:  # type: ignore[override]
        """The signal reconstructed."""
        return frozenset({self.signal})

    def score(self, features: Features) -> Tensor:
        """Errors, (B, N)."""
        tokens = features[self.signal]
        chosen = gather_tokens(tokens, self.basis.of(features, self.signal))
        return reconstruction_error(tokens, chosen, self.ridge, double=self.double)


@dataclass(frozen=True)
class WithBasis(Selector):
    """The tokens with the largest scores, and the basis itself as the last picks.

    Parameters
    ----------
    basis : FarthestPoints, default 10 tokens
        Never all of the budget: at least one token is picked by score.
    signal : str, default "visual"
    """

    basis: FarthestPoints = FarthestPoints()
    signal: str = "visual"

    @property
    def requires(self) -> frozenset[str]:  # type: ignore[override]
        """The signal that the basis is chosen in."""
        return frozenset({self.signal})

    def select(self, problem: Problem) -> Tensor:
        """Largest score first, then the basis in the order it was found."""
        basis = self.basis.of(problem.features, self.signal, problem.available)
        tails = [_tail(count, self.basis.size) for count in problem.counts]
        column = torch.arange(basis.shape[1], device=basis.device)
        basis = basis.masked_fill(column >= torch.tensor(tails, device=basis.device).unsqueeze(1), -1)
        heads = tuple(count - tail for count, tail in zip(problem.counts, tails, strict=True))
        open_ = problem.available & ~as_mask(basis, problem.available.shape[1])
        return left_aligned(torch.cat([top_k(problem.scores, heads, open_), basis], dim=1))[:, : max(problem.counts)]


def _tail(count: int, size: int) -> int:
    """How many of the kept tokens the basis takes: all of it, but one token at least takes members."""
    return max(0, min(size, count - 1))


@dataclass(frozen=True)
class BasisMerge(Merger):
    """Average every dropped token into the most similar kept one, sparing the last picks.

    Parameters
    ----------
    basis : FarthestPoints, default 10 tokens
        As many last picks take no members (all but one pick at most).
    overwrite : str, default "none"
        Whether the spared tokens are exchanged for basis tokens. ``none``: no (the picks are the basis already).
        ``order``: the i-th last pick takes the i-th basis token. ``raster``: the i-th spared position does. The last
        two put a basis token's content where another token was, as published code does.
    blend : float, default 1.0
        Share of the basis token in what an overwritten position holds.
    signal : str, default "visual"
        What is compared and merged.
    spare : bool, default True
        Whether there are such last picks; without them every kept token takes members.
    """

    basis: FarthestPoints = FarthestPoints()
    overwrite: Literal["none", "order", "raster"] = "none"
    blend: float = 1.0
    signal: str = "visual"
    spare: bool = True

    def __post_init__(self) -> None:
        check_choice(self, "overwrite", ("none", "order", "raster"))
        check_number(self, "blend", 0, 1)

    @property
    def requires(self) -> frozenset[str]:  # type: ignore[override]
        """The signal merged."""
        return frozenset({self.signal})

    @property
    def neutral(self) -> bool:  # type: ignore[override]
        """Nothing is put where another token was."""
        return self.overwrite == "none"

    def merge(self, features: Features, order: Tensor) -> Merged:
        """Merge in raster order."""
        values = working_precision(features[self.signal])
        n = features.n_visual
        counts = (order >= 0).sum(1)
        tail = (counts - 1).clamp(0, self.basis.size if self.spare else 0).unsqueeze(1)
        spared = torch.arange(order.shape[1], device=order.device) >= counts.unsqueeze(1) - tail
        takers = order.masked_fill(spared, -1)
        members = features.valid() & ~as_mask(order, n)
        sums, sizes = sum_of_members(values, values, takers, members)
        new = gather_tokens(values, order)
        new = torch.where(spared.unsqueeze(-1), new, (new + sums) / (1 + sizes).unsqueeze(-1))
        if self.overwrite != "none":
            new = self._overwritten(new, order, spared & (order >= 0), features)
        source = Selection.from_order(order, n).indices
        place = order.where(order >= 0, n).argsort(dim=1, stable=True)
        return Merged(gather_tokens(new, place.masked_fill(source < 0, -1)), source, self.signal)

    def _overwritten(self, new: Tensor, order: Tensor, spared: Tensor, features: Features) -> Tensor:
        basis = self.basis.of(features, self.signal)
        if self.overwrite == "order":
            rank = spared.cumsum(1) - 1
        else:
            before = (order.unsqueeze(1) < order.unsqueeze(2)) & spared.unsqueeze(1)
            rank = before.sum(-1)
        which = basis.gather(1, rank.clamp(0, basis.shape[1] - 1)).masked_fill(~spared, -1)
        content = gather_tokens(working_precision(features[self.signal]), which)
        return torch.where(spared.unsqueeze(-1), self.blend * content + (1 - self.blend) * new, new)
