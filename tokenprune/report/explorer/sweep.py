"""What a strategy keeps at every budget, and what makes a patch redundant by then.

Where a smaller budget's picks are the first of a larger one's, one pick order serves all budgets, and how redundant a
patch is only grows while picks are added: a list of the picks at which it grew tells everything (about log N of them).
Elsewhere the strategy chooses anew at some budgets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from tokenprune.components.pairwise import Cosine, SelfPMI
from tokenprune.core.features import Features
from tokenprune.core.indexing import gather_tokens
from tokenprune.core.information import cosine_similarity
from tokenprune.core.kinds import Pairwise
from tokenprune.core.selection import Selection
from tokenprune.core.strategy import AnyStrategy, Strategy

__all__ = ["Frame", "Likeness", "frame", "growth", "is_nested", "ladder", "likeness", "merged_places"]

_LABELS: Final[dict[type, str]] = {Cosine: "cosine", SelfPMI: "self-PMI"}


@dataclass(frozen=True)
class Likeness:
    """How alike patches are.

    Attributes
    ----------
    label : str
    own : bool
        Whether the strategy itself charges for it; otherwise it is the cosine of visual tokens, for the reader alone.
    table : Tensor, (N, N)
        Entry [candidate, selected].
    """

    label: str
    own: bool
    table: Tensor


@dataclass(frozen=True)
class Frame:
    """What is left at one budget.

    Attributes
    ----------
    keep : int
    order : tuple of int
        Picks; where the strategy acts between layers, the positions that are left, ascending.
    merged : tuple of int
        Positions at which a token made of several stands.
    nearest, nearness : tuple
        For each patch, the kept one that is most like it (itself apart; -1 if there is none), and how much.
    layers : tuple of int
        For each patch, the decoder layers that processed it; empty where that is all or none.
    """

    keep: int
    order: tuple[int, ...]
    merged: tuple[int, ...]
    nearest: tuple[int, ...]
    nearness: tuple[float, ...]
    layers: tuple[int, ...] = ()


def is_nested(strategy: AnyStrategy) -> bool:
    """Whether one pick order serves all budgets."""
    if not isinstance(strategy, Strategy) or strategy.merges:
        return False
    selector = strategy.selector
    return selector.nested and selector.distinct and selector.fills_budget and not getattr(selector, "repeats", False)


def ladder(n: int, marked: Sequence[int], steps: int = 24) -> list[int]:
    """Budgets at which to choose anew: the marked ones, and others at equal ratios from 1 to all, ascending."""
    ratios = (n ** (i / (steps - 1)) for i in range(steps)) if n > 1 else ()
    return sorted({1, n, *marked, *(round(ratio) for ratio in ratios)})


def likeness(strategy: AnyStrategy, features: Features) -> Likeness:
    """What the strategy charges for, or the cosine of visual tokens."""
    if isinstance(strategy, Strategy):
        parts = (part for part in (strategy.scorer, strategy.selector, strategy.merger) if part is not None)
        pairs = next((p for part in parts for p in part.parts() if isinstance(p, Pairwise)), None)
        if pairs is not None:
            label = _LABELS.get(type(pairs), type(pairs).__name__)
            return Likeness(label, True, pairs.table(features).dense()[0])
    return Likeness(_LABELS[Cosine], False, cosine_similarity(features.visual, features.visual)[0])


def growth(order: Sequence[int], table: Tensor) -> list[list[tuple[int, float]]]:
    """For each patch, the picks at which its likeness to the picks so far grew: (step, value), rising.

    Step s is the s-th pick, from 0. A patch that is picked itself is compared with the picks before it.

    Parameters
    ----------
    order : sequence of int
    table : Tensor, (N, N)
        Entry [candidate, selected].
    """
    n, k = table.shape[0], len(order)
    picks = torch.as_tensor(order, dtype=torch.long, device=table.device)
    rank = torch.full((n,), k, dtype=torch.long, device=table.device)
    rank[picks] = torch.arange(k, device=table.device)
    entries = table[:, picks]
    entries = entries.masked_fill(torch.arange(k, device=table.device) >= rank.unsqueeze(1), -torch.inf)
    highest = torch.cummax(entries, dim=1).values
    before = torch.cat([torch.full_like(highest[:, :1], -torch.inf), highest[:, :-1]], dim=1)
    grew = entries > before
    found: list[list[tuple[int, float]]] = [[] for _ in range(n)]
    for i, step in grew.nonzero().tolist():
        found[i].append((step, float(entries[i, step])))
    return found


def frame(keep: int, order: Sequence[int], table: Tensor, merged: Sequence[int] = ()) -> Frame:
    """What is left at one budget, and what each patch is most like in it."""
    kept = torch.as_tensor(sorted(order), dtype=torch.long, device=table.device)
    entries = table[:, kept].clone()
    entries[kept, torch.arange(len(kept), device=table.device)] = -torch.inf
    nearness, place = entries.max(dim=1)
    alone = nearness == -torch.inf
    nearest = kept[place].masked_fill(alone, -1)
    return Frame(
        keep,
        tuple(order),
        tuple(merged),
        tuple(nearest.tolist()),
        tuple(nearness.masked_fill(alone, 0.0).tolist()),
    )


def merged_places(selection: Selection, features: Features) -> list[int]:
    """Positions of the first unit at which a token stands that is made of several."""
    if selection.merged is None:
        return []
    merged = selection.merged
    source = merged.source[0]
    before = gather_tokens(features[merged.space], merged.source)[0]
    changed = (merged.tokens[0] != before).any(-1) & (source >= 0)
    return [int(i) for i in source[changed].tolist()]
