"""Salient tokens of every frame, and density peaks of a few anchor frames for the rest of their segment (FastVID)."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import pad

from tokenprune.components.density import peaks
from tokenprune.components.video.frames import by_frame, same_place, whole_rows
from tokenprune.components.video.segments import Segment, cut_segments
from tokenprune.core.errors import FeatureError
from tokenprune.core.features import Features, working_precision
from tokenprune.core.groups import Groups, Picks, stacked
from tokenprune.core.information import unit_norm
from tokenprune.core.kinds import Problem, Selector, check_choice, check_count, check_number

__all__ = ["Form", "SegmentAnchors"]

Form = Literal["onevision", "llava-video", "qwen"]
"""Three versions of the published code, which are not the same function."""

NEIGHBOURS = 4
"""Tokens that a density is made of, the token itself among them."""


@dataclass(frozen=True)
class _Frame:
    """What a frame of a segment keeps: tokens that stay as they are, and centres that others join."""

    salient: int
    centres: int


@dataclass(frozen=True)
class SegmentAnchors(Selector):
    """Salient tokens of every frame by score, and centres from anchor frames, which the rest of the segment joins.

    Anchors of a segment are its last frame and every ``every``-th before it. Their centres are the highest density
    peaks (:func:`~tokenprune.components.density.peaks`, four neighbours) among the tokens that are not salient. For
    each anchor, every other token of the segment joins the most similar of its centres, so that it is merged once for
    each anchor; a centre becomes w times itself plus 1 - w times the mean of its members, w = max(1 / (members + 1),
    ``beta``). Segments follow from a feature of each frame: the signal ``frame_features``, (B, T, e), where it is
    given, else the mean of the frame's tokens. Handed on as groups: roles "salient" and "centre", segments, members and
    their weights.

    Parameters
    ----------
    least : int, default 8
        Segments there are at least; :func:`~tokenprune.components.video.segments.cut_segments`.
    threshold : float, default 0.9
        Cosine of consecutive frames below which a segment ends.
    context : float, default 0.4
        Share of the budget for centres, rounded down.
    every : int, default 4
    beta : float, default 0.6
    form : str, default "onevision"
        ``onevision``: the budget is one of frames; all tokens that are not salient are members, centres included.
        ``llava-video``: the budget is one of segments and remainders are handed out; an anchor's own centres are no
        members. ``qwen``: like that, but of frames that are more alike than ``alike`` only the last keeps tokens.
    alike : float, default 0.95
        For ``qwen``.
    faithful : bool, default False
        Where the code of ``onevision`` fails (no centre, fewer frames than segments) fail too, and let an anchor whose
        centres are as many as those of a segment of one frame merge its own frame only.
    """

    least: int = 8
    threshold: float = 0.9
    context: float = 0.4
    every: int = 4
    beta: float = 0.6
    form: Form = "onevision"
    alike: float = 0.95
    faithful: bool = False
    requires = frozenset({"visual", "frames"})
    own_counts = True
    gives_groups = True

    def __post_init__(self) -> None:
        check_count(self, "least", 1)
        check_count(self, "every", 1)
        for name in ("threshold", "alike"):
            check_number(self, name, -1, 1)
        for name in ("context", "beta"):
            check_number(self, name, 0, 1)
        check_choice(self, "form", get_args(Form))

    def reads(self, given: Container[str]) -> frozenset[str]:
        """Features of frames where they are given, and what is always read."""
        return self.requires | ({"frame_features"} if "frame_features" in given else set())

    @property
    def neutral(self) -> bool:  # type: ignore[override]
        """Centres change even where nothing is dropped."""
        return False

    def select(self, problem: Problem) -> Tensor:
        """The picks alone."""
        return self.choose(problem).order

    def choose(self, problem: Problem) -> Picks:
        """Ascending: salient tokens and centres of each frame."""
        given = frame_features(problem.features)
        rows = []
        for b, video in enumerate(by_frame(problem.features)):
            frames, each = video.shape[:2]
            scores = problem.scores[b, : frames * each].view(frames, each)
            budget = max(1, problem.counts[b] // frames)
            rows.append(self._row(working_precision(video), scores, given[b], budget, problem.features.n_visual))
        return stacked(rows)

    def segments(self, frames: Tensor) -> list[Segment]:
        """Segments of one video, from a feature of each frame (T, e)."""
        return cut_segments(frames, self.least, self.threshold, faithful=self.faithful)

    def quotas(self, segment: Segment, frames: Tensor, each: int, budget: int) -> dict[int, _Frame]:
        """What each frame of a segment keeps.

        Parameters
        ----------
        segment : Segment
        frames : Tensor, (T, e)
            A feature of each frame.
        each : int
            Tokens of a frame.
        budget : int
            Tokens that a frame may keep on average.
        """
        start, end = segment
        if self.form == "onevision":
            return self._quotas_by_frame(range(start, end), each, budget)
        valid = list(range(start, end))
        if self.form == "qwen":
            alike = same_place(frames[start + 1 : end], frames[start : end - 1]) >= self.alike
            valid = [t for t, same in zip(valid, [*alike.tolist(), False], strict=True) if not same]
        return self._quotas_by_segment(valid, budget * (end - start), each)

    def _quotas_by_frame(self, frames: range, each: int, budget: int) -> dict[int, _Frame]:
        """The same number of salient tokens in every frame; centres of all in the anchors."""
        context = int(budget * self.context)
        if self.faithful and not context:
            raise FeatureError(f"SegmentAnchors: no centre in a budget of {budget} a frame, where the code fails")
        anchors = frames[:: -self.every]
        salient = budget - context
        centres = min(context * len(frames) // len(anchors), each - salient)
        return {t: _Frame(salient, centres if t in anchors else 0) for t in frames}

    def _quotas_by_segment(self, valid: list[int], total: int, each: int) -> dict[int, _Frame]:
        """Salient tokens and centres of a segment, handed out over frames that keep any, remainders too."""
        context, most = int(total * self.context), each
        if self.form == "qwen":
            context, most = max(1, context), each // 2
        anchors = valid[:: -self.every]
        shares = zip(anchors, _shared(context, len(anchors)), strict=True)
        centres = {t: min(most, share) for t, share in shares}
        salient = zip(valid, _shared(total - context, len(valid)), strict=True)
        return {t: _Frame(min(s, each - centres.get(t, 0)), centres.get(t, 0)) for t, s in salient}

    def _row(self, video: Tensor, scores: Tensor, frames: Tensor, budget: int, width: int) -> Picks:
        """Picks and groups of one video: (T, n, d), (T, n), (T, e)."""
        n_frames, each = scores.shape
        salient, centre = (torch.zeros(n_frames, each, dtype=torch.bool, device=scores.device) for _ in range(2))
        number = torch.zeros_like(salient, dtype=torch.long)
        ranked = scores.argsort(dim=1, descending=True, stable=True)
        cut = self.segments(frames)
        plans = [self.quotas(segment, frames, each, budget) for segment in cut]
        for i, (segment, plan) in enumerate(zip(cut, plans, strict=True)):
            number[slice(*segment)] = i
            for t, quota in plan.items():
                salient[t, ranked[t, : quota.salient]] = True
                rest = (~salient[t]).nonzero().flatten()
                if quota.centres and len(rest):
                    peak = peaks(video[t, rest], min(NEIGHBOURS, len(rest)))[0]
                    centre[t, rest[peak.argsort(descending=True, stable=True)[: quota.centres]]] = True
        pairs, weights, unit = [], [], unit_norm(video.flatten(0, 1))
        for segment, plan in zip(cut, plans, strict=True):
            for anchor, members in self._members(segment, plan, salient, centre, budget):
                pair, weight = self._joined(unit, anchor, centre[anchor], members)
                pairs.append(pair)
                weights.append(weight)
        order = (salient | centre).flatten().nonzero().flatten()
        none = order.new_zeros(0, 2)
        whole = (0, width - number.numel())
        groups = Groups(
            pad(number.flatten(), whole, value=-1).unsqueeze(0),
            roles={
                name: pad(mask.flatten(), whole).unsqueeze(0)
                for name, mask in (("salient", salient), ("centre", centre))
            },
            members=torch.cat([none, *pairs]).unsqueeze(0),
            weights=torch.cat([video.new_zeros(0), *weights]).unsqueeze(0),
        )
        return Picks(order.unsqueeze(0), groups)

    def _members(
        self, segment: Segment, plan: dict[int, _Frame], salient: Tensor, centre: Tensor, budget: int
    ) -> Iterator[tuple[int, Tensor]]:
        """Anchors of a segment, and the flat positions of what joins their centres."""
        each = salient.shape[1]
        for anchor, quota in plan.items():
            if not bool(centre[anchor].any()):
                continue
            own_only = self.faithful and self.form == "onevision" and quota.centres == int(budget * self.context)
            first, end = (anchor, anchor + 1) if own_only else segment
            member = ~salient[first:end]
            if self.form != "onevision":
                member[anchor - first] &= ~centre[anchor]
            yield anchor, member.flatten().nonzero().flatten() + first * each

    def _joined(self, unit: Tensor, anchor: int, centre: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
        """Pairs (token, centre) with weights, the centre's own among them; tokens of unit length (T n, d)."""
        centres = centre.nonzero().flatten() + anchor * len(centre)
        nearest = (unit[members] @ unit[centres].mT).argmax(-1)
        counts = torch.bincount(nearest, minlength=len(centres))
        own = torch.clamp(1 / (counts + 1).to(unit.dtype), min=self.beta).where(counts > 0, 1.0)
        share = ((1 - own) / counts.clamp_min(1)).to(unit.dtype)
        pairs = torch.stack([torch.cat([members, centres]), torch.cat([centres[nearest], centres])], dim=-1)
        return pairs, torch.cat([share[nearest], own])


def _shared(total: int, parts: int) -> list[int]:
    """Hand a number out evenly, the first parts one more."""
    each, rest = divmod(total, parts)
    return [each + (i < rest) for i in range(parts)]


def frame_features(features: Features) -> list[Tensor]:
    """A feature of each frame, (T, e) a row: the signal ``frame_features`` where given, else the mean of its tokens."""
    if "frame_features" in features:
        given = features["frame_features"]
        return [given[b, :frames] for b, (frames, _) in enumerate(whole_rows(features))]
    return [working_precision(video).mean(1) for video in by_frame(features)]
