"""Sections 4.2 and 4.3: Algorithm 1, its gains, and ways to find the same picks faster."""

from __future__ import annotations

import itertools
import math
from functools import partial

import numpy as np

from tokenprune_theory import laws, models, pmi
from tokenprune_theory.discrete import Array
from tokenprune_theory.registry import Run, Verdict, claim
from tokenprune_theory.sequence import (
    first_pick,
    gain,
    max_spanning_tree,
    select,
    sequence_value,
    static_heap,
    value_range,
)
from tokenprune_theory.setfn import brute_force_max, greedy, lazy_greedy, path_violation, tabulate

algorithm = partial(claim, section="Algorithm 1 (4.2, 4.3)")

LAMBDAS = (0.0, 0.2, 0.5, 0.8, 1.0)


def tables(visual: Array, text: Array, tau: float) -> tuple[Array, Array]:
    """Relevance c and self table D of embeddings."""
    c = pmi.cross_pmi(pmi.cosines(visual, text) / tau).max(1)
    return np.asarray(c), pmi.self_pmi(pmi.cosines(visual, visual), tau)


def _embedded(rng: np.random.Generator) -> tuple[Array, Array, float]:
    """Tables of random embeddings and a weight."""
    n = int(rng.integers(3, 8))
    c, d = tables(models.random_embeddings(rng, n, 4), models.random_embeddings(rng, 3, 4), 0.1)
    return c, d, float(rng.choice(LAMBDAS))


def _ties(rng: np.random.Generator) -> tuple[Array, Array, float]:
    c, d = models.random_selection_problem(rng, int(rng.integers(3, 8)), ties=True)
    return c, d, float(rng.choice(LAMBDAS))


@algorithm(
    "path-dependence",
    ref="(21), (22)",
    says="S_i is the marginal gain of adding v_i to the selected set.",
    verdict=Verdict.FALSE,
    corrected="Of no set function, for λ < 1: the gains of the same tokens add up differently in another order. S_i "
    "scores a sequence. For λ = 1 it is the gain of a sum.",
    why="Gains of a set function satisfy g(i|S) + g(j|S∪i) = g(j|S) + g(i|S∪j). Here the right order of D matters for "
    "pairs, and with a symmetric D the maximum still does for three tokens.",
)
def _(run: Run) -> None:
    visual = np.array([[1, 0], [0.8, 0.6], [0, 1]])
    d = pmi.self_pmi(pmi.cosines(visual, visual), 0.5)
    zero = np.zeros(3)
    run.refutes(
        "v = (1,0), (.8,.6), (0,1), τ = 0.5, λ = 0: totals of orders 01 and 10",
        sequence_value(zero, d, 0, (0, 1)),
        "==",
        sequence_value(zero, d, 0, (1, 0)),
    )
    symmetric = np.array([[0.0, 1, 2], [1, 0, 3], [2, 3, 0]])
    run.refutes(
        "symmetric D with D_01, D_02, D_12 = 1, 2, 3, λ = 0: totals of orders 012 and 120",
        sequence_value(zero, symmetric, 0, (0, 1, 2)),
        "==",
        sequence_value(zero, symmetric, 0, (1, 2, 0)),
    )
    run.corrected(
        "λ = 1: no order matters",
        lambda c, d: path_violation(lambda i, s: gain(c, d, 1.0, i, s), len(c)).size,
        lambda rng: models.random_selection_problem(rng, 4),
        share=0.1,
    )


@algorithm(
    "gains-fall",
    ref="4.2",
    says="A token's score never rises as tokens are selected.",
    verdict=Verdict.ASSUMING,
    corrected="Assuming that something is selected already; then exactly, bit for bit, since a maximum is exact and "
    "rounding is monotone. From no pick to one it can rise, if the maximum over no pick counts as 0.",
    why="The maximum over a larger set is not smaller.",
)
def _(run: Run) -> None:
    def rises(c: Array, d: Array, lam: float) -> float:
        return laws.rising_gain(c, d, lam, tuple(range(len(c)))[::-1])

    run.holds_if("from the first pick on: embeddings", rises, _embedded, tolerance=0)
    run.holds_if("from the first pick on: tables with ties", rises, _ties, tolerance=0)
    d = pmi.self_pmi(np.eye(2), 0.5)
    c = np.zeros(2)
    run.refutes(
        "orthonormal pair, τ = λ = 0.5: gain of token 1 after token 0, and at first",
        gain(c, d, 0.5, 1, [0]),
        "<=",
        gain(c, d, 0.5, 1, []),
    )


