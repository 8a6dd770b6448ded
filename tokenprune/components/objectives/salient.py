"""Coverage by cosine, each gain weighed by how salient the token is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from tokenprune.core.features import Features
from tokenprune.core.information import cosine_similarity
from tokenprune.core.kinds import Objective, check_choice, check_number

__all__ = ["SalientCoverage"]


@dataclass(frozen=True)
class _State:
    """Cosines that count (B, N, N), the best pick of each row of them (B, N), and weights (B, N)."""

    table: Tensor
    best: Tensor
    weight: Tensor


@dataclass(frozen=True)
class SalientCoverage(Objective):
    """How much better a token's picks would cover all tokens, times or plus its own score (SCOPE).

    Coverage of a token is the largest cosine to a pick, at least 0. The rise in total coverage is monotone and
    submodular; weighed by scores it is the gain of no set function, but never rises. A pick costs O(N^2).

    Parameters
    ----------
    signal : str, default "encoder"
        Space in which tokens are compared.
    alpha : float, default 1.0
        Power of the scores, which count as at least 0.
    combine : str, default "multi"
        ``multi``: gains times scores; ``add``: gains plus scores.
    """

    signal: str = "encoder"
    alpha: float = 1.0
    combine: Literal["multi", "add"] = "multi"
    non_increasing_gains = True

    def __post_init__(self) -> None:
        check_number(self, "alpha", 0, 100)
        check_choice(self, "combine", ("multi", "add"))

    @property
    def requires(self) -> frozenset[str]:  # type: ignore[override]
        """The signal compared."""
        return frozenset({self.signal})

    def start(self, features: Features, scores: Tensor) -> _State:
        """Nothing is covered; padding covers and is covered by nothing."""
        tokens = features[self.signal]
        table = cosine_similarity(tokens, tokens).clamp_min(0)
        if features.visual_mask is not None:
            both = features.visual_mask.unsqueeze(1) & features.visual_mask.unsqueeze(2)
            table = table.masked_fill(~both, 0)
        weight = scores.to(table.dtype).clamp_min(0) ** self.alpha
        return _State(table, torch.zeros_like(table[:, :, 0]), weight)

    def gains(self, state: _State) -> Tensor:
        """Rise in coverage, added up in float64 so that the order of addition decides nothing, and weighed."""
        rise = (state.table - state.best.unsqueeze(-1)).clamp_min_(0)
        gain = rise.sum(1, dtype=torch.float64).to(rise.dtype)
        return gain * state.weight if self.combine == "multi" else gain + state.weight

    def take(self, state: _State, index: Tensor) -> _State:
        """Let the pick cover what it covers better."""
        column = index.clamp_min(0).view(-1, 1, 1).expand(-1, state.table.shape[1], 1)
        covered = torch.maximum(state.best, state.table.gather(2, column).squeeze(-1))
        return replace(state, best=torch.where((index >= 0).unsqueeze(-1), covered, state.best))
