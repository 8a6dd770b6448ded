"""SparseVLM: text tokens that relate to the image rate the visual tokens, at three layers."""

from __future__ import annotations

from typing import Literal

import tokenprune as tp
from tokenprune.components.layerwise.attention import AttentionRows, Raters
from tokenprune.components.layerwise.recycle import Recycle
from tokenprune.components.layerwise.rules import Interpolated
from tokenprune.core.errors import ConfigError, closest
from tokenprune.core.schedule import LayerEvent, LayerSchedule

Rows = tuple[tuple[int, tuple[int, int, int]], ...]

KEPT: dict[str, Rows] = {
    "v1": ((64, (66, 30, 17)), (96, (238, 48, 26)), (128, (303, 110, 36)), (192, (300, 200, 110))),
    "v2": ((64, (66, 34, 20)), (96, (246, 54, 28)), (128, (238, 108, 60)), (192, (300, 200, 118))),
}
"""Kept after layers 2, 6 and 15 of 32 for each budget and 576 visual tokens, as published with the code."""


def sparsevlm(
    *, version: Literal["v1", "v2"] = "v1", layers: tuple[int, ...] | None = None, faithful: bool = False
) -> LayerSchedule:
    """SparseVLM (ICML 2025, arXiv 2410.04417) and SparseVLM+.

    Raters are the text tokens whose softmax over embedding products with the image lies above the mean. After three
    layers the visual tokens with the largest attention from the raters stay. ``v1`` clusters the best 30 % of the
    dropped ones and appends the means, and renumbers positions. ``v2`` divides attention by the weight that rotary
    embedding alone gives the distance, listens to the 14 loudest heads, merges nothing and keeps positions.

    Budgets are averages over layers as the authors count them, which credits a pruning layer with what it leaves:
    "128 tokens" of 576 are 145 really processed. Budgets and token numbers without a published list are interpolated
    in shares of the tokens; below 64 of 576 the average stays above the budget, because three full layers alone use
    most of it.

    Cost
        O(N T d) for the raters; at each of three layers O(H T N) for attention rows and, in ``v1``, O(m^2 d) to
        cluster the m recycled tokens.
    Differences
        In the paper the rank of the attention decides how many tokens go; the code has fixed lists, used here. It
        breaks ties between densities by random noise, so that its runs differ; here ties go to the lower index. It
        works with one prompt at a time and needs 14 heads; here any.

    Parameters
    ----------
    version : str, default "v1"
        ``v1`` is SparseVLM, ``v2`` SparseVLM+.
    layers : tuple of int, optional
        Layers to act after, at most three. By default 2, 6 and 15 of 32, scaled to the model's depth.
    faithful : bool, default False
        Do as the published code where that is a defect: at least one token is always dropped, and ``v1`` appends it
        again as its own cluster, which only reorders; ``v2`` divides by rotary weights near and below zero, which
        distances beyond about 700 have, instead of clamping them.
    """
    if version not in KEPT:
        raise ConfigError(f"sparsevlm: no version {version!r}; {closest(str(version), KEPT)}")
    if layers is not None and not 1 <= len(layers) <= 3:
        raise ConfigError(f"sparsevlm: layers must name one to three layers, got {layers!r}")
    if version == "v1":
        scorer = AttentionRows(raters="raters")
        stage = tp.Strategy(scorer, merger=Recycle(scorer), name="sparsevlm")
    else:
        scorer = AttentionRows(raters="raters", debias=True, floor=0.0 if faithful else 0.1, heads=14)
        stage = tp.Strategy(scorer, name="sparsevlm")
    rule = Interpolated(KEPT[version], tokens=576, leave_one=faithful)
    places = (2, 6, 15) if layers is None else layers
    return LayerSchedule(
        "sparsevlm",
        tuple(LayerEvent(layer, stage, rule, rows="text", idle=faithful) for layer in places),
        measures=(Raters(),),
        positions="compact" if version == "v1" else "keep",
        reference_layers=32 if layers is None else None,
    )
