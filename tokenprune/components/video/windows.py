"""Places that stay the same over a window of frames become one token each, and those are clustered (HoliTom)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from tokenprune.components.density import density_peaks
from tokenprune.components.video.frames import by_frame
from tokenprune.components.video.rows import Collected
from tokenprune.components.video.segments import Segment, most_static_windows, static_places
from tokenprune.core.features import working_precision
from tokenprune.core.groups import Picks, stacked
from tokenprune.core.kinds import Problem, Selector, check_count, check_number

__all__ = ["StaticWindows"]


@dataclass(frozen=True)
class StaticWindows(Selector):
    """Cut the video where averaging what stands still saves most, and keep a share of what is left.

    Windows come from :func:`~tokenprune.components.video.segments.most_static_windows`. The share is the budget's,
    raised by what averaging saves. In each window the means of static places are clustered around density peaks; of
    all other tokens, every frame keeps those with the best scores. Handed on as groups: role "static" at tokens that
    stand for their place over a window (at its first frame), segments, members and their weights. Where rounding leaves
    nothing, the token with the best score stays.

    Parameters
    ----------
    threshold : float, default 0.8
        Cosine to the next frame above which a place stands still.
    beta : float, default 0.6
        Weight of a cluster's centre; the mean of the others has the rest.
    neighbours : int, default 7
        Tokens that a density is made of (as many as there are centres, where these are fewer).
    longest : int, default 1024
        Frames of a window at most.
    share : float, optional
        Share that stays; by default the budget's.
    """

    threshold: float = 0.8
    beta: float = 0.6
    neighbours: int = 7
    longest: int = 1024
    share: float | None = None
    requires = frozenset({"visual", "frames"})
    own_counts = True
    gives_groups = True
    neutral = False

    def __post_init__(self) -> None:
        check_number(self, "threshold", -1, 1)
        check_number(self, "beta", 0, 1)
        check_count(self, "neighbours", 1)
        check_count(self, "longest", 1)
        if self.share is not None:
            check_number(self, "share", 0, 1, open_low=True)

    @property
    def uses_budget(self) -> bool:  # type: ignore[override]
        """Where no share is given."""
        return self.share is None

    def windows(self, video: Tensor) -> tuple[list[Segment], int]:
        """Windows, and the tokens that averaging saves: (T, n, d)."""
        return most_static_windows(static_places(video, self.threshold), self.longest)

    def raised(self, share: float, saved: int, tokens: int) -> float:
        """Share of what is left after averaging that comes to ``share`` of all tokens, at most 1."""
        return min(share / ((tokens - saved) / tokens), 1.0)

    def select(self, problem: Problem) -> Tensor:
        """The picks alone."""
        return self.choose(problem).order

    def choose(self, problem: Problem) -> Picks:
        """Window after window: static tokens by place, then frame after frame the others by place."""
        rows = []
        for b, video in enumerate(by_frame(problem.features)):
            frames, each = video.shape[:2]
            scores = problem.scores[b, : frames * each].view(frames, each)
            share = problem.counts[b] / (frames * each) if self.share is None else self.share
            rows.append(self._row(working_precision(video), scores, share, problem.features.n_visual))
        return stacked(rows)

    def _row(self, video: Tensor, scores: Tensor, asked: float, width: int) -> Picks:
        frames, each = scores.shape
        windows, saved = self.windows(video)
        share = self.raised(asked, saved, frames * each)
        still = static_places(video, self.threshold)
        found = Collected(frames, each, video.device, video.dtype)
        for number, (start, end) in enumerate(windows):
            found.segment(number, start, end)
            static = still[start : end - 1].all(0) if end - start > 1 else torch.zeros_like(scores[0], dtype=torch.bool)
            found.begin_part()
            self._static(found, video, (start, end), static.nonzero().flatten(), share)
            moving = (~static).nonzero().flatten()
            for t in range(start, end):
                found.begin_part()
                best = scores[t, moving].argsort(descending=True, stable=True)[: math.ceil(len(moving) * share)]
                found.keep(moving[best].sort().values + t * each)
        if not any(len(picks) for picks in found.order):  # rounding left nothing
            found.keep(scores.flatten().argmax().unsqueeze(0))
        return found.picks(width)

    def _static(self, found: Collected, video: Tensor, window: Segment, places: Tensor, share: float) -> None:
        """Cluster the means of static places; a centre stands at its place in the window's first frame."""
        n_centres = round(len(places) * share)
        if not n_centres:
            return
        (start, end), each = window, video.shape[1]
        means = video[start:end, places].mean(0)
        peaks, member_of = density_peaks(means, n_centres, neighbours=min(self.neighbours, n_centres))
        centre = places[peaks] + start * each
        found.keep(centre.sort().values, static=True)
        others = torch.ones_like(places, dtype=torch.bool)
        others[peaks] = False
        sizes = torch.bincount(member_of[others], minlength=n_centres)
        own = means.new_full((n_centres,), self.beta).where(sizes > 0, 1.0)
        over = partial(_over_frames, window, each)
        found.join(*over(places[peaks], centre, own))
        share_of = (1 - own) / sizes.clamp_min(1)
        found.join(*over(places[others], centre[member_of[others]], share_of[member_of[others]]))


def _over_frames(window: Segment, each: int, places: Tensor, kept: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
    """Spread shares of places evenly over the frames of a window: (P,) each -> (w P,) each."""
    frames = torch.arange(*window, device=places.device).unsqueeze(1)
    tokens = (places + frames * each).flatten()
    return tokens, kept.repeat(len(frames)), (weights / len(frames)).repeat(len(frames))
