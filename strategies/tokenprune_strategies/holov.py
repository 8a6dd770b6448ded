"""HoloV: every part of the picture gets its share of the budget."""

from __future__ import annotations

from typing import Literal

import tokenprune as tp
from tokenprune.components import crops as crops_
from tokenprune.components import mergers, scorers


def holov(
    *,
    crops: int | None = None,
    alpha: float = 0.09,
    within: Literal["scores", "holistic"] = "scores",
    salience: tp.Scorer = scorers.ClsAttention(),  # noqa: B008  (immutable)
    faithful: bool = False,
) -> tp.Strategy:
    """HoloV (Zou et al., NeurIPS 2025, arXiv 2510.02912): visual holistic context retention.

    The raster sequence is cut into runs ("crops"); each gets a share of the budget by its mean score, attention plus
    local diversity, and keeps its most attended tokens. The text is not looked at, nothing is merged.

    Stage
        Projection space, before the language model; raster order, consecutive position ids.
    Signals
        ``cls_attention``, ``visual``.
    "64"
        64 tokens enter the language model and stay, from 16 crops of 36; 5, 8 and 32 crops at 192, 128 and 32.
    Cost
        O(N^2 d / crops) for the diversity.
    Differences
        In the official code the diversity is scaled to the attention's mean and then cancels, so the features do not
        change the result (``CropBudgets`` says when they do); ``within="holistic"`` is the paper's idea. Crops are
        runs of 1.5 rows, not windows. Where a crop is given more places than it has tokens (frequent from 128 on),
        official code fills the sequence up with zero vectors, and tokens enter by attention inside a crop
        (``faithful``); here the places go to other crops, and tokens enter in raster order.
    Whole
        :func:`tokenprune_strategies.reference.holov.holov`: the method as one loop.

    Parameters
    ----------
    crops : int, optional
        By default max(1, floor(16/9 N/K)), the authors' rule for Qwen, which agrees with their 16 for LLaVA at 64.
    alpha : float, default 0.09
        Weight of the diversity.
    within : str, default "scores"
        What ranks tokens inside a crop: ``scores`` (attention) or ``holistic`` (attention and diversity).
    salience : Scorer, default ``cls-attention``
        ``received-attention`` for encoders without [CLS].
    faithful : bool, default False
        Lose the places that a crop cannot use (the row then keeps fewer tokens, padded with -1 and zeros), and enter
        in pick order.
    """
    selector = crops_.CropBudgets(crops, "lose" if faithful else "redistribute", within, alpha)
    merger = mergers.PickOrder() if faithful else None
    return tp.Strategy(salience, selector, merger, positions="compact", name="holov")
