"""A method for videos: pairs of frames become one, and of its tokens those stay that moved most."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import tokenprune as tp
from tokenprune.components.video.frames import by_frame
from tokenprune.components.video.members import WeightedMembers
from tokenprune.core.groups import stacked


@dataclass(frozen=True)
class PairedFrames(tp.Selector):
    """Average every second frame into the one before, place by place, and keep a share of each pair."""

    share: float = 0.5
    requires = frozenset({"visual", "frames"})
    uses_scores = False
    own_counts = True  # how many tokens stay follows from the number of frames ...
    uses_budget = False  # ... and from nothing else
    gives_groups = True

    def select(self, problem: tp.Problem) -> Tensor:
        return self.choose(problem).order

    def choose(self, problem: tp.Problem) -> tp.Picks:
        return stacked([self._pairs(video, problem.features.n_visual) for video in by_frame(problem.features)])

    def _pairs(self, video: Tensor, width: int) -> tp.Picks:
        each = video.shape[1]
        picks, pairs, moved = [], [], torch.zeros(video.shape[:2], dtype=torch.bool)
        for t in range(0, len(video), 2):
            change = (video[t] - video[min(t + 1, len(video) - 1)]).float().norm(dim=-1)
            best = change.argsort(descending=True, stable=True)[: max(1, int(self.share * each))]
            picks.append(best + t * each)
            moved[t, best] = True
            for frame in range(t, min(t + 2, len(video))):
                pairs.append(torch.stack([best + frame * each, picks[-1]], dim=-1))
        members = torch.cat(pairs)
        sizes = torch.bincount(members[:, 1], minlength=moved.numel())
        role = torch.nn.functional.pad(moved.flatten(), (0, width - moved.numel()))  # as wide as the batch
        groups = tp.Groups(roles={"moved": role[None]}, members=members[None], weights=1 / sizes[members[:, 1]][None])
        return tp.Picks(torch.cat(picks)[None], groups)


def paired_frames(*, share: float = 0.5) -> tp.Strategy:
    """Every second frame, averaged with the next one."""
    return tp.Strategy(selector=PairedFrames(share), merger=WeightedMembers("ascending"), name="paired-frames")
