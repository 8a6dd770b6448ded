"""What a plugin of tokenprune looks like: parts, and a strategy that composes them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

import tokenprune as tp


@dataclass(frozen=True)
class Contrast(tp.Scorer):
    """Distance of each token from the mean token."""

    power: float = 1.0
    requires = frozenset({"visual"})

    def score(self, features: tp.Features) -> Tensor:
        tokens = features.visual.float()
        mask = features.valid().unsqueeze(-1)
        mean = (tokens * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
        return (tokens - mean).norm(dim=-1) ** self.power


def contrast(*, power: float = 1.0) -> tp.Strategy:
    """Keep the tokens that differ most from the mean."""
    return tp.Strategy(Contrast(power), name="example-contrast")
