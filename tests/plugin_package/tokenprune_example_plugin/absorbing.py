"""PruMerge as somebody else would write it: what [CLS] looks at absorbs its neighbours; the rest becomes one token."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import tokenprune as tp
from tokenprune.components.salience import SignalScore
from tokenprune.components.selectors import TopK, TwoStage

WEIGHT, KEYS = "cls_wide_attention@-1", "wide_keys@-1"


@dataclass(frozen=True)
class Absorb(tp.Merger):
    """Kept tokens plus their nearest others, weighed; the last pick makes room for the sum of what is dropped."""

    neighbours: int = 32
    requires = frozenset({WEIGHT, KEYS, "encoder"})

    def merge(self, features: tp.Features, order: Tensor) -> tp.Merged:
        rows = [self._row(features, row, picks[picks >= 0]) for row, picks in enumerate(order)]
        return tp.Merged(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), order, space="encoder")

    def _row(self, features: tp.Features, row: int, picks: Tensor) -> Tensor:
        real = features.valid()[row]
        values = features["encoder"][row].float()
        weighed = values * features[WEIGHT][row].float().unsqueeze(-1)
        keys = torch.nn.functional.normalize(features[KEYS][row].float(), dim=-1)
        centres = picks[:-1]
        near = (keys[centres] @ keys.mT).masked_fill(~real, -torch.inf)
        near[torch.arange(len(centres)), centres] = -torch.inf
        best = near.argsort(dim=1, descending=True, stable=True)[:, : min(self.neighbours, int(real.sum()) - 1)]
        dropped = real.clone()
        dropped[centres] = False
        absorbed = values[centres] + weighed[best].sum(1)
        return torch.cat([absorbed, weighed[dropped].sum(0, keepdim=True)])


def absorbing(*, neighbours: int = 32) -> tp.Strategy:
    """One place of the budget is held back for the sum."""
    chosen = TwoStage(None, TopK(), share=1.0, seed_redundancy=False, reserve=1)
    merger = Absorb(neighbours)
    return tp.Strategy(SignalScore(WEIGHT), chosen, merger=merger, positions="compact", name="absorbing")
