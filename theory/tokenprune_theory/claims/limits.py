"""Invariances, limits of the temperature, and degenerate inputs (4.2, B.2)."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from tokenprune_theory import models, pmi
from tokenprune_theory.claims.algorithm import tables
from tokenprune_theory.discrete import Array
from tokenprune_theory.evidence import Exam
from tokenprune_theory.instances import Logits, Tokens
from tokenprune_theory.registry import Verdict, topic
from tokenprune_theory.sequence import select

paper, guess, ours = topic("Invariances, limits, degenerate inputs (4.2, B.2)")

E1, E2 = [1.0, 0.0], [0.0, 1.0]


def tokens(rng: np.random.Generator) -> tuple[Array, Array]:
    """Random visual and text embeddings."""
    d = int(rng.integers(2, 6))
    n, t = int(rng.integers(2, 8)), int(rng.integers(2, 6))
    return models.random_embeddings(rng, n, d), models.random_embeddings(rng, t, d)


def relevance(visual: Array, text: Array, tau: float = 0.1) -> Array:
    """c_i of embeddings."""
    return np.asarray(pmi.cross_pmi(pmi.cosines(visual, text) / tau).max(1))


@ours(
    "permutation",
    about="4.2",
    says="Reordering tokens reorders C, D and c and changes nothing else.",
    verdict=Verdict.HOLDS,
    corrected="Up to rounding: sums are not bit-for-bit independent of the order.",
    why="Every formula is symmetric in the other tokens.",
)
def permutation(exam: Exam) -> None:
    def error(visual: Array, text: Array) -> float:
        order = np.roll(np.arange(len(visual)), 1)
        c, d = tables(visual, text, 0.1)
        c2, d2 = tables(visual[order], text[::-1], 0.1)
        return max(float(np.abs(c2 - c[order]).max()), float(np.abs(d2 - d[np.ix_(order, order)]).max()))

    exam.holds("visual and text tokens reordered", error, tokens)


@guess(
    "permutation-selection",
    about="Algorithm 1",
    assumes=("cosines",),
    needs=("no ties",),
    says="The selected tokens do not depend on the order in which tokens are listed.",
    verdict=Verdict.ASSUMING,
    corrected="Assuming no ties. With ties the lowest index wins, so the order decides; with the paper's constant "
    "relevance (one text token) that is every pick.",
    why="argmax needs a rule for ties, and any rule by index depends on the order.",
)
def permutation_selection(exam: Exam) -> None:
    def moved(c: Array, d: Array) -> float:
        order = np.roll(np.arange(len(c)), 1)
        picks = set(select(c, d, 0.5, 3).order)
        return float({int(order[i]) for i in select(c[order], d[np.ix_(order, order)], 0.5, 3).order} != picks)

    exam.holds_if("random tables, where ties have probability 0", moved, partial(models.random_selection_problem, n=6))
    tied = Tokens.of([E1, E2], [E1, E2], 1)
    first = select(np.round(tied.relevance, 12), tied.pairs, 1.0, 1).order[0]
    kept = [listed[first] for listed in (("left", "right"), ("right", "left"))]
    exam.refutes(
        "v = e1, e2, text = e1, e2, called left and right and listed left-right and right-left, keep 1",
        tied,
        kept[0],
        "==",
        kept[1],
    )


@ours(
    "scale",
    about="(14)",
    says="Scaling a token by a positive number changes nothing.",
    verdict=Verdict.HOLDS,
    corrected="A negative number does, and the zero vector is 0/0: give it cosine 0 to everything.",
    why="Cosines are of directions.",
)
def scale(exam: Exam) -> None:
    def error(visual: Array, text: Array) -> float:
        scale = np.logspace(-3, 3, len(visual))[:, None]
        return float(np.abs(relevance(visual * scale, text) - relevance(visual, text)).max())

    exam.holds("one factor a token, from 0.001 to 1000", error, tokens)


@ours(
    "row-shift",
    about="(15)",
    says="Adding a number to all logits of a row changes nothing.",
    verdict=Verdict.HOLDS,
    why="The softmax divides it out.",
)
def row_shift(exam: Exam) -> None:
    def error(visual: Array, text: Array) -> float:
        logits = visual @ text.T / 0.1
        shift = np.linspace(-5, 5, len(logits))[:, None]
        return float(np.abs(pmi.cross_pmi(logits + shift) - pmi.cross_pmi(logits)).max())

    exam.holds("one number a row", error, tokens)


@guess(
    "column-shift",
    about="(15), (17)",
    assumes=("softmax",),
    says="Dividing by the marginal removes what is common to a text token: adding a number to a column changes "
    "nothing.",
    verdict=Verdict.FALSE,
    corrected="PMI removes how frequent a text token is, not how similar it is to everything: a column shift changes "
    "the row normalisers.",
    why="It weights the column against the others inside every softmax, by the same factor but not with the same "
    "effect.",
)
def column_shift(exam: Exam) -> None:
    before, after = (Logits(np.array(table, dtype=np.float64)) for table in ([[1, 0], [0, 0]], [[3, 0], [2, 0]]))
    exam.refutes(
        "logits ((1,0), (0,0)), then ((3,0), (2,0)): C_00",
        (before, after),
        pmi.cross_pmi(before.table)[0, 0],
        "==",
        pmi.cross_pmi(after.table)[0, 0],
    )


@guess(
    "translation",
    about="(14)",
    assumes=("cosines",),
    says="Scores do not depend on where the origin of the embedding space is.",
    verdict=Verdict.FALSE,
    corrected="Cosines do. Embeddings with a large common part have cosines in a narrow band, and the temperature "
    "has to fit it.",
    why="Cosines are angles at the origin.",
)
def translation(exam: Exam) -> None:
    near = Tokens.of([[1, 0], [0, 1]], [[1, 0], [0, -1]], 1)
    far = Tokens.of([[1, 3], [0, 4]], [[1, 3], [0, 2]], 1)
    exam.refutes(
        "v = e1, e2, text = e1, −e2, τ = 1; then all plus (0, 3): relevance of v_0",
        (near, far),
        float(near.relevance[0]),
        "==",
        float(far.relevance[0]),
    )


@ours(
    "duplicate-all",
    about="(15)–(17)",
    says="Listing all visual tokens twice, or all text tokens, leaves relevance unchanged.",
    verdict=Verdict.HOLDS,
    corrected="And D: its normaliser doubles together with N.",
    why="Both p and q of a text token halve; the mean over visual tokens is the same.",
)
def duplicate_all(exam: Exam) -> None:
    def error(visual: Array, text: Array) -> float:
        c, d = tables(visual, text, 0.1)
        twice, d2 = tables(np.tile(visual, (2, 1)), text, 0.1)
        texts = relevance(visual, np.tile(text, (2, 1)))
        n = len(visual)
        return float(max(np.abs(twice[:n] - c).max(), np.abs(texts - c).max(), np.abs(d2[:n, :n] - d).max()))

    exam.holds("relevance and self table", error, tokens)


@guess(
    "duplicate-one",
    about="(16)",
    assumes=("cosines",),
    says="A copy of one token does not change the scores of the others.",
    verdict=Verdict.FALSE,
    corrected="A visual copy counts as double prior weight of its original and moves the marginal; a text copy moves "
    "every row's normaliser.",
    why="Indices are the events, so two equal tokens have twice the probability of one.",
)
def duplicate_one(exam: Exam) -> None:
    pair, twice = Tokens.of([E1, E2], [E1, E2], 1), Tokens.of([E1, E2, E2], [E1, E2], 1)
    exam.refutes(
        "v = e1, e2, text = e1, e2, τ = 1; then v = e1, e2, e2: relevance of e1",
        (pair, twice),
        float(pair.relevance[0]),
        "==",
        float(twice.relevance[0]),
    )

    def weighted(visual: Array, text: Array) -> float:
        copied = pmi.cross_pmi(pmi.cosines(np.vstack([visual, visual[:1]]), text) / 0.1)[:-1]
        prior = np.full(len(visual), 1 / (len(visual) + 1))
        prior[0] *= 2
        return float(np.abs(copied - pmi.cross_pmi(pmi.cosines(visual, text) / 0.1, prior)).max())

    exam.corrected("one copy = prior weight 2", weighted, tokens)
    flips = []
    for _ in range(200):
        visual, text = models.random_embeddings(exam.rng, 6, 3), models.random_embeddings(exam.rng, 4, 3)
        copied = np.vstack([visual, visual[int(exam.rng.integers(6))]])
        flips.append(int(relevance(visual, text).argmax()) != int(relevance(copied, text)[:6].argmax()))
    exam.measure("share of random 6 × 4 instances where a visual copy changes the top token", float(np.mean(flips)))


@guess(
    "duplicates-kept",
    about="(22)",
    assumes=("cosines",),
    says="The redundancy term keeps exact duplicates from being selected together.",
    verdict=Verdict.FALSE,
    corrected="It charges them their D_ii, at most log N. A relevant duplicate can outweigh that; with λ = 1 all are "
    "kept.",
    why="λ c_i − (1−λ) D_ii against λ c_k − (1−λ) D_kj of another token.",
)
def duplicates_kept(exam: Exam) -> None:
    four = Tokens.of([E1, E1, E2, [-1, 0]], [E1, [-1, 0]], 0.5)
    exam.refutes(
        "v = e1, e1, e2, −e1, text = e1, −e1, τ = ½, λ = 9/10, keep 3: tokens kept, and the set without duplicates",
        four,
        tuple(sorted(select(four.relevance, four.pairs, 0.9, 3).order)),
        "==",
        (0, 2, 3),
    )


@ours(
    "cold-relevance",
    about="5.5 (small τ)",
    says="As τ → 0, c_i tends to the largest log(N/|L_j|) over the text tokens j that i leads, L_j = argmax_i (s_ij "
    "− max_k s_ik).",
    verdict=Verdict.HOLDS,
    corrected="No ties within rows. So c takes few values: the inverse popularity of the nearest text token. A text "
    "token that is nobody's nearest gives its single best token log N, the maximum.",
    why="log p(t_j|v_i) ≈ (s_ij − max_k s_ik)/τ, and the mean over i is dominated by the leaders.",
)
def cold_relevance(exam: Exam) -> None:
    def error(similarity: Array, tau: float) -> float:
        return float(np.abs(pmi.cross_pmi(similarity / tau).max(1) - pmi.cold_relevance(similarity)).max())

    def draw(rng: np.random.Generator) -> tuple[Array, float]:
        return rng.choice(np.linspace(-1, 1, 4001), size=(6, 4), replace=False), 1e-5

    exam.holds("distinct similarities at least 0.0005 apart, τ = 1e-5", error, draw, tolerance=1e-9)


@ours(
    "cold-self",
    about="5.5 (small τ)",
    says="As τ → 0, D_ij → −(1 − cos_ij)/τ + log N − log(copies of i).",
    verdict=Verdict.HOLDS,
    corrected="D is unbounded while c stays in [0, log N]: see cold-lambda.",
    why="Z_i → copies · e^{1/τ}.",
)
def cold_self(exam: Exam) -> None:
    def error(x: Array) -> float:
        cos, tau = pmi.cosines(x, x), 1e-3
        # cosines of equal integer vectors may differ from 1 in the last bit, which tau magnifies
        np.fill_diagonal(cos, 1)
        cos[np.isclose(cos, 1, atol=1e-12)] = 1
        return float(np.abs(pmi.self_pmi(cos, tau) - pmi.cold_self_pmi(cos, tau)).max())

    def draw(rng: np.random.Generator) -> Array:
        x = rng.integers(-2, 3, size=(6, 3)).astype(np.float64)
        x[~x.any(1), 0] = 1
        return x

    exam.holds("integer vectors with duplicates, τ = 1e-3", error, draw, tolerance=1e-9)


@guess(
    "cold-lambda",
    about="(14), (22), 5.5",
    assumes=("cosines",),
    says="λ balances relevance and redundancy independently of τ.",
    verdict=Verdict.FALSE,
    corrected="c stays in [0, log N] while D grows like 1/τ: at small τ any λ < 1 is farthest-first selection after "
    "the first pick. Scale λ with τ, or use similarities for redundancy.",
    why="See cold-relevance and cold-self.",
)
def cold_lambda(exam: Exam) -> None:
    warm, cold = (Tokens.of([[-1, -1], [1, 1], [0, -1]], [[1, 1], [1, 0]], tau) for tau in (0.5, 0.01))
    kept = [select(tokens.relevance, tokens.pairs, 0.9, 2).order for tokens in (warm, cold)]
    exam.refutes(
        "v = (−1,−1), (1,1), −e2, text = (1,1), e1, λ = 9/10, keep 2: τ = ½, and τ = 1/100",
        (warm, cold),
        kept[0],
        "==",
        kept[1],
    )

    def farthest(x: Array, y: Array) -> float:
        c, d = tables(x, y, 1e-6)
        picks = list(select(c, d, 0.9, 5).order)
        chosen = picks[:1]
        while len(chosen) < 5:
            left = [i for i in range(len(x)) if i not in chosen]
            chosen.append(min(left, key=lambda i: max(float(x[i] @ x[j]) for j in chosen)))
        return float(picks != chosen)

    def draw(rng: np.random.Generator) -> tuple[Array, Array]:
        x = rng.standard_normal((12, 4))
        return x / np.linalg.norm(x, axis=1, keepdims=True), models.random_embeddings(rng, 4, 4)

    exam.corrected("λ = 0.9, τ = 1e-6: picks of farthest-first", farthest, draw, tolerance=0, share=0.5)


@ours(
    "hot",
    about="5.5 (large τ)",
    says="As τ → ∞, τ C tends to the similarities centred over rows and columns, and τ D to the cosines centred over "
    "rows.",
    verdict=Verdict.HOLDS,
    corrected="With a remainder of order 1/τ (of 1/τ² before multiplying by τ): the ranking does not change any more.",
    why="log softmax(s/τ)_j = −log T + (s_ij − mean_k s_ik)/τ + O(τ⁻²); subtract the mean over i.",
)
def hot(exam: Exam) -> None:
    def cross(visual: Array, text: Array) -> float:
        s = visual @ text.T
        return max(float(np.abs(t * pmi.cross_pmi(s / t) - pmi.hot_cross_pmi(s)).max()) * t for t in (10.0, 100.0, 1e3))

    def own(visual: Array, text: Array) -> float:
        s = visual @ visual.T
        return max(float(np.abs(t * pmi.self_pmi(s, t) - pmi.hot_self_pmi(s)).max()) * t for t in (10.0, 100.0, 1e3))

    # the second-order term is half a variance of numbers in [-1, 1], for a row and for the marginal
    exam.holds(
        "τ times the error of τ C, at most 1 (τ = 10, 100, 1000)", lambda v, t: cross(v, t) - 1, tokens, tolerance=0
    )
    exam.holds("τ times the error of τ D, at most 1", lambda v, t: own(v, t) - 1, tokens, tolerance=0)


@guess(
    "one-text-token",
    about="4.2",
    says="Relevance ranks the tokens whatever the prompt.",
    verdict=Verdict.INCOMPLETE,
    corrected="With one text token, or equal ones, C is 0: the picks are rounding noise, or index "
    "order, the top left of the picture. Detect max c − min c ≤ 16 eps/τ, warn, and use cosines.",
    why="A distribution over one outcome is 1 for every token, and so is its marginal.",
)
def one_text_token(exam: Exam) -> None:
    visual, text = np.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0]]), np.array([[1.0, 0.0]])
    c = relevance(visual, text)
    similar = pmi.cosines(visual, text)[:, 0]
    exam.depends("v = e2, (.6,.8), e1, text = e1, keep 1: by PMI, or by cosine", int(c.argmax()), int(similar.argmax()))
    exam.corrected("C = 0 for one text token", lambda v, t: np.abs(relevance(v, t[:1])).max(), tokens)
    exam.corrected("C = 0 for equal ones", lambda v, t: np.abs(relevance(v, t[[0, 0, 0]])).max(), tokens)
    exam.corrected(
        "C = 0 for one visual token, or equal ones", lambda v, t: np.abs(relevance(v[[0, 0]], t)).max(), tokens
    )


def _minmax(similarity: Array) -> Array:
    rise = similarity - similarity.min(1, keepdims=True)
    with np.errstate(invalid="ignore"):
        scaled = rise / rise.max(1, keepdims=True)
        return np.asarray(scaled / scaled.sum(1, keepdims=True))


@paper(
    "minmax",
    ref="B.2, (51), (52)",
    says="Min-max scaling followed by normalisation gives a valid distribution to take PMI of.",
    verdict=Verdict.INCOMPLETE,
    corrected="(52) as printed sums only its own entry, so every non-zero probability is 1/N; the row sum is meant. "
    "Then each row has a zero (PMI −∞), an outcome that is least everywhere has 0/0, and constant rows and a single "
    "text token are 0/0. Make a constant row uniform, let the maximum skip zeros, refuse the unweighted mean. τ has "
    "no effect at all.",
    why="Each row's minimum is mapped to 0; the map does not change when a row is scaled or shifted.",
)
def minmax(exam: Exam) -> None:
    similarity = np.array([[0.9, 0.1, 0.5], [0.7, 0.2, 0.6]])
    p = _minmax(similarity)
    exam.depends("s = (.9, .1, .5), p(t_0|v_0): as printed, or with the row sum", 1 / 3, float(p[0, 0]))
    with np.errstate(divide="ignore", invalid="ignore"):
        naive = np.log(p) - np.log(p.mean(0))
    exam.depends("second text token least in both rows: PMI as 0/0, or skipped", float(naive[0, 1]), -math.inf)
    exam.depends(
        "constant row (.5, .5): probability as 0/0, or uniform", float(_minmax(np.array([[0.5, 0.5]]))[0, 0]), 0.5
    )
    exam.corrected(
        "every row has a zero; τ has no effect",
        lambda v, t: max(
            float(_minmax(v @ t.T).min(1).max()),
            float(np.abs(_minmax(v @ t.T) - _minmax(v @ t.T / 0.125)).max()),
        ),
        tokens,
    )


@paper(
    "outliers",
    ref="B.2, below (52)",
    says="Softmax is more robust to outliers than min-max normalisation.",
    verdict=Verdict.INCOMPLETE,
    corrected="To one that is too low: it moves the minimum, and with it every min-max entry, and next to nothing of a "
    "softmax. One that is too high takes exponentially more of a softmax, nearly all of it at τ = 1/10.",
    why="An entry raised by h multiplies its softmax weight by e^{h/τ}, and its min-max weight grows linearly.",
)
def outliers(exam: Exam) -> None:
    base = np.array([[0.1, 0.2, 0.4]])

    def left(outlier: float, softmax: bool) -> float:
        """Total variation between the distributions with the entry, and with 1/5 in its place."""
        row = np.append(base, [[outlier]], axis=1)
        calm = np.append(base, [[0.2]], axis=1)
        p, q = (np.exp(pmi.log_rows(x / 0.1)) if softmax else _minmax(x) for x in (row, calm))
        return float(np.abs(p - q).sum() / 2)

    readings = {True: "softmax", False: "min-max"}
    steadier = {
        outlier: readings[left(outlier, softmax=True) < left(outlier, softmax=False)] for outlier in (-1.0, 1.0)
    }
    exam.depends(
        "s = (.1, .2, .4, .2), τ = 1/10, last entry replaced by −1, or by 1: which is moved less",
        steadier[-1.0],
        steadier[1.0],
    )
    exam.corrected(
        "an entry at 1 in place of .2: mass moved by softmax exceeds that of min-max",
        lambda x: left(x, softmax=False) - left(x, softmax=True),
        [1.0],
        tolerance=0,
    )


@guess(
    "masked-text",
    about="(15), (17)",
    says="Padding in a batch of prompts can be given logits of −∞.",
    verdict=Verdict.INCOMPLETE,
    corrected="Remove padded outcomes from the softmax and from the reduction instead.",
    why="A column of −∞ has probability 0 in every row, so its PMI is −∞ − (−∞), and argmax returns the NaN.",
)
def masked_text(exam: Exam) -> None:
    logits = np.array([[1.0, 0.0, -math.inf], [0.0, 1.0, -math.inf]])
    with np.errstate(invalid="ignore"):
        filled = pmi.cross_pmi(logits)
    exam.depends(
        "padded column: relevance of token 0 with −∞, or without the column", float(filled[0].max()), _without(logits)
    )
    exam.depends("argmax over (1, NaN): NaN's index, or the largest number's", int(np.argmax([1.0, np.nan])), 0)


def _without(logits: Array) -> float:
    return float(pmi.cross_pmi(logits[:, :2])[0].max())
