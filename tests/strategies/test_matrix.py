"""Every registered strategy against awkward inputs; strategies registered later join by themselves."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Final

import pytest
import torch
from torch import Tensor

import tokenprune as tp
from tokenprune.core.errors import TokenPruneWarning
from tokenprune.core.features import LAYOUTS, is_signal, signal_of
from tokenprune.core.schedule import LayerSchedule

SIZES: Final = {"d": 8, "e": 6, "h": 2, "k": 5, "c": 4, "s": 2}
"""Sizes of the axes of signals; 3 for an axis of a signal that comes later."""

POSITIONAL: Final = {
    "visionzip": "centres lie at a uniform stride",
    "holov": "crops are runs of the raster sequence",
    "hiprune (faithful)": "neighbours lie in the picture",
    "trim": "the mean stands at the lowest place left over",
    "prumerge": "the sum stands at the lowest place left over",
    "prumerge-plus": "the grid lies in the picture",
    "trim (adaptive)": "the mean stands at the lowest place left over",
    "prumerge (adaptive)": "the sum stands at the lowest place left over",
    "prumerge-plus (adaptive)": "the grid lies in the picture",
    "visionzip (no [CLS], mean)": "centres lie at a uniform stride",
    "holov (holistic)": "crops are runs of the raster sequence",
    "apet before": "the basis starts at a fixed position",
    "apet after layer 15": "the basis starts at a fixed position",
}
"""Strategies whose choice depends on where a token stands, and why."""


VARIANTS: Final[dict[str, dict[str, Any]]] = {
    "mi-attention (visionzip form)": {"strategy": "mi-attention", "form": "visionzip"},
    "visionzip (no [CLS], mean)": {"strategy": "visionzip", "cls": False, "combine": "mean"},
    "vispruner (no round 1)": {"strategy": "vispruner", "share": 0.0, "rate": 3},
    "holov (holistic)": {"strategy": "holov", "within": "holistic", "crops": 4},
    "scope (add)": {"strategy": "scope", "combine": "add", "alpha": 0.5},
    "hiprune (faithful)": {"strategy": "hiprune", "alpha": 1.0, "faithful": True},
    "trim (adaptive)": {"strategy": "trim", "adaptive": True},
    "prumerge (adaptive)": {"strategy": "prumerge", "adaptive": True, "neighbours": 4},
    "prumerge-plus (adaptive)": {"strategy": "prumerge-plus", "adaptive": True},
    "trimtokenator (plain distances)": {"strategy": "trimtokenator", "squared": False, "share": 0.3},
}
"""Options that change how a strategy works."""


def stages() -> dict[str, tp.Strategy]:
    """Every place where a strategy acts: itself, or the single acts inside the language model that it consists of.

    Acts that read what exists only between layers (keys of the text, measurements) cannot be given features here.
    """
    found: dict[str, tp.Strategy] = {}
    for name, spec in {**{name: name for name in tp.list_strategies()}, **VARIANTS}.items():
        strategy = tp.build(spec)
        if isinstance(strategy, tp.Strategy):
            found[name] = strategy
            continue
        assert isinstance(strategy, LayerSchedule), f"{name} is neither a Strategy nor a LayerSchedule"
        acts = [("before", strategy.before)] if strategy.before is not None else []
        acts += [(f"after layer {event.after_layer}", event.strategy) for event in strategy.events]
        found |= {
            f"{name} {where}": act
            for where, act in acts
            if all(is_signal(name) or name in LAYOUTS for name in act.requires)
        }
    return found


STAGES: Final = stages()
LAYERED: Final = sorted({name for stage in STAGES.values() for name in stage.requires if "@" in name})
NAMED: Final = {**tp.SIGNALS, **{name: signal_of(name) for name in LAYERED}}
"""Every signal there is, and those of the layers that some strategy names."""

ALL: Final = pytest.mark.parametrize("name", sorted(STAGES))


def supply(
    batch: int = 1,
    n: int = 13,
    t: int = 4,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    change: Callable[[Tensor, int], Tensor] | None = None,
    **kwargs: Any,
) -> tp.Features:
    """Every signal there is, of a single frame; ``change(signal, axis)`` edits what runs over visual tokens."""
    draw = torch.Generator().manual_seed(seed)
    sizes = {**SIZES, "b": batch, "n": n, "t": t}
    given: dict[str, Any] = {}
    for name, signal in NAMED.items():
        letters = signal.shape.split()
        value = torch.randn([sizes.get(letter, 3) for letter in letters], generator=draw, dtype=torch.float64)
        if "attention" in name:
            value = value.softmax(-1)
        if change is not None and "n" in letters:
            value = change(value, letters.index("n"))
        given[name] = value.to(dtype)
    mask = kwargs.get("visual_mask")
    sizes = [n] * batch if mask is None else mask.sum(1).tolist()
    layout = {"grid": [tp.Grid(1, size) for size in sizes], **kwargs}
    return tp.Features(given.pop("visual"), given.pop("text"), **given, **layout)


def select(name: str, features: tp.Features, keep: Any) -> tp.Selection:
    """Select; strategies may say that the prompt is degenerate."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TokenPruneWarning)
        return STAGES[name].select(features, keep)


