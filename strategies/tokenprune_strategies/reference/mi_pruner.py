"""MI-Pruner, whole: Algorithm 1 with every quantity it reads."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tokenprune.core.features import working_precision


def mi_pruner(
    visual: Tensor,
    text: Tensor,
    keep: int,
    *,
    lam: float = 0.5,
    tau: float = 0.1,
    marginal: Literal["uniform", "total", "stationary", "sinkhorn"] = "uniform",
) -> Tensor:
    """Argmax over i of lam * max_j PMI(v_i; t_j) - (1 - lam) * max_{j in S} PMI(v_i; v_j): (N, d), (T, d) -> (K,)."""
    score = relevance(visual, text, tau)
    table = self_pmi(visual, tau, marginal) if lam < 1 else None
    return greedy(score, table, lam, keep)


def greedy(
    score: Tensor, table: Tensor | None, lam: float, keep: int, taken: Tensor | None = None, *, seeded: bool = True
) -> Tensor:
    """Algorithm 1, lines 10-16: relevance (N,), redundancy (N, N) -> (K,); without a table relevance alone counts.

    ``taken`` (M,) are no candidates any more; ``seeded`` says whether redundancy with them counts from the start.
    """
    open_ = torch.ones(len(score), dtype=torch.bool, device=score.device)
    redundancy = None
    if taken is not None:
        open_[taken] = False
        redundancy = table[:, taken].amax(1) if seeded and len(taken) and table is not None else None
    picks = []
    for _ in range(keep):
        gain = lam * score if redundancy is None else lam * score - (1 - lam) * redundancy
        pick = gain.masked_fill(~open_, -math.inf).argmax()
        open_[pick] = False
        picks.append(pick)
        if table is not None:
            redundancy = table[:, pick] if redundancy is None else torch.maximum(redundancy, table[:, pick])
    return torch.stack(picks) if picks else torch.empty(0, dtype=torch.long, device=score.device)


def relevance(visual: Tensor, text: Tensor, tau: float) -> Tensor:
    """max_j PMI(v_i; t_j), Eqns 14-19: (N,). Cosine to the text where the prompt tells no two tokens apart."""
    v, t = (normalize(working_precision(x), dim=-1) for x in (visual, text))
    cosine = v @ t.T
    log_conditional = (cosine / tau).log_softmax(1)
    log_marginal = log_conditional.logsumexp(0) - math.log(len(v))
    score = (log_conditional - log_marginal).amax(1)
    flat = score.max() - score.min() <= 16 * torch.finfo(score.dtype).eps / tau
    return cosine.amax(1) if flat else score


def self_pmi(visual: Tensor, tau: float, marginal: str = "uniform") -> Tensor:
    """D_ij = log p(v_j | v_i) - log p(v_j), Eqns 15 and 17 among visual tokens, candidate i against pick j: (N, N)."""
    v = normalize(working_precision(visual), dim=-1)
    n, logits = len(v), v @ v.T / tau
    log_z = logits.logsumexp(1)
    if marginal == "sinkhorn":  # scale rows and columns by exp(u) until both marginals are uniform
        u = torch.zeros_like(log_z) - math.log(n)
        for _ in range(200):
            step = (-math.log(n) - (logits + u).logsumexp(1) - u) / 2
            u = u + step
            if step.abs().max() < 1e-6:
                break
        return logits + u.unsqueeze(1) + u + 2 * math.log(n)
    log_conditional = logits - log_z.unsqueeze(1)
    log_marginal = {
        "uniform": -torch.full_like(log_z, math.log(n)),
        "total": log_conditional.logsumexp(0) - math.log(n),
        "stationary": log_z - log_z.logsumexp(0),
    }[marginal]
    return log_conditional - log_marginal
