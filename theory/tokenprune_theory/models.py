"""Distributions to try a statement on: the textbook constructions, and random instances of each kind.

A candidate i is the variable ``v<i>``, the target is ``t``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from tokenprune_theory.discrete import Array, Joint
from tokenprune_theory.setfn import TableFunction, tabulate

__all__ = [
    "coverage_bits",
    "dependent",
    "from_counts",
    "functions_of_bits",
    "gf2_rank",
    "information",
    "linear_rank",
    "naive_bayes",
    "parity",
    "random_channel",
    "random_embeddings",
    "random_joint",
    "random_naive_bayes",
    "random_selection_problem",
    "xors",
]


def candidates(n: int) -> tuple[str, ...]:
    """Names of n candidates."""
    return tuple(f"v{i}" for i in range(n))


def information(joint: Joint) -> TableFunction:
    """f(S) = MI(V_S; T) for every subset S of the candidates (Eqn 10)."""
    names = [name for name in joint.names if name != "t"]
    return tabulate(lambda s: joint.mutual_information([names[i] for i in s], "t"), len(names))


def from_counts(counts: Sequence[object] | Array) -> Joint:
    """Joint of (t, v0, v1, ...) from a table of counts."""
    table = np.asarray(counts, dtype=np.float64)
    return Joint(table / table.sum(), ("t", *candidates(table.ndim - 1)))


def naive_bayes(prior: Array, channels: Sequence[Array]) -> Joint:
    """Candidates that are mutually independent given the target (Eqn 30 for every set).

    Parameters
    ----------
    prior : array, (targets,)
    channels : sequence of arrays, (targets, symbols)
        p(v_i | t).
    """
    p = prior
    for channel in channels:
        p = p[..., None] * channel.reshape(channel.shape[0], *[1] * (p.ndim - 1), channel.shape[1])
    return Joint(p, ("t", *candidates(len(channels))))


def functions_of_bits(bits: int, target: Sequence[int], masks: Sequence[Sequence[int]]) -> Joint:
    """Target and candidates as tuples of XORs of fair bits.

    Parameters
    ----------
    bits : int
        Number of independent fair bits.
    target : sequence of int
        Each a bit mask; the target is the tuple of the XORs of the bits in each mask.
    masks : sequence of sequences of int
        The same for each candidate.
    """
    shape = [2 ** len(each) for each in (target, *masks)]
    p = np.zeros(shape)
    for outcome in range(2**bits):
        cell = tuple(sum(((outcome & m).bit_count() & 1) << b for b, m in enumerate(each)) for each in (target, *masks))
        p[cell] += 2.0**-bits
    return Joint(p, ("t", *candidates(len(masks))))


def parity(n: int) -> Joint:
    """T is the XOR of n fair bits, the candidates are the bits: no proper subset says anything of T."""
    return functions_of_bits(n, [2**n - 1], [[1 << i] for i in range(n)])


def coverage_bits(sets: Sequence[Sequence[int]]) -> Joint:
    """T is all bits, a candidate shows some of them: MI(V_S; T) is the number of bits covered, times log 2."""
    bits = 1 + max(max(s) for s in sets)
    return functions_of_bits(bits, [1 << b for b in range(bits)], [[1 << b for b in s] for s in sets])


def xors(r: int) -> list[int]:
    """Every non-empty XOR of r bits as a bit mask, those of more than one bit first, the single bits last."""
    every = range(1, 2**r)
    return sorted(every, key=lambda m: (m.bit_count() == 1, m))


def gf2_rank(vectors: Iterable[int]) -> int:
    """Rank of bit masks over GF(2)."""
    basis: list[int] = []
    for v in vectors:
        for b in basis:
            v = min(v, v ^ b)
        if v:
            basis.append(v)
    return len(basis)


def linear_rank(vectors: Sequence[int]) -> TableFunction:
    """MI(V_S; T) in bits where T is all bits and each candidate one XOR of them: the rank over GF(2)."""
    return tabulate(lambda s: float(gf2_rank(vectors[i] for i in s)), len(vectors))


def dependent(copies: int, flip: float) -> Joint:
    """T = A xor B with candidates A, B and noisy copies of T, each flipped with probability ``flip``."""
    p = np.zeros((2,) * (3 + copies))
    for a, b, *noise in itertools.product((0, 1), repeat=2 + copies):
        weight = 0.25 * float(np.prod([flip if bit else 1 - flip for bit in noise]))
        p[(a ^ b, a, b, *((a ^ b) ^ bit for bit in noise))] += weight
    return Joint(p, ("t", *candidates(2 + copies)))


def random_joint(rng: np.random.Generator, shape: Sequence[int], zeros: bool = True) -> Joint:
    """A random joint of (t, v0, ...): flat Dirichlet, with about a third of the cells emptied if ``zeros``."""
    p = rng.exponential(size=tuple(shape))
    if zeros:
        p = p * (rng.random(p.shape) > 1 / 3)
        p.flat[int(rng.integers(p.size))] += 1
    return Joint(p / p.sum(), ("t", *candidates(len(shape) - 1)))


def random_channel(rng: np.random.Generator, rows: int, columns: int) -> Array:
    """Row-stochastic table with sharp and flat rows."""
    sharpness = rng.exponential(2.0)
    logits = sharpness * rng.standard_normal((rows, columns))
    p = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(p / p.sum(1, keepdims=True))


def random_naive_bayes(rng: np.random.Generator, n: int = 5, targets: int = 3, symbols: int = 2) -> Joint:
    """A random naive Bayes joint, from nearly deterministic channels to nearly independent ones."""
    prior = rng.dirichlet(np.ones(targets))
    return naive_bayes(prior, [random_channel(rng, targets, symbols) for _ in range(n)])


def random_embeddings(rng: np.random.Generator, n: int, d: int) -> Array:
    """Unit vectors in few directions plus noise, so that some are near duplicates."""
    centres = rng.standard_normal((max(1, n // 3), d))
    x = centres[rng.integers(len(centres), size=n)] + 0.5 * rng.standard_normal((n, d))
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))


def random_selection_problem(rng: np.random.Generator, n: int, ties: bool = False) -> tuple[Array, Array]:
    """Relevance c (n,) and pair table D (n, n); on a grid of halves with ``ties``."""
    if ties:
        return rng.integers(-3, 4, size=n) / 2, rng.integers(-3, 4, size=(n, n)) / 2
    return rng.exponential(size=n), rng.standard_normal((n, n))
