"""ApET's act in front of the language model, whole; after a layer it does the same once more."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tokenprune.core.features import working_precision


def apet(encoder: Tensor, keep: int, *, basis: int = 10, start: int = 0) -> tuple[Tensor, Tensor]:
    """Keep a few basis tokens and those that they reconstruct worst: (N, e) -> (K,), (K, e)."""
    x = working_precision(encoder)
    points = [start if start < len(x) else 0]
    while len(points) < min(basis, len(x)):  # the token farthest from the basis so far
        nearest = (x.unsqueeze(1) - x[points]).square().sum(-1).amin(1)
        nearest[points] = -math.inf
        points.append(int(nearest.argmax()))
    s = x[points].double()
    gram = s @ s.T + 1e-5 * torch.eye(len(s), dtype=s.dtype, device=s.device)
    error = (x.double() - torch.linalg.solve(gram, s @ x.double().T).T @ s).norm(dim=1)
    points = points[: keep - 1]  # one token at least is kept for its error
    error[points] = -math.inf
    worst = error.argsort(descending=True, stable=True)[: keep - len(points)]
    order = torch.cat([worst, torch.tensor(points, dtype=torch.long, device=x.device)])
    # every dropped token is averaged into the most similar of the worst
    unit = normalize(x, dim=-1)
    nearest = (unit @ unit[worst].T).argmax(1)
    nearest[order] = -1
    tokens = x.clone()
    for rank, taker in enumerate(worst):
        tokens[taker] = torch.cat([x[taker].unsqueeze(0), x[nearest == rank]]).mean(0)
    return order, tokens[order.sort().values]
