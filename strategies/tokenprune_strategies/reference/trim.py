"""TRIM, whole."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tokenprune.core.features import working_precision


def trim(
    visual: Tensor,
    text: Tensor,
    encoder: Tensor,
    keep: int,
    *,
    joint_visual: Tensor | None = None,
    joint_text: Tensor | None = None,
    adaptive: bool = False,
) -> tuple[Tensor, Tensor]:
    """Patches least like the text in CLIP's space, then the mean of the rest: (N, d), (T, d), (N, e) -> (K,), (K, e).

    The mean takes the place of the last pick, the lowest position left over.
    """
    if joint_visual is not None and joint_text is not None:
        likeness = -(working_precision(joint_visual) @ working_precision(joint_text).T).mean(1)
    else:
        seen, words = (normalize(working_precision(x), dim=-1) for x in (visual, text))
        likeness = (seen @ words.T).mean(1)
    score = likeness.softmax(0)
    if adaptive:
        low, high = score.quantile(0.25), score.quantile(0.75)
        keep = int((score > high + 1.5 * (high - low)).sum()) + 1
    kept = score.argsort(descending=True, stable=True)[: keep - 1]
    rest = torch.ones(len(score), dtype=torch.bool, device=score.device)
    rest[kept] = False
    values = working_precision(encoder)
    tokens = torch.cat([values[kept.sort().values], values[rest].mean(0, keepdim=True)])
    return torch.cat([kept, rest.nonzero()[0]]), tokens
