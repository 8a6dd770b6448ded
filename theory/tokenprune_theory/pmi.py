"""PMI tables of similarities and their limits, in float64 NumPy.

Written from the formulas and sharing nothing with ``tokenprune.core.information``, which is tested against it.

``logits`` are similarities over temperature, (N, M): row i is the visual token that conditions, column j the outcome.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import rel_entr

from tokenprune_theory.discrete import Array, kl_divergence, log_sum_exp, renyi_divergence

__all__ = [
    "aggregate",
    "cold_relevance",
    "cold_self_pmi",
    "cosine_pmi_range",
    "cosines",
    "cross_pmi",
    "hot_cross_pmi",
    "hot_self_pmi",
    "kl_certificate",
    "log_marginal",
    "log_normalizer",
    "log_rows",
    "lse_bounds",
    "lse_certificate",
    "margin",
    "self_pmi",
    "table_of_channel",
    "tail_bound",
]


def cosines(x: Array, y: Array) -> Array:
    """Cosine of every pair of rows; vectors must not be zero."""
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y)]
    return np.asarray(unit[0] @ unit[1].T)


def log_rows(logits: Array) -> Array:
    """log p(x_j | v_i), the softmax of each row (Eqn 15)."""
    return np.asarray(logits - log_sum_exp(logits, axis=1, keepdims=True))


def log_marginal(log_p: Array, prior: Array | None = None) -> Array:
    """log q_j with q = prior @ p, uniform prior by default (Eqns 16, 49, 50)."""
    weights = np.full(len(log_p), 1 / len(log_p)) if prior is None else prior
    return log_sum_exp(log_p + np.log(weights)[:, None], axis=0)


def cross_pmi(logits: Array, prior: Array | None = None) -> Array:
    """C_ij = log p(t_j | v_i) - log q_j (Eqn 17)."""
    log_p = log_rows(logits)
    return log_p - log_marginal(log_p, prior)


def table_of_channel(rows: Array) -> Array:
    """PMI table of a channel with uniform prior: -inf at zero cells, also in columns that never occur."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(rows > 0, np.log(rows) - np.log(rows.mean(0)), -math.inf))


def log_normalizer(similarity: Array, tau: float, block: int = 64) -> Array:
    """log Z_i = log sum_j exp(s_ij / tau), columns folded in block by block: O(N + N block) memory."""
    total: Array = np.full(len(similarity), -math.inf)
    for start in range(0, similarity.shape[1], block):
        total = np.asarray(np.logaddexp(total, log_sum_exp(similarity[:, start : start + block] / tau, axis=1)))
    return total


def self_pmi(similarity: Array, tau: float, marginal: str = "uniform") -> Array:
    """D_ij = log p(v_j | v_i) - log p(v_j) among visual tokens, from their cosines.

    Parameters
    ----------
    similarity : array, (N, N), symmetric
    tau : float
    marginal : str
        What stands for p(v_j). "uniform": 1/N (the paper). "total": the mean of the rows. "stationary": proportional
        to Z_j, the prior under which it reproduces itself. "sinkhorn": scale the kernel until both marginals are 1/N.
    """
    logits = similarity / tau
    n = len(logits)
    log_p = log_rows(logits)
    if marginal == "uniform":
        return log_p + math.log(n)
    if marginal == "total":
        return log_p - log_marginal(log_p)
    if marginal == "stationary":
        log_z = log_sum_exp(logits, axis=1)
        return np.asarray(log_p - (log_z - log_sum_exp(log_z, axis=0)))
    if marginal == "sinkhorn":
        u = np.zeros(n)
        for _ in range(10_000):
            # half steps: a symmetric kernel has one scaling vector, and full steps would swing around it
            step = (-math.log(n) - log_sum_exp(logits + u, axis=1) - u) / 2
            u = u + step
            if np.abs(step).max() <= 4 * np.finfo(np.float64).eps * max(1.0, np.abs(logits).max()):
                break
        return np.asarray(logits + u[:, None] + u + 2 * math.log(n))
    raise ValueError(f"marginal must be 'uniform', 'total', 'stationary' or 'sinkhorn', got {marginal!r}")


def aggregate(rows: Array, how: str, order: float = 2.0) -> Array:
    """One score a row of a channel with uniform prior: "kl", "renyi", "max", "lse" or "sum" of its PMI."""
    table, q = table_of_channel(rows), rows.mean(0)
    if how == "kl":
        return kl_divergence(rows, q)
    if how == "renyi":
        return renyi_divergence(rows, q, order)
    if how == "max":
        return np.asarray(table.max(1))
    if how == "lse":
        return log_sum_exp(table, axis=1)
    if how == "sum":
        return np.asarray(table.sum(1))
    raise ValueError(f"how must be 'kl', 'renyi', 'max', 'lse' or 'sum', got {how!r}")


