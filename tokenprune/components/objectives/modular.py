"""The sum of scores."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tokenprune.core.features import Features
from tokenprune.core.kinds import Objective

__all__ = ["Modular"]


@dataclass(frozen=True)
class Modular(Objective):
    """The sum of the scores: greedy is then top-k, and exact."""

    modular = True
    submodular = True
    non_increasing_gains = True

    def start(self, features: Features, scores: Tensor) -> Tensor:
        """The scores themselves."""
        return scores

    def gains(self, state: Tensor) -> Tensor:
        """The scores, whatever was picked."""
        return state

    def take(self, state: Tensor, index: Tensor) -> Tensor:
        """Nothing changes."""
        return state