@algorithm(
    "first-pick",
    ref="Algorithm 1, line 13",
    says="In the first step the maximum over the empty set gives a first pick.",
    verdict=Verdict.INCOMPLETE,
    corrected="The paper does not say. Use: first pick = argmax c_i, ties to the lowest index, never multiplying by "
    "1 − λ = 0 (0 · ∞ is NaN). With λ = 0 the first pick is then a tie of all tokens, so index 0.",
    why="max over ∅ = −∞ makes every score +∞, so the argmax is index 0, a corner of the picture; 0 makes it the "
    "most relevant token; a token's redundancy with itself gives yet another.",
)
def _(run: Run) -> None:
    c = np.array([0.0, 1.0, 0.9])
    d = np.diag([0.5, 1.0, 0.2])
    picks = {how: first_pick(c, d, 0.5, how) for how in ("relevance", "minus infinity", "diagonal")}
    run.depends("c = (0, 1, .9): maximum over ∅ as 0, or as −∞", picks["relevance"], picks["minus infinity"])
    run.depends("D_ii = (.5, 1, .2): maximum over ∅ as 0, or as D_ii", picks["relevance"], picks["diagonal"])
    run.depends("λ = 1: second term 0 · (−∞), or left out", 0.0 * -math.inf, 0.0)


@algorithm(
    "gains-positive",
    ref="4.2",
    says="Adding a token never lowers the objective.",
    verdict=Verdict.FALSE,
    corrected="Scores become negative once λ c_i < (1−λ) max D_ij. Algorithm 1 fills the budget all the same: it "
    "keeps a fixed number, it does not maximise.",
    why="A duplicate of a selected token has D ≥ 0 and, with little relevance, a negative score.",
)
def _(run: Run) -> None:
    c, d = tables(np.array([[1.0, 0], [1, 0], [0, 1]]), np.array([[0.0, 1], [1, 0]]), 1.0)
    run.refutes("v = e1, e1, e2, text = e2, e1, τ = 1, λ = 0.2: third gain", select(c, d, 0.2, 3).gains[-1], ">=", 0.0)


def _top_k_shortfall(c: Array, k: int) -> float:
    """By how much Algorithm 1 with lambda = 1 misses the best sum of relevance."""
    f = tabulate(lambda s: math.fsum(c[i] for i in s), len(c))
    best = max(f(s) for s in itertools.combinations(range(len(c)), k))
    return best - f(select(c, np.zeros((len(c), len(c))), 1.0, k).order)


@algorithm(
    "modular",
    ref="4.3",
    says="The selection becomes modular instead of just submodular.",
    verdict=Verdict.FALSE,
    corrected="Only for λ = 1, where the best set is the top k of c. For λ < 1 scores change with every pick.",
    why="Modular means that a score does not depend on what is selected; the second term of (22) does.",
)
def _(run: Run) -> None:
    c, d = tables(np.array([[1.0, 0], [1, 0], [0, 1]]), np.array([[1.0, 0], [0, 1]]), 0.5)
    run.refutes(
        "v = e1, e1, e2, text = e1, e2, τ = λ = 0.5: score of token 1 after 2, and after 2 and 0",
        gain(c, d, 0.5, 1, [2]),
        "==",
        gain(c, d, 0.5, 1, [2, 0]),
    )
    run.corrected(
        "λ = 1 finds the best set",
        lambda c: max(_top_k_shortfall(c, k) for k in range(1, len(c))),
        lambda rng: rng.standard_normal(6),
        share=0.25,
    )
    overlaps = []
    for _ in range(3):
        c, d = tables(models.random_embeddings(run.rng, 200, 16), models.random_embeddings(run.rng, 20, 16), 0.1)
        best = set(np.argsort(-c, kind="stable")[:20].tolist())
        overlaps.append(len(best & set(select(c, d, 0.5, 20).order)) / 20)
    run.measure("overlap of top-k and λ = 0.5, 20 of 200 tokens", float(np.mean(overlaps)))


