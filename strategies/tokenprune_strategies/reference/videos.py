"""What references of methods for videos share: tokens by frame, cosines, density peaks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tokenprune.core.features import working_precision

__all__ = ["by_frame", "cosine", "peaks"]


def by_frame(values: Tensor, frames: Tensor) -> Tensor:
    """Tokens, (N, ...), with the frame of each, (N,), as (T, n, ...): frames are equally large."""
    x = working_precision(values)
    return x.reshape(int(frames.max()) + 1, -1, *x.shape[1:])


def cosine(x: Tensor, y: Tensor) -> Tensor:
    """Cosine of what stands at the same place: (..., d), (..., d) -> (...)."""
    return (normalize(x, dim=-1, eps=1e-8) * normalize(y, dim=-1, eps=1e-8)).sum(-1)


def peaks(x: Tensor, neighbours: int) -> tuple[list[int], Tensor]:
    """Tokens (m, d) by how much of a density peak they are, highest first, and their distances over sqrt(d), (m, m).

    Dense is what has near neighbours, itself among them; a peak is far from everything denser.
    """
    distance = torch.stack([(x - token).norm(dim=-1) for token in x]) / x.shape[-1] ** 0.5
    density = [-float(row.sort().values[:neighbours].square().mean()) for row in distance]
    heights = []
    for i, row in enumerate(distance):
        denser = [j for j in range(len(x)) if density[j] > density[i] or (density[j] == density[i] and j < i)]
        apart = row[denser].min() if denser else distance.max()
        heights.append(density[i] + float(apart.double().clamp_min(torch.finfo(torch.float64).tiny).log()))
    return sorted(range(len(x)), key=lambda i: -heights[i]), distance
