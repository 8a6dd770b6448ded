"""How the new part is composed with parts that exist."""

from __future__ import annotations

import tokenprune as tp
from tokenprune.components import objectives, pairwise, selectors
from tokenprune_example.scorer import Detail


def example(*, lam: float = 0.7, power: float = 1.0) -> tp.Strategy:
    """Detail, less the cosine to the most similar token that is kept.

    Cost
        O(N d) for scores, O(N^2 d) for cosines, O(K N) for the picks.

    Parameters
    ----------
    lam : float, default 0.7
        Weight of detail, in [0, 1].
    power : float, default 1.0
        Of the distance from the average token.
    """
    objective = objectives.MaximalMarginalRelevance(lam, pairwise.Cosine())
    return tp.Strategy(Detail(power), selectors.Greedy(objective), name="tokenprune-example")
