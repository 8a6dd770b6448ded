"""DART: keep what duplicates the pivots least."""

from __future__ import annotations

import tokenprune as tp
from tokenprune.components.layerwise.pivots import KeyNorm, PivotQuota
from tokenprune.components.layerwise.rules import PivotsAndQuotas
from tokenprune.core.errors import ConfigError
from tokenprune.core.schedule import LayerEvent, LayerSchedule


def dart(*, k: int | None = None, image_pivots: int = 4, text_pivots: int = 4, faithful: bool = False) -> LayerSchedule:
    """DART ("Stop Looking for Important Tokens", EMNLP 2025, arXiv 2502.11494).

    After layer k-1, the visual and text tokens with the largest L1 key norm become pivots; each pivot in turn keeps
    the same number of visual tokens with the lowest cosine to it, compared after the model's final norm. Kept tokens
    keep their positions. The image pivots are kept on top of the budget: "128 tokens" are 132 after that layer and
    159.75 on average over 32 layers.

    Cost
        O(P N d) for P pivots, O(N k) for key norms; no attention.
    Differences
        The paper speaks of the budget, the code keeps the image pivots on top of it and rounds down to equal quotas;
        so does this. Where tokens are too few for the quotas official code fails; here they shrink. The order in
        which pivots take decides about the picks, and is an accident of the code (``faithful``).

    Parameters
    ----------
    k : int, optional
        Layers that see all tokens. By default 2 of 32, scaled to the model's depth; a number of yours is not scaled.
    image_pivots, text_pivots : int, default 4 and 4
        Pivots among visual tokens, which are kept, and among the text tokens after them.
    faithful : bool, default False
        Let pivots take in the order of a Python set of their positions, as the published code does by accident: it
        follows neither rank nor place, and changes with the length of the system prompt. By default by rank.
    """
    if k is not None and k < 1:
        raise ConfigError(f"dart: k must be at least 1, the number of layers that see all tokens, got {k!r}")
    selector = PivotQuota(image_pivots, text_pivots, "hash" if faithful else "rank")
    event = LayerEvent(
        (2 if k is None else k) - 1,
        tp.Strategy(KeyNorm(), selector, name="dart"),
        PivotsAndQuotas(image_pivots, image_pivots + text_pivots),
        normed=True,
    )
    return LayerSchedule("dart", (event,), reference_layers=32 if k is None else None)
