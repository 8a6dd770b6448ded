"""Strategies whose counts follow from what they measure, in fixed shapes: one program for any picture."""

from __future__ import annotations

import warnings
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest
import torch

import tokenprune as tp
from tests.support.compiled import altered
from tokenprune.components.density import density_peaks, peaks_of_rows
from tokenprune.components.layerwise.recycle import Recycle
from tokenprune.components.layerwise.rules import Logistic
from tokenprune.components.scorers import ReceivedAttention
from tokenprune.core.errors import NotCompiledWarning
from tokenprune.core.schedule import LayerSchedule
from tokenprune.hf.compiled import measured
from tokenprune.hf.compiled.measured import unknown
from tokenprune.zoo.tiny import tiny_inputs

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

CURVES: list[dict[str, Any]] = [
    {"slope": 1.0, "gain": 0.3, "midpoint": 4},
    {"slope": 2.0, "gain": 0.6, "midpoint": 5, "faithful": True},
]


@pytest.fixture(scope="module")
def deep() -> Any:
    """Layers enough for a curve, and pictures of so many tokens that clusters are several."""
    return altered("llava", image=2, num_hidden_layers=8).to(DEVICE)


def larger(inputs: Any, model: Any) -> dict[str, torch.Tensor]:
    """Pictures of twice the side: four times as many placeholders, rows padded in front as before."""
    image = model.config.image_token_id
    pixels = torch.nn.functional.interpolate(inputs["pixel_values"], scale_factor=2)
    rows = []
    for ids, real in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
        own = ids[real.bool()]
        rows.append(own.repeat_interleave(torch.where(own == image, 4, 1)).flip(0))
    parts = (rows, [torch.ones_like(row) for row in rows])
    ids, real = (torch.nn.utils.rnn.pad_sequence(part, batch_first=True).flip(1) for part in parts)
    return {"input_ids": ids, "attention_mask": real, "pixel_values": pixels}


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("keep", [0.2, 0.7])
def test_pictures_of_other_counts_run_through_the_same_programs(deep: Any, curve: dict[str, Any], keep: Any) -> None:
    strategy, seen = tp.build("autoprune", **curve), set()
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotCompiledWarning)
        compiled = tp.compile(deep, strategy, keep, bucket=32)
        for seed in range(3):
            inputs = larger(tiny_inputs("llava", ["image", "text", "two-images"], seed=seed), deep)
            inputs["pixel_values"] *= 4 * seed
            got = compiled.generate(**inputs, max_new_tokens=4)
            with tp.attach(deep, strategy, keep) as run:
                want = deep.generate(**{k: v.to(DEVICE) for k, v in inputs.items()}, max_new_tokens=4)
            assert torch.equal(got, want)
            seen.add(run.history[-1].layer_tokens)
    assert len(seen) > 1
    assert [built.stage for built in compiled.built] == ["encode", "select", "prefill", "prefill", "decode"]


