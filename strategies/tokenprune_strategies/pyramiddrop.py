"""PyramidDrop: in stages, keep the visual tokens that the next layer's last row would attend to."""

from __future__ import annotations

import tokenprune as tp
from tokenprune.components.layerwise.attention import AttentionRows
from tokenprune.components.layerwise.rules import Pyramid
from tokenprune.core.errors import ConfigError
from tokenprune.core.schedule import LayerEvent, LayerSchedule

LAYERS = (8, 16, 24)
"""Layers that have run at each stage's end, of 32."""


def pyramiddrop(*, layers: tuple[int, ...] | None = None, ratios: tuple[float, ...] | None = None) -> LayerSchedule:
    """PyramidDrop (Xing et al., CVPR 2025, arXiv 2410.17247).

    At the end of each stage the visual tokens are ranked by the attention that the *next* layer would pay them in the
    row of the last prompt token, mean over heads, if nothing were dropped; a fixed share of the original number stays.
    Positions are renumbered, in every layer by itself while decoding. Nothing is merged.

    "64"
        64 tokens stay after the last stage. Shares fall geometrically, so that 72 of 576 are the published 1/2, 1/4 and
        1/8: 288, 144 and 72 tokens, 270 a layer on average. With the published layers the average cannot fall below
        145, so that tables of averages of 128 and 64 must come from other layers than the published ones.
    Cost
        O(S d^2) for the projections of one layer over the S tokens of the sequence + O(H S) for one row, at each stage.
    Differences
        None in picks, given the shares. The paper's code knows shares only, and no budget. It runs with flash attention
        or without padding, one picture a sample, key heads as many as query heads, and decodes one prompt at a time;
        here any batch, any number of pictures, each with its own share, and grouped-query attention.

    Parameters
    ----------
    layers : tuple of int, optional
        How many layers have run at each stage's end, counted from 1. By default 8, 16 and 24 of 32, scaled to the
        model's depth; numbers of yours are not scaled.
    ratios : tuple of float, optional
        Share of the original tokens after each stage, e.g. ``(0.5, 0.25, 0.125)``; give the last one as the budget. By
        default they follow from the budget.
    """
    ends = LAYERS if layers is None else tuple(layers)
    if not ends or min(ends) < 1:
        raise ConfigError(f"pyramiddrop: layers must count from 1 the layers that have run, got {layers!r}")
    rule = Pyramid(len(ends), None if ratios is None else tuple(ratios))
    stage = tp.Strategy(AttentionRows(), name="pyramiddrop")
    events = tuple(LayerEvent(end - 1, stage, rule, ahead=True) for end in ends)
    return LayerSchedule("pyramiddrop", events, positions="compact", reference_layers=32 if layers is None else None)
