"""Features without value checks, and what select leaves unread on an accelerator."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenprune as tp
from tokenprune.core.errors import DegenerateRelevanceWarning, FeatureError, NonFiniteError
from tokenprune.testing import features


@given(features(batch=(1, 3), n=(2, 6), d=3, zero_rows=True), st.data())
@settings(max_examples=20)
def test_unchecked_features_decide_the_same(f: tp.Features, data: st.DataObject) -> None:
    masks = {"visual_mask": f.visual_mask, "text_mask": f.text_mask}
    # all-true masks stay masks where nothing is read
    masks = {k: m if m is not None or data.draw(st.booleans()) else None for k, m in masks.items()}
    if masks["visual_mask"] is None and data.draw(st.booleans()):
        masks["visual_mask"] = torch.ones(f.batch, f.n_visual, dtype=torch.bool)
    text = f.text if "text" in f else None
    unchecked = tp.Features(f.visual, text, check=False, **masks)  # type: ignore[arg-type]
    assert unchecked.counts() == f.counts()
    keep = [data.draw(st.integers(1, c)) for c in f.counts()]
    for name in ("mi-pruner", "divprune", "cdpruner", "random"):
        strategy = tp.build(name)
        if text is not None or "text" not in strategy.requires:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DegenerateRelevanceWarning)
                torch.testing.assert_close(strategy.select(unchecked, keep).order, strategy.select(f, keep).order)


def test_unchecked_features_are_not_read() -> None:
    spoiled = torch.tensor([[[1.0, torch.nan], [0.0, 1.0]]])
    with pytest.raises(NonFiniteError):
        tp.Features(spoiled)
    f = tp.Features(spoiled, check=False)
    assert f.replace(grid=tp.Grid(1, 2)).checked is False
    with pytest.raises(FeatureError, match="dimensions"):
        tp.Features(spoiled[0], check=False)


def selection(order: list[list[int]], scores: list[list[float]] | None = None) -> tp.Selection:
    given = None if scores is None else torch.tensor(scores)
    valid = torch.tensor([[True, True, True, False]] * len(order))
    return tp.Selection.from_order(torch.tensor(order), 4, given, valid=valid)


def test_verify_returns_a_sound_selection() -> None:
    sound = selection([[2, 0], [1, -1]], [[0.0, 1.0, 2.0, 0.0]] * 2)
    assert sound.verify() is sound


@pytest.mark.parametrize(
    ("made", "error", "words"),
    [
        (selection([[0, 1]], [[0.0, float("nan"), 1.0, 0.0]]), NonFiniteError, "scores"),
        (selection([[0, 1], [-1, -1]]), NonFiniteError, "row 1"),
        (selection([[0, 3]]), FeatureError, "3"),
        (selection([[0, 7]]), FeatureError, "7"),
        (selection([[2, 0, 2], [1, -1, -1]]), FeatureError, r"twice.*\[2\]"),
    ],
)
def test_verify_finds_what_was_left_unread(made: tp.Selection, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        made.verify()