def test_rooms_grow_where_examples_are_too_few(deep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts beyond those of all examples make the second program once more; the answer is right at once."""
    examples = Logistic.examples
    monkeypatch.setattr(Logistic, "examples", lambda self, units: examples(self, units)[:1])
    strategy = tp.build("autoprune", slope=1.0, gain=0.6, midpoint=4)
    compiled = tp.compile(deep, strategy, 0.4, bucket=32)
    inputs = larger(tiny_inputs("llava", ["image"], seed=1), deep)
    for factor in (0.0, 9.0):
        asked = {**inputs, "pixel_values": inputs["pixel_values"] * factor}
        with tp.attach(deep, strategy, 0.4):
            want = deep.generate(**{k: v.to(DEVICE) for k, v in asked.items()}, max_new_tokens=3)
        assert torch.equal(compiled.generate(**asked, max_new_tokens=3), want)
    assert [built.stage for built in compiled.built].count("prefill") == 3


def test_clusters_of_rows_are_those_of_each_row() -> None:
    draw = torch.Generator().manual_seed(0)
    for case in range(60):
        m = 1 + case % 23
        counts = [case % (m + 1), m, m // 2]
        tokens = torch.randn(3, m, 5, generator=draw)
        tokens = tokens.round() if case % 3 == 0 else tokens  # equally dense ones, and equally near ones
        there = torch.arange(m) < torch.tensor(counts).unsqueeze(1)
        clusters = [count // 10 + 1 if count else 0 for count in counts]
        centres, member_of = peaks_of_rows(tokens * there.unsqueeze(-1), there, torch.tensor(clusters), m // 10 + 2)
        for row, (count, own) in enumerate(zip(counts, clusters, strict=True)):
            wanted = density_peaks(tokens[row, :count], own) if count else (centres[row, :0], member_of[row, :0])
            assert torch.equal(centres[row, :own], wanted[0])
            assert torch.equal(member_of[row, :count], wanted[1])
            assert bool((centres[row, own:] == -1).all())
            assert bool((member_of[row, count:] == m // 10 + 2).all())


def test_means_are_those_of_a_merger_that_knows_its_counts() -> None:
    draw = torch.Generator().manual_seed(1)
    scores = torch.rand(3, 40, generator=draw)
    valid = torch.arange(40) < torch.tensor([[40], [33], [40]])
    features = tp.Features(torch.randn(3, 40, 6, generator=draw), received_attention=scores, visual_mask=valid)
    merger, kept = Recycle(ReceivedAttention(), share=0.6), [7, 33, 39]
    ranked = scores.masked_fill(~valid, -1).argsort(1, descending=True)
    order = ranked.masked_fill(torch.arange(40) >= torch.tensor(kept).unsqueeze(1), -1)
    dropped = [40 - 7, 0, 1]
    used, made = ([count(n) for n in dropped] for count in (merger.recycled, merger.added))
    rows = [ranked[row, count : count + n] for row, (count, n) in enumerate(zip(kept, used, strict=True))]
    best = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)
    means, source = merger.additions(features, best, torch.tensor(made), 4)
    merged = merger.merge(features, order)
    for row, (count, added) in enumerate(zip(kept, made, strict=True)):
        torch.testing.assert_close(means[row, :added], merged.tokens[row, count : count + added])
        assert source[row, :added].tolist() == merged.source[row, count : count + added].tolist()
        assert bool((source[row, added:] == -1).all())


def test_a_single_cluster_is_found_without_looking() -> None:
    draw = torch.Generator().manual_seed(4)
    features = tp.Features(torch.randn(2, 30, 6, generator=draw).round(), received_attention=torch.rand(2, 30))
    merger = Recycle(ReceivedAttention())
    best = torch.stack([torch.randperm(30, generator=draw)[:8] for _ in range(2)])
    best[1, 5:] = -1
    single, several = (merger.additions(features, best, torch.tensor([1, 1]), most) for most in (1, 3))
    torch.testing.assert_close(single[0], several[0][:, :1])
    assert torch.equal(single[1], several[1][:, :1])


def test_what_cannot_be_told_says_so() -> None:
    told = tp.build("autoprune")
    assert isinstance(told, LayerSchedule)
    assert unknown(told) is None
    first, second, later = told.events
    late = replace(later, measures=second.measures)
    assert "before it has measured all" in str(unknown(replace(told, events=(first, second, late))))
    greedy = replace(later.strategy, selector=tp.build("mi-pruner").selector)
    other = replace(told, events=(first, second, replace(later, strategy=greedy)))
    assert "not made for it" in str(unknown(other))


@pytest.mark.skipif(find_spec("triton") is None, reason="programs are written in Triton")
def test_programs_shorten_as_tensor_operations_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """One picture a prompt: places, masks and states after each layer, and what is answered."""
    monkeypatch.setattr(measured, "usable", lambda *_: True)
    deep = altered("llava", image=2, num_hidden_layers=4).to(DEVICE)
    strategy, keep = tp.build("autoprune", slope=1.0, gain=0.3, midpoint=2), 0.4
    inputs = larger(tiny_inputs("llava", ["image"], seed=3), deep)
    reads = []
    for at_once in (True, False):
        if not at_once:
            monkeypatch.setattr(measured, "LONGEST", 0)
        compiled = tp.compile(deep, strategy, keep, bucket=8)
        prompt = compiled.select(compiled.encode(**inputs), **inputs)
        assert prompt is not None
        reads.append(compiled.read(prompt, 1))
    got, want = reads
    torch.testing.assert_close(got.logits, want.logits)
    for mine, other, place, wanted in zip(got.masks, want.masks, got.positions, want.positions, strict=True):
        width = other.shape[1]
        assert torch.equal(mine[:, :width], other)
        assert not mine[:, width:].any()
        assert torch.equal(place[..., :width], wanted)
    assert len({mask.shape for mask in got.masks}) > 1
