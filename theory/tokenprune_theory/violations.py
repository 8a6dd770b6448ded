"""Statements as functions: each returns by how much an instance violates it (0 or rounding where it holds).

The claims try them on random instances, the tests on what hypothesis thinks of. -inf: no case of the statement.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
from scipy.special import logsumexp

from tokenprune_theory import pmi
from tokenprune_theory.discrete import Array, Joint, kl_divergence, log_sum_exp, renyi_divergence, specific_surprise
from tokenprune_theory.models import information
from tokenprune_theory.sequence import gain, select
from tokenprune_theory.setfn import (
    TableFunction,
    brute_force_max,
    greedy,
    lattice_violation,
    monotone_violation,
    nemhauser_bound,
    submodular_violation,
)

__all__ = [
    "bottleneck",
    "chain_rule",
    "conditional_forms",
    "cross_term_error",
    "entropy_range",
    "estimator_error",
    "estimator_identity",
    "greedy_shortfall",
    "independence_apart",
    "independence_error",
    "information_forms",
    "information_monotone",
    "information_sign",
    "information_submodular",
    "kl_average",
    "ladder",
    "lattice_equivalence",
    "lazy_differs",
    "lse_enclosed",
    "max_over_mean",
    "max_ratio_over_sum",
    "negative_estimate",
    "normalised",
    "pmi_range",
    "relevance_sign",
    "rising_gain",
    "tail",
]


def _set(joint: Joint, s: tuple[int, ...]) -> list[str]:
    names = [name for name in joint.names if name != "t"]
    return [names[i] for i in s]


def entropy_range(p: Array) -> float:
    """0 <= H <= log n, and log n - H = KL(p || uniform) >= |p - uniform|^2 / 2, so equality only at the uniform."""
    uniform = np.full(len(p), 1 / len(p))
    h = Joint(p, ("x",)).entropy("x")
    gap = math.log(len(p)) - h
    pinsker = 0.5 * float(np.abs(p - uniform).sum()) ** 2
    return max(-h, pinsker - gap, abs(gap - float(kl_divergence(p, uniform))))


def information_forms(joint: Joint) -> float:
    """H(t) - H(t|v), H(v) - H(v|t), H(t) + H(v) - H(t, v) and E[PMI] are one number (Eqns 6, 7, 32)."""
    both = joint.marginal(("t", "v0"))
    table = joint.pmi("t", "v0")
    expected = float((both[both > 0] * table[both > 0]).sum())
    forms = (
        joint.entropy("t") - joint.conditional_entropy("t", "v0"),
        joint.entropy("v0") - joint.conditional_entropy("v0", "t"),
        joint.entropy("t") + joint.entropy("v0") - joint.entropy(("t", "v0")),
        expected,
        joint.mutual_information("t", "v0"),
    )
    return max(forms) - min(forms)


def information_sign(joint: Joint) -> float:
    """MI(X;Y) = MI(Y;X) >= |p(x,y) - p(x)p(y)|^2 / 2 >= 0 (Pinsker), which is 0 only for independent variables."""
    mi = joint.mutual_information("t", "v0")
    both = joint.marginal(("t", "v0"))
    apart = both.sum(1, keepdims=True) * both.sum(0, keepdims=True)
    return max(abs(mi - joint.mutual_information("v0", "t")), 0.5 * float(np.abs(both - apart).sum()) ** 2 - mi)


def conditional_forms(joint: Joint) -> float:
    """H(X|Y) = H(X,Y) - H(Y), and H(X|Z) - H(X|Y,Z) is the sum in Eqn 28."""
    h = joint.entropy(("v0", "v1")) - joint.entropy("v1")
    cmi = joint.conditional_entropy("v0", "t") - joint.conditional_entropy("v0", ("v1", "t"))
    return max(
        abs(joint.conditional_entropy("v0", "v1") - h),
        abs(joint.mutual_information("v0", "v1", "t") - cmi),
        -cmi,
    )


def chain_rule(joint: Joint) -> float:
    """The gain of a token, MI(v;T|S), and MI(v;S|T) + MI(v;T) - MI(v;S) are one number (Eqns 11-12, 33-38)."""
    n = len(joint.names) - 1
    last, rest = _set(joint, (n - 1,)), _set(joint, tuple(range(n - 1)))
    mi = joint.mutual_information
    forms = (
        mi([*rest, *last], "t") - mi(rest, "t"),
        joint.conditional_entropy("t", rest) - joint.conditional_entropy("t", [*rest, *last]),
        mi(last, "t", rest),
        mi(last, [*rest, "t"]) - mi(last, rest),
        mi(last, rest, "t") + mi(last, "t") - mi(last, rest),
    )
    return max(forms) - min(forms)


def kl_average(rows: Array) -> float:
    """Row KL is the weighted PMI row, and its uniform average is MI(V;T) (Eqns 53-54)."""
    table = pmi.table_of_channel(rows)
    weighted = np.where(rows > 0, rows * np.where(rows > 0, table, 0), 0).sum(1)
    kl = specific_surprise(rows)
    mi = Joint(rows / len(rows), ("v0", "t")).mutual_information("v0", "t")
    return max(float(np.abs(weighted - kl).max()), abs(float(kl.mean()) - mi))


def lattice_equivalence(f: TableFunction) -> float:
    """1 where the two definitions of submodularity disagree, else 0 (Defs 3 and 7)."""
    return float(bool(submodular_violation(f)) != bool(lattice_violation(f)))


def information_submodular(joint: Joint) -> float:
    """Largest rise of a gain of f(S) = MI(V_S; T)."""
    return submodular_violation(information(joint)).size


def information_monotone(joint: Joint) -> float:
    """Largest loss of f(S) = MI(V_S; T) when a token is added."""
    return monotone_violation(information(joint)).size


def greedy_shortfall(f: TableFunction, k: int) -> float:
    """By how much greedy misses (1 - (1 - 1/k)^k) of the best value."""
    return nemhauser_bound(k) * brute_force_max(f, k)[0] - greedy(f, k).value


def _after(joint: Joint) -> Iterator[tuple[list[str], list[str]]]:
    """Every single candidate with every set of others that is not empty."""
    n = len(joint.names) - 1
    for i in range(n):
        for size in range(1, n):
            for s in itertools.combinations([j for j in range(n) if j != i], size):
                yield _set(joint, (i,)), _set(joint, s)


def _estimate(joint: Joint, v: list[str], rest: list[str]) -> float:
    """Eqn 39."""
    return joint.mutual_information(v, "t") - joint.mutual_information(v, rest)


def estimator_error(joint: Joint) -> float:
    """|Eqn 39 - MI(v;T|S)|, largest over single tokens v and sets S."""
    return max(abs(_estimate(joint, v, s) - joint.mutual_information(v, "t", s)) for v, s in _after(joint))


def negative_estimate(joint: Joint) -> float:
    """By how much Eqn 39 falls below 0, largest over single tokens v and sets S."""
    return max(-_estimate(joint, v, s) for v, s in _after(joint))


def estimator_identity(joint: Joint) -> float:
    """The true gain minus Eqn 39 is MI(v;S|T), which is not negative."""
    n = len(joint.names) - 1
    v, rest = _set(joint, (0,)), _set(joint, tuple(range(1, n)))
    missing = joint.mutual_information(v, "t", rest) - _estimate(joint, v, rest)
    return max(abs(missing - joint.mutual_information(v, rest, "t")), -missing)


def cross_term_error(joint: Joint) -> float:
    """|MI(v;T,S) - MI(v;T)|, largest over single tokens v and sets S."""
    mi = joint.mutual_information
    return max(abs(mi(v, ["t", *s]) - mi(v, "t")) for v, s in _after(joint))


def independence_error(joint: Joint) -> float:
    """|MI(v;S|T)|, largest over single tokens v and sets S (Eqn 31)."""
    return max(abs(joint.mutual_information(v, s, "t")) for v, s in _after(joint))


def independence_apart(joint: Joint) -> float:
    """MI(v0;S|T) is the mean KL of p(v0,S|t) from its product, and at least half the squared distance (Eqns 30, 31)."""
    rest = _set(joint, tuple(range(1, len(joint.names) - 1)))
    table = joint.marginal(("t", "v0", *rest)).reshape(*joint.p.shape[:2], -1)
    information = joint.mutual_information("v0", rest, "t")
    mean = distance = 0.0
    for slice_ in table:
        if (weight := float(slice_.sum())) > 0:
            both = slice_ / weight
            apart = np.outer(both.sum(1), both.sum(0))
            mean += weight * float(kl_divergence(both.ravel(), apart.ravel()))
            distance += weight * float(np.abs(both - apart).sum()) ** 2 / 2
    return max(abs(mean - information), distance - information)


def bottleneck(joint: Joint) -> float:
    """MI(v;S) - MI(v;T): not positive where v and S are independent given T (data processing)."""
    n = len(joint.names) - 1
    v, rest = _set(joint, (0,)), _set(joint, tuple(range(1, n)))
    return joint.mutual_information(v, rest) - joint.mutual_information(v, "t")


def normalised(logits: Array) -> float:
    """sum_j q_j e^C_ij = 1 in every row and mean_i e^C_ij = 1 in every column."""
    table = pmi.cross_pmi(logits)
    log_q = pmi.log_marginal(pmi.log_rows(logits))
    rows = log_sum_exp(table + log_q, axis=1)
    columns = log_sum_exp(table, axis=0) - math.log(len(table))
    return float(max(np.abs(np.expm1(rows)).max(), np.abs(np.expm1(columns)).max()))


def pmi_range(rows: Array) -> float:
    """C_ij <= min(-log q_j, log N)."""
    table = pmi.table_of_channel(rows)
    with np.errstate(divide="ignore"):
        bound = np.minimum(-np.log(rows.mean(0)), math.log(len(rows)))
    return float((table - bound).max())


def relevance_sign(rows: Array) -> float:
    """0 <= max_j C_ij, and at least the KL of the row, which is 0 only where the row is the marginal."""
    top = pmi.aggregate(rows, "max")
    return float(np.maximum(-top, specific_surprise(rows) - top).max())


def max_over_mean(rows: Array) -> float:
    """Weighted mean minus maximum of each PMI row (Eqns 18, 19)."""
    return float((specific_surprise(rows) - pmi.aggregate(rows, "max")).max())


def lse_enclosed(z: Array) -> float:
    """max z <= LSE(z) <= max z + log n, relative to the size of z (Eqn 41); infinite bounds hold by being equal."""
    low, high = pmi.lse_bounds(z)
    value = logsumexp(z, axis=-1)
    scale = max(1.0, float(np.abs(z[np.isfinite(z)]).max(initial=0)))
    if np.isfinite(low):
        return float(max(low - value, value - high)) / scale
    return 0.0 if low == value == high else math.inf


def max_ratio_over_sum(rows: Array) -> float:
    """max_j r_j - sum_j r_j of the likelihood ratios of each row (Eqn 46)."""
    ratio = np.exp(pmi.table_of_channel(rows))
    return float((ratio.max(1) - ratio.sum(1)).max())


def ladder(rows: Array) -> float:
    """0 <= KL = D_1 <= D_2 <= D_8 <= D_inf = max <= LSE <= max + log T, each rung against the next."""
    q = rows.mean(0)
    top = pmi.aggregate(rows, "max")
    rungs = [
        np.zeros(len(rows)),
        specific_surprise(rows),
        *(renyi_divergence(rows, q, order) for order in (1.0, 1.5, 2.0, 8.0, math.inf)),
        top,
        pmi.aggregate(rows, "lse"),
        top + math.log(rows.shape[1]),
    ]
    return float(max((low - high).max() for low, high in itertools.pairwise(rungs)))


def tail(scores: Array, n_text: int) -> float:
    """Scores in descending order against min(log N, log(T N / rank))."""
    ranked = np.sort(scores)[::-1]
    return max(float(s) - pmi.tail_bound(len(scores), n_text, k + 1) for k, s in enumerate(ranked))


def rising_gain(c: Array, pairs: Array, lam: float, picks: tuple[int, ...]) -> float:
    """Largest rise of a gain of Eqn 22 along a sequence of picks, from the first pick on."""
    worst = -math.inf
    for i in range(len(c)):
        gains = [gain(c, pairs, lam, i, picks[:size]) for size in range(1, len(picks) + 1)]
        worst = max(worst, *(b - a for a, b in itertools.pairwise(gains)), -math.inf)
    return worst


def lazy_differs(c: Array, pairs: Array, lam: float, k: int) -> float:
    """1 where lazy and naive greedy differ in order, gains or ties, else 0."""
    naive, lazy = (select(c, pairs, lam, k, method=method) for method in ("naive", "lazy"))
    return float(naive.order != lazy.order or naive.gains != lazy.gains)
