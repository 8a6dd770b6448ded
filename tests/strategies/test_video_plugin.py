"""A method for videos as a plugin would have it: a file of its own, on features and in models."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

import tokenprune as tp
from tests.support.families import batch_of, model_of
from tests.support.videos import features
from tokenprune.core.errors import UnusedBudgetWarning
from tokenprune.hf.attach import attach
from tokenprune.testing import check

FILE = Path(__file__).parents[1] / "plugin_package/tokenprune_example_plugin/temporal.py"


@pytest.fixture(scope="module")
def paired() -> Any:
    return runpy.run_path(str(FILE), run_name="temporal_plugin")["paired_frames"]


def test_it_is_short() -> None:
    assert len(FILE.read_text(encoding="utf-8").splitlines()) <= 60


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("temporal", "paired_frames"),
        ("hierarchical", "hierarchical"),
        ("absorbing", "absorbing"),
        ("__init__", "contrast"),
    ],
)
def test_plugins_pass_what_their_authors_can_run(file: str, name: str) -> None:
    made = runpy.run_path(str(FILE.with_name(f"{file}.py")), run_name=f"checked_{file}")[name]()
    report = check(made, largest=4)
    assert report.instances >= 7
    assert not report.unchecked


def test_on_features_of_several_sizes(paired: Any) -> None:
    given = features([tp.Grid(2, 3, 5), tp.Grid(2, 2, 4)])
    selection = paired().select(given, 1.0)
    assert selection.counts.tolist() == [9, 4]
    assert selection.merged is not None
    assert selection.groups.role("moved").sum(1).tolist() == [9, 4]
    x = given.visual[0].view(5, 6, -1)
    for row, place in enumerate(selection.merged.source[0].tolist()):
        t, p = divmod(place, 6)
        expected = x[t, p] if t == 4 else (x[t, p] + x[t + 1, p]) / 2
        torch.testing.assert_close(selection.merged.tokens[0, row], expected)


@pytest.mark.parametrize("family", ["video_llava", "qwen2_5_vl"])
def test_in_a_model(paired: Any, family: str) -> None:
    model, inputs = model_of(family), batch_of(family, "video")
    with pytest.warns(UnusedBudgetWarning, match="'paired-frames' keeps"), attach(model, paired(), 0.1):
        pass
    with torch.no_grad(), attach(model, paired(), 1.0) as run:
        assert bool(model(**inputs).logits.isfinite().all())
    assert all(0 < a < b for a, b in zip(run.history[0].tokens_after, run.history[0].tokens_before, strict=True))
