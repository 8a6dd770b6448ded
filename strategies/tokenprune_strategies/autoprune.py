"""AutoPrune: how early a sample is pruned follows from how much its image and prompt share."""

from __future__ import annotations

import tokenprune as tp
from tokenprune.components.layerwise.attention import AttentionInformation, AttentionRows, JointAttention
from tokenprune.components.layerwise.recycle import Recycle
from tokenprune.components.layerwise.rules import Logistic, Share
from tokenprune.components.scorers import ClsAttention
from tokenprune.core.schedule import LayerEvent, LayerSchedule


def autoprune(
    *,
    slope: float = 0.4,
    gain: float = 0.2,
    midpoint: float = 14.9,
    salience: tp.Scorer = ClsAttention(),  # noqa: B008  (immutable)
    faithful: bool = False,
) -> LayerSchedule:
    """AutoPrune ("Each Complexity Deserves a Pruning Policy", NeurIPS 2025, arXiv 2509.23931).

    After the first layer, encoder salience and the text's attention together choose 2.5 times the budget. After every
    later layer a share stays that falls along a logistic curve over the layers; its slope follows from the
    pseudo mutual information of the second layer's attention, and its scale makes the counts after each layer average
    to the budget. Part of what is dropped comes back as cluster means. Positions are renumbered.

    "128 tokens" are about 146 really processed, because a layer processes what the one before it left.

    Cost
        O(H T N) for attention rows and O(m^2 d) to cluster the m recycled tokens, after every layer.
    Differences
        Follows the code, which differs from the paper: it cuts to 2.5 times the budget after the first layer, shifts
        the curve's midpoint by its slope, and finds the scale numerically. It breaks ties between densities by random
        noise; here they go to the lower index. The information is a sum over heads, so the slope depends on how many
        a model has.

    Parameters
    ----------
    slope, gain, midpoint : float, defaults 0.4, 0.2, 14.9
        Largest slope, how fast it falls with the information, and the layer in the middle of the curve.
    salience : Scorer, default ``cls-attention``
        The encoder's score; ``received-attention`` for encoders without [CLS].
    faithful : bool, default False
        Act as the published code also where a single token is dropped and appended again as its own cluster, which
        only changes the order of the tokens, and stop at 20 times the curve, so that budgets near all tokens are
        missed. By default such layers leave everything as it is, and every budget is met.
    """
    attention = AttentionRows()
    merger = Recycle(attention)
    first = Share(2.5)
    rule = Logistic(first, merger, slope=slope, gain=gain, midpoint=midpoint, published=faithful)
    later = tp.Strategy(attention, merger=merger, name="autoprune")
    joint = tp.Strategy(JointAttention(salience), name="autoprune")
    return LayerSchedule(
        "autoprune",
        (
            LayerEvent(0, joint, first, rows="text"),
            LayerEvent(1, later, rule, rows="text", measures=(AttentionInformation(),), idle=faithful),
            LayerEvent(2, later, rule, rows="text", until=-1, idle=faithful),
        ),
        positions="compact",
    )
