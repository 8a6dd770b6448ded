"""Tokens against other frames: what is new, what is unlike the rest, and how many each frame keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tokenprune.components.video.frames import by_frame, same_place, whole_rows
from tokenprune.core.errors import FeatureError
from tokenprune.core.features import Features, working_precision
from tokenprune.core.information import unit_norm
from tokenprune.core.kinds import Problem, Scorer, Selector, check_number
from tokenprune.core.ranking import TopK

__all__ = ["CentreDistance", "FrameShares", "FrameWindows", "TemporalNovelty", "WholeFrame", "centre_similarity"]

FIRST: float = 255.0
"""Novelty of the first frame's tokens: beyond any cosine distance."""


@dataclass(frozen=True)
class TemporalNovelty(Scorer):
    """1 - cosine to the same place one frame earlier; the first frame comes before everything (EVS).

    The frame before counts whether its token stays or not, so a slow drift is never noticed. O(N d).
    """

    requires = frozenset({"visual", "frames"})

    def score(self, features: Features) -> Tensor:
        """Novelty, (B, N)."""
        return _rows([self._of(video) for video in by_frame(features)], features)

    def _of(self, video: Tensor) -> Tensor:
        first = working_precision(video).new_full(video.shape[1:2], FIRST)
        return torch.cat([first.unsqueeze(0), 1 - same_place(video[1:], video[:-1])]).flatten()


@dataclass(frozen=True)
class WholeFrame(Selector):
    """Another selector's picks, at least as many as a frame has tokens: a budget below that is exceeded (EVS).

    Parameters
    ----------
    fill : Selector, default ``TopK()``
    """

    fill: Selector = TopK()  # noqa: RUF009  (immutable)
    requires = frozenset({"frames"})
    own_counts = True

    @property
    def uses_scores(self) -> bool:  # type: ignore[override]
        """As ``fill``."""
        return self.fill.uses_scores

    def select(self, problem: Problem) -> Tensor:
        """The picks of ``fill`` for the larger of two counts."""
        sizes = whole_rows(problem.features)
        counts = tuple(max(count, each) for count, (_, each) in zip(problem.counts, sizes, strict=True))
        return self.fill.select(replace(problem, counts=counts))


