"""Sections 4.2 and 4.3: Algorithm 1, its gains, and ways to find the same picks faster."""

from __future__ import annotations

import itertools
import math

import numpy as np

from tokenprune_theory import models, pmi, sequence, violations
from tokenprune_theory.discrete import Array
from tokenprune_theory.evidence import Exam
from tokenprune_theory.instances import Step, Tokens
from tokenprune_theory.registry import Verdict, topic
from tokenprune_theory.sequence import gain, max_spanning_tree, select, sequence_value, value_range
from tokenprune_theory.setfn import brute_force_max, greedy, lazy_greedy, path_violation, tabulate

paper, guess, ours = topic("Algorithm 1 (4.2, 4.3)")

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


@paper(
    "path-dependence",
    ref="4.2, (21), (22)",
    assumes=("cosines",),
    says="S_i is the marginal gain of adding v_i to the selected set.",
    verdict=Verdict.FALSE,
    corrected="Of no set function, for λ < 1: the gains of the same tokens add up differently in another order. S_i "
    "scores a sequence. For λ = 1 it is the gain of a sum.",
    why="Gains of a set function satisfy g(i|S) + g(j|S∪i) = g(j|S) + g(i|S∪j). Here the right order of D matters for "
    "pairs, and with a symmetric D the maximum still does for three tokens.",
)
def path_dependence(exam: Exam) -> None:
    zero = np.zeros(4)
    bent = Tokens.of([[5, 0], [4, 3], [0, 5]], [[1, 0]], 0.5)
    exam.refutes(
        "v = (5,0), (4,3), (0,5), τ = ½, λ = 0: totals of orders 01 and 10",
        bent,
        sequence_value(zero, bent.pairs, 0, (0, 1)),
        "==",
        sequence_value(zero, bent.pairs, 0, (1, 0)),
    )
    cross = Tokens.of([[1, 0], [0, 1], [-1, 0], [0, -1]], [[1, 0]], 0.5)
    exam.corrected("v = e1, e2, −e1, −e2: D is symmetric", lambda d: np.abs(d - d.T).max(), [cross.pairs])
    exam.refutes(
        "v = e1, e2, −e1, −e2, τ = ½, λ = 0: totals of orders 012 and 021",
        cross,
        sequence_value(zero, cross.pairs, 0, (0, 1, 2)),
        "==",
        sequence_value(zero, cross.pairs, 0, (0, 2, 1)),
    )
    exam.corrected(
        "λ = 1: no order matters",
        lambda c, d: path_violation(lambda i, s: gain(c, d, 1.0, i, s), len(c)).size,
        lambda rng: models.random_selection_problem(rng, 4),
        share=0.1,
    )


@guess(
    "gains-fall",
    about="(9) and (21)",
    assumes=("cosines",),
    needs=("something picked",),
    says="A token's score never rises as tokens are selected.",
    verdict=Verdict.ASSUMING,
    corrected="Assuming that something is selected already; then exactly, bit for bit, since a maximum is exact and "
    "rounding is monotone. From no pick to one it can rise, if the maximum over no pick counts as 0.",
    why="The maximum over a larger set is not smaller.",
)
def gains_fall(exam: Exam) -> None:
    def rises(c: Array, d: Array, lam: float) -> float:
        return violations.rising_gain(c, d, lam, tuple(range(len(c)))[::-1])

    exam.holds_if("from the first pick on: embeddings", rises, _embedded, tolerance=0)
    exam.holds_if("from the first pick on: tables with ties", rises, _ties, tolerance=0)
    pair = Tokens.of([[1, 0], [0, 1]], [[1, 0], [0, 1]], 0.5)
    c, d = pair.relevance, pair.pairs
    exam.refutes(
        "v = e1, e2, text = e1, e2, τ = λ = ½: score of token 1 after token 0, and at first",
        Step(pair, 0.5),
        gain(c, d, 0.5, 1, [0]),
        "<=",
        gain(c, d, 0.5, 1, []),
    )


@paper(
    "first-pick",
    ref="Algorithm 1, line 13; (20)",
    says="In the first step the maximum over the empty set gives a first pick.",
    verdict=Verdict.INCOMPLETE,
    corrected="The paper does not say. Use: first pick = argmax c_i, ties to the lowest index, never multiplying by "
    "1 − λ = 0 (0 · ∞ is NaN). With λ = 0 the first pick is then a tie of all tokens, so index 0.",
    why="max over ∅ = −∞ makes every score +∞, so the argmax is index 0, a corner of the picture; 0 makes it the "
    "most relevant token; a token's redundancy with itself gives yet another.",
)
def first_pick(exam: Exam) -> None:
    c = np.array([0.0, 1.0, 0.9])
    d = np.diag([0.5, 1.0, 0.2])
    picks = {how: sequence.first_pick(c, d, 0.5, how) for how in ("relevance", "minus infinity", "diagonal")}
    exam.depends("c = (0, 1, .9): maximum over ∅ as 0, or as −∞", picks["relevance"], picks["minus infinity"])
    exam.depends("D_ii = (.5, 1, .2): maximum over ∅ as 0, or as D_ii", picks["relevance"], picks["diagonal"])
    exam.depends("λ = 1: second term 0 · (−∞), or left out", 0.0 * -math.inf, 0.0)


