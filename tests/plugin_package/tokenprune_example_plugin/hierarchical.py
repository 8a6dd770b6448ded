"""HiPrune as somebody else would write it: anchors of one encoder layer, their neighbours, registers of another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import tokenprune as tp


@dataclass(frozen=True)
class Received(tp.Scorer):
    """Attention that each patch receives in a layer of the encoder."""

    layer: str | None = None

    @property
    def requires(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset({"mean_attention" + (f"@{self.layer}" if self.layer else "")})

    def score(self, features: tp.Features) -> Tensor:
        (name,) = self.requires
        return features[name].float()


@dataclass(frozen=True)
class Anchored(tp.Selector):
    """Anchors, the tokens beside them, and the best of the rest."""

    salience: tp.Scorer
    alpha: float = 0.1
    requires = frozenset({"places"})

    def select(self, problem: tp.Problem) -> Tensor:
        salient = self.salience.score(problem.features)
        rows = [self._row(problem, salient, row, count) for row, count in enumerate(problem.counts)]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)

    def _row(self, problem: tp.Problem, salient: Tensor, row: int, count: int) -> Tensor:
        real = problem.available[row]
        best = salient[row].masked_fill(~real, -torch.inf).argsort(descending=True, stable=True)
        anchors = best[: round(count * self.alpha / 5)]
        places = problem.features["places"][row].float()
        beside = (torch.cdist(places, places[anchors], p=1) <= 1).any(1) & real
        level = beside.double() + torch.zeros_like(beside, dtype=torch.float64).scatter(0, anchors, 1.0)
        # anchors before their neighbours before everything else; within a level by the strategy's own score
        order = problem.scores[row].masked_fill(~real, -torch.inf).argsort(descending=True, stable=True)
        return order[level[order].masked_fill(~real[order], -1).argsort(descending=True, stable=True)][:count]


def hierarchical(*, alpha: float = 0.1) -> tp.Strategy:
    """Object layer: the 9th of 24, at the same share of any other depth."""
    return tp.Strategy(Received(), Anchored(Received("9/24"), alpha), positions="compact", name="hierarchical")
