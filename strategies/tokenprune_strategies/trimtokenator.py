"""TrimTokenator: drop what is far from the text, then spread out."""

from __future__ import annotations

import tokenprune as tp
from tokenprune.components import objectives, scorers, selectors


def trimtokenator(*, share: float = 0.8, squared: bool = True) -> tp.Strategy:
    """TrimTokenator (Zhang et al., arXiv 2509.00320), reconstructed from its text: there is no official code.

    Stage 1 keeps the ``int(share * N)`` tokens nearest to the prompt's tokens in L2, a proxy of mutual information
    under Gaussian conditionals. Stage 2 (RepMax) picks greedily the token with the least mean cosine to the picks,
    first the one least similar to all survivors. Nothing is merged.

    Stage
        Projection space, before the language model; raster order, consecutive position ids.
    Signals
        ``visual``, ``text``.
    "64"
        64 tokens enter the language model and stay.
    Cost
        O(N d) for stage 1, O(N^2 d + K N) for stage 2.
    Differences
        Unknown. The public text leaves open whether distances are squared, and the share: 0.8 is that of a
        third-party implementation. Embeddings are not normalised, so tokens of large norm go first.
    Whole
        :func:`tokenprune_strategies.reference.trimtokenator.trimtokenator`: the method as one loop.

    Parameters
    ----------
    share : float, default 0.8
        Survivors of stage 1; 1 is stage 2 alone. Never fewer than the budget.
    squared : bool, default True
        Mean of squared distances, or of plain ones.
    """
    selector = selectors.Prefilter(share, selectors.Greedy(objectives.MeanDispersion()))
    return tp.Strategy(scorers.TextAlignment(squared), selector, positions="compact", name="trimtokenator")