def cosine_pmi_range(n_visual: int, n_text: int, tau: float) -> tuple[float, float]:
    """Smallest and largest value that a cross PMI entry can take with cosine logits.

    With kappa = (1 + (T - 1) e^(2/tau)) / (1 + (T - 1) e^(-2/tau)), the largest ratio of two rows' probabilities of one
    outcome: log N / (1 + (N - 1) kappa) and log N kappa / (kappa + N - 1).
    """
    rest = math.log(n_text - 1) if n_text > 1 else -math.inf
    log_kappa = float(np.logaddexp(0, rest + 2 / tau) - np.logaddexp(0, rest - 2 / tau))
    log_n = math.log(n_visual)
    others = math.log(n_visual - 1) if n_visual > 1 else -math.inf
    return log_n - float(np.logaddexp(0, others + log_kappa)), log_n - float(np.logaddexp(0, others - log_kappa))


def cold_relevance(similarity: Array) -> Array:
    """Limit of c_i = max_j C_ij as tau goes to 0, where no row has ties.

    With e_ij = s_ij - max_k s_ik, token i leads column j if e_ij is the column's largest entry. A column with m leaders
    gives each of them log(N / m) and the others -inf; c_i is the best over the columns that i leads. Every token leads
    at least its own nearest column, where e_ij = 0.
    """
    lag = similarity - similarity.max(1, keepdims=True)
    leads = lag >= lag.max(0) - 1e-12
    return np.asarray(np.where(leads, math.log(len(similarity)) - np.log(leads.sum(0)), -math.inf).max(1))


def cold_self_pmi(similarity: Array, tau: float) -> Array:
    """Asymptote of D as tau goes to 0: -(1 - cos_ij) / tau + log N - log(copies of i)."""
    copies = (similarity > 1 - 1e-12).sum(1, keepdims=True)
    return np.asarray(-(1 - similarity) / tau + math.log(len(similarity)) - np.log(copies))


def hot_cross_pmi(similarity: Array) -> Array:
    """Limit of tau C as tau grows: the similarities centred over rows and columns."""
    return np.asarray(similarity - similarity.mean(1, keepdims=True) - similarity.mean(0) + similarity.mean())


def hot_self_pmi(similarity: Array) -> Array:
    """Limit of tau D as tau grows: the cosines centred over rows."""
    return np.asarray(similarity - similarity.mean(1, keepdims=True))


def lse_bounds(z: Array) -> tuple[Array, Array]:
    """max z and max z + log N along the last axis, which enclose the log-sum-exp (Eqn 41)."""
    top = z.max(-1)
    return top, top + math.log(z.shape[-1])


def lse_certificate(scores: Array, n_text: int) -> Array:
    """Pairs (i, k) that max and log-sum-exp must rank alike: c_i - c_k > log T."""
    return np.asarray(scores[:, None] - scores[None, :] > math.log(n_text))


def kl_certificate(rows: Array) -> Array:
    """Pairs (i, k) that max and KL must rank alike: the binary divergence at i's strongest outcome exceeds c_k.

    With j the outcome where p(j | v_i) / q_j is largest, d = p log p/q + (1-p) log (1-p)/(1-q); merging all other
    outcomes loses information, so d <= KL_i <= c_i, and d > c_k >= KL_k decides both orders.
    """
    q = rows.mean(0)
    table = table_of_channel(rows)
    j = table.argmax(1)
    p_star, q_star = rows[np.arange(len(rows)), j], q[j]
    binary = rel_entr(p_star, q_star) + rel_entr(1 - p_star, 1 - q_star)
    return np.asarray(binary[:, None] > table.max(1)[None, :])


def tail_bound(n_visual: int, n_text: int, rank: int) -> float:
    """What the score of rank ``rank`` (1 is the best) cannot exceed: min(log N, log(T N / rank))."""
    return min(math.log(n_visual), math.log(n_text * n_visual / rank))


def margin(scores: Array, k: int) -> float:
    """Gap between the worst of the k best scores and the best of the others."""
    ranked = np.sort(scores)[::-1]
    return float(ranked[k - 1] - ranked[k]) if k < len(ranked) else math.inf
