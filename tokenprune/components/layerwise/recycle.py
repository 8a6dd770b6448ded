"""Give part of the dropped tokens back as cluster means (SparseVLM, AutoPrune)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune.components.density import density_peaks, peaks_of_rows
from tokenprune.core.features import Features, working_precision
from tokenprune.core.indexing import as_mask, gather_tokens
from tokenprune.core.kinds import Merged, Scorer, check_number
from tokenprune.core.layer_kinds import Counted
from tokenprune.core.ranking import relevance
from tokenprune.core.selection import Selection

__all__ = ["Recycle", "density_peaks"]


@dataclass(frozen=True)
class Recycle(Counted):
    """Cluster the best of the dropped tokens and put the cluster means behind the kept ones.

    Of ``p`` dropped tokens the ``int(share * p) + 1`` with the largest scores form ``m // 10 + 1`` clusters.
    Each mean stands for the position of its cluster's centre. Kept tokens stay as they are.

    Parameters
    ----------
    scorer : Scorer
        Says which dropped tokens are best.
    share : float, default 0.3
    """

    scorer: Scorer
    share: float = 0.3
    neutral = True

    def __post_init__(self) -> None:
        check_number(self, "share", 0, 1)

    def recycled(self, dropped: int) -> int:
        """How many of the dropped tokens are clustered."""
        return min(int(self.share * dropped) + 1, dropped)

    def added(self, dropped: int) -> int:
        """How many clusters they form."""
        return self.recycled(dropped) // 10 + 1 if dropped else 0

    def merge(self, features: Features, order: Tensor) -> Merged:
        """Kept tokens in raster order, then means, highest peak first."""
        visual = working_precision(features.visual)
        scores = relevance(self.scorer, features)
        selection = Selection.from_order(order, features.n_visual)
        dropped = features.valid() & ~as_mask(order, features.n_visual)
        noise = features["density_noise"] if "density_noise" in features else None  # noqa: SIM401
        tokens, source = [], []
        for b in range(features.batch):
            kept = selection.indices[b, : int(selection.counts[b])]
            candidates = self.best_of(scores[b], dropped[b])
            means, centres = self._means(visual[b, candidates], None if noise is None else noise[b])
            tokens.append(torch.cat([visual[b, kept], means]))
            source.append(torch.cat([kept, candidates[centres]]))
        pad = torch.nn.utils.rnn.pad_sequence
        return Merged(pad(tokens, batch_first=True), pad(source, batch_first=True, padding_value=-1))

    def additions(self, features: Features, recycled: Tensor, added: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """Means, highest peak first."""
        there = recycled >= 0
        tokens = gather_tokens(working_precision(features.visual), recycled)
        if most == 1:  # a single cluster: no token is denser than the first, and none farther from a denser one
            return tokens.sum(1, keepdim=True) / there.sum(1).clamp_min(1).view(-1, 1, 1), recycled[:, :1]
        centres, member_of = peaks_of_rows(tokens, there, added, most)
        # tokens that there are not belong to one cluster more, which is left out
        sums = tokens.new_zeros(len(tokens), most + 1, tokens.shape[2])
        sums.scatter_add_(1, member_of.unsqueeze(-1).expand_as(tokens), tokens)
        counts = sums.new_zeros(sums.shape[:2]).scatter_add_(1, member_of, there.to(sums.dtype))
        means = sums[:, :-1] / counts[:, :-1].clamp_min(1).unsqueeze(-1)
        return means, recycled.gather(1, centres.clamp_min(0)).where(centres >= 0, -1)

    def best_of(self, scores: Tensor, dropped: Tensor) -> Tensor:
        """Indices of one row's tokens to cluster, best first: (N,), bool (N,) -> (m,)."""
        ranked = scores.masked_fill(~dropped, -math.inf).argsort(descending=True, stable=True)
        n_dropped = int(dropped.sum())
        return ranked[: self.recycled(n_dropped) if n_dropped else 0]

    def _means(self, tokens: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        m = tokens.shape[0]
        if m == 0:
            return tokens, torch.zeros(0, dtype=torch.long, device=tokens.device)
        n_clusters = m // 10 + 1
        centres, member_of = density_peaks(tokens, n_clusters, None if noise is None else noise[:m])
        sums = tokens.new_zeros(n_clusters, tokens.shape[1]).index_add_(0, member_of, tokens)
        counts = torch.bincount(member_of, minlength=n_clusters).to(tokens.dtype)
        return sums / counts.unsqueeze(-1), centres
