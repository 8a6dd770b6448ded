"""DyCoke: whole frames and what changes between them, and while decoding only what was attended to just now."""

from __future__ import annotations

import tokenprune as tp
from tokenprune.components import mergers
from tokenprune.components.layerwise.decoding import ChangedAttention
from tokenprune.components.video.temporal import FrameWindows
from tokenprune.core.schedule import DecodeEvent, LayerSchedule


def dycoke(
    *,
    share: float | None = None,
    hidden: float | None = 0.7,
    similarity: float = 0.9,
    layer: int | None = None,
    faithful: bool = False,
) -> tp.Strategy | LayerSchedule:
    """DyCoke (Tao et al., CVPR 2025, arXiv 2411.15024): dynamic compression of tokens.

    In windows of four frames the first stays whole; the second and the fourth keep what differs from the frame before,
    the third what differs from the first. While decoding, layers from the fourth on look at the visual tokens that the
    new token attends to most in the layer before, wherever its attention differs from the step before.

    Stage
        Projection space, before the language model: raster order, consecutive position ids. While decoding: from layer
        3 of 28 on; the prompt's forward pass is untouched, and caches stay whole, so that this saves no memory.
    Signals
        ``visual``, and the grid: which frame a token belongs to; while decoding one row of attention a token.
    "64"
        As many of all tokens, but never less than the whole frames, about every fourth: a smaller budget is exceeded,
        and counts say so. With ``share`` no budget enters: how many stay follows from it and the number of frames
        (published 0.7: about half), ``keep`` is not used, and a warning says so unless it is 1.0. A still picture is
        one frame, and stays whole.
    Cost
        O(N d); while decoding O(H N) a token.
    Differences
        Title and paper speak of merging; the code drops. It loses the last of an odd number of frames, fails below
        five, leaves the third frame of the last window whole, and lets tokens of a frame enter by similarity instead
        of by place (``faithful``). Where attention is as at the step before, one would expect the same tokens again;
        the code looks at all of them, and so does this. The code counts one visual token too few while decoding, so
        that the last one and the newline always stay. Beams and decoding without a cache are refused while
        ``hidden`` is on.
    Whole
        :func:`tokenprune_strategies.reference.dycoke.dycoke`: the act in front of the language model as one loop.

    Parameters
    ----------
    share : float, optional
        Share of a compared frame that is dropped; by default from the budget.
    hidden : float, optional, default 0.7
        Share of the visual tokens that is not looked at while decoding; None or 0 to look at all.
    similarity : float, default 0.9
        Cosine to the attention of the step before from which on all tokens are looked at.
    layer : int, optional
        First layer that looks at less while decoding; by default 3 of 28, scaled to the model's depth.
    faithful : bool, default False
        Do as the published code where it loses frames or the order of tokens.
    """
    merging = tp.Strategy(
        selector=FrameWindows(share, faithful),
        merger=mergers.PickOrder() if faithful else None,
        positions="compact",
        name="dycoke",
    )
    if not hidden:
        return merging
    return LayerSchedule(
        "dycoke",
        (),
        before=merging,
        positions="compact",
        reference_layers=28 if layer is None else None,
        decoding=DecodeEvent(3 if layer is None else layer, ChangedAttention(hidden, similarity)),
    )
