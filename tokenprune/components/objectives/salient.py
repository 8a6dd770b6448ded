"""Coverage by cosine, each gain weighed by how salient the token is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from tokenprune.components.objectives.facility import Coverage, CoverState
from tokenprune.core.features import Features
from tokenprune.core.information import cosine_similarity
from tokenprune.core.kinds import check_choice, check_number

__all__ = ["SalientCoverage"]


@dataclass(frozen=True)
class _Weighed(CoverState):
    """The table of cosines that count, and a weight for each token (B, N)."""

    weight: Tensor


@dataclass(frozen=True)
class SalientCoverage(Coverage):
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
    submodular = False
    monotone = False
    uses_scores = True

    def __post_init__(self) -> None:
        check_number(self, "alpha", 0, 100)
        check_choice(self, "combine", ("multi", "add"))

    @property
    def requires(self) -> frozenset[str]:  # type: ignore[override]
        """The signal compared."""
        return frozenset({self.signal})

    def start(self, features: Features, scores: Tensor) -> _Weighed:
        """Nothing is covered; padding covers and is covered by nothing."""
        tokens = features[self.signal]
        table = cosine_similarity(tokens, tokens).clamp_min(0)
        if features.visual_mask is not None:
            both = features.visual_mask.unsqueeze(1) & features.visual_mask.unsqueeze(2)
            table = table.masked_fill(~both, 0)
        weight = scores.to(table.dtype).clamp_min(0) ** self.alpha
        return _Weighed.of(table, weight)

    def gains(self, state: CoverState) -> Tensor:
        """Rise in coverage, weighed."""
        assert isinstance(state, _Weighed)
        gain = super().gains(state)
        return gain * state.weight if self.combine == "multi" else gain + state.weight

    def gains_of(self, state: CoverState, candidates: Tensor) -> Tensor:
        """Of some candidates."""
        assert isinstance(state, _Weighed)
        return super().gains_of(replace(state, weight=state.weight.gather(1, candidates)), candidates)