def check(name: str, selection: tp.Selection, keep: list[int], sizes: list[int]) -> None:
    """Exactly as many distinct positions as asked, in range, ascending; finite merged tokens at distinct places.

    What keeps counts of its own may keep others, but some.
    """
    if STAGES[name].own_counts:
        keep = selection.counts.tolist()
        assert all(1 <= k <= n for k, n in zip(keep, sizes, strict=True))
    assert selection.counts.tolist() == keep
    assert selection.indices.shape == selection.order.shape == (len(keep), max(keep))
    for b, (k, n) in enumerate(zip(keep, sizes, strict=True)):
        kept = selection.indices[b].tolist()
        assert kept[:k] == sorted(set(kept[:k]))
        assert all(0 <= i < n for i in kept[:k])
        assert kept[k:] == [-1] * (max(keep) - k)
        assert sorted(selection.order[b, :k].tolist()) == kept[:k]
        if selection.merged is None:
            continue
        source = [i for i in selection.merged.source[b].tolist() if i >= 0]
        assert len(set(source)) == len(source) >= k
        assert all(i < n for i in source)
        assert selection.merged.tokens.shape[:2] == selection.merged.source.shape
        assert bool(selection.merged.tokens.isfinite().all())


@ALL
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("n", "keep"),
    [
        pytest.param(13, 5, id="odd N"),
        pytest.param(13, 1, id="keep one"),
        pytest.param(13, 2, id="keep two"),
        pytest.param(13, 13, id="keep all"),
        pytest.param(13, 12, id="drop one"),
        pytest.param(1, 1, id="one token"),
        pytest.param(64, 14, id="odd residual list"),
        pytest.param(64, 4, id="round larger than half of the list"),
        pytest.param(24, 20, id="crops overflow"),
    ],
)
def test_keeps_exactly_what_is_asked(name: str, batch: int, n: int, keep: int) -> None:
    check(name, select(name, supply(batch, n), keep), [keep] * batch, [n] * batch)


@ALL
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_comes_in(name: str, dtype: torch.dtype) -> None:
    check(name, select(name, supply(2, dtype=dtype), 5), [5, 5], [13, 13])


@ALL
def test_one_text_token(name: str) -> None:
    check(name, select(name, supply(2, t=1), 5), [5, 5], [13, 13])


@ALL
@pytest.mark.parametrize("keep", [3, 7, 12])
def test_duplicates(name: str, keep: int) -> None:
    """Each token twice: with 7 of 12 at least one pair is kept whole."""

    def twice(value: Tensor, axis: int) -> Tensor:
        half = value.narrow(axis, 0, 6)
        return torch.cat([half, half], dim=axis)

    check(name, select(name, supply(2, 12, change=twice), keep), [keep] * 2, [12] * 2)


@ALL
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_tokens(name: str, value: float) -> None:
    flat = supply(2, change=lambda signal, axis: torch.full_like(signal, value))
    check(name, select(name, flat, 6), [6, 6], [13, 13])


@ALL
def test_memory_layout_does_not_matter(name: str) -> None:
    features = supply(2)
    strided = {s: features[s].mT.contiguous().mT for s in NAMED if features[s].ndim > 2}
    assert not all(value.is_contiguous() for value in strided.values())
    assert torch.equal(select(name, features.replace(**strided), 5).order, select(name, features, 5).order)


@pytest.mark.parametrize("name", sorted(STAGES))
def test_neighbours_and_padding_do_not_matter(name: str) -> None:
    """A row of a padded batch is treated as it is alone."""
    sizes, keep = [13, 9, 11], [5, 4, 11]
    mask = torch.arange(13) < torch.tensor(sizes).unsqueeze(1)
    batch = supply(3, visual_mask=mask)
    together = select(name, batch, keep)
    check(name, together, keep, sizes)
    for b, (n, k) in enumerate(zip(sizes, keep, strict=True)):
        row: dict[str, Any] = {}
        for signal, about in NAMED.items():
            letters = about.shape.split()
            value = batch[signal][b : b + 1]
            row[signal] = value.narrow(letters.index("n"), 0, n) if "n" in letters else value
        alone = select(name, tp.Features(row.pop("visual"), row.pop("text"), grid=tp.Grid(1, n), **row), k)
        assert together.row(b) == alone.row(0)
        assert [i for i in together.order[b].tolist() if i >= 0] == alone.order[0].tolist()
        if alone.merged is not None:
            assert together.merged is not None
            width = alone.merged.tokens.shape[1]
            torch.testing.assert_close(together.merged.tokens[b, :width], alone.merged.tokens[0])


def permuted(name: str, seed: int) -> tuple[list[int], list[int]]:
    """Kept tokens of one row, and of the same row in another order, by the first order's names."""
    places = torch.randperm(13, generator=torch.Generator().manual_seed(seed))
    plain = select(name, supply(seed=seed), 5).row(0)
    moved = select(name, supply(seed=seed, change=lambda value, axis: value.index_select(axis, places)), 5).row(0)
    return plain, sorted(int(places[i]) for i in moved)


@pytest.mark.parametrize("name", sorted(STAGES.keys() - POSITIONAL.keys()))
@pytest.mark.parametrize("seed", range(5))
def test_order_of_tokens_does_not_matter(name: str, seed: int) -> None:
    plain, moved = permuted(name, seed)
    assert moved == plain


@pytest.mark.parametrize("name", sorted(POSITIONAL))
def test_declared_positional_strategies_are(name: str) -> None:
    assert any(plain != moved for plain, moved in (permuted(name, seed) for seed in range(5)))