@algorithm(
    "relevance-only",
    ref="4.2",
    says="Keeping the k tokens of largest MI(v;T) (λ = 1) is near the best MI(V_S;T).",
    verdict=Verdict.FALSE,
    corrected="Only 1/k of it, under conditional independence; greedy gets 1 − 1/e.",
    why="k copies of the best token hold no more than one. The bound: the best set has at most k times the best "
    "token's information, by submodularity.",
)
def _(run: Run) -> None:
    # one candidate of 1.001 bits, three times, and three independent ones of 1 bit
    weights = {0: 1.001, 1: 1.0, 2: 1.0, 3: 1.0}
    shows = (0, 0, 0, 1, 2, 3)
    f = tabulate(lambda s: math.fsum(weights[b] for b in {shows[i] for i in s}), len(shows))
    best = brute_force_max(f, 3)[0]
    run.refutes(
        "three copies of a 1.001-bit token, three independent 1-bit tokens: top 3 (1.001 bits) over best 3 (3.001)",
        f((0, 1, 2)) / best,
        ">=",
        0.5,
    )
    run.corrected("greedy finds the best there", lambda f: best - greedy(f, 3).value, [f])

    def shortfall(rng: np.random.Generator) -> tuple[float]:
        g = models.information(models.random_naive_bayes(rng, n=5))
        singles = [g((i,)) for i in range(5)]
        top = sorted(range(5), key=lambda i: (-singles[i], i))[:3]
        return (brute_force_max(g, 3)[0] / 3 - g(top),)

    run.corrected("top k ≥ OPT/k for naive Bayes", lambda x: x, shortfall, share=0.5)


@algorithm(
    "half-weight",
    ref="(21) and (39)",
    says="Weighting with λ leaves (39), the estimate of the gain, in place.",
    verdict=Verdict.ASSUMING,
    corrected="Assuming λ = ½, where 2 S_i has the form of (39). Any other λ weighs the two terms in another ratio "
    "and can choose differently.",
    why="(39) is a difference with weights 1 : 1.",
)
def _(run: Run) -> None:
    run.holds_if(
        "λ = ½: 2 S_i = c_i − max D_ij",
        lambda c, d, _: max(
            abs(2 * gain(c, d, 0.5, i, [0, 1]) - (c[i] - max(d[i, 0], d[i, 1]))) for i in range(2, len(c))
        ),
        _embedded,
    )
    c, d = np.array([1.0, 0.6, 0.4]), np.array([[0.0, 0, 0], [0.5, 0, 0], [0.0, 0, 0]])
    run.refutes(
        "c = (1, .6, .4), D_10 = .5: two tokens with λ = 0.8, and with ½",
        select(c, d, 0.8, 2).order,
        "==",
        select(c, d, 0.5, 2).order,
    )


@algorithm(
    "density-bonus",
    ref="(22); beyond",
    says="Algorithm 1 is maximal marginal relevance on cosines with a bonus for dense regions: S_i = λ c_i + "
    "(1−λ)(log Z_i − log N) − (1−λ) max_j cos_ij/τ.",
    verdict=Verdict.HOLDS,
    corrected="Maximal marginal relevance (Carbonell and Goldstein 1998) with D for similarity. log Z_i is the log "
    "of a kernel density at v_i, so the redundancy term favours tokens in dense regions; equal to plain cosines only "
    "where Z is constant.",
    why="D_ij = cos_ij/τ − log Z_i + log N, and log Z_i leaves the maximum over j.",
)
def _(run: Run) -> None:
    def error(x: Array, tau: float) -> float:
        cos, d = x @ x.T, pmi.self_pmi(x @ x.T, tau)
        log_z = pmi.log_normalizer(cos, tau)
        picks = [0, 2]
        rewritten = log_z - math.log(len(x)) - cos[:, picks].max(1) / tau
        return float(np.abs(rewritten + d[:, picks].max(1)).max())

    def draw(rng: np.random.Generator) -> tuple[Array, float]:
        return models.random_embeddings(rng, 7, 4), float(rng.choice([0.05, 0.1, 0.5, 2.0]))

    run.holds("both forms", error, draw)


@algorithm(
    "lazy-equals-naive",
    ref="4.3",
    says="A heap of stale scores finds the same tokens as scanning all scores at each step.",
    verdict=Verdict.ASSUMING,
    corrected="Assuming (i) scores that never rise, so a heap made after the first pick; (ii) keys (−score, index), "
    "with the lowest index in the scan too; (iii) an entry accepted only if evaluated at the current size; (iv) one "
    "formula for both, and no NaN. Then order, scores and ties are the same.",
    why="A better or lower-indexed rival has a stale key at least as good as its score, so it sits above and is "
    "looked at first.",
)
def _(run: Run) -> None:
    def differs(c: Array, d: Array, lam: float) -> float:
        return max(laws.lazy_differs(c, d, lam, k) for k in range(1, len(c) + 1))

    run.holds_if("embeddings, every budget", differs, _embedded, tolerance=0)
    run.holds_if("tables with ties, every budget", differs, _ties, tolerance=0)
    target, pool = [0b11, 0b1100, 0b10000, 0b100000], [[0b1, 0b100, 0b10000], [0b10, 0b1000], [0b100000]]
    f = models.information(models.functions_of_bits(6, target, pool))
    run.refutes(
        "gains that rise: bits a to f, T = (a xor b, c xor d, e, f), candidates (a, c, e), (b, d), f: lazy, naive",
        lazy_greedy(f, 2).order,
        "==",
        greedy(f, 2).order,
    )


