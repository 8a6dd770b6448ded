"""VisPruner, whole."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tokenprune.core.features import working_precision


def vispruner(cls_attention: Tensor, encoder: Tensor, keep: int, *, share: float = 0.5, rate: int = 8) -> Tensor:
    """Most attended tokens, then rounds that compare every second token with the others: (H, N), (N, e) -> (K,).

    Cosines in float64, without which half of the diverse tokens are noise.
    """
    ranked = working_precision(cls_attention).mean(0).argsort(descending=True, stable=True)
    important, rest = ranked[: int(share * keep)], ranked[int(share * keep) :]
    diverse = keep - len(important)
    while len(rest) > diverse > 0:
        tokens = normalize(encoder[rest].double(), dim=-1)
        even, odd = tokens[0::2], tokens[1::2]
        drop = min(rate, len(rest) - diverse, len(even))
        most_similar_first = (even @ odd.T).amax(1).argsort(descending=True, stable=True)
        rest = torch.cat([rest[0::2][most_similar_first[drop:]], rest[1::2]])
    return torch.cat([important, rest[:diverse]])
