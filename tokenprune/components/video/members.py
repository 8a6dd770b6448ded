"""Tokens made of their members, as a selector's groups say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tokenprune.core.errors import ConfigError, FeatureError
from tokenprune.core.features import Features, working_precision
from tokenprune.core.groups import Picks
from tokenprune.core.indexing import gather_tokens
from tokenprune.core.kinds import Merged, Merger, check_choice
from tokenprune.core.selection import Selection

__all__ = ["WeightedMembers"]


@dataclass(frozen=True)
class WeightedMembers(Merger):
    """Every kept token becomes the weighted sum of its members; those without members stay as they are.

    Reads :class:`~tokenprune.core.groups.Groups`: a token may be a member of several kept ones, and a kept token may
    stand for one place over several frames. O(P d) for P pairs.

    Parameters
    ----------
    sequence : str, default "picked"
        How tokens enter the language model: in the order "picked", or "ascending".
    """

    sequence: Literal["picked", "ascending"] = "picked"
    requires = frozenset({"visual"})
    needs_groups = True

    def __post_init__(self) -> None:
        check_choice(self, "sequence", ("picked", "ascending"))

    def merge(self, features: Features, order: Tensor) -> Merged:
        """Not without groups."""
        raise ConfigError(f"{self!r} reads who joins whom, which picks alone do not say: use a selector with groups")

    def merge_picks(self, features: Features, picks: Picks) -> Merged:
        """Sum over members."""
        groups = picks.groups
        if groups is None or groups.members is None or groups.weights is None:
            raise FeatureError(f"{self!r} needs Groups.members and Groups.weights from the selector")
        visual = working_precision(features.visual)
        token, kept = groups.members.unbind(-1)
        real = token >= 0
        weight = groups.weights.to(visual.dtype).masked_fill(~real, 0)
        values = gather_tokens(visual, token) * weight.unsqueeze(-1)
        place = kept.clamp_min(0)
        sums = torch.zeros_like(visual).scatter_add_(1, place.unsqueeze(-1).expand_as(values), values)
        made = torch.zeros_like(features.valid()).scatter_(1, place, True)
        # padding points at position 0: what no real pair names stays as it is
        named = torch.zeros_like(visual[..., 0]).scatter_add_(1, place, real.to(visual.dtype)) > 0
        tokens = torch.where((made & named).unsqueeze(-1), sums, visual)
        source = picks.order
        if self.sequence == "ascending":
            source = Selection.from_order(picks.order, features.n_visual).indices
        return Merged(gather_tokens(tokens, source), source)
