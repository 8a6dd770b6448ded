"""Intervals and paired tests over questions that share images."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tokenprune.core.errors import ConfigError

__all__ = ["bootstrap_interval", "paired_p_value", "ratio_interval"]

Floats = NDArray[np.float64]

PIECE = 2**20
"""Random integers held at a time."""


def _numbered(clusters: Sequence[Hashable]) -> dict[Hashable, int]:
    """Place of each cluster, whatever order they come in."""
    return {cluster: i for i, cluster in enumerate(sorted(set(clusters), key=lambda c: (type(c).__name__, c)))}


def _totals(values: Sequence[float], clusters: Sequence[Hashable], index: dict[Hashable, int]) -> tuple[Floats, Floats]:
    """Sum and number of values of each cluster of ``index``."""
    if len(values) != len(clusters) or not len(values):
        raise ConfigError(
            f"values and clusters: got {len(values)} and {len(clusters)}; a cluster for each value, and at least one"
        )
    place = np.array([index[cluster] for cluster in clusters])
    weights = np.asarray(values, dtype=np.float64)
    sums = np.bincount(place, weights=weights, minlength=len(index)).astype(np.float64)
    return sums, np.bincount(place, minlength=len(index)).astype(np.float64)


def _drawn(below: int, draws: int, n: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Random integers of shape (draws, n), some rows at a time: the same as in one piece, in little memory."""
    generator = np.random.default_rng(seed)
    rows = max(1, PIECE // n)
    for start in range(0, draws, rows):
        yield generator.integers(0, below, size=(min(rows, draws - start), n))


def _resampled(totals: Sequence[Floats], draws: int, seed: int) -> list[Floats]:
    """Each of the totals summed over clusters drawn with replacement, the same for all: (draws,) each."""
    n = len(totals[0])
    pieces = [[total[chosen].sum(1) for total in totals] for chosen in _drawn(n, draws, n, seed)]
    return [np.concatenate(piece) for piece in zip(*pieces, strict=True)]


def _percentiles(values: Floats, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_interval(
    values: Sequence[float], clusters: Sequence[Hashable], level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float] | None:
    """Percentile interval of the mean, resampling clusters (images), since questions about one image go together.

    Parameters
    ----------
    values : sequence of float
    clusters : sequence
        What each value belongs to.
    level : float, default 0.95
    draws, seed : int

    Returns
    -------
    (low, high) or None
        None for a single cluster, which says nothing about how clusters differ.

    Raises
    ------
    ConfigError
        No values, or not a cluster for each.
    """
    index = _numbered(clusters)
    totals = _totals(values, clusters, index)
    if len(index) < 2:
        return None
    sums, sizes = _resampled(totals, draws, seed)
    return _percentiles(sums / sizes, level)


def ratio_interval(
    values: Sequence[float],
    clusters: Sequence[Hashable],
    base: Sequence[float],
    base_clusters: Sequence[Hashable],
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Percentile interval of the mean of ``values`` over that of ``base``, both of the same resampled clusters.

    Parameters
    ----------
    values, base : sequence of float
    clusters, base_clusters : sequence
        What each value belongs to.
    level, draws, seed
        As in :func:`bootstrap_interval`.

    Returns
    -------
    (low, high) or None
        Over the resamples where the ratio is defined; None for a single cluster, or where it never is.

    Raises
    ------
    ConfigError
        No values, or not a cluster for each.
    """
    index = _numbered([*clusters, *base_clusters])
    totals = (*_totals(values, clusters, index), *_totals(base, base_clusters, index))
    if len(index) < 2:
        return None
    sums, sizes, base_sums, base_sizes = _resampled(totals, draws, seed)
    defined = (sizes > 0) & (base_sums > 0)
    if not defined.any():
        return None
    ratios = (sums[defined] / sizes[defined]) / (base_sums[defined] / base_sizes[defined])
    return _percentiles(ratios, level)


def paired_p_value(
    a: Sequence[float], b: Sequence[float], clusters: Sequence[Hashable], draws: int = 10000, seed: int = 0
) -> float:
    """Two-sided p-value of "a and b have the same mean": signs of the clusters' differences flipped at random.

    All sign patterns where there are at most ``draws`` of them, else that many random ones; never 0.

    Raises
    ------
    ConfigError
        No values, or not a cluster for each.
    """
    differences = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    sums, _ = _totals(differences.tolist(), clusters, _numbered(clusters))
    sums = sums[sums != 0]
    if not len(sums):
        return 1.0
    observed = abs(sums.sum()) - 1e-9
    if 2 ** len(sums) <= draws:
        patterns = (np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums))) & 1
        return float(np.mean(np.abs((1 - 2 * patterns) @ sums) >= observed))
    reached = sum(int(np.sum(np.abs((2 * bits - 1) @ sums) >= observed)) for bits in _drawn(2, draws, len(sums), seed))
    return (1 + reached) / (draws + 1)
