"""MMTok, whole."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tokenprune.core.features import working_precision


def mmtok(
    visual: Tensor,
    text: Tensor,
    encoder: Tensor,
    keep: int,
    *,
    candidates: Tensor | None = None,
    alpha: float = 0.5,
    tau_text: float = 0.02,
    tau_visual: float = 0.2,
    faithful: bool = False,
) -> Tensor:
    """Greedy coverage of text and visual tokens: (N, d), (T, d), (N, e) -> (K,). Excluded tokens come last."""
    v, t, e = (normalize(working_precision(x), dim=-1) for x in (visual, text, encoder))
    covers_text = (t @ v.T / tau_text).softmax(1) / len(t)
    covers_visual = alpha * (e @ e.T / tau_visual).softmax(1) / len(e)
    table = torch.cat([covers_text, covers_visual])
    best = torch.zeros_like(table[:, 0])
    taken = torch.zeros(len(v), dtype=torch.bool, device=v.device)
    excluded = taken if candidates is None else ~candidates.bool()
    places = keep if candidates is None else min(keep, int(candidates.sum()))
    picks: list[Tensor] = []
    for step in range(places if faithful else keep):
        gain = (table - best.unsqueeze(1)).clamp_min(0).sum(0, dtype=torch.float64)
        pick = gain.masked_fill(taken | excluded if step < places else taken, -math.inf).argmax()
        taken[pick] = True
        picks.append(pick)
        best = torch.maximum(best, table[:, pick])
    return torch.stack(picks + [torch.zeros_like(picks[0])] * (keep - len(picks)))
