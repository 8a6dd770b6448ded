"""LLaVA-PruMerge and PruMerge+: outliers of [CLS] attention absorb their neighbours."""

from __future__ import annotations

import tokenprune as tp
from tokenprune.components import selectors
from tokenprune.components.absorb import AbsorbNeighbours
from tokenprune.components.outliers import OutlierGrid, Outliers, SalientAndGrid
from tokenprune.components.salience import SignalScore

SALIENCE = SignalScore("cls_wide_attention@-1")
"""Attention of [CLS] in the encoder's last layer, with all heads taken as one."""


def prumerge(*, adaptive: bool = False, neighbours: int = 32, faithful: bool = False) -> tp.Strategy:
    """LLaVA-PruMerge (Shang et al., ICCV 2025, arXiv 2403.15388).

    The patches that [CLS] attends to most stay; each absorbs the 32 patches with the most similar keys, weighed by
    their attention, and the dropped ones are summed up, weighed, in one token more. The text is not looked at.

    Stage
        Encoder's last-but-one layer, before the projector; attention and keys of the *last* layer, whose input that is.
        Tokens enter in descending attention, the sum last, with consecutive position ids.
    Signals
        ``cls_wide_attention`` and ``wide_keys`` of the last encoder layer, ``encoder``.
    Merges
        Neighbours into each kept patch, kept ones among them, and the dropped ones into one token, in encoder space.
    "64"
        64 tokens enter the language model and stay: 63 patches and the sum. ``adaptive``, as published: as many patches
        as there are outliers among the attention values, and one; the budget is not used.
    Cost
        O(N k) for scores + O(K N k) for similarities + O(K N e) for sums.
    Differences
        The paper averages; its code adds what is absorbed without dividing by the weights, which are small, so that a
        patch hardly changes; so it is here. Official quartiles run over all images of a batch (``faithful``), so that
        images decide about one another. Fewer than 33 patches fail there; here all others are neighbours.
    Whole
        :func:`tokenprune_strategies.reference.prumerge.prumerge`: the method as one loop.

    Parameters
    ----------
    adaptive : bool, default False
        As many patches as there are outliers, instead of the budget.
    neighbours : int, default 32
        Patches that each kept one absorbs.
    faithful : bool, default False
        Quartiles over the batch.
    """
    selector = selectors.TwoStage(None, selectors.TopK(), 1.0, seed_redundancy=False, reserve=1)
    return tp.Strategy(
        SALIENCE,
        Outliers(selector, over="batch" if faithful else "row") if adaptive else selector,
        merger=AbsorbNeighbours(neighbours=neighbours),
        positions="compact",
        name="prumerge",
    )


def prumerge_plus(
    *, adaptive: bool = False, neighbours: int = 32, ratio: float | None = None, faithful: bool = False
) -> tp.Strategy:
    """PruMerge+ (Shang et al., ICCV 2025, arXiv 2403.15388): as PruMerge, with a regular grid of further patches.

    Half of the budget goes to the patches that [CLS] attends to most, half to patches at a regular stride; merging is
    that of PruMerge. The text is not looked at.

    Stage
        As PruMerge. Tokens enter as salient ones in descending attention, then the grid, then the sum.
    Signals
        ``cls_wide_attention`` and ``wide_keys`` of the last encoder layer, ``encoder``.
    Merges
        As PruMerge.
    "64"
        64 tokens enter the language model and stay: 32 salient patches, 31 on the grid, and the sum. ``adaptive``, as
        published: outliers and a grid that is the finer the more there are; the budget is not used.
    Cost
        O(N k) for scores + O(K N k) for similarities + O(K N e) for sums.
    Differences
        With a budget the published code lays the grid over all patches, so that some are kept twice and as many of
        the lowest dropped ones are lost, and refuses budgets whose grid comes out otherwise (``faithful``); here the
        stride runs over the patches that are left. Its adaptive form never samples the last patch (``faithful``) and
        takes one image at a time; without an outlier it divides by zero, and here the sum alone remains.
    Whole
        :func:`tokenprune_strategies.reference.prumerge.prumerge_plus`: the method as one loop.

    Parameters
    ----------
    adaptive : bool, default False
        Outliers and their grid, instead of the budget.
    neighbours : int, default 32
        Patches that each kept one absorbs.
    ratio : float, optional
        Share of salient patches that the published code was given, from which it takes the stride; with ``faithful``.
    faithful : bool, default False
        Grids as in the published code.
    """
    return tp.Strategy(
        SALIENCE,
        OutlierGrid(omit_last=faithful) if adaptive else SalientAndGrid(ratio, repeats=faithful),
        merger=AbsorbNeighbours(neighbours=neighbours),
        positions="compact",
        name="prumerge-plus",
    )
