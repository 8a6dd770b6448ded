"""What happens to the tokens that were not kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tokenprune.components.selectors import round_one_of
from tokenprune.core.errors import ConfigError
from tokenprune.core.features import Features, working_precision
from tokenprune.core.indexing import as_mask, gather_tokens
from tokenprune.core.information import unit_norm
from tokenprune.core.kinds import Merged, Merger, check_choice, check_number

__all__ = ["NearestCentre", "PickOrder", "nearest_centre", "sum_of_members"]


def nearest_centre(metric: Tensor, centres: Tensor) -> Tensor:
    """Which centre each token is most similar to.

    Parameters
    ----------
    metric : Tensor, (B, N, k)
        Cosine in this space decides; ties go to the first centre.
    centres : Tensor, (B, C)
        Positions of the centres, -1 as padding.

    Returns
    -------
    int64 Tensor, (B, N)
        Rank of the centre within ``centres``.
    """
    unit = unit_norm(metric)
    similarity = unit @ gather_tokens(unit, centres).mT
    return similarity.masked_fill((centres < 0).unsqueeze(1), -torch.inf).argmax(-1)


def sum_of_members(values: Tensor, metric: Tensor, centres: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
    """Assign members to their most similar centre and sum their values.

    Parameters
    ----------
    values : Tensor, (B, N, e)
    metric, centres
        As in :func:`nearest_centre`.
    members : bool Tensor, (B, N)
        Tokens to assign.

    Returns
    -------
    sums : Tensor, (B, C, e)
    counts : Tensor, (B, C)
    """
    nearest = nearest_centre(metric, centres)
    weight = members.to(values.dtype)
    sums = values.new_zeros(*centres.shape, values.shape[-1])
    sums.scatter_add_(1, nearest.unsqueeze(-1).expand_as(values), values * weight.unsqueeze(-1))
    counts = values.new_zeros(centres.shape).scatter_add_(1, nearest, weight)
    return sums, counts


@dataclass(frozen=True)
class NearestCentre(Merger):
    """Add every dropped token to the most similar of the centres: the last picks (VisionZip's second round).

    The kept tokens enter the language model as salient ones in raster order, then centres in raster order; before
    them [CLS], if asked for.

    Parameters
    ----------
    share : float, default 0.5
        Share of the kept tokens, in [0, 1], that stay as they are: the first ``int(share * K)`` picks.
    combine : str, default "sum"
        ``sum``: centre + mean of its members, as VisionZip's code does (about twice the amplitude of a token).
        ``mean``: mean of the centre and its members.
    metric, values : str, default "keys" and "encoder"
        Signals compared and merged.
    cls : bool, default False
        Put the encoder's [CLS] feature first. It counts in the share and stands at the last pick, whose own patch
        is dropped (and merged like the others): ``TwoStage(reserve=1)`` picks it.
    """

    share: float = 0.5
    combine: Literal["sum", "mean"] = "sum"
    metric: str = "keys"
    values: str = "encoder"
    cls: bool = False

    def __post_init__(self) -> None:
        check_number(self, "share", 0, 1)
        check_choice(self, "combine", ("sum", "mean"))
        if self.cls and self.values != "encoder":
            raise ConfigError(f"NearestCentre.cls needs values='encoder', the space of [CLS], got {self.values!r}")

    @property
    def requires(self) -> frozenset[str]:  # type: ignore[override]
        """The signals compared and merged."""
        return frozenset({self.metric, self.values} | ({"encoder_cls"} if self.cls else set()))

    @property
    def neutral(self) -> bool:  # type: ignore[override]
        """Centres without members stay what they are, but salient tokens enter before them."""
        return not self.cls and self.share in (0, 1)

    def merge(self, features: Features, order: Tensor) -> Merged:
        """Merge in the space of ``values``."""
        values = working_precision(features[self.values])
        n = features.n_visual
        front, salient, centres = self._rounds(order, n)
        members = features.valid() & ~as_mask(torch.cat([salient, centres], dim=1), n)
        sums, counts = sum_of_members(values, features[self.metric], centres, members)
        own = gather_tokens(values, centres)
        if self.combine == "sum":
            merged = own + sums / counts.clamp_min(1).unsqueeze(-1)
        else:
            merged = (own + sums) / (1 + counts).unsqueeze(-1)
        parts = [gather_tokens(values, salient), merged]
        if self.cls:
            parts.insert(0, working_precision(features["encoder_cls"]).unsqueeze(1).to(values.dtype))
        source = torch.cat([front, salient, centres], dim=1)
        # each part is as wide as its longest row; pull the real ones of a row to the front
        place = (source < 0).to(torch.int8).argsort(dim=1, stable=True)[:, : order.shape[1]]
        return Merged(gather_tokens(torch.cat(parts, dim=1), place), source.gather(1, place), self.values)

    def _rounds(self, order: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """Places of [CLS] (B, 0 or 1), of tokens that stay, and of centres (B, K), ascending, -1 as padding."""
        kept = (order >= 0).sum(1, keepdim=True)
        salient = round_one_of(self.share, kept, int(self.cls))
        end = kept - int(self.cls)
        rank = torch.arange(order.shape[1], device=order.device)
        front = order.gather(1, end) if self.cls else order[:, :0]
        early, late = rank < salient, (rank >= salient) & (rank < end)
        return front, _ascending(order.masked_fill(~early, -1), n), _ascending(order.masked_fill(~late, -1), n)


@dataclass(frozen=True)
class PickOrder(Merger):
    """Leave the tokens as they are, but let them enter the language model in the order in which they were picked."""

    requires = frozenset({"visual"})

    def merge(self, features: Features, order: Tensor) -> Merged:
        """Kept tokens in pick order, zero at padding."""
        return Merged(gather_tokens(features.visual, order), order)


def _ascending(indices: Tensor, n: int) -> Tensor:
    """Sort positions, -1 padding last."""
    ranked = indices.where(indices >= 0, n).sort(dim=1).values
    return ranked.where(ranked < n, -1)
