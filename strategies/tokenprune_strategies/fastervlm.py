"""FasterVLM: the patches that the encoder's [CLS] attends to most."""

from __future__ import annotations

import tokenprune as tp
from tokenprune.components import scorers, selectors


def fastervlm() -> tp.Strategy:
    """FasterVLM (Zhang et al., 2024, arXiv 2412.01818, version 1; the later versions of that number are VisPruner).

    Top-k by the attention of [CLS], mean over heads, in the encoder layer whose output is projected. The text is not
    looked at, nothing is merged.

    Stage
        Projection space, before the language model; raster order, consecutive position ids.
    Signals
        ``cls_attention``.
    "64"
        64 tokens enter the language model and stay.
    Cost
        O(H N) for one row of attention.
    Differences
        None in picks. The published code runs the whole encoder with eager attention to read one row of it. For a
        tiled picture it keeps as many tokens of every tile (``unit="tile"``) and drops the newline tokens, which stay
        here.
    Whole
        :func:`tokenprune_strategies.reference.fastervlm.fastervlm`: the method as one loop.
    """
    return tp.Strategy(scorers.ClsAttention(), selectors.TopK(), positions="compact", name="fastervlm")
