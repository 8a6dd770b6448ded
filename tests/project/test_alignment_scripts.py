"""The scripts behind the table of alignment: visual tokens turned away from text, and comparisons side by side."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cosine_similarity, normalize

import tokenprune as tp
from experiments.ablations.alignment import Turned, turned
from experiments.ablations.models import FIELDS, accuracies, as_markdown, lines_of, named
from tokenprune.results.store import as_csv

SHARES = st.floats(0, 1)


def tokens(seed: int, n: int = 12, d: int = 64) -> torch.Tensor:
    return torch.randn(2, n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(SHARES, st.integers(0, 99))
def test_turning_keeps_every_product_among_visual_tokens(strength: float, seed: int) -> None:
    visual = tokens(seed)
    after = turned(visual, strength)
    torch.testing.assert_close(after @ after.mT, visual @ visual.mT)


@given(SHARES, st.integers(0, 99))
def test_turning_leaves_a_token_its_share_of_its_own_direction(strength: float, seed: int) -> None:
    visual = tokens(seed)
    torch.testing.assert_close(
        cosine_similarity(turned(visual, strength), visual, dim=-1), torch.full((2, 12), strength).double()
    )


def test_turning_by_nothing_is_nothing_and_by_a_right_angle_leaves_noise() -> None:
    visual = tokens(3, n=400, d=256)
    torch.testing.assert_close(turned(visual, 1.0), visual)
    word = normalize(visual.mean(1, keepdim=True), dim=-1)
    before, after = ((normalize(v, dim=-1) @ word.mT).squeeze(-1) for v in (visual, turned(visual, 0.0)))
    assert before.mean() > 0.04
    assert after.mean().abs() < 0.01


def test_a_strategy_that_reads_no_text_chooses_the_same_and_one_that_does_another() -> None:
    features = tp.Features(visual=tokens(5, n=40).float(), text=tokens(6, n=5).float())
    for name, same in (("divprune", True), ("similarity", False)):
        strategy = tp.build(name)
        chosen = Turned(strategy, 0.0).select(features, 10).indices
        assert torch.equal(chosen, strategy.select(features, 10).indices) == same


def finished(folder: Path, values: dict[tuple[str, int], float]) -> Path:
    folder.mkdir()
    rest = {"family": "all", "metric": "accuracy", "low": 0.0, "high": 1.0, "n": 4, "p_full": None, "p_random": 0.5}
    costs = dict.fromkeys(("kept_tokens", "layer_average_tokens", "flops", "kv_bytes"), 1.0)
    rows = [{"strategy": s, "keep": k, "task": "all", "value": v} | rest | costs for (s, k), v in values.items()]
    rows.append(rows[0] | {"metric": "f1"})
    (folder / "summary.json").write_text(json.dumps({"rows": rows}))
    return folder


def test_comparisons_side_by_side(tmp_path: Path) -> None:
    one = finished(tmp_path / "one", {("full", 0): 1.0, ("random", 64): 0.5, ("random", 32): 0.25, ("dart", 64): 0.75})
    two = finished(tmp_path / "two", {("full", 0): 0.9, ("random", 64): 0.4})
    comparisons = {name: accuracies(folder) for name, folder in map(named, (f"one={one}", f"two={two}"))}
    assert as_markdown(comparisons).splitlines() == [
        "| strategy | one, 64 | two, 64 | one, 32 | two, 32 |",
        "|---|---:|---:|---:|---:|",
        "| full | 100.0 | 90.0 | 100.0 | 90.0 |",
        "| dart | 75.0 | - | - | - |",
        "| random | 50.0 | 40.0 | 25.0 | - |",
    ]
    lines = list(csv.DictReader(as_csv(FIELDS, lines_of(comparisons)).splitlines()))
    assert [(line["comparison"], line["strategy"], line["keep"]) for line in lines][-1] == ("two", "random", "64")
    assert len(lines) == 6
    assert {row.keep for row in accuracies(one, [32])} == {0, 32}


def test_what_is_no_comparison_is_refused(tmp_path: Path) -> None:
    for text in (str(tmp_path), f"one={tmp_path}"):
        with pytest.raises(argparse.ArgumentTypeError, match="finished comparison"):
            named(text)
