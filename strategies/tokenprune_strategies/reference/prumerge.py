"""PruMerge and PruMerge+, whole."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tokenprune.core.features import working_precision
from tokenprune.core.reference import reading

SIGNALS = {"attention": "cls_wide_attention@-1", "keys": "wide_keys@-1"}


@reading(**SIGNALS)
def prumerge(
    attention: Tensor, keys: Tensor, encoder: Tensor, keep: int, *, adaptive: bool = False, neighbours: int = 32
) -> tuple[Tensor, Tensor]:
    """Keep the most attended patches, each with its neighbours, and the rest in one: (N,), (N, w), (N, e) -> (K,)."""
    count = len(outliers(attention)) if adaptive else keep - 1
    centres = attention.argsort(descending=True, stable=True)[:count].tolist()
    return merged(attention, keys, encoder, held(centres, len(attention)), neighbours)


@reading(**SIGNALS)
def prumerge_plus(
    attention: Tensor, keys: Tensor, encoder: Tensor, keep: int, *, adaptive: bool = False, neighbours: int = 32
) -> tuple[Tensor, Tensor]:
    """As PruMerge, with patches at a regular stride besides the most attended ones."""
    n, ranked = len(attention), attention.argsort(descending=True, stable=True).tolist()
    if adaptive:
        count = len(outliers(attention))
        grid = range(0, n, max(1, int(int(1 / (count / n)) / 3))) if count else range(0)
        centres = ranked[:count] + [i for i in grid if i not in ranked[:count]]
    else:
        on_grid = (keep - 1) // 2
        count = keep - 1 - on_grid
        left = sorted(ranked[count:])
        centres = ranked[:count] + left[:: max(1, len(left) // max(1, on_grid))][:on_grid]
    return merged(attention, keys, encoder, held(centres, n), neighbours)


def outliers(values: Tensor) -> list[int]:
    """Beyond the third quartile by more than 1.5 distances of quartiles."""
    quarters = torch.tensor([0.25, 0.75], dtype=torch.float64, device=values.device)
    low, high = values.double().quantile(quarters)
    beyond: list[int] = (values.double() > high + 1.5 * (high - low)).nonzero().flatten().tolist()
    return beyond


def held(centres: list[int], n: int) -> list[int]:
    """Behind the centres the lowest place that is left: there the sum of the rest will stand."""
    return centres + [i for i in range(n) if i not in centres][:1]


def merged(
    attention: Tensor, keys: Tensor, encoder: Tensor, order: list[int], neighbours: int
) -> tuple[Tensor, Tensor]:
    """Each centre plus its nearest patches, weighed by their attention; last the weighed sum of the dropped ones."""
    weights, values = working_precision(attention), working_precision(encoder)
    unit = normalize(working_precision(keys), dim=-1, eps=1e-12)
    centres = order[:-1]
    rest = [i for i in range(len(weights)) if i not in centres]
    tokens = []
    for centre in centres:
        pool = [i for i in centres if i != centre] + rest
        nearest = (unit[pool] @ unit[centre]).argsort(descending=True, stable=True)[:neighbours].tolist()
        near = [pool[i] for i in nearest]
        tokens.append(values[centre] + weights[near] @ values[near])
    tokens.append(weights[rest] @ values[rest])
    return torch.tensor(order, device=encoder.device), torch.stack(tokens)
