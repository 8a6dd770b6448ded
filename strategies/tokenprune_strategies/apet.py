"""ApET: keep the tokens that a few basis tokens reconstruct worst."""

from __future__ import annotations

import tokenprune as tp
from tokenprune.components.layerwise.basis import BasisMerge, FarthestPoints, ReconstructionError, WithBasis
from tokenprune.components.layerwise.rules import Remainder, Share
from tokenprune.core.ranking import TopK
from tokenprune.core.schedule import LayerEvent, LayerSchedule


def apet(*, layer: int | None = None, basis: int = 10, start: int = 0, faithful: bool = False) -> LayerSchedule:
    """ApET (CVPR 2026, arXiv 2602.19870): approximation error, at the encoder's output and again half-way up.

    Every token is approximated by a ridge combination of ``basis`` tokens that lie far apart. The tokens with the
    largest error stay, every other one is averaged into the most similar of them. 1.5 times the budget enters the
    language model, and after the layer as many stay as make the average over layers the budget (half of it at
    the published place). Positions are renumbered.

    Cost
        O(B N e) for B basis tokens, O(B^2 N) for the reconstruction and O((N - K) K e) for merging, at both places;
        no attention.
    Differences
        The published code draws the first basis token at random, hands on basis tokens at positions where other
        tokens were, and solves in float32 a system that near-duplicates make singular (``faithful``, except for the
        draw). Its scripts have no setting for 32; the same shares are used.
    Whole
        :func:`tokenprune_strategies.reference.apet.apet`: the act in front of the language model as one loop.

    Parameters
    ----------
    layer : int, optional
        Layer to act after. By default 15 of 32, scaled to the model's depth; a number of yours is not scaled.
    basis : int, default 10
        Basis tokens; fewer where the budget is not larger.
    start : int, default 0
        First basis token. (The published code draws it at random.)
    faithful : bool, default False
        Do as the published code: keep the largest errors only, and then put the basis tokens' content over the last
        of them, where other tokens were; solve in float32. By default the basis tokens are kept at their own places,
        and the badly conditioned system is solved in float64.
    """

    def stage(signal: str, overwrite: str) -> tp.Strategy:
        points = FarthestPoints(basis, start)
        selector = TopK() if faithful else WithBasis(points, signal)
        merger = BasisMerge(points, overwrite if faithful else "none", signal=signal)  # type: ignore[arg-type]
        scorer = ReconstructionError(points, signal=signal, double=not faithful)
        return tp.Strategy(scorer, selector, merger, positions="compact", name="apet")

    return LayerSchedule(
        "apet",
        (LayerEvent(15 if layer is None else layer, stage("visual", "order"), Remainder()),),
        before=stage("encoder", "raster"),
        before_rule=Share(1.5),
        positions="compact",
        reference_layers=32 if layer is None else None,
    )
