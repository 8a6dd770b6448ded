"""Parts for videos against their definitions, one loop at a time."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tokenprune as tp
from tests.support.videos import features, video
from tokenprune.components.density import density_peaks, peaks
from tokenprune.components.layerwise.decoding import ChangedAttention
from tokenprune.components.layerwise.halves import RunningHalves, ShareOfPresent
from tokenprune.components.video.anchors import SegmentAnchors
from tokenprune.components.video.clusters import GroupTopK, SegmentStaticClusters, always_alike
from tokenprune.components.video.members import WeightedMembers
from tokenprune.components.video.segments import cut_segments, longest_runs, most_static_windows, runs_of
from tokenprune.components.video.temporal import FrameShares, FrameWindows, TemporalNovelty, WholeFrame
from tokenprune.components.video.windows import StaticWindows
from tokenprune.core.errors import ConfigError, FeatureError, MissingSignalError, OptionTypeError
from tokenprune.core.layer_kinds import LayerContext

SEEDS = st.integers(0, 10**6)


# --- where tokens lie -------------------------------------------------------------------------------------------


def test_frames_follow_from_the_grid_of_each_row() -> None:
    given = features([tp.Grid(1, 2, 3), tp.Grid(2, 2, 1)])
    assert given["frames"].tolist() == [[0, 0, 1, 1, 2, 2], [0, 0, 0, 0, -1, -1]]
    assert "frames" in given
    assert given.grid is None
    assert given.grids == (tp.Grid(1, 2, 3), tp.Grid(2, 2, 1))
    assert given.replace(visual=given.visual * 2).grids == given.grids
    same = tp.Features(torch.ones(2, 6, 1), grid=tp.Grid(1, 2, 3))
    assert same.grids == (tp.Grid(1, 2, 3),) * 2
    assert same.grid == tp.Grid(1, 2, 3)
    assert "frames" not in tp.Features(torch.ones(1, 4, 1))


@pytest.mark.parametrize(
    ("grid", "says"),
    [
        ([tp.Grid(1, 6)], "1 grids for 2 rows"),
        ([tp.Grid(1, 6), tp.Grid(1, 7)], "7 cells in row 1"),
        ([tp.Grid(1, 6), tp.Grid(1, 3)], "3 cells in row 1"),
        ([tp.Grid(1, 6), "x"], "one for each row"),
        (tp.Grid(1, 4), "grid has 4 cells but"),
    ],
)
def test_grids_that_do_not_fit_are_refused(grid: object, says: str) -> None:
    mask = torch.arange(6) < torch.tensor([[6], [4]])
    with pytest.raises((FeatureError, OptionTypeError, tp.errors.FeatureTypeError), match=says):
        tp.Features(torch.ones(2, 6, 1), visual_mask=mask, grid=grid)  # type: ignore[arg-type]


def test_frames_are_no_signal_of_ones_own() -> None:
    with pytest.raises(FeatureError, match="follows from grid="):
        tp.Features(torch.ones(1, 4, 1), extra={"frames": torch.ones(1, 4)})


# --- one frame against another ----------------------------------------------------------------------------------


@given(SEEDS, st.integers(1, 6), st.integers(1, 7))
def test_novelty_is_one_minus_the_cosine_of_the_frame_before(seed: int, frames: int, each: int) -> None:
    grid = tp.Grid(1, each, frames)
    tokens = video(grid, seed)
    scores = TemporalNovelty().score(tp.Features(tokens[None], grid=grid))[0].view(frames, each)
    assert bool((scores[0] == 255).all())
    for t, p in itertools.product(range(1, frames), range(each)):
        a, b = tokens[t * each + p], tokens[(t - 1) * each + p]
        assert scores[t, p] == pytest.approx(1 - float(a @ b / (a.norm() * b.norm())), abs=1e-9)


def test_a_whole_frame_is_the_least_that_stays() -> None:
    given = features([tp.Grid(2, 3, 4), tp.Grid(2, 2, 3)])
    assert WholeFrame().own_counts
    selection = tp.Strategy(TemporalNovelty(), WholeFrame()).select(given, [1, 9])
    assert selection.counts.tolist() == [6, 9]
    assert selection.row(0) == list(range(6))


@given(SEEDS, st.integers(1, 9), st.integers(2, 12), st.floats(0.01, 1))
def test_frame_shares_keep_exactly_what_is_asked(seed: int, frames: int, each: int, ratio: float) -> None:
    given = features([tp.Grid(1, each, frames)], seed)
    strategy = tp.build("vidcom2")
    assert strategy.select(given, ratio).counts.tolist() == list(tp.Budget(ratio).counts([frames * each]))
    free = tp.build("vidcom2", faithful=True).select(given, ratio)
    counts = FrameShares().frame_counts(video(tp.Grid(1, each, frames), seed).view(frames, each, -1), len(free.row(0)))
    assert len(counts) == frames
    assert bool((torch.bincount(free.indices[0] // each, minlength=frames) >= 1).all())


def test_frames_unlike_their_video_get_more() -> None:
    draw = torch.Generator().manual_seed(9)
    tokens = torch.ones(6, 10, 16) + 0.01 * torch.randn(6, 10, 16, generator=draw)
    tokens[4] = torch.randn(10, 16, generator=draw)
    counts = FrameShares().frame_counts(tokens, 18)
    assert counts.argmax() == 4
    assert counts[4] > counts[0]


@given(st.integers(1, 20), st.integers(1, 30), st.floats(0.01, 1))
def test_windows_fill_the_budget_unless_it_is_below_the_whole_frames(frames: int, each: int, ratio: float) -> None:
    given = features([tp.Grid(1, each, frames)])
    keep = tp.Budget(ratio).counts([frames * each])[0]
    whole = -(-frames // 4) * each
    kept = tp.Strategy(selector=FrameWindows()).select(given, ratio).row(0)
    assert len(kept) == max(keep, whole)
    assert {t * each + p for t in range(0, frames, 4) for p in range(each)} <= set(kept)


def test_windows_compare_as_published() -> None:
    assert FrameWindows().references(9) == {0: None, 1: 0, 2: 0, 3: 2, 4: None, 5: 4, 6: 4, 7: 6, 8: None}
    # the third frame of the last window stays whole, and of nine frames the last one is lost
    expected = {0: None, 1: 0, 2: 0, 3: 2, 4: None, 5: 4, 6: None, 7: 6}
    assert FrameWindows(faithful=True).references(8) == expected
    assert FrameWindows(faithful=True).references(9) == {**expected, 6: None if 4 >= 5 else 4}
    selection = tp.build("dycoke", share=0.7, hidden=None).select(features([tp.Grid(14, 14, 32)]), 1.0)
    assert selection.counts.tolist() == [8 * 196 + 24 * 58]


# --- segments ---------------------------------------------------------------------------------------------------


def test_cuts_are_the_least_alike_and_those_below_the_threshold() -> None:
    angles = torch.tensor([0.0, 0.1, 0.5, 0.6, 1.6, 1.7])
    frames = torch.stack([angles.cos(), angles.sin()], dim=1)
    assert cut_segments(frames, 1, -1.0) == [(0, 6)]
    assert cut_segments(frames, 2, -1.0) == [(0, 4), (4, 6)]
    assert cut_segments(frames, 3, -1.0) == [(0, 2), (2, 4), (4, 6)]
    assert cut_segments(frames, 1, 0.95) == [(0, 2), (2, 4), (4, 6)]
    assert len(cut_segments(frames, 9, -1.0)) == 6
    with pytest.raises(FeatureError, match="6 frames cannot be cut into 9 segments"):
        cut_segments(frames, 9, -1.0, faithful=True)


def partitions(n: int, longest: int) -> list[list[tuple[int, int]]]:
    if n == 0:
        return [[]]
    last = [(partitions(n - w, longest), w) for w in range(1, min(n, longest) + 1)]
    return [[*head, (n - w, n)] for heads, w in last for head in heads]


@given(SEEDS, st.integers(1, 7), st.integers(1, 5), st.integers(1, 8), st.floats(0.2, 0.95))
def test_windows_save_most(seed: int, frames: int, each: int, longest: int, share: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    static = torch.rand(frames - 1, each, generator=draw) < share

    def saved(windows: list[tuple[int, int]]) -> int:
        return sum((b - a - 1) * int(static[a : b - 1].all(0).sum()) for a, b in windows if b - a > 1)

    windows, value = most_static_windows(static, longest)
    assert value == saved(windows) == max(map(saved, partitions(frames, longest)))
    assert [t for a, b in windows for t in range(a, b)] == list(range(frames))
    assert max(b - a for a, b in windows) <= longest


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0, 0, 0, 1, 1], [0, 0, 0, 1, 1]),
        ([0, 1, 2, 3], [0, 0, 0, 0]),  # no label lasts
        ([0, 0, 0, 1, 0, 2, 2], [0, 0, 0, 0, 0, 2, 2]),  # the shorter run of 0 and the lone 1 go left
        ([2, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1]),
        ([0, 0, 3, 1, 1, 1], [0, 0, 1, 1, 1, 1]),  # the longer neighbour is on the right
        ([0, 0, 3, 1, 1], [0, 0, 0, 1, 1]),  # equally long: left
        ([1, 1, 0, 1, 1], [1, 1, 1, 1, 1]),  # both longest runs of 1 stay
        ([0, 0, 2, 1, 1, 3, 0, 0, 0], [1, 1, 1, 1, 1, 1, 0, 0, 0]),  # by then the left neighbour is longer
        ([5], [0]),
    ],
)
def test_longest_runs(labels: list[int], expected: list[int]) -> None:
    assert longest_runs(labels) == expected


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_every_label_left_was_a_longest_run(labels: list[int]) -> None:
    refined = longest_runs(labels)
    assert len(refined) == len(labels)
    for label in set(refined):
        own = [b - a for a, b in runs_of(labels) if labels[a] == label]
        assert (own and max(own) > 1) or set(refined) == {0}


def test_places_that_are_always_alike() -> None:
    segment = torch.ones(3, 2, 4)
    segment[1, 1] = torch.tensor([1.0, -1, 1, -1])
    assert always_alike(segment, 0.8).tolist() == [True, False]
    assert always_alike(segment[:1], 0.8).tolist() == [False, False]


# --- density peaks ----------------------------------------------------------------------------------------------


@given(SEEDS, st.integers(2, 12), st.data())
def test_densities_have_neighbours_of_their_own(seed: int, m: int, data: st.DataObject) -> None:
    tokens = torch.randn(m, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    neighbours, clusters = data.draw(st.integers(1, m)), data.draw(st.integers(1, m))
    square = [[float(((a - b) ** 2).mean()) for b in tokens] for a in tokens]
    density = [-sum(sorted(row)[:neighbours]) / neighbours for row in square]
    peak = []
    for i in range(m):
        gaps = [
            square[i][j] ** 0.5
            for j in range(m)
            if density[j] > density[i] + 1e-12 or (abs(density[j] - density[i]) <= 1e-12 and j < i)
        ]
        gap = min(gaps) if gaps else max(map(max, square)) ** 0.5
        peak.append(density[i] + float(torch.tensor(gap, dtype=torch.float64).log()))
    got = peaks(tokens, neighbours)[0]
    if len({round(d, 10) for d in density}) == m or neighbours == 1:
        torch.testing.assert_close(got, torch.tensor(peak, dtype=torch.float64))
    centres, member_of = density_peaks(tokens, clusters, neighbours=neighbours)
    assert centres.tolist() == got.argsort(descending=True, stable=True)[:clusters].tolist()
    assert member_of[centres].tolist() == list(range(clusters))


@pytest.mark.parametrize("neighbours", [0, 5, True, 1.0])
def test_neighbours_that_do_not_exist_are_refused(neighbours: object) -> None:
    with pytest.raises(OptionTypeError, match="from 1 to 4"):
        density_peaks(torch.ones(4, 2), 2, neighbours=neighbours)  # type: ignore[arg-type]


# --- groups -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pairs(tp.Selector):
    """Keeps tokens 1 and 4; tokens join one of them, both or none."""

    uses_scores = False
    gives_groups = True

    def select(self, problem: tp.Problem) -> torch.Tensor:
        return self.choose(problem).order

    def choose(self, problem: tp.Problem) -> tp.Picks:
        order = torch.tensor([[4, 1]])
        members = torch.tensor([[[0, 1], [0, 4], [2, 4], [1, 1], [4, 4], [-1, -1]]])
        weights = torch.tensor([[0.25, 0.5, 0.25, 0.75, 0.25, 9.0]])
        return tp.Picks(order, tp.Groups(members=members, weights=weights, roles={"centre": order[0, :1] > 9}))


@pytest.mark.parametrize(("sequence", "places"), [("picked", [4, 1]), ("ascending", [1, 4])])
def test_members_may_join_several_kept_tokens(sequence: str, places: list[int]) -> None:
    strategy = tp.Strategy(selector=Pairs(), merger=WeightedMembers(sequence))  # type: ignore[arg-type]
    x = torch.arange(12.0).view(1, 6, 2)
    selection = strategy.select(tp.Features(x), 2)
    made = {1: 0.25 * x[0, 0] + 0.75 * x[0, 1], 4: 0.5 * x[0, 0] + 0.25 * x[0, 2] + 0.25 * x[0, 4]}
    assert selection.merged is not None
    assert selection.merged.source.tolist() == [places]
    torch.testing.assert_close(selection.merged.tokens[0], torch.stack([made[i] for i in places]))
    assert selection.groups is not None
    with pytest.raises(MissingSignalError, match=r"no role 'center' .*'centre'"):
        selection.groups.role("center")


def test_a_merger_of_groups_needs_a_selector_that_hands_them_on() -> None:
    with pytest.raises(ConfigError, match="reads groups, and TopK"):
        tp.Strategy(TemporalNovelty(), merger=WeightedMembers())
    with pytest.raises(ConfigError, match="picks alone do not say"):
        WeightedMembers().merge(features([tp.Grid(2, 2)]), torch.zeros(1, 1, dtype=torch.long))


def test_a_selector_without_counts_of_its_own_still_keeps_what_is_asked() -> None:
    with pytest.raises(FeatureError, match=r"shape \(1, 3\)"):
        tp.Strategy(selector=Pairs()).select(tp.Features(torch.ones(1, 6, 2)), 3)


def test_anchors_lie_back_from_the_last_frame() -> None:
    selector = SegmentAnchors(least=1, threshold=-1.0, every=3)
    quotas = selector.quotas((2, 10), torch.ones(12, 2), 20, 10)
    assert [t for t, quota in quotas.items() if quota.centres] == [3, 6, 9]
    assert {quota.salient for quota in quotas.values()} == {6}
    # int(10 * 0.4) = 4 a frame, 32 in all, over three anchors
    assert quotas[3].centres == 10
    shared = SegmentAnchors(form="llava-video", every=3).quotas((2, 10), torch.ones(12, 2), 20, 10)
    assert [shared[t].centres for t in (3, 6, 9)] == [10, 11, 11]
    assert [quota.salient for quota in shared.values()] == [6] * 8
    alike = SegmentAnchors(form="qwen", every=3).quotas((2, 10), torch.ones(12, 2), 20, 10)
    assert list(alike) == [9]


def test_every_token_that_is_not_salient_is_merged_once_for_each_anchor() -> None:
    grid = tp.Grid(4, 5, 8)
    given = features([grid])
    strategy = tp.build("fastvid", segments=1, threshold=-1.0)
    groups = strategy.select(given, 0.5).groups
    assert groups is not None
    assert groups.members is not None
    salient, centre = groups.role("salient")[0], groups.role("centre")[0]
    token, kept = groups.members[0].unbind(-1)
    assert set((kept // 20).tolist()) == {3, 7}
    assert set(kept.tolist()) == set(centre.nonzero().flatten().tolist())
    joins = torch.bincount(token, minlength=160)
    # centres are listed once more with their own weight
    assert joins.tolist() == (2 * (~salient).long() + centre.long()).tolist()


def test_static_tokens_are_means_over_their_window() -> None:
    grid = tp.Grid(4, 4, 6)
    given = features([grid])
    scorer = tp.build("holitom").scorer  # type: ignore[attr-defined]
    strategy = tp.Strategy(scorer, StaticWindows(0.8, 1.0, share=1.0), WeightedMembers())
    selection = strategy.select(given, 1.0)
    assert selection.merged is not None
    assert selection.groups is not None
    assert selection.groups.segment is not None
    static, segment = selection.groups.role("static")[0], selection.groups.segment[0]
    assert bool(static.any())
    for row, place in enumerate(selection.order[0].tolist()):
        frames = (segment == segment[place]).view(6, 16)[:, 0]
        mine = given.visual[0].view(6, 16, -1)[:, place % 16]
        expected = mine[frames].mean(0) if static[place] else mine[place // 16]
        torch.testing.assert_close(selection.merged.tokens[0, row], expected)


def test_clusters_are_means_of_all_they_hold() -> None:
    grid = tp.Grid(5, 8, 12)
    given = features([grid])
    strategy = tp.Strategy(selector=SegmentStaticClusters(), merger=WeightedMembers())
    selection = strategy.select(given, 1.0)
    groups = selection.groups
    assert groups is not None
    assert groups.members is not None
    assert selection.merged is not None
    token, kept = groups.members[0].unbind(-1)
    assert sorted(token.tolist()) == list(range(grid.size))
    for row, place in enumerate(selection.order[0].tolist()):
        expected = given.visual[0, token[kept == place]].mean(0)
        torch.testing.assert_close(selection.merged.tokens[0, row], expected)


@given(SEEDS, st.floats(0, 1))
def test_every_group_keeps_its_share(seed: int, share: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    part = torch.randint(0, 4, (2, 20), generator=draw)
    scores = torch.rand(2, 2, 3, 20, generator=draw)
    mask = torch.arange(20) < torch.tensor([[20], [13]])
    given = tp.Features(torch.ones(2, 20, 1), attention=scores, visual_mask=mask, extra={"part": part})
    attention = tp.build_component("scorers", "loudest-text")
    selection = tp.Strategy(attention, GroupTopK(share)).select(given, 1.0)
    loudest = scores.amax((1, 2))
    for b, n in enumerate((20, 13)):
        expected: list[int] = []
        for number in range(4):
            mine = [i for i in range(n) if part[b, i] == number]
            mine.sort(key=lambda i: (-float(loudest[b, i]), i))
            expected += mine[: int(len(mine) * share)]
        assert selection.row(b) == (sorted(expected) or [int(loudest[b, :n].argmax())])


@given(SEEDS, st.integers(2, 20), st.data())
def test_halves_run_through_the_dropped_tokens(seed: int, n: int, data: st.DataObject) -> None:
    x = torch.randn(1, n, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    kept = sorted(data.draw(st.sets(st.integers(0, n - 1), min_size=1)))
    merged = RunningHalves().merge(tp.Features(x), torch.tensor([kept[::-1]]))
    assert merged.source.tolist() == [kept]
    unit = x[0] / x[0].norm(dim=1, keepdim=True)
    states = {i: x[0, i] for i in kept}
    for i in range(n):
        if i not in kept:
            best = max(kept, key=lambda k: (float(unit[i] @ unit[k]), -k))
            states[best] = (states[best] + x[0, i]) / 2
    torch.testing.assert_close(merged.tokens[0], torch.stack([states[i] for i in kept]))


def test_shares_of_what_is_present_are_rounded_half_to_even() -> None:
    context = LayerContext((1, 1, 1), (9, 9, 9), (5, 7, 6), 4)
    assert ShareOfPresent(0.5).counts(context) == (2, 4, 3)
    with pytest.raises(ConfigError, match="above 0"):
        ShareOfPresent(0.0)


@given(SEEDS, st.floats(0, 1), st.sampled_from([-1.0, -0.25, 0.25, 0.75, 0.9, 1.0]))
def test_what_is_looked_at_while_decoding(seed: int, share: float, similarity: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    now, before = torch.rand(2, 3, 11, generator=draw).unbind(0)
    valid = torch.arange(11) < torch.tensor([[11], [6], [1]])
    now, before = now * valid, before * valid
    rule = ChangedAttention(share, similarity)
    for past in (None, before):
        shown = rule.visible(now, past, valid)
        for b, n in enumerate((11, 6, 1)):
            alike = 0.0 if past is None else float(torch.cosine_similarity(now[b], past[b], dim=0))
            order = sorted(range(n), key=lambda i: (-float(now[b, i]), i))
            expected = set(order[: int(n * (1 - share))]) if alike < similarity and share else set(range(n))
            assert set(shown[b].nonzero().flatten().tolist()) == expected
