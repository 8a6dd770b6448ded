"""Invariances, limits of the temperature, and degenerate inputs (4.2, B.2)."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from tokenprune_theory import models, pmi
from tokenprune_theory.claims.algorithm import tables
from tokenprune_theory.discrete import Array
from tokenprune_theory.registry import Run, Verdict, claim
from tokenprune_theory.sequence import select

limits = partial(claim, section="Invariances, limits, degenerate inputs (4.2, B.2)")

E1, E2 = [1.0, 0.0], [0.0, 1.0]


def tokens(rng: np.random.Generator) -> tuple[Array, Array]:
    """Random visual and text embeddings."""
    d = int(rng.integers(2, 6))
    n, t = int(rng.integers(2, 8)), int(rng.integers(2, 6))
    return models.random_embeddings(rng, n, d), models.random_embeddings(rng, t, d)


def relevance(visual: Array, text: Array, tau: float = 0.1) -> Array:
    """c_i of embeddings."""
    return np.asarray(pmi.cross_pmi(pmi.cosines(visual, text) / tau).max(1))


def _at(*degrees: float) -> Array:
    """Unit vectors at angles in the plane."""
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], 1)


@limits(
    "permutation",
    ref="4.2",
    says="Reordering tokens reorders C, D and c and changes nothing else.",
    verdict=Verdict.HOLDS,
    corrected="Up to rounding: sums are not bit-for-bit independent of the order.",
    why="Every formula is symmetric in the other tokens.",
)
def _(run: Run) -> None:
    def error(visual: Array, text: Array) -> float:
        order = np.roll(np.arange(len(visual)), 1)
        c, d = tables(visual, text, 0.1)
        c2, d2 = tables(visual[order], text[::-1], 0.1)
        return max(float(np.abs(c2 - c[order]).max()), float(np.abs(d2 - d[np.ix_(order, order)]).max()))

    run.holds("visual and text tokens reordered", error, tokens)


@limits(
    "permutation-selection",
    ref="Algorithm 1",
    says="The selected tokens do not depend on the order in which tokens are listed.",
    verdict=Verdict.ASSUMING,
    corrected="Assuming no ties. With ties the lowest index wins, so the order decides; with the paper's constant "
    "relevance (one text token) that is every pick.",
    why="argmax needs a rule for ties, and any rule by index depends on the order.",
)
def _(run: Run) -> None:
    def moved(c: Array, d: Array) -> float:
        order = np.roll(np.arange(len(c)), 1)
        picks = set(select(c, d, 0.5, 3).order)
        return float({int(order[i]) for i in select(c[order], d[np.ix_(order, order)], 0.5, 3).order} != picks)

    run.holds_if("random tables, where ties have probability 0", moved, partial(models.random_selection_problem, n=6))
    c = np.array([1.0, 1.0])
    first = select(c, np.zeros((2, 2)), 1.0, 1).order[0]
    kept = [listed[first] for listed in (("left", "right"), ("right", "left"))]
    run.refutes("two tokens of equal relevance, listed left-right and right-left, keep 1", kept[0], "==", kept[1])


@limits(
    "scale",
    ref="(14)",
    says="Scaling a token by a positive number changes nothing.",
    verdict=Verdict.HOLDS,
    corrected="A negative number does, and the zero vector is 0/0: give it cosine 0 to everything.",
    why="Cosines are of directions.",
)
def _(run: Run) -> None:
    def error(visual: Array, text: Array) -> float:
        scale = np.logspace(-3, 3, len(visual))[:, None]
        return float(np.abs(relevance(visual * scale, text) - relevance(visual, text)).max())

    run.holds("one factor a token, from 0.001 to 1000", error, tokens)


@limits(
    "row-shift",
    ref="(15)",
    says="Adding a number to all logits of a row changes nothing.",
    verdict=Verdict.HOLDS,
    why="The softmax divides it out.",
)
def _(run: Run) -> None:
    def error(visual: Array, text: Array) -> float:
        logits = visual @ text.T / 0.1
        shift = np.linspace(-5, 5, len(logits))[:, None]
        return float(np.abs(pmi.cross_pmi(logits + shift) - pmi.cross_pmi(logits)).max())

    run.holds("one number a row", error, tokens)


@limits(
    "column-shift",
    ref="(15), (17)",
    says="Dividing by the marginal removes what is common to a text token: adding a number to a column changes "
    "nothing.",
    verdict=Verdict.FALSE,
    corrected="PMI removes how frequent a text token is, not how similar it is to everything: a column shift changes "
    "the row normalisers.",
    why="It weights the column against the others inside every softmax, by the same factor but not with the same "
    "effect.",
)
def _(run: Run) -> None:
    logits = np.array([[1.0, 0.0], [0.0, 0.0]])
    before, after = pmi.cross_pmi(logits)[0, 0], pmi.cross_pmi(logits + np.array([2.0, 0.0]))[0, 0]
    run.refutes("logits ((1,0), (0,0)), then ((3,0), (2,0)): C_00", before, "==", after)


@limits(
    "translation",
    ref="(14)",
    says="Scores do not depend on where the origin of the embedding space is.",
    verdict=Verdict.FALSE,
    corrected="Cosines do. Embeddings with a large common part have cosines in a narrow band, and the temperature "
    "has to fit it.",
    why="Cosines are angles at the origin.",
)
def _(run: Run) -> None:
    visual, text = np.array([E1, E2]), np.array([E1, [0.0, -1.0]])
    far = np.array([0.0, 3.0])
    run.refutes(
        "v = e1, e2, text = e1, −e2, τ = 1; then all plus (0, 3): relevance of v_0",
        float(relevance(visual, text, 1.0)[0]),
        "==",
        float(relevance(visual + far, text + far, 1.0)[0]),
    )


@limits(
    "duplicate-all",
    ref="(15)–(17)",
    says="Listing all visual tokens twice, or all text tokens, leaves relevance unchanged.",
    verdict=Verdict.HOLDS,
    corrected="And D: its normaliser doubles together with N.",
    why="Both p and q of a text token halve; the mean over visual tokens is the same.",
)
def _(run: Run) -> None:
    def error(visual: Array, text: Array) -> float:
        c, d = tables(visual, text, 0.1)
        twice, d2 = tables(np.tile(visual, (2, 1)), text, 0.1)
        texts = relevance(visual, np.tile(text, (2, 1)))
        n = len(visual)
        return float(max(np.abs(twice[:n] - c).max(), np.abs(texts - c).max(), np.abs(d2[:n, :n] - d).max()))

    run.holds("relevance and self table", error, tokens)


@limits(
    "duplicate-one",
    ref="(16)",
    says="A copy of one token does not change the scores of the others.",
    verdict=Verdict.FALSE,
    corrected="A visual copy counts as double prior weight of its original and moves the marginal; a text copy moves "
    "every row's normaliser.",
    why="Indices are the events, so two equal tokens have twice the probability of one.",
)
def _(run: Run) -> None:
    visual, text = np.array([E1, E2]), np.array([E1, E2])
    run.refutes(
        "v = e1, e2, text = e1, e2, τ = 1; then v = e1, e2, e2: relevance of e1",
        float(relevance(visual, text, 1.0)[0]),
        "==",
        float(relevance(visual[[0, 1, 1]], text, 1.0)[0]),
    )

    def weighted(visual: Array, text: Array) -> float:
        copied = pmi.cross_pmi(pmi.cosines(np.vstack([visual, visual[:1]]), text) / 0.1)[:-1]
        prior = np.full(len(visual), 1 / (len(visual) + 1))
        prior[0] *= 2
        return float(np.abs(copied - pmi.cross_pmi(pmi.cosines(visual, text) / 0.1, prior)).max())

    run.corrected("one copy = prior weight 2", weighted, tokens)
    flips = []
    for _ in range(200):
        visual, text = models.random_embeddings(run.rng, 6, 3), models.random_embeddings(run.rng, 4, 3)
        copied = np.vstack([visual, visual[int(run.rng.integers(6))]])
        flips.append(int(relevance(visual, text).argmax()) != int(relevance(copied, text)[:6].argmax()))
    run.measure("share of random 6 × 4 instances where a visual copy changes the top token", float(np.mean(flips)))


@limits(
    "duplicates-kept",
    ref="4.2",
    says="The redundancy term keeps exact duplicates from being selected together.",
    verdict=Verdict.FALSE,
    corrected="It charges them their D_ii, at most log N. A relevant duplicate can outweigh that; with λ = 1 all are "
    "kept.",
    why="λ c_i − (1−λ) D_ii against λ c_k − (1−λ) D_kj of another token.",
)
def _(run: Run) -> None:
    opposite = [-1.0, 0.0]
    c, d = tables(np.array([E1, E1, E2, opposite]), np.array([E1, opposite]), 0.5)
    run.refutes(
        "v = e1, e1, e2, −e1, text = e1, −e1, τ = 0.5, λ = 0.9, keep 3: tokens kept, and the set without duplicates",
        tuple(sorted(select(c, d, 0.9, 3).order)),
        "==",
        (0, 2, 3),
    )


@limits(
    "cold-relevance",
    ref="5.5 (small τ)",
    says="As τ → 0, c_i tends to the largest log(N/|L_j|) over the text tokens j that i leads, L_j = argmax_i (s_ij "
    "− max_k s_ik).",
    verdict=Verdict.HOLDS,
    corrected="No ties within rows. So c takes few values: the inverse popularity of the nearest text token. A text "
    "token that is nobody's nearest gives its single best token log N, the maximum.",
    why="log p(t_j|v_i) ≈ (s_ij − max_k s_ik)/τ, and the mean over i is dominated by the leaders.",
)
def _(run: Run) -> None:
    def error(similarity: Array, tau: float) -> float:
        return float(np.abs(pmi.cross_pmi(similarity / tau).max(1) - pmi.cold_relevance(similarity)).max())

    def draw(rng: np.random.Generator) -> tuple[Array, float]:
        return rng.choice(np.linspace(-1, 1, 4001), size=(6, 4), replace=False), 1e-5

    run.holds("distinct similarities at least 0.0005 apart, τ = 1e-5", error, draw, tolerance=1e-9)


@limits(
    "cold-self",
    ref="5.5 (small τ)",
    says="As τ → 0, D_ij → −(1 − cos_ij)/τ + log N − log(copies of i).",
    verdict=Verdict.HOLDS,
    corrected="D is unbounded while c stays in [0, log N]: see cold-lambda.",
    why="Z_i → copies · e^{1/τ}.",
)
def _(run: Run) -> None:
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

    run.holds("integer vectors with duplicates, τ = 1e-3", error, draw, tolerance=1e-9)


@limits(
    "cold-lambda",
    ref="(22), 5.5",
    says="λ balances relevance and redundancy independently of τ.",
    verdict=Verdict.FALSE,
    corrected="c stays in [0, log N] while D grows like 1/τ: at small τ any λ < 1 is farthest-first selection after "
    "the first pick. Scale λ with τ, or use similarities for redundancy.",
    why="See cold-relevance and cold-self.",
)
def _(run: Run) -> None:
    visual, text = _at(0, 30, 150), _at(120, 180)
    kept = [select(*tables(visual, text, tau), 0.9, 2).order for tau in (0.5, 0.001)]
    run.refutes(
        "v at 0°, 30°, 150°, text at 120°, 180°, λ = 0.9, keep 2: τ = 0.5, and τ = 0.001", kept[0], "==", kept[1]
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

    run.corrected("λ = 0.9, τ = 1e-6: picks of farthest-first", farthest, draw, tolerance=0, share=0.5)


@limits(
    "hot",
    ref="5.5 (large τ)",
    says="As τ → ∞, τ C tends to the similarities centred over rows and columns, and τ D to the cosines centred over "
    "rows.",
    verdict=Verdict.HOLDS,
    corrected="With a remainder of order 1/τ (of 1/τ² before multiplying by τ): the ranking does not change any more.",
    why="log softmax(s/τ)_j = −log T + (s_ij − mean_k s_ik)/τ + O(τ⁻²); subtract the mean over i.",
)
def _(run: Run) -> None:
    def cross(visual: Array, text: Array) -> float:
        s = visual @ text.T
        return max(float(np.abs(t * pmi.cross_pmi(s / t) - pmi.hot_cross_pmi(s)).max()) * t for t in (10.0, 100.0, 1e3))

    def own(visual: Array, text: Array) -> float:
        s = visual @ visual.T
        return max(float(np.abs(t * pmi.self_pmi(s, t) - pmi.hot_self_pmi(s)).max()) * t for t in (10.0, 100.0, 1e3))

    # the second-order term is half a variance of numbers in [-1, 1], for a row and for the marginal
    run.holds(
        "τ times the error of τ C, at most 1 (τ = 10, 100, 1000)", lambda v, t: cross(v, t) - 1, tokens, tolerance=0
    )
    run.holds("τ times the error of τ D, at most 1", lambda v, t: own(v, t) - 1, tokens, tolerance=0)


@limits(
    "one-text-token",
    ref="4.2",
    says="Relevance ranks the tokens whatever the prompt.",
    verdict=Verdict.INCOMPLETE,
    corrected="With one text token, or equal ones, C is 0: the picks are rounding noise, or index "
    "order, the top left of the picture. Detect max c − min c ≤ 16 eps/τ, warn, and use cosines.",
    why="A distribution over one outcome is 1 for every token, and so is its marginal.",
)
def _(run: Run) -> None:
    visual, text = np.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0]]), np.array([[1.0, 0.0]])
    c = relevance(visual, text)
    similar = pmi.cosines(visual, text)[:, 0]
    run.depends("v = e2, (.6,.8), e1, text = e1, keep 1: by PMI, or by cosine", int(c.argmax()), int(similar.argmax()))
    run.corrected("C = 0 for one text token", lambda v, t: np.abs(relevance(v, t[:1])).max(), tokens)
    run.corrected("C = 0 for equal ones", lambda v, t: np.abs(relevance(v, t[[0, 0, 0]])).max(), tokens)
    run.corrected(
        "C = 0 for one visual token, or equal ones", lambda v, t: np.abs(relevance(v[[0, 0]], t)).max(), tokens
    )


def _minmax(similarity: Array) -> Array:
    rise = similarity - similarity.min(1, keepdims=True)
    with np.errstate(invalid="ignore"):
        scaled = rise / rise.max(1, keepdims=True)
        return np.asarray(scaled / scaled.sum(1, keepdims=True))


@limits(
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
def _(run: Run) -> None:
    similarity = np.array([[0.9, 0.1, 0.5], [0.7, 0.2, 0.6]])
    p = _minmax(similarity)
    run.depends("s = (.9, .1, .5), p(t_0|v_0): as printed, or with the row sum", 1 / 3, float(p[0, 0]))
    with np.errstate(divide="ignore", invalid="ignore"):
        naive = np.log(p) - np.log(p.mean(0))
    run.depends("second text token least in both rows: PMI as 0/0, or skipped", float(naive[0, 1]), -math.inf)
    run.depends(
        "constant row (.5, .5): probability as 0/0, or uniform", float(_minmax(np.array([[0.5, 0.5]]))[0, 0]), 0.5
    )
    run.corrected(
        "every row has a zero; τ has no effect",
        lambda v, t: max(
            float(_minmax(v @ t.T).min(1).max()),
            float(np.abs(_minmax(v @ t.T) - _minmax(v @ t.T / 0.125)).max()),
        ),
        tokens,
    )


@limits(
    "masked-text",
    ref="(15), (17)",
    says="Padding in a batch of prompts can be given logits of −∞.",
    verdict=Verdict.INCOMPLETE,
    corrected="Remove padded outcomes from the softmax and from the reduction instead.",
    why="A column of −∞ has probability 0 in every row, so its PMI is −∞ − (−∞), and argmax returns the NaN.",
)
def _(run: Run) -> None:
    logits = np.array([[1.0, 0.0, -math.inf], [0.0, 1.0, -math.inf]])
    with np.errstate(invalid="ignore"):
        filled = pmi.cross_pmi(logits)
    run.depends(
        "padded column: relevance of token 0 with −∞, or without the column", float(filled[0].max()), _without(logits)
    )
    run.depends("argmax over (1, NaN): NaN's index, or the largest number's", int(np.argmax([1.0, np.nan])), 0)


def _without(logits: Array) -> float:
    return float(pmi.cross_pmi(logits[:, :2])[0].max())