@algorithm(
    "heap-at-start",
    ref="4.3",
    says="The heap can be built once, before anything is selected.",
    verdict=Verdict.FALSE,
    corrected="Build it after the first pick.",
    why="From no pick to one a score can rise (see gains-fall), so a key made at no pick is no upper bound.",
)
def _(run: Run) -> None:
    c = np.array([0.777, 0.277, 0.320])
    d = np.zeros((3, 3))
    d[1, 0], d[2, 0] = -2.939, -1.714
    run.refutes(
        "c = (.777, .277, .320), D_10 = −2.939, D_20 = −1.714, λ = 0.5, k = 2: heap made at no pick, and naive",
        select(c, d, 0.5, 2, method="lazy from empty").order,
        "==",
        select(c, d, 0.5, 2).order,
    )
    wrong = []
    for _ in range(200):
        c, d = tables(models.random_embeddings(run.rng, 5, 3), models.random_embeddings(run.rng, 3, 3), 0.5)
        wrong.append(select(c, d, 0.5, 2, method="lazy from empty").order != select(c, d, 0.5, 2).order)
    run.measure("share of random instances (5 tokens, k = 2) where the picks differ", float(np.mean(wrong)))


@algorithm(
    "static-heap",
    ref="4.3",
    says="Building the heap once and taking N_keep entries from it is Algorithm 1.",
    verdict=Verdict.FALSE,
    corrected="For λ = 1. For λ < 1 nothing that was selected is ever taken into account: it is top-k of c.",
    why="Entries that are not evaluated again keep the score they had when nothing was selected.",
)
def _(run: Run) -> None:
    visual = np.array([[1, 0], [1, 0], [0, 1], [0.1, 1], [-0.1, 1]])
    c, d = tables(visual, np.eye(2), 0.1)
    run.refutes(
        "v = e1, e1, e2, (.1,1), (−.1,1), text = e1, e2, τ = .1, λ = ½: two from the static heap, and greedy",
        static_heap(c, 2),
        "==",
        select(c, d, 0.5, 2).order,
    )
    run.corrected(
        "λ = 1: the same picks",
        lambda c, d, _: float(static_heap(c, 3) != select(c, d, 1.0, 3).order),
        _ties,
        tolerance=0,
    )


@algorithm(
    "heap-ties",
    ref="4.3",
    says="It does not matter how the heap breaks ties.",
    verdict=Verdict.FALSE,
    corrected="By index, as the scan does. With a counter of insertions an entry that is evaluated again moves "
    "behind its equals, and another set is kept.",
    why="All c equal, so token 0 first and 1, 2, 3 tie. 2 repeats 0 and 3 repeats 1. Which of the two is kept third "
    "depends on the rule.",
)
def _(run: Run) -> None:
    c = np.zeros(4)
    d = np.zeros((4, 4))
    d[2, 0] = d[3, 1] = 1
    by_counter = select(c, d, 0.5, 3, method="lazy", counter=True).order
    run.refutes(
        "c = 0, D_20 = D_31 = 1, k = 3: ties by counter, and by index", by_counter, "==", select(c, d, 0.5, 3).order
    )
    different = []
    for _ in range(200):
        c, d, lam = _ties(run.rng)
        orders = [select(c, d, lam, len(c) // 2 + 1, method="lazy", counter=x).order for x in (False, True)]
        different.append(set(orders[0]) != set(orders[1]))
    run.measure("share of instances with many ties that keep another set", float(np.mean(different)))


@algorithm(
    "spanning-tree",
    ref="beyond",
    says="For symmetric D the smallest total over all orders of the same tokens is λ Σ c − (1−λ) · (heaviest "
    "spanning tree of D).",
    verdict=Verdict.HOLDS,
    corrected="A value of a set that does not depend on the order, for reports.",
    why="Each token is charged its largest link to earlier ones: the links form a spanning tree, so the charge is at "
    "most the heaviest one, and Prim's order attains it.",
)
def _(run: Run) -> None:
    def error(c: Array, d: Array) -> float:
        d = (d + d.T) / 2
        tokens = range(len(c))
        weight, order = max_spanning_tree(d, tokens)
        least = 0.4 * math.fsum(c) - 0.6 * weight
        return max(
            abs(value_range(c, d, 0.4, tokens)[0] - least),
            abs(sequence_value(c, d, 0.4, order) - least),
        )

    run.holds("brute force over all orders", error, lambda rng: models.random_selection_problem(rng, 5), share=0.5)
