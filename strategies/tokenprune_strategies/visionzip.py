"""VisionZip: keep the dominant patches, merge the others into a few contextual tokens."""

from __future__ import annotations

from typing import Literal

import tokenprune as tp
from tokenprune.components import mergers, scorers, selectors


def visionzip(
    *,
    share: float = 54 / 64,
    cls: bool = True,
    combine: Literal["sum", "mean"] = "sum",
    salience: tp.Scorer = scorers.ClsAttention("sum"),  # noqa: B008  (immutable)
) -> tp.Strategy:
    """VisionZip (Yang et al., CVPR 2025, arXiv 2412.04467).

    Dominant tokens: [CLS] and the patches it attends to most. Contextual tokens: centres at a uniform stride over the
    remaining patches; each other patch joins the centre with the most similar key, and a centre becomes itself plus
    the mean of its members. The text is not looked at.

    Stage
        Encoder's last-but-one layer, before the projector: [CLS], dominant patches in raster order, contextual
        tokens in raster order, with consecutive position ids.
    Signals
        ``cls_attention``, ``keys``, ``encoder``, ``encoder_cls``.
    Merges
        Every dropped patch, in encoder space. A merged token's ``source`` is its centre's position; [CLS] is listed
        at the lowest position that is neither dominant nor a centre, whose patch is dropped and merged.
    "64"
        64 tokens enter the language model and stay: 54 dominant ones, [CLS] among them, and 10 contextual. The same
        ratio gives the 162 + 30 and 108 + 20 of the paper, and 27 + 5 for 32.
    Cost
        O(N H + C N k + N e) with C centres: the cheapest of its kind.
    Differences
        None in numbers. The paper speaks of averaging, its code adds the mean to the centre (twice the amplitude).
        A zero key has cosine 0 here, NaN there; a budget too small for a contextual token is allowed.
    Whole
        :func:`tokenprune_strategies.reference.visionzip.visionzip`: the method as one loop.

    Parameters
    ----------
    share : float, default 54/64
        Share of the budget for dominant tokens, [CLS] among them.
    cls : bool, default True
        Hand [CLS] on; False for encoders that have none.
    combine : str, default "sum"
        ``sum`` as the code does, ``mean`` over the centre and its members.
    salience : Scorer, default ``cls-attention``
        ``received-attention`` for encoders without [CLS].
    """
    return tp.Strategy(
        salience,
        selectors.TwoStage(None, selectors.Strided(), share, seed_redundancy=False, reserve=int(cls)),
        merger=mergers.NearestCentre(share, combine, cls=cls),
        positions="compact",
        name="visionzip",
    )
