"""Run the strategy, and note what each unit keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune.core.budget import Budget
from tokenprune.core.features import Features
from tokenprune.core.indexing import gather_tokens
from tokenprune.core.schedule import LayerSchedule
from tokenprune.core.selection import Selection
from tokenprune.hf.request import Request
from tokenprune.hf.splice import Layout, Splice

__all__ = ["Decision", "choose", "decide"]


@dataclass(frozen=True)
class Decision:
    """What the distinct units of a batch keep.

    Attributes
    ----------
    selection : Selection
    kept : tuple of int64 Tensor
        For each unit, positions within it in the order in which they enter the language model.
    made : tuple of Tensor or None
        For each unit, embeddings of those places, where the strategy makes new ones.
    """

    selection: Selection
    kept: tuple[Tensor, ...]
    made: tuple[Tensor, ...] | None

    def spread(self, owner: Sequence[int]) -> Decision:
        """The same for every span of the batch, copies included."""
        made = None if self.made is None else tuple(self.made[d] for d in owner)
        return Decision(self.selection, tuple(self.kept[d] for d in owner), made)

    def embeddings(self, plan: Splice, embeds: Tensor, layout: Layout) -> Tensor:
        """Embeddings of the shorter sequence, tokens that the strategy made included: (B, S, d) -> (B, M, d)."""
        new = plan.tokens(embeds)
        if self.made is not None:
            for span, slots, tokens in zip(layout.spans, plan.slots, self.made, strict=True):
                new[span.row, slots] = tokens.to(new.dtype)
        return new


def decide(request: Request, features: Features) -> Decision:
    """Run the strategy and note what each unit keeps."""
    selection, made = choose(request, features)
    sequence = selection.sequence
    kept = tuple(row[row >= 0] for row in sequence)
    if made is None:
        return Decision(selection, kept, None)
    return Decision(selection, kept, tuple(t[row >= 0] for t, row in zip(made, sequence, strict=True)))


@torch.no_grad()
def choose(request: Request, features: Features) -> tuple[Selection, Tensor | None]:
    """Run the strategy; embeddings (U, K, d) of what it keeps, where it makes new ones, projected if need be."""
    # a row of features is the unit already
    budget = Budget(request.budget.keep, "image", request.budget.clip)
    if isinstance(request.strategy, LayerSchedule):
        selection = request.strategy.enter(features, budget)
    else:
        selection = request.strategy.select(features, budget)
    if selection.merged is None:
        return selection, None
    tokens = selection.merged.tokens
    if selection.merged.space == "encoder":
        # what was not changed stays what it is: where tokens were pooled, projecting them again gives something else
        source = selection.merged.source
        same = (tokens == gather_tokens(features["encoder"], source)).all(-1, keepdim=True)
        tokens = torch.where(same, gather_tokens(features.visual, source), request.adapter.project(tokens))
    return selection, tokens
