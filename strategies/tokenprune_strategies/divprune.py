"""DivPrune: the tokens that are farthest from one another."""

from __future__ import annotations

import tokenprune as tp
from tokenprune.components import objectives, selectors


def divprune(*, faithful: bool = False) -> tp.Strategy:
    """DivPrune (Alvar et al., CVPR 2025, arXiv 2503.02175): max-min diversity, chosen greedily.

    Maximises the smallest cosine distance among the kept tokens: the first pick is the token whose nearest neighbour
    is farthest, every next one the token farthest from its nearest pick. The text is not looked at, nothing is merged.

    Stage
        Projection space, before the language model; raster order, consecutive position ids.
    Signals
        ``visual``.
    "64"
        64 tokens enter the language model and stay in every layer. The official script's ratio 0.098 keeps 56 of 576;
        192, 128, 64 and 32 are the ratios 1/3, 2/9, 1/9 and 1/18. It rounds half to even, a ratio here half up.
    Cost
        O(N^2 d) for the distances, O(K N) for the picks.
    Differences
        The official code never masks its picks, so once all tokens left coincide with picked ones it picks some again
        and the sequence holds copies. A zero vector makes its distances NaN there; here it has cosine 0 to all.
    Whole
        :func:`tokenprune_strategies.reference.divprune.divprune`: the method as one loop.

    Parameters
    ----------
    faithful : bool, default False
        Allow a token to be picked again, as the official code does.
    """
    selector = selectors.Greedy(objectives.MaxMin(), repeats=faithful)
    return tp.Strategy(selector=selector, positions="compact", name="divprune")
