"""VisPruner: half by [CLS] attention, half by removing near-duplicates from the rest."""

from __future__ import annotations

import tokenprune as tp
from tokenprune.components import dedup, scorers, selectors


def vispruner(
    *,
    share: float = 0.5,
    rate: int = 8,
    salience: tp.Scorer = scorers.ClsAttention(),  # noqa: B008  (immutable)
) -> tp.Strategy:
    """VisPruner (Zhang et al., ICCV 2025, arXiv 2412.01818).

    The ``int(share * K)`` patches that [CLS] attends to most are kept. The others, in descending order of attention,
    lose up to ``rate`` near-duplicates a round by bipartite matching until the budget is met. The text is not looked
    at, nothing is merged.

    Stage
        Decided in the encoder's last-but-one layer, applied to projected tokens; raster order, consecutive position
        ids.
    Signals
        ``cls_attention``, ``encoder``.
    "64"
        64 tokens enter the language model and stay: 32 important and 32 diverse ones (96, 64 and 16 of each at 192,
        128 and 32).
    Cost
        O(N^2 e) for the cosines, once, and (N - K) / rate rounds on them; the official code computes them anew in
        each round.
    Differences
        Same picks wherever the official code runs. It fails on odd remainders (N = 63, or 14 of 64) and on small
        budgets (8 of 576, where a round would drop more than half of the list); here these work. Rounding noise
        of 1e-7 in the features exchanges up to half of the diverse tokens, so half precision never agrees token for
        token.
    Whole
        :func:`tokenprune_strategies.reference.vispruner.vispruner`: the method as one loop.

    Parameters
    ----------
    share : float, default 0.5
        Important tokens; the authors use 0.75 for MME. 1 is plain top-k, 0 only removes duplicates.
    rate : int, default 8
        Most tokens removed in a round.
    salience : Scorer, default ``cls-attention``
        ``received-attention`` for encoders without [CLS].
    """
    selector = selectors.TwoStage(None, dedup.BipartiteDedup(rate), share, seed_redundancy=False)
    return tp.Strategy(salience, selector, positions="compact", name="vispruner")
