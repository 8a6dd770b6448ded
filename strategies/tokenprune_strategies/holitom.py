"""HoliTom: average what stands still over windows of frames, keep the most attended of the rest."""

from __future__ import annotations

import tokenprune as tp
from tokenprune.components.layerwise.attention import AttentionRows
from tokenprune.components.layerwise.halves import RunningHalves, ShareOfPresent
from tokenprune.components.salience import SignalScore
from tokenprune.components.video.members import WeightedMembers
from tokenprune.components.video.windows import StaticWindows
from tokenprune.core.schedule import LayerEvent, LayerSchedule


def holitom(
    *,
    threshold: float = 0.8,
    share: float | None = None,
    beta: float = 0.6,
    longest: int = 1024,
    inner: float | None = None,
    layer: int | None = None,
    salience: tp.Scorer = SignalScore("mean_attention@-1"),  # noqa: B008  (immutable)
) -> tp.Strategy | LayerSchedule:
    """HoliTom (Shao et al., NeurIPS 2025, arXiv 2505.21334): holistic token merging.

    A dynamic programme cuts the video into windows in which averaging the places that stand still saves most tokens.
    Their means are clustered around density peaks; of all other tokens each frame keeps the most attended. The text is
    not looked at, unless tokens are merged once more inside the language model.

    Stage
        Projection space, before the language model; window after window, static tokens first, then frame after frame;
        consecutive position ids. With ``inner`` also after layer 17 of 32, where dropped tokens are added to kept ones
        by halves, and position ids are kept.
    Signals
        ``mean_attention@-1``, ``visual``, and the grid: which frame a token belongs to. With ``inner`` attention of
        the prompt's last token.
    Merges
        Means over frames and clusters of them, in projection space; a merged token stands at its place in the first
        frame of its window.
    "64"
        The nominal share that stays. What is left after averaging keeps a share that comes to it, rounded up in every
        frame and to the nearest for static tokens, so that counts differ from it. A still picture is a window of one
        frame: its most attended tokens.
    Cost
        O(N d) + O(T² n) for the windows of T frames with n tokens, O(P² d) for P static places of a window, with
        ``inner`` O(M² d) for M tokens.
    Differences
        None in numbers, up to ties: random noise decides between equal densities there, the lower index here; that is
        the whole decision where a window has a single static centre. The published option for
        contextual tokens among moving ones cannot run and is not offered. Published code lets the share grow from one
        video of a batch to the next; here every row is treated alone.
    Whole
        :func:`tokenprune_strategies.reference.holitom.holitom`: the same, without ``inner``.

    Parameters
    ----------
    threshold : float, default 0.8
        Cosine to the next frame above which a place stands still; published with 0.65 for a tenth of the tokens.
    share : float, optional
        Nominal share; by default the budget's.
    beta : float, default 0.6
        Weight of a cluster's centre.
    longest : int, default 1024
        Frames of a window at most.
    inner : float, optional
        Share that is merged away inside the language model; published with 0.5.
    layer : int, optional
        Layer before which that happens; by default 18 of 32, scaled to the model's depth.
    salience : Scorer, default attention received in the encoder's last layer
        What ranks the tokens of a frame.
    """
    selector = StaticWindows(threshold, beta, longest=longest, share=share)
    outer = tp.Strategy(salience, selector, WeightedMembers(), positions="compact", name="holitom")
    if inner is None:
        return outer
    halves = tp.Strategy(AttentionRows(), merger=RunningHalves(), name="holitom")
    event = LayerEvent((18 if layer is None else layer) - 1, halves, ShareOfPresent(1 - inner))
    return LayerSchedule(
        "holitom",
        (event,),
        before=outer,
        positions="compact",
        inside="keep",
        reference_layers=32 if layer is None else None,
    )
