"""Every strategy that compares frames, on videos: batches, ragged rows, half precision, tokens that are all alike."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tokenprune as tp
from tests.support.videos import ATTENTION, STRATEGIES, features, quiet
from tokenprune.core.errors import FeatureError, MissingSignalError

ALL = pytest.mark.parametrize("name", STRATEGIES)
GRIDS = [tp.Grid(3, 4, 9), tp.Grid(4, 4, 12), tp.Grid(3, 4, 6)]


def sound(selection: tp.Selection, given: tp.Features) -> None:
    """Some tokens, distinct, in range, ascending; finite merged ones at distinct places."""
    sizes = given.counts()
    for b, n in enumerate(sizes):
        kept = selection.row(b)
        assert 1 <= len(kept) <= n
        assert kept == sorted(set(kept))
        assert 0 <= kept[0] <= kept[-1] < n
        assert sorted(i for i in selection.order[b].tolist() if i >= 0) == kept
        if selection.merged is not None:
            source = [i for i in selection.merged.source[b].tolist() if i >= 0]
            assert sorted(source) == kept
    if selection.merged is not None:
        assert bool(selection.merged.tokens.isfinite().all())
        assert selection.merged.tokens.shape[:2] == selection.merged.source.shape
    groups = selection.groups
    if groups is None:
        return
    for mask in groups.roles.values():
        assert mask.shape == given.visual.shape[:2]
        assert not bool((mask & ~given.valid()).any())
    if groups.members is not None and groups.weights is not None:
        # whatever a token is made of adds up to one token
        kept = groups.members[..., 1]
        total = torch.zeros_like(given.visual[..., 0])
        total.scatter_add_(1, kept.clamp_min(0), groups.weights.to(total.dtype).masked_fill(kept < 0, 0))
        named = total > 0
        torch.testing.assert_close(total[named], torch.ones_like(total[named]))


@ALL
@pytest.mark.parametrize("keep", [1, 17, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("batch", [1, 3])
def test_any_budget(name: str, keep: Any, batch: int) -> None:
    given = features([GRIDS[0]] * batch)
    strategy = quiet(STRATEGIES[name])
    selection = strategy.select(given, keep)
    sound(selection, given)
    if not strategy.own_counts:
        assert selection.counts.tolist() == list(tp.Budget(keep).counts(given.counts()))


@ALL
def test_rows_of_other_sizes_are_treated_apart(name: str) -> None:
    given = features(GRIDS)
    together = quiet(STRATEGIES[name]).select(given, 0.4)
    sound(together, given)
    for b, grid in enumerate(GRIDS):
        alone = quiet(STRATEGIES[name]).select(
            tp.Features(
                given.visual[b : b + 1, : grid.size],
                grid=grid,
                **{ATTENTION: given[ATTENTION][b : b + 1, : grid.size]},
            ),
            0.4,
        )
        assert [i for i in together.order[b].tolist() if i >= 0] == alone.order[0].tolist()
        if alone.merged is not None:
            assert together.merged is not None
            width = alone.merged.tokens.shape[1]
            assert together.merged.source[b, :width].tolist() == alone.merged.source[0].tolist()
            torch.testing.assert_close(together.merged.tokens[b, :width], alone.merged.tokens[0])


@ALL
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    given = features(GRIDS, dtype=dtype)
    sound(quiet(STRATEGIES[name]).select(given, 0.3), given)


@ALL
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_tokens_that_are_all_alike(name: str, value: float) -> None:
    given = features(GRIDS)
    flat = given.replace(visual=torch.full_like(given.visual, value))
    sound(quiet(STRATEGIES[name]).select(flat, 0.3), flat)


@ALL
@pytest.mark.parametrize("frames", [1, 2, 3, 5, 7])
def test_few_frames(name: str, frames: int) -> None:
    given = features([tp.Grid(4, 5, frames)])
    if name == "dycoke (as published)" and frames < 5:
        with pytest.raises(FeatureError, match="at least 5 frames"):
            quiet(STRATEGIES[name]).select(given, 0.5)
    else:
        sound(quiet(STRATEGIES[name]).select(given, 0.5), given)


@ALL
def test_without_a_grid_it_says_what_is_missing(name: str) -> None:
    given = features([GRIDS[0]]).replace(grid=None)
    with pytest.raises(MissingSignalError, match="which frame each visual token belongs to"):
        quiet(STRATEGIES[name]).select(given, 0.3)


@ALL
def test_part_of_a_frame_is_refused(name: str) -> None:
    given = features([GRIDS[0]])
    mask = given.valid().clone()
    mask[0, 5] = False
    given = given.replace(visual_mask=mask, grid=GRIDS[0])
    with pytest.raises(FeatureError, match="107 of the 108 tokens of its 9 frames"):
        quiet(STRATEGIES[name]).select(given, 0.3)


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "dycoke (as published)"])
def test_every_frame_can_be_a_unit_of_its_own(name: str) -> None:
    """Then each is a video of one frame; merged tokens and groups are those of the frames."""
    grid = tp.Grid(3, 5, 4)
    given = features([grid, grid])
    strategy = quiet(STRATEGIES[name])
    whole = strategy.select(given, 0.5, unit="frame")
    sound(whole, given)
    parts = strategy.select(given.frames(), 0.5)
    for b in range(2):
        expected = [f * 15 + i for f in range(4) for i in parts.order[b * 4 + f].tolist() if i >= 0]
        assert [i for i in whole.order[b].tolist() if i >= 0] == expected
        if parts.merged is not None:
            assert whole.merged is not None
            tokens = [parts.merged.tokens[b * 4 + f][parts.merged.source[b * 4 + f] >= 0] for f in range(4)]
            torch.testing.assert_close(whole.merged.tokens[b, : len(expected)], torch.cat(tokens))
    if parts.groups is not None:
        assert whole.groups is not None
        assert whole.groups.segment is not None
        assert whole.groups.segment.view(2, 4, 15)[0, :, 0].unique().numel() == 4
