"""Hypothesis strategies for what pruning works on: distributions, embeddings, gains and whole feature batches.

Everything is built from small integers, so that counterexamples shrink to numbers that fit in a sentence (counts
``[[1, 1], [1, 2]]``), and so that ties, duplicates and opposite vectors turn up by themselves. Where a size is asked
for, an int fixes it, a pair is the range it is drawn from, ends included, and a strategy draws it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from torch import Tensor

from tokenprune.core.features import Features, Grid, signal_of

__all__ = ["channels", "embeddings", "features", "gains_instances", "joints", "naive_bayes", "taus"]

Size = int | tuple[int, int] | st.SearchStrategy[int]

GRID = 4
"""Embeddings have integer coordinates in -GRID..GRID."""


def _size(draw: st.DrawFn, size: Size) -> int:
    if isinstance(size, int):
        return size
    return draw(st.integers(*size) if isinstance(size, tuple) else size)


def taus() -> st.SearchStrategy[float]:
    """Temperatures: the range of the paper's ablation (0.01 to 0.5) and one far beyond it."""
    return st.sampled_from([0.1, 0.01, 0.05, 0.5, 10.0])


@st.composite
def joints(
    draw: st.DrawFn,
    shape: Sequence[Size] = ((1, 4), (1, 4)),
    zeros: bool = True,
    highest: int = 9,
) -> NDArray[np.float64]:
    """Joint probability tables, one axis a variable: counts over their sum.

    Parameters
    ----------
    shape : sequence of sizes, default two axes of 1 to 4
    zeros : bool, default True
        Whether cells of probability 0 occur.
    highest : int, default 9
        Largest count.
    """
    sizes = tuple(_size(draw, s) for s in shape)
    counts = draw(arrays(np.int64, sizes, elements=st.integers(0 if zeros else 1, highest)))
    if not counts.any():
        counts[(0,) * counts.ndim] = 1
    return np.asarray(counts / counts.sum(), dtype=np.float64)


@st.composite
def channels(draw: st.DrawFn, rows: Size = (2, 5), columns: Size = (2, 5), zeros: bool = False) -> NDArray[np.float64]:
    """Row-stochastic tables p(x_j | v_i), (rows, columns): counts of 1 to 20 (0 to 20 with ``zeros``) over row sums."""
    sizes = (_size(draw, rows), _size(draw, columns))
    counts = draw(arrays(np.int64, sizes, elements=st.integers(0 if zeros else 1, 20)))
    counts[counts.sum(1) == 0, 0] = 1
    return np.asarray(counts / counts.sum(1, keepdims=True), dtype=np.float64)


@st.composite
def naive_bayes(
    draw: st.DrawFn, n: Size = (2, 5), targets: Size = (2, 3), zeros: bool = True
) -> tuple[NDArray[np.float64], list[NDArray[np.float64]]]:
    """A target and n variables that are independent given it.

    Returns
    -------
    prior : array, (targets,)
    channels : list of n arrays, (targets, symbols)
        p(v_i | t), each with 2 or 3 symbols.
    """
    t = _size(draw, targets)
    prior = draw(joints((t,), zeros=False))
    return prior, [draw(channels(t, (2, 3), zeros=zeros)) for _ in range(_size(draw, n))]


