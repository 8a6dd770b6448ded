"""The abstract kind of part that drops patches between layers of the vision encoder, while it runs."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from tokenprune.core.kinds import Component

__all__ = ["EncoderStage", "EncoderView"]


@dataclass(frozen=True)
class EncoderView:
    """What one encoder layer says about the patches that are still there.

    Parameters
    ----------
    attention : Tensor, (B, H, n)
        Attention of [CLS] to each patch after softmax, [CLS]'s own column left out; 0 at padding.
    values : Tensor, (B, H, 1 + n, c)
        Value vectors, [CLS] first; 0 at padding.
    valid : bool Tensor, (B, n)
        True at patches that are there.
    present, keep : tuple of int
        How many patches each picture has left, and how many it shall have in the end.
    layer, last : int
        This layer, from 0, and the one whose output is projected: at the output of the one before it at the latest
        no more than ``keep`` are left.
    """

    attention: Tensor
    values: Tensor
    valid: Tensor
    present: tuple[int, ...]
    keep: tuple[int, ...]
    layer: int
    last: int


class EncoderStage(Component):
    """Which patches leave the encoder while it runs, and when.

    The layers behind a cut run on what it left, so that the encoder is cheaper, and kept patches come out otherwise
    than they would have. What is left in the end is what a strategy keeps.
    """

    kind = "stages"

    @abstractmethod
    def score(self, view: EncoderView, before: Tensor | None) -> Tensor:
        """Return a score of each patch after a layer, (B, n); ``before`` is that of the layer before."""

    @abstractmethod
    def counts(self, view: EncoderView) -> tuple[int, ...] | None:
        """Return how many patches stay at a layer's output; None where nothing is dropped there."""
