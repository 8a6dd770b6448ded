"""Dropped tokens added to kept ones, one after the other, each time by halves (HoliTom inside the language model)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune.components.mergers import nearest_centre
from tokenprune.core.errors import ConfigError
from tokenprune.core.features import Features, working_precision
from tokenprune.core.indexing import as_mask, gather_tokens
from tokenprune.core.kinds import Merged, Merger, check_number
from tokenprune.core.layer_kinds import KeepRule, LayerContext
from tokenprune.core.selection import Selection

__all__ = ["RunningHalves", "ShareOfPresent"]


@dataclass(frozen=True)
class RunningHalves(Merger):
    """Each dropped token, in raster order, is averaged with the most similar kept one as it then is: h <- (h + x) / 2.

    Similarity is the cosine of the states before. So the last token that joins weighs as much as all before it.
    """

    requires = frozenset({"visual"})
    neutral = True

    def merge(self, features: Features, order: Tensor) -> Merged:
        """Kept tokens in raster order."""
        visual = working_precision(features.visual)
        kept = Selection.from_order(order, features.n_visual).indices
        dropped = features.valid() & ~as_mask(order, features.n_visual)
        nearest = nearest_centre(visual, kept)
        joins = torch.nn.functional.one_hot(nearest, kept.shape[1]).bool() & dropped.unsqueeze(-1)
        # a token's weight is halved by itself and by every one that joins after it
        later = joins.flip(1).cumsum(1).flip(1)
        weight = torch.exp2(-later.to(visual.dtype)).masked_fill(~joins, 0)
        own = torch.exp2(-joins.sum(1).to(visual.dtype)).unsqueeze(-1)
        return Merged(own * gather_tokens(visual, kept) + weight.mT @ visual, kept)


@dataclass(frozen=True)
class ShareOfPresent(KeepRule):
    """A share of the tokens that are there, rounded half to even.

    Parameters
    ----------
    share : float
    """

    share: float

    def __post_init__(self) -> None:
        check_number(self, "share", 0, 1)
        if not self.share:
            raise ConfigError("ShareOfPresent.share must be above 0")

    def counts(self, context: LayerContext) -> tuple[int, ...]:
        """round(share * present)."""
        return tuple(round(present * self.share) for present in context.present)