def centre_similarity(video: Tensor) -> tuple[Tensor, Tensor]:
    """How close tokens are to the middle of their video and of their frame (VidCom2).

    Over the half of the channels that vary least, tokens have unit length; centres are means of those. Closeness is a
    sum of Gaussians of five widths.

    Parameters
    ----------
    video : Tensor, (T, n, d)

    Returns
    -------
    to_video, to_frame : Tensor, (T, n)
    """
    x = working_precision(video)
    variance = x.flatten(0, 1).var(0, unbiased=False)
    steady = variance.argsort(dim=-1, stable=True)[: max(1, x.shape[-1] // 2)]
    unit = unit_norm(x[..., steady])

    def close(centre: Tensor) -> Tensor:
        squared = (unit - centre).pow(2).sum(-1)
        return torch.stack([torch.exp(-squared / (2 * width)) for width in (0.125, 0.25, 0.5, 1, 2)]).sum(0)

    return close(unit.mean((0, 1))), close(unit.mean(1, keepdim=True))


@dataclass(frozen=True)
class CentreDistance(Scorer):
    """How far a token is from the middle of its video and of its frame: :func:`centre_similarity`, negated. O(N d)."""

    requires = frozenset({"visual", "frames"})

    def score(self, features: Features) -> Tensor:
        """Minus the sum of both, (B, N)."""
        return _rows(
            [-torch.stack(centre_similarity(video)).sum(0).flatten() for video in by_frame(features)], features
        )


@dataclass(frozen=True)
class FrameShares(Selector):
    """Best scores in each frame, more of them in frames that are unlike their video (VidCom2).

    A frame's share is the budget's, raised or lowered by a softmax over how unlike the video frames are; at least one
    token each, then as many of the worst kept ones go, or of the best others come, as the budget wants.

    Parameters
    ----------
    temperature : float, default 0.01
        Of that softmax; so low that one frame often gets twice its share and all others the same.
    share : float, optional
        Share of the tokens that frames start from; by default the budget's.
    exact : bool, default True
        False keeps what rounding frame by frame gives, more or less than asked.
    """

    temperature: float = 0.01
    share: float | None = None
    exact: bool = True
    requires = frozenset({"visual", "frames"})

    def __post_init__(self) -> None:
        check_number(self, "temperature", 0, 1e6, open_low=True)
        if self.share is not None:
            check_number(self, "share", 0, 1, open_low=True)

    @property
    def own_counts(self) -> bool:  # type: ignore[override]
        """Where counts are not corrected."""
        return not self.exact

    @property
    def uses_budget(self) -> bool:  # type: ignore[override]
        """Not where counts are not corrected and the share is given."""
        return self.exact or self.share is None

    def frame_counts(self, video: Tensor, keep: int) -> Tensor:
        """Tokens of each frame before the correction: (T, n, d) -> (T,)."""
        frames, each = video.shape[:2]
        unlike = -centre_similarity(video)[0].mean(1)
        weight = (unlike / self.temperature).softmax(0)
        base = keep / (frames * each) if self.share is None else self.share
        scale = (base * (1 + weight - weight.mean())).clamp(max=1)
        return (scale * each).round().long().clamp_min(1)

    def select(self, problem: Problem) -> Tensor:
        """Best first among what frames are given; then what fills the budget."""
        videos = by_frame(problem.features)
        rows = [self._row(v, problem.scores[b], problem.counts[b]) for b, v in enumerate(videos)]
        return pad_sequence(rows, batch_first=True, padding_value=-1)

    def _row(self, video: Tensor, scores: Tensor, keep: int) -> Tensor:
        frames, each = video.shape[:2]
        scores = scores[: frames * each]
        rank = scores.view(frames, each).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        chosen = (rank < self.frame_counts(video, keep).unsqueeze(1)).flatten()
        best = scores.argsort(descending=True, stable=True)
        if not self.exact:
            return best[chosen[best]]
        # too many: the best of the chosen ones; too few: all of them, then the best of the rest
        return best[chosen[best].to(torch.int8).argsort(descending=True, stable=True)[:keep]]


@dataclass(frozen=True)
class FrameWindows(Selector):
    """Whole frames, and between them only what changes (DyCoke's temporal merging, which drops).

    In windows of four frames the first stays whole. The second and the fourth are compared with the frame before, the
    third with the first; each keeps the tokens with the smallest cosine to the same place there. O(N d).

    Parameters
    ----------
    share : float, optional
        Share of a compared frame that is dropped; how many tokens stay then follows from it and the number of frames.
        By default from the budget, which cannot go below the whole frames.
    faithful : bool, default False
        As the published code: the third frame of the last window stays whole, of an odd number of frames the last one
        is lost, fewer than five raise, and what is left of the budget is not handed out.
    """

    share: float | None = None
    faithful: bool = False
    requires = frozenset({"visual", "frames"})
    uses_scores = False
    own_counts = True

    def __post_init__(self) -> None:
        if self.share is not None:
            check_number(self, "share", 0, 1)

    @property
    def uses_budget(self) -> bool:  # type: ignore[override]
        """Where no share is given."""
        return self.share is None

    @property
    def neutral(self) -> bool:  # type: ignore[override]
        """Not where frames are lost."""
        return not self.faithful

    def references(self, frames: int) -> dict[int, int | None]:
        """Frames that stay, and the frame that each is compared with; None for whole ones.

        Raises
        ------
        FeatureError
            Fewer frames than the published code takes.
        """
        if self.faithful and frames < 5:
            raise FeatureError(f"FrameWindows(faithful=True) needs at least 5 frames, as its code does, got {frames}")
        last = frames - frames % 2 if self.faithful else frames
        third = frames - 4 if self.faithful else frames
        found: dict[int, int | None] = {}
        for t in range(last):
            if t % 2:
                found[t] = t - 1
            else:
                found[t] = t - 2 if t % 4 == 2 and t - 2 < third else None
        return found

    def select(self, problem: Problem) -> Tensor:
        """Frame after frame: whole ones in raster order, compared ones by ascending similarity."""
        videos = by_frame(problem.features)
        rows = [self._row(video, count) for video, count in zip(videos, problem.counts, strict=True)]
        return pad_sequence(rows, batch_first=True, padding_value=-1)

    def _row(self, video: Tensor, keep: int) -> Tensor:
        frames, each = video.shape[:2]
        references = self.references(frames)
        quotas = iter(self._quotas(keep, each, list(references.values())))
        picks = []
        for t, reference in references.items():
            if reference is None:
                chosen = torch.arange(each, device=video.device)
            else:
                chosen = same_place(video[t], video[reference]).argsort(dim=-1, stable=True)[: next(quotas)]
            picks.append(chosen + t * each)
        return torch.cat(picks)

    def _quotas(self, keep: int, each: int, references: Sequence[int | None]) -> list[int]:
        """Tokens of each compared frame."""
        compared = sum(reference is not None for reference in references)
        if self.share is not None:
            return [int((1 - self.share) * each)] * compared
        left = max(0, keep - (len(references) - compared) * each)
        quota, rest = divmod(left, max(1, compared))
        return [min(each, quota + (i < rest and not self.faithful)) for i in range(compared)]


def _rows(rows: list[Tensor], features: Features) -> Tensor:
    """Scores of single rows, (N_b,) each, as (B, N)."""
    stacked = pad_sequence(rows, batch_first=True)
    return torch.nn.functional.pad(stacked, (0, features.n_visual - stacked.shape[1]))
