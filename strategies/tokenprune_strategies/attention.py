"""Encoder attention: the naive salience baseline."""

from __future__ import annotations

from typing import Literal

import tokenprune as tp
from tokenprune.components import scorers, selectors
from tokenprune.core.errors import ConfigError


def attention(*, source: Literal["received", "cls"] = "received") -> tp.Strategy:
    """Keep the tokens that receive most attention in the encoder's last-but-one layer (MI-Pruner, "Attention" row).

    Cost
        O(H N^2): attention of one encoder layer, multiplied out for this; with ``cls`` one row of it.
    Whole
        :func:`tokenprune_strategies.reference.attention.attention`: the method as one loop.

    Parameters
    ----------
    source : str, default "received"
        ``received``: summed over the other image tokens (Eqn 4, right), which every encoder has; ``cls``: from the
        [CLS] token (Eqn 4, left).
    """
    if source not in ("received", "cls"):
        raise ConfigError(f"attention: source must be 'received' or 'cls', got {source!r}")
    scorer = scorers.ReceivedAttention() if source == "received" else scorers.ClsAttention()
    return tp.Strategy(scorer, selectors.TopK(), name="attention")
