"""Intervals and paired tests over questions that share images."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from tokenprune.core.errors import ConfigError

__all__ = [
    "Ranked",
    "Spread",
    "bootstrap_interval",
    "bootstrap_mean",
    "over_trainings",
    "paired_p_value",
    "ranked",
    "ratio_interval",
]

Floats = NDArray[np.float64]

PIECE = 2**20
"""Random integers held at a time; numbers do not depend on it."""


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


def _batch(n: int) -> int:
    return max(1, PIECE // n)


def _resampled(totals: Sequence[Floats], statistic: Callable[..., Floats], draws: int, seed: int) -> Floats:
    """A statistic of totals over clusters drawn with replacement, the same for all: (draws,)."""
    # scipy warns that it cannot make an interval where a resample is undefined; only the distribution is used here
    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            totals,
            statistic,
            n_resamples=draws,
            batch=_batch(len(totals[0])),
            vectorized=True,
            paired=True,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
    drawn: Floats = found.bootstrap_distribution
    return drawn


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
    means = _resampled(totals, _mean_of_totals, draws, seed)
    return _percentiles(means, level)


def bootstrap_mean(values: Sequence[float], clusters: Sequence[Hashable], draws: int = 2000, seed: int = 0) -> float:
    """Mean over the means of resampled clusters: the mean itself, but for noise of the resampling.

    Raises
    ------
    ConfigError
        No values, or not a cluster for each.
    """
    totals = _totals(values, clusters, _numbered(clusters))
    if len(totals[0]) < 2:
        return float(totals[0].sum() / totals[1].sum())
    return float(_resampled(totals, _mean_of_totals, draws, seed).mean())


def _mean_of_totals(sums: Floats, sizes: Floats, axis: int) -> Floats:
    mean: Floats = sums.sum(axis) / sizes.sum(axis)
    return mean


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

    def ratio(sums: Floats, sizes: Floats, base_sums: Floats, base_sizes: Floats, axis: int) -> Floats:
        a, n, b, m = (x.sum(axis) for x in (sums, sizes, base_sums, base_sizes))
        defined = (n > 0) & (b > 0)
        return np.where(defined, (a / n) / (b / m), np.nan)

    ratios = _resampled(totals, ratio, draws, seed)
    ratios = ratios[~np.isnan(ratios)]
    return _percentiles(ratios, level) if len(ratios) else None


def paired_p_value(
    a: Sequence[float], b: Sequence[float], clusters: Sequence[Hashable], draws: int = 10000, seed: int = 0
) -> float:
    """Two-sided p-value of "a and b have the same mean": signs of the clusters' differences flipped at random.

    All sign patterns where there are at most ``draws`` of them, else that many random ones; never 0. (scipy's
    permutation test and Monte Carlo test, with the size of the summed difference as statistic.)

    Raises
    ------
    ConfigError
        No values, or not a cluster for each.
    """
    differences = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    sums, _ = _totals(differences.tolist(), clusters, _numbered(clusters))
    sums = sums[sums != 0]
    if len(sums) < 2:
        return 1.0  # either sign of one cluster is as far from nought

    def size(flipped: Floats, axis: int) -> Floats:
        # sums of thirds in another order differ in their last bits, and count as equal
        rounded: Floats = np.round(np.abs(flipped.sum(axis)), 9)
        return rounded

    if 2 ** len(sums) <= draws:
        # one sample: all patterns of signs
        exact = stats.permutation_test(
            (sums,), size, permutation_type="samples", vectorized=True, n_resamples=np.inf, alternative="greater"
        )
        return float(exact.pvalue)
    generator = np.random.default_rng(seed)
    drawn = stats.monte_carlo_test(
        sums,
        lambda size: (2 * generator.integers(0, 2, size=size) - 1) * sums,
        size,
        vectorized=True,
        n_resamples=draws,
        batch=_batch(len(sums)),
        alternative="greater",
    )
    return float(drawn.pvalue)


@dataclass(frozen=True)
class Spread:
    """A mean over trainings and pictures, and how sure it is over others of both.

    Attributes
    ----------
    mean, low, high : float
        With the ends of a percentile interval.
    p : float
        Two-sided, of "the mean is nought"; never 0.
    """

    mean: float
    low: float
    high: float
    p: float


def over_trainings(
    sums: NDArray[np.floating], sizes: NDArray[np.floating], level: float = 0.95, draws: int = 2000, seed: int = 0
) -> Spread:
    """Mean of values that each of several trainings has of the same pictures, resampling both as :func:`ranked` does.

    Parameters
    ----------
    sums, sizes : array of shape (T, C)
        Sum of values, and their number, of each training and picture (cluster).
    level : float, default 0.95
    draws, seed : int

    Raises
    ------
    ConfigError
        Shapes differ, there are fewer than two trainings or pictures, or a training has no value.
    """
    sums, sizes = np.asarray(sums, np.float64), np.asarray(sizes, np.float64)
    if sums.ndim != 2 or sums.shape != sizes.shape or min(sums.shape) < 2 or not (sizes.sum(1) > 0).all():
        raise ConfigError(
            f"sums and sizes: got shapes {sums.shape} and {sizes.shape}; (trainings, pictures), two of each at least "
            "and values of each training, are needed"
        )
    trainings, pictures = sums.shape
    generator = np.random.default_rng(seed)
    chosen = generator.multinomial(trainings, np.full(trainings, 1 / trainings), draws).astype(np.float64)
    seen = generator.multinomial(pictures, np.full(pictures, 1 / pictures), draws)
    counts = ((chosen @ sizes) * seen).sum(1)
    defined = counts > 0
    means = np.round(((chosen @ sums) * seen).sum(1)[defined] / counts[defined], 12)
    one_sided = min((means <= 0).sum(), (means >= 0).sum())
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    p = min(1.0, 2 * (int(one_sided) + 1) / (len(means) + 1))
    return Spread(float(sums.sum() / sizes.sum()), float(low), float(high), p)


@dataclass(frozen=True)
class Ranked:
    """How strategies compare, and how sure that is over other trainings and other pictures.

    Attributes
    ----------
    mean : array of shape (S,)
        Mean of each strategy.
    low, high : array of shape (S,)
        Percentile interval of the mean.
    rank : array of shape (S,)
        Mean rank over resamples, 1 is the best; ties share theirs.
    best : array of shape (S,)
        Share of resamples in which a strategy is the best; ties share it.
    wins : array of shape (S, S)
        Share of resamples in which the first is better than the second; ties count half.
    p : array of shape (S, S)
        Two-sided p-value of "both are equal", corrected for the number of pairs (Benjamini and Hochberg); 1 on the
        diagonal.
    """

    mean: Floats
    low: Floats
    high: Floats
    rank: Floats
    best: Floats
    wins: Floats
    p: Floats


def ranked(
    sums: NDArray[np.floating], sizes: NDArray[np.floating], level: float = 0.95, draws: int = 2000, seed: int = 0
) -> Ranked:
    """Compare strategies on several trainings that were asked about the same pictures, resampling both.

    A training is a sample of what the recipe gives, as a picture is of what can be asked about: intervals that resample
    pictures alone are about one training. Trainings and pictures are drawn independently, since each training saw each
    picture; all strategies share the draws.

    Parameters
    ----------
    sums : array of shape (T, S, C)
        Sum of values of each training, strategy and picture (cluster).
    sizes : array of shape (T, C)
        How many values that is; the same for all strategies.
    level : float, default 0.95
    draws, seed : int

    Raises
    ------
    ConfigError
        Shapes do not fit, there are fewer than two trainings or pictures, or a training has no value.
    """
    sums, sizes = np.asarray(sums, np.float64), np.asarray(sizes, np.float64)
    if sums.ndim != 3 or sizes.shape != (sums.shape[0], sums.shape[2]):
        raise ConfigError(
            f"sums and sizes: got shapes {sums.shape} and {sizes.shape}; (trainings, strategies, pictures) and "
            "(trainings, pictures) are needed"
        )
    trainings, strategies, pictures = sums.shape
    if trainings < 2 or pictures < 2 or not strategies or not (sizes.sum(1) > 0).all():
        raise ConfigError(
            f"sums: {trainings} trainings, {strategies} strategies, {pictures} pictures; two trainings and two "
            "pictures at least are needed, and values of each training"
        )
    generator = np.random.default_rng(seed)
    means = np.empty((draws, strategies))
    for i in range(draws):
        chosen = np.bincount(generator.integers(0, trainings, trainings), minlength=trainings)
        seen = np.bincount(generator.integers(0, pictures, pictures), minlength=pictures)
        count = chosen @ sizes @ seen
        means[i] = np.einsum("t,tsc,c->s", chosen, sums, seen, optimize=True) / count if count else np.nan
    means = np.round(means[~np.isnan(means[:, 0])], 12)  # equal sums in another order differ in their last bits
    places = stats.rankdata(-means, axis=1)
    first = means == means.max(1, keepdims=True)
    above = (means[:, :, None] > means[:, None]).mean(0)
    equal = (means[:, :, None] == means[:, None]).mean(0)
    p = np.ones((strategies, strategies))
    upper = np.triu_indices(strategies, 1)
    if len(upper[0]):
        one_sided = np.minimum(above + equal, above.T + equal)[upper]
        raw = np.minimum(1, 2 * (one_sided * len(means) + 1) / (len(means) + 1))
        p[upper] = stats.false_discovery_control(raw)
        p.T[upper] = p[upper]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Ranked(
        sums.sum((0, 2)) / sizes.sum(),
        low,
        high,
        places.mean(0),
        (first / first.sum(1, keepdims=True)).mean(0),
        above + equal / 2,
        p,
    )
