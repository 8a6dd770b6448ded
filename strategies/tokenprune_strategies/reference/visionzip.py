"""VisionZip, whole."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tokenprune.core.features import working_precision


def visionzip(
    cls_attention: Tensor,
    keys: Tensor,
    encoder: Tensor,
    keep: int,
    *,
    encoder_cls: Tensor | None = None,
    share: float = 54 / 64,
    cls: bool = True,
    combine: Literal["sum", "mean"] = "sum",
) -> tuple[Tensor, Tensor]:
    """Dominant patches, then centres that the rest is merged into: (H, N), (N, k), (N, e) -> (K,), (K, e).

    [CLS] takes the place of the last pick, the lowest position that is neither dominant nor a centre.
    """
    ranked = working_precision(cls_attention).sum(0).argsort(descending=True, stable=True)
    n_dominant = max(0, int(share * keep) - cls)
    dominant, rest = ranked[:n_dominant], ranked[n_dominant:].sort().values
    n_centres = keep - n_dominant - cls
    centres = rest[:: max(1, len(rest) // max(1, n_centres))][:n_centres]
    held = rest[~torch.isin(rest, centres)][: int(cls)]
    tokens = merged(encoder, keys, dominant, centres, combine)
    if cls and encoder_cls is not None:
        tokens = torch.cat([working_precision(encoder_cls).unsqueeze(0), tokens])
    return torch.cat([dominant, centres, held]), tokens


def merged(encoder: Tensor, keys: Tensor, kept: Tensor, centres: Tensor, combine: str = "sum") -> Tensor:
    """Kept tokens as they are, then centres with the mean of those whose keys are most similar: (K, e)."""
    values, k = working_precision(encoder), normalize(working_precision(keys), dim=-1)
    kept, centres = kept.sort().values, centres.sort().values
    outside = torch.ones(len(values), dtype=torch.bool, device=values.device)
    outside[torch.cat([kept, centres])] = False
    tokens = list(values[kept])
    if len(centres):
        nearest = (k @ k[centres].T).argmax(1)
        for rank, centre in enumerate(centres):
            members = values[outside & (nearest == rank)]
            if combine == "mean":
                tokens.append(torch.cat([values[centre].unsqueeze(0), members]).mean(0))
            else:
                tokens.append(values[centre] + (members.mean(0) if len(members) else 0))
    return torch.stack(tokens) if tokens else values[:0]
