"""Patches leave the encoder by how much information flows through them, at a pace set by entropy (FlowCut)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tokenprune.core.encoder_kinds import EncoderStage, EncoderView
from tokenprune.core.features import working_precision
from tokenprune.core.kinds import check_choice

__all__ = ["InformationFlow", "value_norms", "value_relevance"]


def value_relevance(values: Tensor, valid: Tensor) -> Tensor:
    """Softmax over all tokens of [CLS]'s value times theirs, not scaled, mean over heads, [CLS]'s column left out.

    Parameters
    ----------
    values : Tensor, (B, H, 1 + n, c)
    valid : bool Tensor, (B, n)

    Returns
    -------
    Tensor, (B, n)
    """
    values = working_precision(values)
    logits = (values @ values[:, :, :1].mT).squeeze(-1)
    hidden = torch.nn.functional.pad(~valid, (1, 0))
    return logits.masked_fill(hidden.unsqueeze(1), -torch.inf).softmax(-1).mean(1)[:, 1:]


def value_norms(values: Tensor) -> Tensor:
    """L1 norm of each patch's value vector, mean over heads first: (B, H, 1 + n, c) -> (B, n)."""
    return working_precision(values).mean(1)[:, 1:].abs().sum(-1)


@dataclass(frozen=True)
class InformationFlow(EncoderStage):
    """Attention of [CLS] plus similarity to its value, times the value's size; each layer halves the ones before.

    After every second layer, counted back from the last, (n - K) / sqrt(layers left) * (1 - rho^2) of n patches go, rho
    being the entropy of [CLS]'s attention as a share of the largest there can be; in front of the last layer all but K.

    Parameters
    ----------
    over : str, default "row"
        Each picture loses as many as its own entropy says; or all of a ``batch`` as many as the one that loses most
        (official code: then the other pictures decide about this one).
    """

    over: Literal["row", "batch"] = "row"

    def __post_init__(self) -> None:
        check_choice(self, "over", ("row", "batch"))

    def score(self, view: EncoderView, before: Tensor | None) -> Tensor:
        """Half of this layer's flow and half of the score before."""
        attention = self._shares(working_precision(view.attention).mean(1))
        relevance = self._shares(value_relevance(view.values, view.valid))
        flow = (attention + relevance) * value_norms(view.values)
        return flow if before is None else (before + flow) / 2

    def counts(self, view: EncoderView) -> tuple[int, ...] | None:
        """Half to even; never fewer than the budget."""
        left = view.last - view.layer - 1
        if left % 2:
            return None
        if left == 0:
            return view.keep
        share = self._shares(working_precision(view.attention).mean(1))
        entropy = (-torch.xlogy(share, share).sum(1)).tolist()
        going = [
            (n - keep) / math.sqrt(left) * (1 - (h / math.log(n)) ** 2) if n > keep else 0.0
            for n, keep, h in zip(view.present, view.keep, entropy, strict=True)
        ]
        if self.over == "batch":
            going = [max(going)] * len(going)
        return tuple(max(n - round(gone), keep) for n, keep, gone in zip(view.present, view.keep, going, strict=True))

    @staticmethod
    def _shares(values: Tensor) -> Tensor:
        return values / values.sum(1, keepdim=True)
