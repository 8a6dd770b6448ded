"""CDPruner: the most diverse tokens, given the instruction."""

from __future__ import annotations

from typing import Literal

import tokenprune as tp
from tokenprune.components import objectives, scorers, selectors


def cdpruner(*, relevance_sign: Literal[1, -1] | None = None, faithful: bool = False) -> tp.Strategy:
    """CDPruner (Zhang et al., NeurIPS 2025, arXiv 2506.10967): conditional diversity.

    Greedy MAP of a determinantal point process with kernel q_i cos(v_i, v_j) q_j: cosine in projection space, q the
    min-max scaled relevance to the instruction. Nothing is merged.

    Stage
        Projection space, before the language model; raster order, consecutive position ids.
    Signals
        ``visual``; relevance reads CLIP's ``joint_visual`` and ``joint_text`` where both are given, else ``text``.
    "64"
        64 tokens enter the language model and stay. The budget is the only option of the paper.
    Cost
        O(N^2 d) for cosines, O(K^2 N) for the picks.
    Differences
        The code negates the relevance that the paper speaks of: in CLIP's joint space it prefers the patches *least*
        similar to the text, which the authors report to work; that is the default there. Without a contrastive text
        tower relevance is the mean cosine to the prompt's tokens in projection space, with its natural sign; this
        fallback is ours. The official min-max runs over all images of a batch, so that they decide about one another
        (``faithful``). Beyond the rank of the features official picks are NaN and fewer tokens remain; here a small
        ridge keeps the kernel positive definite and relevance decides.
    Whole
        :func:`tokenprune_strategies.reference.cdpruner.cdpruner`: the method as one loop.

    Parameters
    ----------
    relevance_sign : int, optional
        1 or -1; by default -1 in the joint space and 1 in projection space.
    faithful : bool, default False
        Min-max over the batch.
    """
    relevance = scorers.ConditionedRelevance(relevance_sign, "batch" if faithful else "row")
    selector = selectors.Greedy(objectives.LogDeterminant())
    return tp.Strategy(relevance, selector, positions="compact", name="cdpruner")
