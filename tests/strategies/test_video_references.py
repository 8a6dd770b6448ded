"""Methods for videos, and those that read where tokens lie, keep what they keep written out as one loop.

Rows of a batch differ in frames, in the size of a frame and in what they keep. An example that noise of 1e-11 decides
is decided by rounding, and says nothing.
"""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import tokenprune as tp
from tests.support.videos import ATTENTION, features, quiet
from tokenprune.core.reference import Reference, load_reference

SHARES = st.sampled_from([None, 0.1, 0.25, 0.5, 0.9])
OPTIONS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "evs": {},
    "vidcom2": {
        "temperature": st.sampled_from([0.01, 0.1, 1.0]),
        "share": SHARES,
        "faithful": st.booleans(),
    },
    "dycoke": {"share": st.sampled_from([None, 0.0, 0.3, 0.7, 0.8, 1.0]), "faithful": st.booleans()},
    "fastvid": {
        "segments": st.integers(1, 9),
        "threshold": st.sampled_from([-1.0, 0.3, 0.84, 0.9]),
        "context": st.sampled_from([0.0, 0.2, 0.4, 0.6, 1.0]),
        "every": st.integers(1, 5),
        "beta": st.sampled_from([0.0, 0.2, 0.6, 1.0]),
        "form": st.sampled_from(["onevision", "llava-video", "qwen"]),
    },
    "holitom": {
        "threshold": st.sampled_from([-1.0, 0.3, 0.65, 0.8, 0.95]),
        "share": SHARES,
        "beta": st.sampled_from([0.0, 0.6, 1.0]),
        "longest": st.sampled_from([1, 2, 4, 1024]),
    },
    "prunevid": {
        "threshold": st.sampled_from([-1.0, 0.3, 0.8, 0.9]),
        "temporal": st.sampled_from([0.1, 0.25, 0.5, 1.0]),
        "spatial": st.sampled_from([0.1, 0.3, 0.5, 1.0]),
    },
    "hiprune": {"alpha": st.sampled_from([0.0, 0.1, 0.5, 1.0]), "faithful": st.booleans()},
    "prumerge": {"adaptive": st.booleans(), "neighbours": st.sampled_from([0, 1, 5, 32])},
    "prumerge-plus": {"adaptive": st.booleans(), "neighbours": st.sampled_from([1, 32])},
}
"""Options of each method that its reference has too, and the values that are tried."""

APART = {
    "dycoke": {"hidden", "similarity", "layer"},
    "fastvid": {"salience", "faithful"},
    "holitom": {"inner", "layer", "salience"},
    "prunevid": {"share", "layer"},
    "hiprune": {"object_layer", "deep_layer"},
    "prumerge": {"faithful"},
    "prumerge-plus": {"ratio", "faithful"},
}
"""Options that act elsewhere, or where published code fails."""

SIGNALS = {
    "mean_attention": "n",
    "mean_attention@9/24": "n",
    "cls_wide_attention@-1": "n",
    "wide_keys@-1": "nw",
    "encoder": "ne",
}
"""What the methods for pictures read, besides where tokens lie."""


def clip(data: st.DataObject) -> tp.Features:
    """One to three videos, each of its own size."""
    grids = data.draw(
        st.lists(st.builds(tp.Grid, st.integers(1, 4), st.integers(2, 5), st.integers(1, 12)), min_size=1, max_size=3)
    )
    made = features(grids, data.draw(st.integers(0, 2**16)))
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 2**16)))
    b, n = made.visual.shape[:2]
    more: dict[str, Any] = {}
    for name, letters in SIGNALS.items():
        value = torch.randn([b, n, *(7 for _ in letters[1:])], generator=draw, dtype=torch.float64)
        # a few patches attract most of the attention, as outliers do
        more[name] = (2 * value).masked_fill(~made.valid(), -torch.inf).softmax(1) if letters == "n" else value
    return made.replace(**more)


def shaken(f: tp.Features, seed: int) -> tp.Features:
    draw = torch.Generator().manual_seed(seed)
    names = [name for name in f if f[name].is_floating_point()]
    return f.replace(
        **{n: f[n] * (1 + 1e-11 * torch.randn(f[n].shape, generator=draw, dtype=f[n].dtype)) for n in names}
    )


def decided(reference: Reference, f: tp.Features, keep: int, row: int, options: dict[str, Any]) -> bool:
    """Whether a little noise leaves the picks as they are, and what they are made of nearly so."""
    picks, tokens = reference(f, keep, row, **options)
    for seed in range(2):
        others, made = reference(shaken(f, seed), keep, row, **options)
        if others.tolist() != picks.tolist():
            return False
        if tokens is not None and made is not None and not torch.allclose(tokens, made, rtol=1e-6, atol=1e-8):
            return False
    return True


@pytest.mark.parametrize("name", sorted(OPTIONS))
@settings(suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow], max_examples=30, deadline=None)
@given(data=st.data())
def test_picks_and_tokens_are_those_of_the_reference(name: str, data: st.DataObject) -> None:
    f = clip(data)
    keep = [data.draw(st.integers(1, size)) for size in f.counts()]
    options = {option: data.draw(values) for option, values in OPTIONS[name].items()}
    if name == "dycoke" and options["faithful"]:
        assume(f.grids is not None and min(grid.frames for grid in f.grids) >= 5)
    reference = load_reference(name)
    assume(all(decided(reference, f, k, row, options) for row, k in enumerate(keep)))
    made = quiet({"strategy": name, **{k: v for k, v in options.items() if v is not None}})
    selection = made.select(f, keep)
    for row, k in enumerate(keep):
        picks, tokens = reference(f, k, row, **options)
        assert [i for i in selection.order[row].tolist() if i >= 0] == picks.tolist()
        assert (tokens is None) == (selection.merged is None)
        if tokens is not None and selection.merged is not None:
            real = selection.merged.source[row] >= 0
            torch.testing.assert_close(selection.merged.tokens[row][real], tokens, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_options_are_those_of_the_strategy(name: str) -> None:
    strategy, function = tp.core.registry.registry.load("strategies", name), load_reference(name).function
    known = inspect.signature(strategy).parameters
    defaults = {k: p.default for k, p in inspect.signature(function).parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert set(defaults) == set(OPTIONS[name]) == set(known) - APART.get(name, set())
    assert all(known[option].default == default for option, default in defaults.items())


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_the_strategy_links_its_reference_and_the_reference_is_short(name: str) -> None:
    function = load_reference(name).function
    said = inspect.getdoc(tp.core.registry.registry.load("strategies", name)) or ""
    assert f"{function.__module__}.{function.__name__}" in said
    module = inspect.getmodule(function)
    longest = max(
        len([line for line in inspect.getsource(f).splitlines() if line.strip()])
        for _, f in inspect.getmembers(module, inspect.isfunction)
        if f.__module__ == function.__module__
    )
    assert longest <= 45


def test_a_signal_of_a_layer_is_named_by_the_reference() -> None:
    f = features([tp.Grid(2, 3, 2), tp.Grid(1, 3, 2)])
    given = load_reference("holitom").signals(f, 1)
    assert given["attention"].tolist() == f[ATTENTION][1, :6].tolist()
    assert given["frames"].tolist() == [0, 0, 0, 1, 1, 1]
    with pytest.raises(tp.core.errors.MissingSignalError, match="mean_attention"):
        load_reference("hiprune").signals(f, 0)
