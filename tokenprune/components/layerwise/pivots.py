"""Pivots and what is least like them (DART)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tokenprune.core.features import Features, working_precision
from tokenprune.core.indexing import as_mask, gather_tokens, left_aligned
from tokenprune.core.information import unit_norm
from tokenprune.core.kinds import Problem, Scorer, Selector, check_choice, check_count
from tokenprune.core.ranking import top_k
from tokenprune.kernels import constant

__all__ = ["KeyNorm", "PivotQuota", "hash_order"]


@dataclass(frozen=True)
class KeyNorm(Scorer):
    """L1 norm of a token's key over all heads (DART's choice of pivots)."""

    requires = frozenset({"llm_keys"})

    def score(self, features: Features) -> Tensor:
        """Norms, (B, N)."""
        return working_precision(features["llm_keys"]).abs().sum(-1)


def hash_order(positions: list[int]) -> list[int]:
    """Indices of ``positions`` in the order in which a Python set of those integers is iterated."""
    place = {position: i for i, position in enumerate(positions)}
    return [place[position] for position in set(positions)]


@dataclass(frozen=True)
class PivotQuota(Selector):
    """Keep image pivots, and for each pivot the tokens least similar to it (DART, Sec. 3).

    Image pivots are the tokens with the largest scores, text pivots those with the largest key norm. Pivot after
    pivot takes an equal share of what is left to keep among the tokens that no earlier pivot took, lowest cosine
    first; where shares do not come out even the first pivots take one more.

    Parameters
    ----------
    image, text : int, default 4 and 4
        Numbers of pivots; fewer where there are fewer tokens.
    order : str, default "rank"
        Which pivot takes first. ``rank``: image pivots, then text pivots, largest norm first. ``hash``: by the hash
        table of a set of their positions, as the published code happens to do.
    """

    image: int = 4
    text: int = 4
    order: Literal["rank", "hash"] = "rank"

    def __post_init__(self) -> None:
        check_count(self, "image", 1)
        check_count(self, "text", 0)
        check_choice(self, "order", ("rank", "hash"))

    @property
    def requires(self) -> frozenset[str]:  # type: ignore[override]
        """Hidden states, keys, and positions where those decide the order."""
        places = {"visual_positions", "text_positions"} if self.order == "hash" else set()
        return frozenset({"visual", "text", "text_keys"} | places)

    def pivots(
        self, features: Features, scores: Tensor, counts: tuple[int, ...], available: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Image pivots (B, <= image) available and text pivots (B, <= text), largest first, -1 as padding."""
        image = top_k(scores, tuple(min(self.image, c) for c in counts), available)
        norms = working_precision(features["text_keys"]).abs().sum(-1)
        real = torch.ones_like(norms, dtype=torch.bool) if features.text_mask is None else features.text_mask
        most = min(self.text, norms.shape[1])
        text = top_k(norms, (most,) * features.batch, real) if most else norms.new_zeros(features.batch, 0).long()
        return image, _first(text, real.sum(1))

    def sequence(self, features: Features, image: Tensor, text: Tensor) -> Tensor:
        """Order in which pivots take, (B, P): column of the image pivots ++ text pivots, -1 as padding."""
        pivots = torch.cat([image, text], dim=1)
        ranks = torch.arange(pivots.shape[1], device=pivots.device).expand_as(pivots).masked_fill(pivots < 0, -1)
        if self.order == "rank":
            return left_aligned(ranks)
        where = torch.cat(
            [
                features["visual_positions"].gather(1, image.clamp_min(0)),
                features["text_positions"].gather(1, text.clamp_min(0)),
            ],
            dim=1,
        )
        rows = []
        for places, real in zip(where.tolist(), (pivots >= 0).tolist(), strict=True):
            columns = [i for i, there in enumerate(real) if there]
            row = [columns[i] for i in hash_order([places[i] for i in columns])]
            rows.append(row + [-1] * (len(places) - len(row)))
        return torch.tensor(rows, device=pivots.device)

    def select(self, problem: Problem) -> Tensor:
        """Image pivots, then what each pivot takes."""
        features, counts = problem.features, problem.counts
        image, text = self.pivots(features, problem.scores, counts, problem.available)
        sequence = self.sequence(features, image, text)
        visual = unit_norm(features.visual)
        states = torch.cat([gather_tokens(visual, image), gather_tokens(unit_norm(features.text), text)], dim=1)
        open_ = problem.available & ~as_mask(image, problem.available.shape[1])
        parts = (sequence >= 0).sum(1)
        left = constant(counts, parts.device) - (image >= 0).sum(1)
        # no share is larger than if image pivots shared alone
        widest = max(-(-(count - held) // held) for count, held in ((c, min(self.image, c)) for c in counts))
        order = [image]
        for step, columns in enumerate(sequence.unbind(1)):
            pivot = gather_tokens(states, columns.unsqueeze(1))
            similarity = (visual @ pivot.mT).squeeze(-1)
            # equal shares, the first ones larger by one where they do not come out even
            share = torch.where(step < parts, left // parts + (step < left % parts), 0)
            if widest:
                order.append(_first(top_k(-similarity, (widest,) * len(counts), open_), share))
                open_ = open_ & ~as_mask(order[-1], open_.shape[1])
        return left_aligned(torch.cat(order, dim=1))[:, : max(counts)]


def _first(order: Tensor, counts: Tensor) -> Tensor:
    """Blank what stands behind the first ``counts`` (B,) of each row."""
    return order.masked_fill(torch.arange(order.shape[1], device=order.device) >= counts.unsqueeze(1), -1)
