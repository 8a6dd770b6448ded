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
    adaptive: bool = False,
    joint_visual: Tensor | None = None,
    joint_text: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Keep outliers by similarity to the question, and the mean of the rest: (N, d), (T, d), (N, e) -> (K,), (K, e).

    The mean stands at the last pick, the lowest position that is left. In CLIP's joint space the *least* similar stay.
    """
    if joint_visual is not None and joint_text is not None:
        logits = -(working_precision(joint_visual) @ working_precision(joint_text).T).mean(1)
    else:
        v, t = (normalize(working_precision(x), dim=-1) for x in (visual, text))
        logits = (v @ t.T).mean(1)
    score = logits.softmax(0)
    if adaptive:  # as many as lie beyond the third quartile by 1.5 distances of quartiles, and the mean
        low, high = score.double().quantile(torch.tensor([0.25, 0.75], dtype=torch.float64, device=score.device))
        keep = int((score > high + 1.5 * (high - low)).sum()) + 1
    kept = score.argsort(descending=True, stable=True)[: keep - 1]
    dropped = torch.ones(len(score), dtype=torch.bool, device=score.device)
    dropped[kept] = False
    order = torch.cat([kept, dropped.nonzero()[:1, 0]])
    values = working_precision(encoder)
    return order, torch.cat([values[kept.sort().values], values[dropped].mean(0, keepdim=True)])
