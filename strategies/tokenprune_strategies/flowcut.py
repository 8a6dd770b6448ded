"""FlowCut: patches leave the encoder, layer by layer, by how much information flows through them."""

from __future__ import annotations

import tokenprune as tp
from tokenprune.components import selectors
from tokenprune.components.flow import InformationFlow
from tokenprune.components.salience import SignalScore


def flowcut(*, faithful: bool = False) -> tp.Strategy:
    """FlowCut (Tong et al., NeurIPS 2025, arXiv 2505.19536).

    After every second encoder layer patches are ranked by the attention of [CLS] plus the similarity of values to its
    own, times the size of the value, averaged over layers; the more concentrated the attention, the more of them go.
    The encoder's last layers and the language model see what is left. The text is not looked at, nothing is merged.

    Stage
        Between encoder layers, up to the one whose output is projected; raster order, consecutive position ids. Kept
        patches have been computed with fewer and fewer neighbours, so that they differ from a whole encoder's.
    Signals
        ``survivors``: [CLS]'s attention and values of every encoder layer while it runs.
    "64"
        64 tokens enter the language model and stay; the encoder's own saving comes on top and follows from the picture.
    Cost
        O(H n k) a layer for [CLS]'s row of attention and of value products over the n patches that are there.
    Differences
        The official code lets the picture of a batch that would lose most decide for all (``faithful``); here each has
        its own count. It needs eager attention and fails in half precision where probabilities underflow; here one row
        is multiplied out, in float32. Its second cut inside the language model, for tiled pictures, is left out: this
        strategy takes models with one token a patch.

    Parameters
    ----------
    faithful : bool, default False
        One count for all pictures of a batch.
    """
    return tp.Strategy(
        SignalScore("survivors"),
        selectors.TopK(),
        positions="compact",
        name="flowcut",
        stage=InformationFlow("batch" if faithful else "row"),
    )
