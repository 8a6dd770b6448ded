"""SCOPE: cover all patches, the salient ones first."""

from __future__ import annotations

from typing import Literal

import tokenprune as tp
from tokenprune.components import objectives, scorers, selectors


def scope(*, alpha: float = 1.0, combine: Literal["multi", "add"] = "multi") -> tp.Strategy:
    """SCOPE (Deng et al., 2025, arXiv 2510.24214): saliency-coverage oriented token pruning.

    Greedy. A pick covers each patch by their cosine, at least 0; a candidate's gain is the rise in total coverage times
    its [CLS] attention, summed over heads. The text is not looked at, nothing is merged.

    Stage
        Encoder's last-but-one layer; raster order, consecutive position ids.
    Signals
        ``cls_attention``, ``encoder``.
    "64"
        64 tokens enter the language model and stay.
    Cost
        O(N^2 e) for cosines + O(K N^2) for the picks.
    Differences
        None in picks. The official budget is divided by the number of images in a call; here each image has its own. A
        zero feature has cosine 0 here, NaN there. The product of a gain and a weight is the gain of no set function, so
        the guarantee of greedy coverage does not carry over.
    Whole
        :func:`tokenprune_strategies.reference.scope.scope`: the method as one loop.

    Parameters
    ----------
    alpha : float, default 1.0
        Power of the attention.
    combine : str, default "multi"
        ``multi``: gain times attention; ``add``: gain plus attention.
    """
    objective = objectives.SalientCoverage("encoder", alpha, combine)
    return tp.Strategy(scorers.ClsAttention("sum"), selectors.Greedy(objective), positions="compact", name="scope")