@guess(
    "gains-positive",
    about="3.3 and (21)",
    assumes=("cosines",),
    says="Adding a token never lowers the objective.",
    verdict=Verdict.FALSE,
    corrected="Scores become negative once λ c_i < (1−λ) max D_ij. Algorithm 1 fills the budget all the same: it "
    "keeps a fixed number, it does not maximise.",
    why="A duplicate of a selected token has D ≥ 0 and, with little relevance, a negative score.",
)
def gains_positive(exam: Exam) -> None:
    three = Tokens.of([[1, 0], [1, 0], [0, 1]], [[0, 1], [1, 0]], 1)
    exam.refutes(
        "v = e1, e1, e2, text = e2, e1, τ = 1, λ = 1/5: third gain",
        three,
        select(three.relevance, three.pairs, 0.2, 3).gains[-1],
        ">=",
        0.0,
    )


def _top_k_shortfall(c: Array, k: int) -> float:
    """By how much Algorithm 1 with lambda = 1 misses the best sum of relevance."""
    f = tabulate(lambda s: math.fsum(c[i] for i in s), len(c))
    best = max(f(s) for s in itertools.combinations(range(len(c)), k))
    return best - f(select(c, np.zeros((len(c), len(c))), 1.0, k).order)


@paper(
    "modular",
    ref="4.3",
    assumes=("cosines",),
    says="The selection becomes modular instead of just submodular.",
    verdict=Verdict.FALSE,
    corrected="Only for λ = 1, where the best set is the top k of c. For λ < 1 scores change with every pick.",
    why="Modular means that a score does not depend on what is selected; the second term of (22) does.",
)
def modular(exam: Exam) -> None:
    three = Tokens.of([[1, 0], [1, 0], [0, 1]], [[1, 0], [0, 1]], 0.5)
    exam.refutes(
        "v = e1, e1, e2, text = e1, e2, τ = λ = ½: score of token 1 after 2, and after 2 and 0",
        three,
        gain(three.relevance, three.pairs, 0.5, 1, [2]),
        "==",
        gain(three.relevance, three.pairs, 0.5, 1, [2, 0]),
    )
    exam.corrected(
        "λ = 1 finds the best set",
        lambda c: max(_top_k_shortfall(c, k) for k in range(1, len(c))),
        lambda rng: rng.standard_normal(6),
        share=0.25,
    )
    overlaps = []
    for _ in range(3):
        c, d = tables(models.random_embeddings(exam.rng, 200, 16), models.random_embeddings(exam.rng, 20, 16), 0.1)
        best = set(np.argsort(-c, kind="stable")[:20].tolist())
        overlaps.append(len(best & set(select(c, d, 0.5, 20).order)) / 20)
    exam.measure("overlap of top-k and λ = 0.5, 20 of 200 tokens", float(np.mean(overlaps)))


@guess(
    "relevance-only",
    about="4.2 (λ = 1)",
    assumes=("independence",),
    says="Keeping the k tokens of largest MI(v;T) (λ = 1) is near the best MI(V_S;T).",
    verdict=Verdict.FALSE,
    corrected="Only 1/k of it, under conditional independence; greedy gets 1 − 1/e.",
    why="k copies of the best token hold no more than one. The bound: the best set has at most k times the best "
    "token's information, by submodularity.",
)
def relevance_only(exam: Exam) -> None:
    copies = models.coverage_bits([[0, 1]] * 4 + [[2], [3], [4]])
    f = models.information(copies)
    singles = [f((i,)) for i in range(7)]
    top = sorted(range(7), key=lambda i: (-singles[i], i))[:4]
    best = brute_force_max(f, 4)[0]
    exam.refutes(
        "four copies of a token that shows bits a and b, and tokens that show c, d, e: top 4 (2 bits) over best 4 (5)",
        copies,
        f(top) / best,
        ">=",
        0.5,
    )
    exam.corrected("greedy finds the best there", lambda f: best - greedy(f, 4).value, [f])

    def shortfall(rng: np.random.Generator) -> tuple[float]:
        g = models.information(models.random_naive_bayes(rng, n=5))
        singles = [g((i,)) for i in range(5)]
        top = sorted(range(5), key=lambda i: (-singles[i], i))[:3]
        return (brute_force_max(g, 3)[0] / 3 - g(top),)

    exam.corrected("top k ≥ OPT/k for naive Bayes", lambda x: x, shortfall, share=0.5)


