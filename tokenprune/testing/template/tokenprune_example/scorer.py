"""The part that is new: how much a token matters."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

import tokenprune as tp


@dataclass(frozen=True)
class Detail(tp.Scorer):
    """Distance of each token from the average token of the picture.

    Parameters
    ----------
    power : float, default 1.0
        Of the distance; options of a part are its fields.
    """

    power: float = 1.0
    requires = frozenset({"visual"})  # the signals it reads; nothing else is collected from a model

    def score(self, features: tp.Features) -> Tensor:
        """Scores (B, N), higher is better; what stands at padding is ignored."""
        visual = features.visual.float()
        real = features.valid().unsqueeze(-1)
        average = (visual * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)
        return (visual - average).norm(dim=-1) ** self.power
