"""EVS: drop what looks like the same place one frame earlier."""

from __future__ import annotations

import tokenprune as tp
from tokenprune.components.video.temporal import TemporalNovelty, WholeFrame


def evs() -> tp.Strategy:
    """EVS, efficient video sampling (Bagrov et al., 2025, arXiv 2510.14624), as vLLM runs it.

    Every token is compared with the one at the same place of the frame before, whether that one stays or not; the least
    similar ones stay, the whole first frame before all others. The text is not looked at, nothing is merged.

    Stage
        Projection space, before the language model; raster order, frame after frame; position ids are kept.
    Signals
        ``visual``, and the grid: which frame a token belongs to.
    "64"
        The share that stays, 1 - q with the pruning rate q of vLLM (no default there; 0.3 in Nemotron's configuration).
        Never less than one frame: a smaller budget is exceeded, and counts say so. So a still picture, which is one
        frame, is left as it is, as in vLLM, which prunes no pictures.
    Cost
        O(N d): one cosine a token.
    Differences
        None in picks for as many tokens. vLLM's count is int(N (1 - q)) in floating point, so 199 of 1000 at q = 0.8;
        a ratio given as ``keep`` is rounded half up. The paper, as summarised by others, compares pixels with a
        threshold; the code compares embeddings and keeps an exact number. vLLM lets the text's positions begin at the
        number of columns behind the video's first; here they stay what the model makes them.
    Whole
        :func:`tokenprune_strategies.reference.evs.evs`: the method as one loop.
    """
    return tp.Strategy(TemporalNovelty(), WholeFrame(), name="evs")
