"""Mergers that append one token made of what was dropped, in a place that a selector holds back as its last pick."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune.core.features import Features, working_precision
from tokenprune.core.indexing import as_mask, gather_tokens, left_aligned
from tokenprune.core.information import unit_norm
from tokenprune.core.kinds import Merged, Merger, check_count

__all__ = ["AbsorbNeighbours", "MeanOfRest", "nearest_slots", "without_last"]


def without_last(order: Tensor) -> tuple[Tensor, Tensor]:
    """Picks less the last real one of each row, (B, K), -1 as padding; and that one as a bool mask, (B, K)."""
    last = torch.arange(order.shape[1], device=order.device) == (order >= 0).sum(1, keepdim=True) - 1
    return order.masked_fill(last, -1), last


def complement(picks: Tensor, valid: Tensor) -> Tensor:
    """Real positions that are not among the picks, ascending: (B, N), -1 as padding.

    Where picks repeat, so many of the lowest are left out as well, as the published code of one method does.
    """
    rest = valid & ~as_mask(picks, valid.shape[1])
    repeated = (picks >= 0).sum(1, keepdim=True) - as_mask(picks, valid.shape[1]).sum(1, keepdim=True)
    rest &= rest.cumsum(1) > repeated
    place = torch.arange(valid.shape[1], device=valid.device).expand_as(valid)
    return left_aligned(place.masked_fill(~rest, -1))


def nearest_slots(metric: Tensor, centres: Tensor, slots: Tensor, count: int) -> Tensor:
    """For each centre the slots with the most similar tokens, itself left out; a slot may be near to several.

    Parameters
    ----------
    metric : Tensor, (B, N, k)
        Cosine in this space decides; ties go to the first slot.
    centres : Tensor, (B, C)
        Positions, -1 as padding; they are the first C slots.
    slots : Tensor, (B, S)
        Positions, -1 as padding.
    count : int
        How many slots; rows with fewer others have them all.

    Returns
    -------
    bool Tensor, (B, C, S)
    """
    unit = unit_norm(metric)
    similarity = gather_tokens(unit, centres) @ gather_tokens(unit, slots).mT
    place = torch.arange(slots.shape[1], device=slots.device)
    other = (slots >= 0).unsqueeze(1) & (place != place[: centres.shape[1]].unsqueeze(1))
    best = similarity.masked_fill(~other, -torch.inf).argsort(dim=-1, descending=True, stable=True)[..., :count]
    near = torch.zeros_like(similarity, dtype=torch.bool).scatter(2, best, True)
    return near & other & (centres >= 0).unsqueeze(-1)


@dataclass(frozen=True)
class AbsorbNeighbours(Merger):
    """Add to each kept token its nearest tokens, weighed; and sum up the dropped ones in one token more (PruMerge).

    Tokens enter the language model in the order picked; the token more stands at the last pick, whose own patch is
    dropped. A token may be absorbed by several others, kept ones absorb one another, and weights are not normalised.

    Parameters
    ----------
    metric : str, default "wide_keys@-1"
        Signal in which tokens are compared.
    weights : str, default "cls_wide_attention@-1"
        Signal (B, N) that weighs what is absorbed.
    values : str, default "encoder"
        Signal that is merged.
    neighbours : int, default 32
        Tokens absorbed by each; all others where there are fewer.
    """

    metric: str = "wide_keys@-1"
    weights: str = "cls_wide_attention@-1"
    values: str = "encoder"
    neighbours: int = 32

    def __post_init__(self) -> None:
        check_count(self, "neighbours", 0)

    @property
    def requires(self) -> frozenset[str]:  # type: ignore[override]
        """The signals compared, weighed and merged."""
        return frozenset({self.metric, self.weights, self.values})

    def absorbed(self, features: Features, order: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Centres (B, K), the dropped (B, N), both as slots (B, S), and which slots each centre absorbs (B, K, S)."""
        centres, _ = without_last(order)
        rest = complement(centres, features.valid())
        slots = torch.cat([centres, rest], dim=1)
        return centres, rest, slots, nearest_slots(features[self.metric], centres, slots, self.neighbours)

    def merge(self, features: Features, order: Tensor) -> Merged:
        """Merge in the space of ``values``."""
        centres, rest, slots, near = self.absorbed(features, order)
        values = working_precision(features[self.values])
        weights = working_precision(features[self.weights]).to(values.dtype)
        weighed = values * weights.unsqueeze(-1)
        made = gather_tokens(values, centres) + near.to(values.dtype) @ gather_tokens(weighed, slots)
        last = (order >= 0).sum(1) - 1
        place = last.view(-1, 1, 1).expand(-1, 1, made.shape[-1])
        made = made.scatter(1, place, gather_tokens(weighed, rest).sum(1, keepdim=True))
        return Merged(made, _distinct(order, features.valid()), self.values)


def _distinct(order: Tensor, valid: Tensor) -> Tensor:
    """Exchange picks that repeat an earlier one for the lowest positions that are not picked."""
    place = torch.arange(order.shape[1], device=order.device)
    earlier = (order.unsqueeze(2) == order.unsqueeze(1)) & (place < place.unsqueeze(1))
    again = earlier.any(2) & (order >= 0)
    free = complement(order.masked_fill(again, -1), valid)
    spare = free.gather(1, (again.cumsum(1) - 1).clamp(0, free.shape[1] - 1))
    return torch.where(again, spare, order)


@dataclass(frozen=True)
class MeanOfRest(Merger):
    """One token more: the plain mean of those that were dropped, behind the kept ones in raster order (TRIM).

    It stands at the last pick, whose own patch is dropped.

    Parameters
    ----------
    values : str, default "encoder"
        Signal that is averaged.
    """

    values: str = "encoder"

    @property
    def requires(self) -> frozenset[str]:  # type: ignore[override]
        """The signal averaged."""
        return frozenset({self.values})

    def merge(self, features: Features, order: Tensor) -> Merged:
        """Kept tokens ascending, then the mean."""
        values = working_precision(features[self.values])
        kept, last = without_last(order)
        n = features.n_visual
        ranked = kept.where(kept >= 0, n).sort(dim=1).values
        kept = ranked.where(ranked < n, -1)
        rest = features.valid() & ~as_mask(kept, n)
        mean = (values * rest.unsqueeze(-1)).sum(1, keepdim=True) / rest.sum(1).view(-1, 1, 1)
        source = torch.where(last, order, kept)
        return Merged(torch.where(last.unsqueeze(-1), mean, gather_tokens(values, kept)), source, self.values)
