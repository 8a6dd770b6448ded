"""What happens to the tokens that were not kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tokenprune.components.base import Merged, Merger, check_choice, check_number
from tokenprune.features import Features, working_precision
from tokenprune.indexing import as_mask, gather_tokens
from tokenprune.information import unit_norm

__all__ = ["NearestCentre", "sum_of_members"]


def sum_of_members(values: Tensor, metric: Tensor, centres: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
    """Assign members to their most similar centre and sum their values.

    Parameters
    ----------
    values : Tensor, (B, N, e)
    metric : Tensor, (B, N, k)
        Cosine in this space decides; ties go to the first centre.
    centres : Tensor, (B, C)
        Positions of the centres, -1 as padding.
    members : bool Tensor, (B, N)
        Tokens to assign.

    Returns
    -------
    sums : Tensor, (B, C, e)
    counts : Tensor, (B, C)
    """
    unit = unit_norm(metric)
    similarity = unit @ gather_tokens(unit, centres).mT
    nearest = similarity.masked_fill((centres < 0).unsqueeze(1), -torch.inf).argmax(-1)
    weight = members.to(values.dtype)
    sums = values.new_zeros(*centres.shape, values.shape[-1])
    sums.scatter_add_(1, nearest.unsqueeze(-1).expand_as(values), values * weight.unsqueeze(-1))
    counts = values.new_zeros(centres.shape).scatter_add_(1, nearest, weight)
    return sums, counts


@dataclass(frozen=True)
class NearestCentre(Merger):
    """Add every dropped token to the most similar of the centres: the last picks (VisionZip's second round).

    The kept tokens enter the language model as salient ones in raster order, then centres in raster order.

    Parameters
    ----------
    share : float, default 0.5
        Share of the kept tokens, in [0, 1], that stay as they are: the first ``int(share * K)`` picks.
    combine : str, default "sum"
        ``sum``: centre + mean of its members, as VisionZip's code does (about twice the amplitude of a token).
        ``mean``: mean of the centre and its members.
    metric, values : str, default "keys" and "encoder"
        Signals compared and merged.
    """

    share: float = 0.5
    combine: Literal["sum", "mean"] = "sum"
    metric: str = "keys"
    values: str = "encoder"

    def __post_init__(self) -> None:
        check_number(self, "share", 0, 1)
        check_choice(self, "combine", ("sum", "mean"))

    @property
    def requires(self) -> frozenset[str]:  # type: ignore[override]
        """The signals compared and merged."""
        return frozenset({self.metric, self.values})

    def merge(self, features: Features, order: Tensor) -> Merged:
        """Merge in the space of ``values``."""
        values = working_precision(features[self.values])
        n = features.n_visual
        salient = ((order >= 0).sum(1, keepdim=True) * self.share).long()
        late = torch.arange(order.shape[1], device=order.device) >= salient
        centres = _ascending(order.masked_fill(~late, -1), n)
        source = torch.cat([_ascending(order.masked_fill(late, -1), n), centres], dim=1)
        members = features.valid() & ~as_mask(order, n)
        sums, counts = sum_of_members(values, features[self.metric], centres, members)
        own = gather_tokens(values, centres)
        if self.combine == "sum":
            merged = own + sums / counts.clamp_min(1).unsqueeze(-1)
        else:
            merged = (own + sums) / (1 + counts).unsqueeze(-1)
        tokens = gather_tokens(values, source)
        tokens = torch.cat([tokens[:, : -centres.shape[1]], merged], dim=1)
        # both halves are as wide as `order`; pull the real ones of each row to the front
        place = (source < 0).to(torch.int8).argsort(dim=1, stable=True)[:, : order.shape[1]]
        return Merged(gather_tokens(tokens, place), source.gather(1, place), self.values)


def _ascending(indices: Tensor, n: int) -> Tensor:
    """Sort positions, -1 padding last."""
    ranked = indices.where(indices >= 0, n).sort(dim=1).values
    return ranked.where(ranked < n, -1)
