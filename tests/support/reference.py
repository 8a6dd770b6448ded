"""MI-Pruner's Algorithm 1 in plain Python loops and float64, written from the paper: slow, and nobody's dependency.

Tokens are lists of floats. Probabilities are shifted by the largest logit, so that small temperatures do not underflow
where it matters; otherwise every line is an equation of the paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Vector = Sequence[float]
Table = list[list[float]]


def cosine(x: Vector, y: Vector) -> float:
    """Eqn 14 without the temperature; 0 where a vector is 0."""
    norms = math.hypot(*x) * math.hypot(*y)
    return sum(a * b for a, b in zip(x, y, strict=True)) / norms if norms else 0.0


def log_softmax(logits: Vector) -> list[float]:
    """Eqn 15, in logarithms."""
    top = max(logits)
    log_z = top + math.log(math.fsum(math.exp(v - top) for v in logits))
    return [v - log_z for v in logits]


def conditional(visual: Sequence[Vector], other: Sequence[Vector], tau: float) -> Table:
    """log p(x_j | v_i)."""
    return [log_softmax([cosine(v, x) / tau for x in other]) for v in visual]


def marginal(log_p: Table, prior: Sequence[float] | None = None) -> list[float]:
    """log p(x_j), Eqn 16; the prior over visual tokens is uniform unless given."""
    n = len(log_p)
    prior = [1 / n] * n if prior is None else prior
    result = []
    for j in range(len(log_p[0])):
        top = max(row[j] for row in log_p)
        total = math.fsum(w * math.exp(row[j] - top) for w, row in zip(prior, log_p, strict=True))
        result.append(top + math.log(total))
    return result


def cross_pmi(visual: Sequence[Vector], text: Sequence[Vector], tau: float) -> Table:
    """Eqn 17 between visual and text tokens."""
    log_p = conditional(visual, text, tau)
    log_q = marginal(log_p)
    return [[p - q for p, q in zip(row, log_q, strict=True)] for row in log_p]


def self_pmi(visual: Sequence[Vector], tau: float) -> Table:
    """Eqn 17 between visual tokens, with the paper's p(v_j) = 1/N."""
    log_n = math.log(len(visual))
    return [[p + log_n for p in row] for row in conditional(visual, visual, tau)]


@dataclass(frozen=True)
class Trace:
    """Picks in order, the gain of each, and the smallest lead that any pick had over the runner-up."""

    order: list[int]
    gains: list[float]
    lead: float


def greedy(relevance: Vector, redundancy: Table, lam: float, keep: int, context: Sequence[int] = ()) -> Trace:
    """Algorithm 1, lines 10-16, every gain from scratch; without a pick yet, relevance alone counts."""
    chosen, order, gains, lead = list(context), [], [], math.inf
    for _ in range(keep):
        value = {}
        for i in range(len(relevance)):
            if i not in chosen:
                value[i] = lam * relevance[i]
                if chosen and lam != 1:
                    value[i] -= (1 - lam) * max(redundancy[i][j] for j in chosen)
        best = max(value, key=lambda i: (value[i], -i))
        lead = min([lead, *(value[best] - v for i, v in value.items() if i != best)])
        chosen.append(best)
        order.append(best)
        gains.append(value[best])
    return Trace(order, gains, lead)


def mi_pruner(visual: Sequence[Vector], text: Sequence[Vector], *, tau: float, lam: float, keep: int) -> Trace:
    """Algorithm 1 from embeddings to picks."""
    relevance = [max(row) for row in cross_pmi(visual, text, tau)]
    return greedy(relevance, self_pmi(visual, tau), lam, keep)