@st.composite
def embeddings(
    draw: st.DrawFn,
    n: Size = (2, 8),
    d: Size = (1, 4),
    zero_rows: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Token embeddings (n, d) on an integer grid: every dtype holds them exactly; duplicates and ties arise.

    Parameters
    ----------
    zero_rows : bool, default False
        Whether a token may be the zero vector.
    dtype : torch.dtype, default float32
    """
    rows, width = _size(draw, n), _size(draw, d)
    points = draw(arrays(np.int64, (rows, width), elements=st.integers(-GRID, GRID)))
    if not zero_rows:
        points[~points.any(1), 0] = 1
    copies = draw(st.lists(st.tuples(st.integers(0, rows - 1), st.integers(0, rows - 1)), max_size=rows // 2))
    for source, target in copies:
        points[target] = points[source]
    return torch.from_numpy(points).to(dtype)


@st.composite
def gains_instances(
    draw: st.DrawFn, n: Size = (2, 7), symmetric: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Relevance c (n,) and pair table D (n, n), multiples of 1/2 in -1.5..1.5, so that nearly every example has ties.

    Parameters
    ----------
    symmetric : bool, default False
        Whether D equals its transpose.
    """
    size = _size(draw, n)
    halves = st.integers(-3, 3)
    relevance = draw(arrays(np.int64, (size,), elements=halves)) / 2
    table = draw(arrays(np.int64, (size, size), elements=halves)) / 2
    if symmetric:
        table = np.triu(table) + np.triu(table, 1).T
    return relevance, table


@st.composite
def _masks(draw: st.DrawFn, shape: tuple[int, int]) -> Tensor:
    mask = draw(arrays(np.bool_, shape, elements=st.booleans()))
    mask[~mask.any(1), 0] = True
    return torch.from_numpy(mask)


@st.composite
def _signal(draw: st.DrawFn, shape: tuple[int, ...], dtype: torch.dtype, attention: bool) -> Tensor:
    lowest, highest = (0, 8) if attention else (-GRID, GRID)
    values = torch.from_numpy(draw(arrays(np.int64, shape, elements=st.integers(lowest, highest)))).double()
    # a share of the attention always goes elsewhere: to [CLS] itself, or to text
    return (values / (values.sum(-1, keepdim=True) + 1) if attention else values).to(dtype)


@st.composite
def features(
    draw: st.DrawFn,
    batch: Size = (1, 3),
    n: Size = (2, 8),
    t: Size | None = (1, 4),
    d: Size = (1, 4),
    *,
    masks: bool = True,
    signals: Collection[str] = (),
    grid: bool = False,
    zero_rows: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Features:
    """Feature batches, ragged through masks, with duplicate tokens.

    Parameters
    ----------
    batch, n, t, d : sizes
        Units, visual tokens, text tokens (None: no text) and width, padding included.
    masks : bool, default True
        Whether some tokens may be padding (anywhere in a row; each row keeps one real token).
    signals : collection of str
        Further names of ``tokenprune.core.features.SIGNALS``; attention is not negative and sums to less than 1.
    grid : bool, default False
        Whether to lay the tokens out on a grid of one frame.
    zero_rows : bool, default False
        Whether tokens may be the zero vector.
    dtype : torch.dtype, default float32
    """
    b, size, width = _size(draw, batch), _size(draw, n), _size(draw, d)
    given: dict[str, Tensor] = {"visual": draw(embeddings(b * size, width, zero_rows, dtype)).view(b, size, width)}
    sizes = {"b": b, "n": size, "d": width}
    if t is not None:
        sizes["t"] = _size(draw, t)
        given["text"] = draw(embeddings(b * sizes["t"], width, zero_rows, dtype)).view(b, sizes["t"], width)
    for name in sorted(set(signals) - given.keys()):
        shape = signal_of(name).shape.split()
        for letter in shape:
            if letter not in sizes:
                sizes[letter] = draw(st.integers(1, 3))
        given[name] = draw(_signal(tuple(sizes[letter] for letter in shape), dtype, "attention" in name))
    return Features(
        given.pop("visual"),
        given.pop("text", None),
        visual_mask=draw(st.none() | _masks((b, size))) if masks else None,
        text_mask=draw(st.none() | _masks((b, sizes["t"]))) if masks and t is not None else None,
        grid=draw(_grids(size)) if grid else None,
        extra=None,
        check=True,
        sizes=None,
        **given,
    )


def _grids(n: int) -> st.SearchStrategy[Grid]:
    return st.sampled_from([Grid(h, n // h) for h in range(1, n + 1) if n % h == 0])
