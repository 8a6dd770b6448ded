"""FastV: after an early layer, keep the visual tokens that the prompt's last token attends to."""

from __future__ import annotations

import tokenprune as tp
from tokenprune.components.inside_attention import AttentionRows
from tokenprune.schedule import LayerEvent, LayerSchedule


def fastv(*, k: int | None = None) -> LayerSchedule:
    """FastV ("An Image is Worth 1/2 Tokens After Layer 2", ECCV 2024, arXiv 2403.06764).

    Layers 0 .. k-1 see all visual tokens, later layers the ``keep`` tokens with the largest attention of layer k-1's
    last prompt row, averaged over heads. Kept tokens keep their positions. So "128 tokens" of 576 are 156 a layer on
    average in a 32-layer model.

    Parameters
    ----------
    k : int, optional
        Layers that see all tokens. By default 2 of 32, scaled to the model's depth; a number of yours is not scaled.
    """
    event = LayerEvent((2 if k is None else k) - 1, tp.Strategy(AttentionRows(), name="fastv"))
    return LayerSchedule("fastv", (event,), reference_layers=32 if k is None else None)
