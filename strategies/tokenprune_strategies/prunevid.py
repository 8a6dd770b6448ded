"""PruneVid: merge what is static and what is alike, then keep what the question attends to."""

from __future__ import annotations

import tokenprune as tp
from tokenprune.components.video.clusters import GroupTopK, LoudestText, SegmentStaticClusters
from tokenprune.components.video.members import WeightedMembers
from tokenprune.core.schedule import LayerEvent, LayerSchedule


def prunevid(
    *,
    threshold: float = 0.8,
    temporal: float = 0.25,
    spatial: float = 0.5,
    share: float | None = 0.4,
    layer: int | None = None,
) -> tp.Strategy | LayerSchedule:
    """PruneVid (Huang et al., ACL 2025, arXiv 2412.16117).

    Frames are clustered into segments. Places that look alike throughout a segment are averaged over it; these, and the
    other tokens of each frame, are clustered around density peaks. After layer 10 each part keeps a share by the
    largest attention that any token of the text pays it in any head.

    Stage
        Projection space, before the language model: segment after segment, static tokens first, clusters by the height
        of their peak; consecutive position ids. Then after layer 10 of 32, where position ids are kept. Tokens that go
        there are not looked at while decoding, by earlier layers neither.
    Signals
        ``visual``, and the grid: which frame a token belongs to; inside, attention of the text after the video.
    Merges
        All tokens that are clustered, in projection space; a cluster stands at the place of its centre, in the first
        frame of its segment where it is static.
    "64"
        Nothing: no budget enters. How many tokens stay follows from the video and the options (16 % reported); what
        ran tells. ``keep`` is not used, and a warning says so unless it is 1.0. A still picture is one frame, clustered
        in space.
    Cost
        O(T n d) + O(T² d) for segments of T frames with n tokens, O(w² n d) for static places of w frames, O(n² d) for
        every part clustered; inside O(H T N).
    Differences
        Random noise on densities decides ties there, the lower index here; on near-static video that noise decides the
        segments. The published code fails below 7 frames, or where the share of clusters rounds to none; here as many
        neighbours as there are, and one cluster. A part of one or two tokens keeps none after the layer, as published.
        That code cuts the caches of the layers up to that one; here what was dropped is hidden in them, which gives the
        same answers and saves no memory there. It was published for PLLaVA only. That fewer than 15 tokens are not
        clustered, and 7 neighbours, are in the code only.
    Whole
        :func:`tokenprune_strategies.reference.prunevid.prunevid`: the act in front of the language model as one loop.

    Parameters
    ----------
    threshold : float, default 0.8
        Mean cosine over pairs of frames above which a place is static.
    temporal : float, default 0.25
        Clusters of frames, as a share of the frames.
    spatial : float, default 0.5
        Clusters in space, as a share of the tokens clustered.
    share : float, optional, default 0.4
        Share of every part that stays after the layer; None to merge only, before the language model.
    layer : int, optional
        Layer after which that happens; by default 10 of 32, scaled to the model's depth.
    """
    selector = SegmentStaticClusters(threshold, temporal, spatial)
    merge = tp.Strategy(selector=selector, merger=WeightedMembers(), positions="compact", name="prunevid")
    if share is None:
        return merge
    event = LayerEvent(
        10 if layer is None else layer, tp.Strategy(LoudestText(), GroupTopK(share), name="prunevid"), rows="text"
    )
    return LayerSchedule(
        "prunevid",
        (event,),
        before=merge,
        positions="compact",
        inside="keep",
        forgets=True,
        reference_layers=32 if layer is None else None,
    )
