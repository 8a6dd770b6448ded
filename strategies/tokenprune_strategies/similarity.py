"""Cosine similarity to the prompt: the naive text-guided baseline."""

from __future__ import annotations

import tokenprune as tp
from tokenprune.components import aggregators, scorers, selectors


def similarity(*, aggregator: tp.Aggregator = aggregators.Max()) -> tp.Strategy:  # noqa: B008  (immutable)
    """Keep the tokens most similar to the prompt in projection space (MI-Pruner, "Similarity" row, Eqn 14).

    Cost
        O(N T d) for the cosines.
    Whole
        :func:`tokenprune_strategies.reference.similarity.similarity`: the method as one loop.

    Parameters
    ----------
    aggregator : Aggregator, default ``max``
        How the text tokens are reduced; the paper does not say (``mean`` is the other reading).
    """
    return tp.Strategy(scorers.TextSimilarity(aggregator), selectors.TopK(), name="similarity")
