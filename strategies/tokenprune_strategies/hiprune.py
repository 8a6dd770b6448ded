"""HiPrune: anchors of a middle encoder layer with their neighbours, registers of the last one."""

from __future__ import annotations

import tokenprune as tp
from tokenprune.components.anchors import AnchorsAndBuffers
from tokenprune.components.salience import SignalScore
from tokenprune.core.layer_names import at_layer


def hiprune(
    *, alpha: float = 0.1, object_layer: int | str = "9/24", deep_layer: int | str | None = None, faithful: bool = False
) -> tp.Strategy:
    """HiPrune (Liu et al., 2025, arXiv 2508.00553): hierarchical attention of the vision encoder.

    Anchors are the patches that receive most attention in a middle layer, where encoders look at objects; buffers are
    their four neighbours in the picture; registers, which fill the budget, receive most attention in the output layer.
    Received attention is the mean over heads and all rows, [CLS]'s and the patch's own among them. The text is not
    looked at, nothing is merged.

    Stage
        Chosen in the encoder, kept in projection space; raster order, consecutive position ids.
    Signals
        ``mean_attention`` of two encoder layers; ``places``: row and column of each token.
    "64"
        64 tokens enter the language model and stay: for 64 one anchor, at most four buffers, and registers.
    Cost
        O(H N^2) for the attention of two layers, added up in blocks of rows + O(A N) for the neighbours of A anchors.
    Differences
        The published code counts neighbours by position in a raster 24 wide: past the end of a row comes the next row,
        past the picture one of its corners (``faithful``, for any size). Here a border has no neighbour beyond it. With
        ``alpha`` near 1 neighbours may be more than the budget, which fails there; here the most attended ones stay.
        The official budget is divided by the number of images in a call. Its Qwen version sums over rows, so that
        subtracting 1 does not exclude a token for sure; here the mean is used everywhere.
    Whole
        :func:`tokenprune_strategies.reference.hiprune.hiprune`: the method as one loop.

    Parameters
    ----------
    alpha : float, default 0.1
        Share of the budget for anchors and buffers; a fifth of it are anchors.
    object_layer : int or str, default "9/24"
        Layer of the anchors: the 9th of 24, moved to the same share of other depths; a number is a layer, from 0.
    deep_layer : int or str, optional
        Layer of the registers; by default that whose output is projected.
    faithful : bool, default False
        Neighbours by position in the raster.
    """
    return tp.Strategy(
        SignalScore(at_layer("mean_attention", deep_layer)),
        AnchorsAndBuffers(SignalScore(at_layer("mean_attention", object_layer)), alpha, wrap=faithful),
        positions="compact",
        name="hiprune",
    )
