"""VidCom2: keep what is unlike its video and its frame, more of it in frames that are unlike the video."""

from __future__ import annotations

import tokenprune as tp
from tokenprune.components.video.temporal import CentreDistance, FrameShares


def vidcom2(*, temperature: float = 0.01, share: float | None = None, faithful: bool = False) -> tp.Strategy:
    """VidCom2, video compression commander (Liu et al., EMNLP 2025, arXiv 2505.14454).

    Over the half of the channels that vary least, tokens far from the mean of the video and from the mean of their
    frame stay. A frame's share of the budget follows from a nearly hard softmax over how far it is from the video's
    mean. The text is not looked at, nothing is merged.

    Stage
        Projection space, before the language model; raster order, frame after frame; position ids are kept.
    Signals
        ``visual``, and the grid: which frame a token belongs to. A still picture is one frame.
    "64"
        64 tokens enter the language model and stay; the authors' default is a quarter.
    Cost
        O(N d) for two distances a token.
    Differences
        The authors keep what rounding frame by frame gives (786 of 3136 where a quarter is 784; ``faithful``); vLLM
        corrects the count by the worst and best tokens of the whole video, as done here, which may empty a frame of a
        very small budget. vLLM raises a budget below one token a frame to that; here it is kept to. Low-variance
        channels and Gaussians of five widths are in the code only. Newlines of LLaVA-Video stay as everywhere here.
    Whole
        :func:`tokenprune_strategies.reference.vidcom2.vidcom2`: the method as one loop.

    Parameters
    ----------
    temperature : float, default 0.01
        Of the softmax over frames.
    share : float, optional
        Share of the tokens that frames start from, before the count is corrected; by default the budget's.
    faithful : bool, default False
        Do not correct the count.
    """
    selector = FrameShares(temperature, share, exact=not faithful)
    return tp.Strategy(CentreDistance(), selector, name="vidcom2")
