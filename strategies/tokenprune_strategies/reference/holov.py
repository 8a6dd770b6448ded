"""HoloV, whole."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tokenprune.core.features import working_precision


def holov(
    cls_attention: Tensor,
    visual: Tensor,
    keep: int,
    *,
    crops: int | None = None,
    alpha: float = 0.09,
    within: Literal["scores", "holistic"] = "scores",
    faithful: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Runs of the raster sequence share the budget by their mean score: (H, N), (N, d) -> (K,).

    With ``faithful`` the tokens enter in pick order and are returned too; places that a run cannot use are lost.
    """
    attention = working_precision(cls_attention).mean(0)
    n = len(attention)
    runs = [run for run in torch.arange(n).tensor_split(crops or max(1, 16 * n // (9 * max(1, keep)))) if len(run)]
    holistic = [1000 * attention[run] + alpha * diversity(visual[run], 1000 * attention[run]) for run in runs]
    holistic = [score if len(run) > 1 else attention[run] for run, score in zip(runs, holistic, strict=True)]
    weight = torch.stack([score.mean().clamp_min(0) for score in holistic])
    weight = weight / (weight.sum() + 1e-6)
    places = (weight * keep).floor().long().tolist()
    by_weight = weight.argsort(descending=True, stable=True).tolist()
    if faithful:
        for i in by_weight[: keep - sum(places)]:
            places[i] += 1
    else:
        places = [min(place, len(run)) for place, run in zip(places, runs, strict=True)]
        while sum(places) < keep:  # one more for each run with room, the heaviest first
            for i in by_weight:
                places[i] += places[i] < len(runs[i]) and sum(places) < keep
    picks = []
    for run, place, score in zip(runs, places, holistic, strict=True):
        ranking = (attention[run] if within == "scores" else score).argsort(descending=True, stable=True)
        picks.append(run[ranking.cpu()[:place]] if place < len(run) else run)
    order = torch.cat(picks).to(visual.device)
    return (order, working_precision(visual)[order]) if faithful else order


def diversity(tokens: Tensor, scores: Tensor) -> Tensor:
    """Variance of each token's cosines with its run, scaled to the mean of the scores: (L, d), (L,) -> (L,)."""
    v = normalize(tokens.double(), dim=-1)
    cosine = (v @ v.T).fill_diagonal_(0)
    others = max(1, len(v) - 1)
    variance = (cosine - cosine.sum(1, keepdim=True) / others).square().sum(1) / others
    return (scores.abs().mean() / (variance.mean() + 1e-6) * variance).to(scores.dtype)
