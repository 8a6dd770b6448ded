"""Intervals and paired tests over questions that share images."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["bootstrap_interval", "paired_p_value"]


def _totals(values: Sequence[float], clusters: Sequence[Hashable]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum and number of values of each cluster."""
    index = {cluster: i for i, cluster in enumerate(dict.fromkeys(clusters))}
    place = np.array([index[cluster] for cluster in clusters])
    weights = np.asarray(values, dtype=np.float64)
    sums = np.bincount(place, weights=weights, minlength=len(index)).astype(np.float64)
    return sums, np.bincount(place, minlength=len(index)).astype(np.float64)


def bootstrap_interval(
    values: Sequence[float], clusters: Sequence[Hashable], level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the mean, resampling clusters (images), since questions about one image go together.

    Parameters
    ----------
    values : sequence of float
    clusters : sequence
        What each value belongs to.
    level : float, default 0.95
    draws, seed : int
    """
    sums, sizes = _totals(values, clusters)
    chosen = np.random.default_rng(seed).integers(0, len(sums), size=(draws, len(sums)))
    means = sums[chosen].sum(1) / sizes[chosen].sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_p_value(
    a: Sequence[float], b: Sequence[float], clusters: Sequence[Hashable], draws: int = 10000, seed: int = 0
) -> float:
    """Two-sided p-value of "a and b have the same mean": signs of the clusters' differences flipped at random.

    All sign patterns where there are at most ``draws`` of them, else that many random ones; never 0.
    """
    differences = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    sums, _ = _totals(differences.tolist(), clusters)
    sums = sums[sums != 0]
    if not len(sums):
        return 1.0
    observed = abs(sums.sum()) - 1e-9
    if 2 ** len(sums) <= draws:
        patterns = (np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums))) & 1
        return float(np.mean(np.abs((1 - 2 * patterns) @ sums) >= observed))
    signs = np.random.default_rng(seed).integers(0, 2, size=(draws, len(sums))) * 2 - 1
    return float((1 + np.sum(np.abs(signs @ sums) >= observed)) / (draws + 1))