@guess(
    "half-weight",
    about="(21) and (39)",
    assumes=("cosines",),
    needs=("equal weights",),
    says="Weighting with λ leaves (39), the estimate of the gain, in place.",
    verdict=Verdict.ASSUMING,
    corrected="Assuming λ = ½, where 2 S_i has the form of (39). Any other λ weighs the two terms in another ratio "
    "and can choose differently.",
    why="(39) is a difference with weights 1 : 1.",
)
def half_weight(exam: Exam) -> None:
    def off(c: Array, d: Array, _: float) -> float:
        return max(abs(2 * gain(c, d, 0.5, i, [0, 1]) - float(c[i] - max(d[i, 0], d[i, 1]))) for i in range(2, len(c)))

    exam.holds_if("λ = ½: 2 S_i = c_i − max D_ij", off, _embedded)
    tokens = Tokens.of([[1, 0], [-1, -1], [-1, 1]], [[-1, -1], [-2, 1]], 1)
    exam.refutes(
        "v = e1, (−1,−1), (−1,1), text = (−1,−1), (−2,1), τ = 1: two tokens with λ = 4/5, and with ½",
        Step(tokens, 0.8),
        select(tokens.relevance, tokens.pairs, 0.8, 2).order,
        "==",
        select(tokens.relevance, tokens.pairs, 0.5, 2).order,
    )


@ours(
    "density-bonus",
    about="(22)",
    says="Algorithm 1 is maximal marginal relevance on cosines with a bonus for dense regions: S_i = λ c_i + "
    "(1−λ)(log Z_i − log N) − (1−λ) max_j cos_ij/τ.",
    verdict=Verdict.HOLDS,
    corrected="Maximal marginal relevance (Carbonell and Goldstein 1998) with D for similarity. log Z_i is the log "
    "of a kernel density at v_i, so the redundancy term favours tokens in dense regions; equal to plain cosines only "
    "where Z is constant.",
    why="D_ij = cos_ij/τ − log Z_i + log N, and log Z_i leaves the maximum over j.",
)
def density_bonus(exam: Exam) -> None:
    def error(x: Array, tau: float) -> float:
        cos, d = x @ x.T, pmi.self_pmi(x @ x.T, tau)
        log_z = pmi.log_normalizer(cos, tau)
        picks = [0, 2]
        rewritten = log_z - math.log(len(x)) - cos[:, picks].max(1) / tau
        return float(np.abs(rewritten + d[:, picks].max(1)).max())

    def draw(rng: np.random.Generator) -> tuple[Array, float]:
        return models.random_embeddings(rng, 7, 4), float(rng.choice([0.05, 0.1, 0.5, 2.0]))

    exam.holds("both forms", error, draw)


@guess(
    "lazy-equals-naive",
    about="4.3",
    assumes=("joint",),
    needs=("diminishing gains",),
    says="A heap of stale scores finds the same tokens as scanning all scores at each step.",
    verdict=Verdict.ASSUMING,
    corrected="Assuming (i) scores that never rise, so a heap made after the first pick; (ii) keys (−score, index), "
    "with the lowest index in the scan too; (iii) an entry accepted only if evaluated at the current size; (iv) one "
    "formula for both, and no NaN. Then order, scores and ties are the same.",
    why="A better or lower-indexed rival has a stale key at least as good as its score, so it sits above and is "
    "looked at first.",
)
def lazy_equals_naive(exam: Exam) -> None:
    def differs(c: Array, d: Array, lam: float) -> float:
        return max(violations.lazy_differs(c, d, lam, k) for k in range(1, len(c) + 1))

    exam.holds_if("embeddings, every budget", differs, _embedded, tolerance=0)
    exam.holds_if("tables with ties, every budget", differs, _ties, tolerance=0)
    target, pool = [0b11, 0b1100, 0b10000, 0b100000], [[0b1, 0b100, 0b10000], [0b10, 0b1000], [0b100000]]
    hidden = models.functions_of_bits(6, target, pool)
    f = models.information(hidden)
    exam.refutes(
        "gains that rise: bits a to f, T = (a xor b, c xor d, e, f), candidates (a, c, e), (b, d), f: lazy, naive",
        hidden,
        lazy_greedy(f, 2).order,
        "==",
        greedy(f, 2).order,
    )


