"""Give part of the dropped tokens back as cluster means (SparseVLM, AutoPrune)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune.core.features import Features, working_precision
from tokenprune.core.indexing import as_mask
from tokenprune.core.kinds import Merged, Scorer, check_number
from tokenprune.core.layer_kinds import Appending
from tokenprune.core.ranking import relevance
from tokenprune.core.selection import Selection

__all__ = ["Recycle", "density_peaks"]


def density_peaks(tokens: Tensor, n_clusters: int, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Density-peak clustering over nearest neighbours (DPC-kNN).

    A token's density is exp(-mean of its ``n_clusters`` smallest squared distances, its own 0 among them), with
    distances divided by sqrt(d). Centres are the tokens whose density times distance to the nearest denser token is
    largest; the rest joins the nearest centre. Two tokens that are each other's nearest have exactly equal densities;
    such ties go to the lower index. Densities are compared as logarithms, so far-apart tokens do not underflow.

    Parameters
    ----------
    tokens : Tensor, (m, d)
    n_clusters : int
        From 1 to m.
    noise : Tensor, (m,), optional
        Numbers in [0, 1); a millionth of them is added to the densities, which breaks ties as published code does.

    Returns
    -------
    centres : Tensor, (n_clusters,)
        Indices, highest peak first.
    member_of : Tensor, (m,)
        Number of each token's centre.
    """
    x = working_precision(tokens)
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") / math.sqrt(x.shape[-1])
    density = -distance.topk(n_clusters, largest=False).values.pow(2).mean(-1).double()
    if noise is not None:
        density = (density.exp() + 1e-6 * noise).log()
    denser = density.unsqueeze(0) > density.unsqueeze(1)
    separation = distance.masked_fill(~denser, math.inf).amin(-1)
    separation = torch.where(separation.isinf(), distance.max(), separation)
    peak = density + separation.double().clamp_min(torch.finfo(torch.float64).tiny).log()
    centres = peak.argsort(descending=True, stable=True)[:n_clusters]
    member_of = distance[:, centres].argmin(-1)
    member_of[centres] = torch.arange(n_clusters, device=centres.device)
    return centres, member_of


@dataclass(frozen=True)
class Recycle(Appending):
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
