"""Random tokens: the baseline that every method has to beat."""

from __future__ import annotations

import tokenprune as tp
from tokenprune.components import scorers, selectors


def random(*, seed: int = 0) -> tp.Strategy:
    """Keep tokens drawn uniformly without replacement.

    The paper's "Random" row averages three independent draws: ``seed=0``, ``1`` and ``2``.

    Cost
        O(N).
    Whole
        :func:`tokenprune_strategies.reference.random.random`: the method as one loop.

    Parameters
    ----------
    seed : int, default 0
        Of the draw.
    """
    return tp.Strategy(scorers.Random(seed), selectors.TopK(), name="random")
