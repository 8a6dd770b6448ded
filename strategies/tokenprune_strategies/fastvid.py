"""FastVID: salient tokens of every frame, and density peaks of a few frames for the rest of their segment."""

from __future__ import annotations

import tokenprune as tp
from tokenprune.components.salience import SignalScore
from tokenprune.components.video.anchors import Form, SegmentAnchors
from tokenprune.components.video.members import WeightedMembers


def fastvid(
    *,
    segments: int = 8,
    threshold: float = 0.9,
    context: float = 0.4,
    every: int = 4,
    beta: float = 0.6,
    form: Form = "onevision",
    salience: tp.Scorer = SignalScore("mean_attention@-1"),  # noqa: B008  (immutable)
    faithful: bool = False,
) -> tp.Strategy:
    """FastVID (Shen et al., NeurIPS 2025, arXiv 2503.11187): dynamic density pruning.

    The video is cut into segments where frames are least alike. Every frame keeps its most attended tokens; the rest of
    a segment is merged into density peaks of its anchor frames, once for each anchor. The text is not looked at.

    Stage
        Projection space, before the language model; raster order, frame after frame; position ids are kept.
    Signals
        ``mean_attention@-1``, ``visual``, and the grid. A feature of each frame for the segments may be handed in as
        ``extra={"frame_features": ...}``, (units, T, e); else it is the mean of the frame's tokens.
    Merges
        All tokens that are not salient, in projection space; a centre keeps its place. At ``beta`` of a half or more
        its own weight is ``beta``.
    "64"
        int(64 / T) tokens a frame, of which ``context`` are centres; rounding leaves up to one token a frame unused,
        and few anchors of short segments some more. A still picture is one segment of one frame.
    Cost
        O(T n² d) for densities in T frames of n tokens, O(m N C d) for members, with m anchors a segment and C centres.
    Differences
        Published are attention of SigLIP's pooling head and its output for a frame, loaded beside models that leave the
        head out, or, for Qwen2.5-VL, what is the default here: attention received in the encoder's last layer, and the
        mean of tokens. ``salience=SignalScore("pooling_attention")`` reads a head where a model has one. Random noise
        on densities decides ties there, the lower index here. The published code fails with fewer frames than segments
        and where no centre fits, and an anchor may merge its own frame only (``faithful``). Its three versions are not
        the same function (``form``). In all of them 1 / (members + 1) hardly ever counts.
    Whole
        :func:`tokenprune_strategies.reference.fastvid.fastvid`: the method as one loop.

    Parameters
    ----------
    segments : int, default 8
        Segments there are at least.
    threshold : float, default 0.9
        Cosine of consecutive frames below which a segment ends.
    context : float, default 0.4
        Share of the budget for centres.
    every : int, default 4
        Distance of anchor frames.
    beta : float, default 0.6
        Weight of a centre in what it becomes.
    form : str, default "onevision"
        ``onevision``, ``llava-video`` (remainders are handed out inside segments) or ``qwen`` (of near-identical frames
        the last one keeps tokens).
    salience : Scorer, default attention received in the encoder's last layer
        What ranks the tokens of a frame.
    faithful : bool, default False
        Do as the published code where it fails or merges too little.
    """
    selector = SegmentAnchors(segments, threshold, context, every, beta, form, faithful=faithful)
    return tp.Strategy(salience, selector, WeightedMembers("ascending"), name="fastvid")
