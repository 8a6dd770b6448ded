"""From the encoder's patches to tokens that stand for several of them: signals are averaged over a token's patches.

Signals say in einops notation which of their axes runs over tokens (:data:`tokenprune.core.features.SIGNALS`); here
that axis still runs over patches, and there is no batch axis.
"""

from __future__ import annotations

from einops import reduce
from torch import Tensor

from tokenprune.core.features import signal_of

__all__ = ["mean_of_groups", "mean_of_windows"]


def mean_of_windows(name: str, value: Tensor, side: int, each: int) -> Tensor:
    """Average a signal over the ``each`` x ``each`` patches of each of ``side`` x ``side`` tokens, in raster order.

    What does not run over patches is returned as it is.
    """
    return _mean(name, value, "(y i x j)", "(y x)", y=side, i=each, x=side, j=each)


def mean_of_groups(name: str, value: Tensor, each: int) -> Tensor:
    """Average a signal over the ``each`` patches of a token, which follow one another."""
    return _mean(name, value, "(n m)", "n", m=each)


def _mean(name: str, value: Tensor, patches: str, tokens: str, **sizes: int) -> Tensor:
    axes = signal_of(name).shape.split()[1:]
    if "n" not in axes:
        return value
    before, after = (" ".join(part if axis == "n" else axis for axis in axes) for part in (patches, tokens))
    return reduce(value, f"{before} -> {after}", "mean", **sizes)
