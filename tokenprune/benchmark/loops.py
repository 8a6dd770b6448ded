"""Selection as it is usually written: a Python loop with a few tensor operations a pick.

Each function follows its paper's algorithm step by step and returns the picks of one image in order. They are what
benchmarks compare speed and picks with, and are not used elsewhere. Tensors stay on their device; numbers are float32
unless said otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tokenprune.core.features import Features

__all__ = ["LOOPS", "cdpruner", "divprune", "mi_pruner", "mmtok", "vispruner"]


def mi_pruner(visual: Tensor, text: Tensor, keep: int, lam: float = 0.5, tau: float = 0.1) -> Tensor:
    """Relevance less redundancy, one argmax a pick (MI-Pruner, Algorithm 1): (N, d), (T, d) -> (keep,)."""
    v, t = normalize(visual.float(), dim=-1), normalize(text.float(), dim=-1)
    log_p = (v @ t.T / tau).log_softmax(-1)
    relevance = (log_p - (log_p.logsumexp(0, keepdim=True) - math.log(len(v)))).amax(-1)
    similarity = v @ v.T / tau
    redundancy_table = similarity - similarity.logsumexp(-1, keepdim=True) + math.log(len(v))
    redundancy = torch.zeros_like(relevance)
    taken = torch.zeros(len(v), dtype=torch.bool, device=v.device)
    picks: list[Tensor] = []
    for step in range(keep):
        gain = lam * relevance - (1 - lam) * redundancy
        pick = gain.masked_fill(taken, -math.inf).argmax()
        taken[pick] = True
        picks.append(pick)
        column = redundancy_table[:, pick]
        redundancy = column if step == 0 else torch.maximum(redundancy, column)
    return torch.stack(picks)


def divprune(visual: Tensor, keep: int) -> Tensor:
    """Farthest token from its nearest pick (DivPrune): (N, d) -> (keep,)."""
    v = normalize(visual.float(), dim=-1)
    distance = 1 - v @ v.T
    picks = torch.empty(keep, dtype=torch.long, device=v.device)
    for step in range(keep):
        if step == 0:
            nearest = torch.topk(distance, 2, dim=0, largest=False).values[1]
        else:
            nearest = torch.index_select(distance, 0, picks[:step]).amin(0)
        picks[step] = nearest.argmax()
    return picks


def cdpruner(visual: Tensor, text: Tensor, keep: int) -> Tensor:
    """Greedy MAP of a determinantal point process by incremental Cholesky (CDPruner): (N, d), (T, d) -> (keep,)."""
    v, t = normalize(visual.double(), dim=-1), normalize(text.double(), dim=-1)
    quality = (v @ t.T).mean(-1)
    quality = (quality - quality.min() + 1e-6) / (quality.max() - quality.min())
    kernel = quality.unsqueeze(1) * (v @ v.T) * quality.unsqueeze(0)
    factor = torch.zeros(keep, len(v), dtype=kernel.dtype, device=v.device)
    variance = kernel.diagonal().clone()
    picks = torch.empty(keep, dtype=torch.long, device=v.device)
    for step in range(keep):
        pick = variance.argmax()
        picks[step] = pick
        row = kernel[pick] - factor[:step, pick] @ factor[:step]
        factor[step] = row / variance[pick].sqrt()
        variance = variance - factor[step].square()
        variance[pick] = -math.inf
    return picks


def mmtok(
    visual: Tensor, text: Tensor, encoder: Tensor, keep: int, tau_text: float = 0.02, tau_visual: float = 0.2
) -> Tensor:
    """Greedy coverage of text and visual tokens (MMTok): (N, d), (T, d), (N, e) -> (keep,)."""
    v, t, e = (normalize(x.float(), dim=-1) for x in (visual, text, encoder))
    tables = [(t @ v.T / tau_text).softmax(-1) / len(t), 0.5 * (e @ e.T / tau_visual).softmax(-1) / len(e)]
    best = [torch.zeros(len(table), device=v.device) for table in tables]
    taken = torch.zeros(len(v), dtype=torch.bool, device=v.device)
    picks = []
    for _ in range(keep):
        gains = [(table - held.unsqueeze(1)).clamp_min(0).sum(0) for table, held in zip(tables, best, strict=True)]
        pick = (gains[0] + gains[1]).masked_fill(taken, -math.inf).argmax()
        taken[pick] = True
        picks.append(pick)
        best = [torch.maximum(held, table[:, pick]) for table, held in zip(tables, best, strict=True)]
    return torch.stack(picks)


def vispruner(attention: Tensor, encoder: Tensor, keep: int, share: float = 0.5, rate: int = 8) -> Tensor:
    """Most attended tokens, then rounds that compare every second token with the others anew (VisPruner).

    (H, N), (N, e) -> (keep,). Cosines in float64, without which half of the diverse tokens are noise.
    """
    score = attention.float().mean(0)
    ranked = score.argsort(descending=True)
    important, rest = ranked[: int(share * keep)], ranked[int(share * keep) :]
    diverse = keep - len(important)
    while len(rest) > diverse:
        drop = min(rate, len(rest) - diverse)
        tokens = normalize(encoder[rest].double(), dim=-1)
        even, odd = tokens[0::2], tokens[1::2]
        nearest = (even @ odd.T).amax(-1)
        order = nearest.argsort(descending=True)
        rest = torch.cat([rest[0::2][order[drop:]], rest[1::2]])
    return torch.cat([important, rest])


LOOPS: Final[Mapping[str, Callable[[Features, int], Tensor]]] = {
    "mi-pruner": lambda f, k: mi_pruner(f.visual[0], f.text[0], k),
    "divprune": lambda f, k: divprune(f.visual[0], k),
    "cdpruner": lambda f, k: cdpruner(f.visual[0], f.text[0], k),
    "mmtok": lambda f, k: mmtok(f.visual[0], f.text[0], f["encoder"][0], k),
    "vispruner": lambda f, k: vispruner(f["cls_attention"][0], f["encoder"][0], k),
}
"""Name of a strategy -> the loop for the features of one image."""
