"""MI-Attention, whole: attention first, then Algorithm 1 over what is left."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from tokenprune.core.errors import ConfigError
from tokenprune.core.features import working_precision
from tokenprune_strategies.reference.mi_pruner import greedy, relevance, self_pmi
from tokenprune_strategies.reference.visionzip import merged


def mi_attention(
    visual: Tensor,
    text: Tensor,
    cls_attention: Tensor,
    keep: int,
    *,
    form: Literal["vispruner", "visionzip"] = "vispruner",
    share: float | None = None,
    lam: float = 0.5,
    tau: float = 0.1,
    marginal: Literal["uniform", "total", "stationary", "sinkhorn"] = "uniform",
    seed_redundancy: bool = True,
    keys: Tensor | None = None,
    encoder: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Keep what [CLS] attends to, fill up by MI-Pruner's score: (N, d), (T, d), (H, N) -> (K,).

    The form ``visionzip`` merges every token that is dropped into the picks of round 2, and returns the tokens too.
    """
    share = (54 / 64 if form == "visionzip" else 0.5) if share is None else share
    salience = working_precision(cls_attention).mean(0)
    salient = salience.argsort(descending=True, stable=True)[: int(share * keep)]
    table = self_pmi(visual, tau, marginal) if lam < 1 else None
    score = relevance(visual, text, tau)
    filled = greedy(score, table, lam, keep - len(salient), salient, seeded=seed_redundancy)
    order = torch.cat([salient, filled])
    if form == "vispruner":
        return order
    if keys is None or encoder is None:
        raise ConfigError("mi-attention: form 'visionzip' merges in the encoder's space and needs keys and encoder")
    return order, merged(encoder, keys, salient, filled)