@guess(
    "heap-at-start",
    about="4.3",
    assumes=("cosines",),
    says="The heap can be built once, before anything is selected.",
    verdict=Verdict.FALSE,
    corrected="Build it after the first pick.",
    why="From no pick to one a score can rise (see gains-fall), so a key made at no pick is no upper bound.",
)
def heap_at_start(exam: Exam) -> None:
    tokens = Tokens.of([[2, 1], [0, -1], [-1, -2]], [[-1, -1], [-1, 1]], 0.5)
    c, d = tokens.relevance, tokens.pairs
    exam.refutes(
        "v = (2,1), (0,−1), (−1,−2), text = (−1,−1), (−1,1), τ = λ = ½, k = 2: heap made at no pick, and naive",
        tokens,
        select(c, d, 0.5, 2, method="lazy from empty").order,
        "==",
        select(c, d, 0.5, 2).order,
    )
    wrong = []
    for _ in range(200):
        c, d = tables(models.random_embeddings(exam.rng, 5, 3), models.random_embeddings(exam.rng, 3, 3), 0.5)
        wrong.append(select(c, d, 0.5, 2, method="lazy from empty").order != select(c, d, 0.5, 2).order)
    exam.measure("share of random instances (5 tokens, k = 2) where the picks differ", float(np.mean(wrong)))


@paper(
    "static-heap",
    ref="4.3",
    assumes=("cosines",),
    says="Building the heap once and taking N_keep entries from it is Algorithm 1.",
    verdict=Verdict.FALSE,
    corrected="For λ = 1. For λ < 1 nothing that was selected is ever taken into account: it is top-k of c.",
    why="Entries that are not evaluated again keep the score they had when nothing was selected.",
)
def static_heap(exam: Exam) -> None:
    tokens = Tokens.of([[1, 0], [1, 0], [0, 1], [1, 10], [-1, 10]], [[1, 0], [0, 1]], 0.1)
    exam.refutes(
        "v = e1, e1, e2, (1,10), (−1,10), text = e1, e2, τ = 1/10, λ = ½: two from the static heap, and greedy",
        tokens,
        sequence.static_heap(tokens.relevance, 2),
        "==",
        select(tokens.relevance, tokens.pairs, 0.5, 2).order,
    )
    exam.corrected(
        "λ = 1: the same picks",
        lambda c, d, _: float(sequence.static_heap(c, 3) != select(c, d, 1.0, 3).order),
        _ties,
        tolerance=0,
    )


@guess(
    "heap-ties",
    about="4.3",
    assumes=("cosines",),
    says="It does not matter how the heap breaks ties.",
    verdict=Verdict.FALSE,
    corrected="By index, as the scan does. With a counter of insertions an entry that is evaluated again moves "
    "behind its equals, and another set is kept.",
    why="A heap that is popped and pushed has its entries in another order than they came in. The example is "
    "symmetric: after tokens 0 and 2, tokens 1 and 3 tie.",
)
def heap_ties(exam: Exam) -> None:
    tokens = Tokens.of([[1, 1], [1, 0], [-1, -1], [0, -1]], [[-1, 1], [1, -1]], 0.5)
    # what ties here ties by symmetry; rounding must not break it
    c, d = np.round(tokens.relevance, 12), np.round(tokens.pairs, 12)
    by_counter = select(c, d, 0.5, 3, method="lazy", counter=True).order
    exam.refutes(
        "v = (1,1), e1, (−1,−1), −e2, text = (−1,1), (1,−1), τ = λ = ½, k = 3: ties by counter, and by index",
        tokens,
        by_counter,
        "==",
        select(c, d, 0.5, 3).order,
    )
    different = []
    for _ in range(200):
        c, d, lam = _ties(exam.rng)
        orders = [select(c, d, lam, len(c) // 2 + 1, method="lazy", counter=x).order for x in (False, True)]
        different.append(set(orders[0]) != set(orders[1]))
    exam.measure("share of instances with many ties that keep another set", float(np.mean(different)))


@ours(
    "spanning-tree",
    about="(22)",
    says="For symmetric D the smallest total over all orders of the same tokens is λ Σ c − (1−λ) · (heaviest "
    "spanning tree of D).",
    verdict=Verdict.HOLDS,
    corrected="A value of a set that does not depend on the order, for reports.",
    why="Each token is charged its largest link to earlier ones: the links form a spanning tree, so the charge is at "
    "most the heaviest one, and Prim's order attains it.",
)
def spanning_tree(exam: Exam) -> None:
    def error(c: Array, d: Array) -> float:
        d = (d + d.T) / 2
        tokens = range(len(c))
        weight, order = max_spanning_tree(d, tokens)
        least = 0.4 * math.fsum(c) - 0.6 * weight
        return max(
            abs(value_range(c, d, 0.4, tokens)[0] - least),
            abs(sequence_value(c, d, 0.4, order) - least),
        )

    exam.holds("brute force over all orders", error, lambda rng: models.random_selection_problem(rng, 5), share=0.5)
