"""TRIM: outliers by similarity to the question in CLIP's space, and the mean of the rest."""

from __future__ import annotations

import tokenprune as tp
from tokenprune.components import selectors
from tokenprune.components.absorb import MeanOfRest
from tokenprune.components.outliers import Outliers
from tokenprune.components.salience import JointContrast


def trim(*, adaptive: bool = False, faithful: bool = False) -> tp.Strategy:
    """TRIM (Song et al., COLING 2025, arXiv 2409.10994): token reduction using CLIP metric.

    A softmax over patches of minus their product with the question's embedding in CLIP's joint space; the largest
    stay, in raster order, and the plain mean of the others follows them.

    Stage
        Encoder's last-but-one layer, before the projector; kept patches, then the mean, with consecutive position ids.
    Signals
        ``encoder``; ``joint_visual`` and ``joint_text`` where both are given (:func:`tokenprune.hf.clip_text.clip_text`
        makes them with a CLIP), else ``visual`` and ``text``.
    Merges
        All dropped patches into one token, in encoder space.
    "64"
        64 tokens enter the language model and stay: 63 patches and the mean. ``adaptive``, as published: as many
        patches as there are outliers among the softmax values, and one; the budget is not used.
    Cost
        O(N c) for products in a joint space of width c + O(N e) for the mean.
    Differences
        The paper keeps the patches most similar to the text; its code keeps the *least* similar ones, which is the
        default in the joint space, as there. Without a contrastive text tower the score is the mean cosine to the
        prompt's tokens in projection space, with its natural sign; this fallback is ours. Official quartiles run over
        all images of a batch (``faithful``). Without any outlier, and with nothing left to average, the official code
        fails; here the mean alone, or the last patch itself, remains.
    Whole
        :func:`tokenprune_strategies.reference.trim.trim`: the method as one loop.

    Parameters
    ----------
    adaptive : bool, default False
        As many patches as there are outliers, instead of the budget.
    faithful : bool, default False
        Quartiles over the batch.
    """
    selector = selectors.TwoStage(None, selectors.TopK(), 1.0, seed_redundancy=False, reserve=1)
    return tp.Strategy(
        JointContrast(),
        Outliers(selector, over="batch" if faithful else "row") if adaptive else selector,
        merger=MeanOfRest(),
        positions="compact",
        name="trim",
    )
