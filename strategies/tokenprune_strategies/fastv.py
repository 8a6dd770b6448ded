"""FastV: after an early layer, keep the visual tokens that the prompt's last token attends to."""

from __future__ import annotations

import tokenprune as tp
from tokenprune.components.layerwise.attention import AttentionRows
from tokenprune.core.errors import ConfigError
from tokenprune.core.schedule import LayerEvent, LayerSchedule


def fastv(*, k: int | None = None) -> LayerSchedule:
    """FastV ("An Image is Worth 1/2 Tokens After Layer 2", ECCV 2024, arXiv 2403.06764).

    Layers 0 .. k-1 see all visual tokens, later layers the ``keep`` tokens with the largest attention of layer k-1's
    last prompt row, averaged over heads. Kept tokens keep their positions. So "128 tokens" of 576 are 156 a layer on
    average in a 32-layer model.

    Cost
        O(H S) for one row of attention over the S tokens of the sequence; no attention map.
    Differences
        Same picks. The published code multiplies out the whole attention map of that layer, and one of its versions
        runs the layer twice. Its versions disagree on the budget (a number, the share dropped, the share kept), and
        for ``k=0`` it draws at random, which is refused here.

    Parameters
    ----------
    k : int, optional
        Layers that see all tokens. By default 2 of 32, scaled to the model's depth; a number of yours is not scaled.
    """
    if k is not None and k < 1:
        raise ConfigError(f"fastv: k must be at least 1, the number of layers that see all tokens, got {k!r}")
    event = LayerEvent((2 if k is None else k) - 1, tp.Strategy(AttentionRows(), name="fastv"))
    return LayerSchedule("fastv", (event,), reference_layers=32 if k is None else None)
