"""Random tokens, whole."""

from __future__ import annotations

from torch import Tensor

from tokenprune.core.draws import fingerprint, place_noise, reseeded


def random(visual: Tensor, keep: int, *, noise: Tensor | None = None, seed: int = 0) -> Tensor:
    """Draw a number for each token and keep the largest: (N, d) -> (K,).

    Numbers follow from the picture: from ``noise`` (N,), which was drawn from its pixels, or else from its tokens.
    """
    own = place_noise(fingerprint(visual.unsqueeze(0)), len(visual))[0] if noise is None else noise
    return reseeded(own, seed).argsort(descending=True, stable=True)[:keep]
