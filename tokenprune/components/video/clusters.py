"""Segments along clusters of frames, static places averaged, and what is left clustered in space (PruneVid)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tokenprune.components.density import density_peaks
from tokenprune.components.video.frames import by_frame
from tokenprune.components.video.rows import Collected
from tokenprune.components.video.segments import clustered_segments, runs_of
from tokenprune.core.features import Features, working_precision
from tokenprune.core.groups import Picks, stacked
from tokenprune.core.information import unit_norm
from tokenprune.core.kinds import Problem, Scorer, Selector, check_count, check_number

__all__ = ["GroupTopK", "LoudestText", "SegmentStaticClusters", "always_alike"]


def always_alike(segment: Tensor, threshold: float) -> Tensor:
    """Bool (n,): places whose mean cosine over ordered pairs of different frames lies above a threshold: (w, n, d).

    None of a single frame, which cannot tell what stands still.
    """
    frames = len(segment)
    if frames == 1:
        return torch.zeros_like(segment[0, :, 0], dtype=torch.bool)
    unit = unit_norm(segment).transpose(0, 1)
    cosine = unit @ unit.mT
    own = cosine.diagonal(dim1=1, dim2=2).sum(1)
    return (cosine.sum((1, 2)) - own) / (frames * (frames - 1)) > threshold


@dataclass(frozen=True)
class SegmentStaticClusters(Selector):
    """Means of static places over a segment and of clusters in space; how many follows from the video alone.

    Frames are clustered by their mean and segments are whole runs of a cluster
    (:func:`~tokenprune.components.video.segments.clustered_segments`). In a segment, places that stay alike over all
    frames are averaged. These, and the other tokens of each frame, are clustered around density peaks where there are
    at least ``least`` of them. Handed on as groups: parts (static or one frame's), members and their weights.

    Parameters
    ----------
    threshold : float, default 0.8
        Mean cosine over pairs of frames above which a place is static.
    temporal : float, default 0.25
        Clusters of frames, as a share of the frames.
    spatial : float, default 0.5
        Clusters in space, as a share of the tokens clustered.
    neighbours : int, default 7
        Tokens that a density is made of (all, where there are fewer).
    least : int, default 15
        Fewer tokens are not clustered.
    """

    threshold: float = 0.8
    temporal: float = 0.25
    spatial: float = 0.5
    neighbours: int = 7
    least: int = 15
    requires = frozenset({"visual", "frames"})
    uses_scores = False
    own_counts = True
    uses_budget = False
    gives_groups = True

    def __post_init__(self) -> None:
        check_number(self, "threshold", -1, 1)
        check_number(self, "temporal", 0, 1, open_low=True)
        check_number(self, "spatial", 0, 1, open_low=True)
        check_count(self, "neighbours", 1)
        check_count(self, "least", 1)

    def select(self, problem: Problem) -> Tensor:
        """The picks alone."""
        return self.choose(problem).order

    def choose(self, problem: Problem) -> Picks:
        """Segment after segment: static tokens, then each frame's; clusters by the height of their peak."""
        features = problem.features
        return stacked([self._row(working_precision(video), features.n_visual) for video in by_frame(features)])

    def _row(self, video: Tensor, width: int) -> Picks:
        frames, each = video.shape[:2]
        found = Collected(frames, each, video.device, video.dtype)
        labels = clustered_segments(video, self.temporal, self.neighbours)[1]
        for number, (start, end) in enumerate(runs_of(labels)):
            found.segment(number, start, end)
            static = always_alike(video[start:end], self.threshold)
            found.begin_part()
            self._clustered(found, video, range(start, end), static.nonzero().flatten(), static=True)
            for t in range(start, end):
                found.begin_part()
                self._clustered(found, video, range(t, t + 1), (~static).nonzero().flatten(), static=False)
        return found.picks(width)

    def _clustered(self, found: Collected, video: Tensor, over: range, places: Tensor, *, static: bool) -> None:
        """Average places over some frames, cluster them, and keep a token for each cluster in the first frame."""
        if not len(places):
            return
        each = video.shape[1]
        centres = member_of = torch.arange(len(places), device=places.device)
        if len(places) >= self.least:
            means = video[over.start : over.stop, places].mean(0)
            clusters = max(1, int(len(places) * self.spatial))
            centres, member_of = density_peaks(means, clusters, neighbours=min(self.neighbours, len(places)))
        kept = places[centres] + over.start * each
        found.keep(kept, static=static)
        weight = 1 / torch.bincount(member_of).to(video.dtype) / len(over)
        frames = torch.arange(over.start, over.stop, device=places.device).unsqueeze(1) * each
        tokens = (places + frames).flatten()
        found.join(tokens, kept[member_of].repeat(len(over)), weight[member_of].repeat(len(over)))


@dataclass(frozen=True)
class LoudestText(Scorer):
    """The largest attention that any text row pays a visual token in any head of a decoder layer (PruneVid)."""

    requires = frozenset({"attention"})

    def score(self, features: Features) -> Tensor:
        """Maximum over heads and rows, (B, N)."""
        attention = working_precision(features["attention"])
        mask = features.text_mask
        if mask is not None and mask.shape[1] == attention.shape[2]:
            attention = attention.masked_fill(~mask[:, None, :, None], 0)
        return attention.amax((1, 2))


@dataclass(frozen=True)
class GroupTopK(Selector):
    """A share of every group by score, rounded down; groups are the parts that an earlier stage handed on.

    Tokens of no group are one group of their own. Where rounding leaves nothing the best token of the row stays.

    Parameters
    ----------
    share : float, default 0.4
    """

    share: float = 0.4
    requires = frozenset({"part"})
    own_counts = True
    uses_budget = False
    neutral = False

    def __post_init__(self) -> None:
        check_number(self, "share", 0, 1)

    def select(self, problem: Problem) -> Tensor:
        """Group after group, best first."""
        part, available = problem.features["part"].long(), problem.available
        rows = []
        for b in range(len(part)):
            scores = problem.scores[b].masked_fill(~available[b], -torch.inf)
            ranked = scores.argsort(descending=True, stable=True)[: int(available[b].sum())]
            picks = [
                mine[: int(len(mine) * self.share)]
                for number in sorted(set(part[b][available[b]].tolist()))
                if len(mine := ranked[part[b, ranked] == number])
            ]
            chosen = torch.cat(picks)
            rows.append(chosen if len(chosen) else ranked[:1])
        return pad_sequence(rows, batch_first=True, padding_value=-1)
