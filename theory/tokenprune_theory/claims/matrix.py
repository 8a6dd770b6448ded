"""Sections 4.2 and A.3: the crossmodal PMI table and how its rows are reduced to one score."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import partial

import numpy as np
from scipy.special import logsumexp
from scipy.stats import spearmanr

from tokenprune_theory import models, pmi, violations
from tokenprune_theory.discrete import Array, renyi_divergence, specific_surprise
from tokenprune_theory.evidence import Exam
from tokenprune_theory.instances import Channel, Tokens
from tokenprune_theory.registry import Verdict, topic

paper, guess, ours = topic("PMI and its aggregation (4.2, A.3)")


def channel(rng: np.random.Generator) -> Array:
    """A random channel of 2 to 7 rows and columns."""
    return models.random_channel(rng, int(rng.integers(2, 8)), int(rng.integers(2, 8)))


def synthetic(rng: np.random.Generator, n: int = 576, t: int = 40, d: int = 64, tau: float = 0.1) -> Array:
    """Softmax rows of random embeddings."""
    x, y = models.random_embeddings(rng, n, d), models.random_embeddings(rng, t, d)
    return np.asarray(np.exp(pmi.log_rows(x @ y.T / tau)))


@ours(
    "pmi-normalised",
    about="(15)–(17)",
    says="p(t|v)/N is a joint distribution: Σ_j q_j e^{C_ij} = 1 in every row, mean_i e^{C_ij} = 1 in every column.",
    verdict=Verdict.HOLDS,
    corrected="For any logits, since (16) is the marginal that (15) has.",
    why="q_j e^{C_ij} = p(t_j|v_i), whose rows sum to 1 and whose column means are q_j.",
)
def pmi_normalised(exam: Exam) -> None:
    exam.holds(
        "random logits", violations.normalised, lambda rng: 5 * rng.standard_normal(tuple(rng.integers(1, 9, size=2)))
    )
    exam.holds(
        "gaps of up to 200 nats (tau = 0.01)",
        violations.normalised,
        lambda rng: rng.uniform(-100, 100, size=(6, 5)),
    )


@ours(
    "pmi-range",
    about="(17)",
    says="PMI(v_i;t_j) ≤ min(−log q_j, log N).",
    verdict=Verdict.HOLDS,
    corrected="With cosine logits sharper: log N/(1+(N−1)κ) ≤ C_ij ≤ log Nκ/(κ+N−1), κ = "
    "(1+(T−1)e^{2/τ})/(1+(T−1)e^{−2/τ}), both attained in one dimension (v_0 = t_0 = +1, all others −1; and with the "
    "sign of v_0 turned).",
    why="p ≤ 1, and q_j ≥ p(t_j|v_i)/N. κ is the largest ratio of two rows' probabilities of one outcome.",
)
def pmi_range(exam: Exam) -> None:
    exam.holds("any channel", violations.pmi_range, channel)

    def beyond(n: int, t: int, d: int, tau: float, seed: int) -> float:
        rng = np.random.default_rng(seed)
        x = models.random_embeddings(rng, n, d)
        table = pmi.cross_pmi(x @ models.random_embeddings(rng, t, d).T / tau)
        low, high = pmi.cosine_pmi_range(n, t, tau)
        return max(float(table.max()) - high, low - float(table.min()))

    def draw(rng: np.random.Generator) -> tuple[int, int, int, float, int]:
        n, t, d = (int(k) for k in rng.integers(1, 7, size=3))
        return n, t, d, float(rng.choice([0.05, 0.1, 0.5, 2.0])), int(rng.integers(2**31))

    exam.holds("cosine logits stay in the range", beyond, draw)

    def attained(n: int, t: int, tau: float) -> float:
        x, y = -np.ones((n, 1)), -np.ones((t, 1))
        y[0] = x[0] = 1
        low, high = pmi.cosine_pmi_range(n, t, tau)
        top = pmi.cross_pmi(x @ y.T / tau)[0, 0]
        x *= -1
        bottom = pmi.cross_pmi(x @ y.T / tau)[0, 0]
        return max(abs(float(top) - high), abs(float(bottom) - low))

    exam.holds("attained", attained, [(576, 35, 0.1), (576, 35, 0.5), (2, 2, 0.1), (9, 3, 1.0)], tolerance=1e-9)


@ours(
    "relevance-sign",
    about="(19)",
    says="max_j PMI(v_i;t_j) ≥ 0 for every token, and 0 only where its row is the marginal.",
    verdict=Verdict.HOLDS,
    corrected="So relevance lies in [0, log N]: it can never vote against a token.",
    why="The q-weighted mean of e^{C_ij} over j is 1, so the largest is at least 1; and max ≥ KL, which is 0 only at "
    "q.",
)
def relevance_sign(exam: Exam) -> None:
    exam.holds("not below 0, nor below KL", violations.relevance_sign, channel)
    exam.holds("equal rows give 0", lambda rows: np.abs(pmi.aggregate(np.repeat(rows[:1], 3, 0), "max")).max(), channel)


@ours(
    "max-over-mean",
    about="(18), (19)",
    says="The maximum of a PMI row is at least its weighted average.",
    verdict=Verdict.HOLDS,
    corrected="For whole rows, whose weights sum to 1.",
    why="An average does not exceed the maximum.",
)
def max_over_mean(exam: Exam) -> None:
    exam.holds("any channel", violations.max_over_mean, channel)


@guess(
    "max-over-mean-selected",
    about="(18), (20)",
    assumes=("cosines",),
    says="The maximum over the selected tokens is at least the weighted average over them.",
    verdict=Verdict.FALSE,
    corrected="Only if the weights are renormalised over the selected tokens.",
    why="Over a part of the row the weights sum to less than 1, so a sum of negative terms can exceed its largest "
    "term.",
)
def max_over_mean_selected(exam: Exam) -> None:
    pair = Tokens.of([[1, 0], [0, 1]], [[1, 0]], 0.5)
    d = float(pair.pairs[0, 1])
    weighted = math.exp(d) / 2 * d
    exam.refutes("v = e1, e2, τ = ½, S = {1}: weighted sum against maximum for token 0", pair, weighted, "<=", d)

    def renormalised(similarity: Array, tau: float) -> float:
        table = pmi.self_pmi(similarity, tau)[:, :2]
        weights = np.exp(table) / np.exp(table).sum(1, keepdims=True)
        return float(np.max((weights * table).sum(1) - table.max(1)))

    def draw(rng: np.random.Generator) -> tuple[Array, float]:
        x = models.random_embeddings(rng, 5, 3)
        return x @ x.T, 0.5

    exam.corrected("renormalised weights", renormalised, draw)


@paper(
    "lse-bounds",
    ref="(40), (41)",
    says="max z ≤ LSE(z) ≤ max z + log N.",
    verdict=Verdict.HOLDS,
    corrected="The lower bound is strict for two or more finite entries, the upper an equality exactly when all are "
    "equal.",
    why="e^{max z} ≤ Σ e^{z_j} ≤ N e^{max z}.",
)
def lse_bounds(exam: Exam) -> None:
    exam.holds(
        "entries in ±700", violations.lse_enclosed, lambda rng: rng.uniform(-700, 700, size=int(rng.integers(1, 9)))
    )
    exam.holds(
        "one entry, equal entries, −∞ and +∞ among them",
        violations.lse_enclosed,
        [
            np.array([3.0]),
            np.full(4, -2.0),
            np.array([-math.inf, 1.0]),
            np.array([-math.inf, 0.0, 0.0]),
            np.array([math.inf, 0.0]),
            np.array([math.inf, -math.inf, 1.0]),
            np.full(2, -math.inf),
        ],
    )
    exam.holds(
        "equality at equal entries",
        lambda n: abs(float(logsumexp(np.full(n, 0.7))) - 0.7 - math.log(n)),
        [1, 2, 5, 40],
    )


@paper(
    "max-ratio-below-sum",
    ref="(45), (46)",
    says="max_j p(t_j|v_i)/q_j ≤ Σ_j p(t_j|v_i)/q_j.",
    verdict=Verdict.HOLDS,
    corrected="In ratios. It does not survive taking logarithms term by term: see max-below-sum.",
    why="All terms are positive.",
)
def max_ratio_below_sum(exam: Exam) -> None:
    exam.holds("any channel", violations.max_ratio_over_sum, channel)


@paper(
    "max-below-sum",
    ref="(47)",
    assumes=("softmax",),
    says="max_j PMI(v_i;t_j) ≤ Σ_j PMI(v_i;t_j).",
    verdict=Verdict.FALSE,
    corrected="The logarithm of the sum in (46) is LSE, not the sum of logarithms. True: KL ≤ Rényi ≤ max ≤ LSE ≤ "
    "max + log T.",
    why="PMI entries are negative for outcomes that v_i makes less likely. With uniform q the sum is −T · KL(uniform "
    "‖ p) ≤ 0 while the maximum is ≥ 0, so every row but the uniform one violates it.",
)
def max_below_sum(exam: Exam) -> None:
    for counts in (((1, 1), (1, 2)), ((9, 1), (1, 9))):
        two = Channel.of_counts(*counts)
        table = pmi.table_of_channel(two.rows)
        exam.refutes(
            f"counts {counts[0]}, {counts[1]}: max and sum of row 0", two, table[0].max(), "<=", table[0].sum()
        )
    hits = [r.max() > r.sum() for _ in range(100) for r in pmi.table_of_channel(channel(exam.rng))]
    exam.measure("share of random rows that violate it", float(np.mean(hits)))


@paper(
    "renyi-ladder",
    ref="A.3, below (47); 4.2",
    assumes=("softmax",),
    says="Maximal aggregation is a tight lower bound of the sum and has the same optimisation direction.",
    verdict=Verdict.FALSE,
    corrected="0 ≤ KL = D_1 ≤ D_2 ≤ … ≤ D_∞ = max ≤ LSE ≤ max + log T: Rényi divergences of p(·|v_i) from q. They "
    "are ordered for each token, but they do not rank tokens alike.",
    why="Rényi divergences do not decrease with the order; order 1 is (18) and order ∞ is (19). LSE bounds close the "
    "chain.",
)
def renyi_ladder(exam: Exam) -> None:
    exam.corrected("each rung below the next", violations.ladder, channel)
    two = Channel.of_counts((1, 1), (1, 3))
    c, kl = pmi.aggregate(two.rows, "max"), specific_surprise(two.rows)
    exam.refutes(
        f"counts (1, 1), (1, 3): max {c[0]:.4f} > {c[1]:.4f}, so KL of row 0 against row 1",
        two,
        float(kl[0]),
        ">=",
        float(kl[1]),
    )
    table = synthetic(exam.rng)
    sums = pmi.aggregate(table, "sum")
    top = pmi.aggregate(table, "max")
    exam.measure("Spearman correlation of max and sum of PMI, 576 × 40", float(spearmanr(top, sums).statistic))
    keep = set(np.argsort(-top)[:64])
    for how in ("kl", "sum", "lse"):
        other = set(np.argsort(-pmi.aggregate(table, how))[:64])
        exam.measure(f"tokens that max and {how} both keep of 64 (chance 7)", len(keep & other))


@ours(
    "renyi-gap",
    about="A.3",
    says="D_∞ − D_α ≤ log(1/p(t*|v_i))/(α−1) with t* the token of largest PMI: one knob from mean to max.",
    verdict=Verdict.HOLDS,
    corrected="With a finite order the score is as close to max as wanted, and smooth.",
    why="Keep only the term of t* in the sum: D_α ≥ (log p* + (α−1) max)/(α−1).",
)
def renyi_gap(exam: Exam) -> None:
    def gap(rows: Array) -> float:
        q, table = rows.mean(0), pmi.table_of_channel(rows)
        star = rows[np.arange(len(rows)), table.argmax(1)]
        worst = -math.inf
        for order in (1.5, 2.0, 8.0, 50.0):
            limit = -np.log(star) / (order - 1)
            worst = max(worst, float((table.max(1) - renyi_divergence(rows, q, order) - limit).max()))
        return worst

    exam.holds("orders 1.5, 2, 8, 50", gap, channel)


@guess(
    "lse-dependence",
    about="(43), (44)",
    assumes=("softmax",),
    says="LSE of PMI measures how much a token depends on the text: it is least at independence.",
    verdict=Verdict.FALSE,
    corrected="e^LSE_i = Σ_j p(t_j|v_i)/q_j is linear in p: a score of how rare the text tokens are that v_i "
    "prefers. Its mean over tokens is T whatever the table, and its q-weighted form is 0.",
    why="mean_i Σ_j p_ij/q_j = Σ_j q_j/q_j = T, so dependence cannot raise it everywhere.",
)
def lse_dependence(exam: Exam) -> None:
    rare = Channel.of_counts((99, 1), (81, 19))
    exam.refutes(
        "rows (.99, .01), (.81, .19): LSE of row 0, log 1.2, against log 2 of a row that is independent",
        rare,
        float(pmi.aggregate(rare.rows, "lse")[0]),
        ">=",
        math.log(2),
    )
    exam.corrected(
        "mean_i e^LSE_i = T",
        lambda rows: abs(float(np.exp(pmi.aggregate(rows, "lse")).mean()) - rows.shape[1]) / rows.shape[1],
        channel,
    )
    two = Channel.of_counts((1, 3), (1, 1))
    kl, lse = specific_surprise(two.rows), pmi.aggregate(two.rows, "lse")
    exam.refutes(
        f"counts (1, 3), (1, 1): KL {kl[0]:.4f} > {kl[1]:.4f}, so LSE of row 0 against row 1",
        two,
        float(lse[0]),
        ">=",
        float(lse[1]),
    )


@guess(
    "max-lse-order",
    about="A.3",
    assumes=("softmax",),
    says="max and LSE rank tokens alike.",
    verdict=Verdict.FALSE,
    corrected="They must agree where c_i − c_k > log T, and no smaller gap is enough. For two tokens and two text "
    "tokens they always agree.",
    why="max ≤ LSE ≤ max + log T. Tight: a row that is one-hot on an outcome a little more likely than 1/T, and the "
    "row q.",
)
def max_lse_order(exam: Exam) -> None:
    two = Channel.of_counts((1, 1, 2), (1, 1, 1))
    top, lse = pmi.aggregate(two.rows, "max"), pmi.aggregate(two.rows, "lse")
    exam.refutes(
        f"counts (1, 1, 2), (1, 1, 1): max {top[0]:.4f} > {top[1]:.4f}, so LSE of row 0 against row 1",
        two,
        float(lse[0]),
        ">=",
        float(lse[1]),
    )

    def uncertified(rows: Array) -> float:
        sure = pmi.lse_certificate(pmi.aggregate(rows, "max"), rows.shape[1])
        lse = pmi.aggregate(rows, "lse")
        return float(np.where(sure, lse[None, :] - lse[:, None], -math.inf).max())

    def sharp(rng: np.random.Generator) -> Array:
        logits = 4 * rng.standard_normal((12, 3))
        return np.asarray(np.exp(pmi.log_rows(logits)))

    exam.corrected("a gap of log T decides", uncertified, sharp)
    exam.corrected("2 × 2: never opposite", _opposite, lambda rng: models.random_channel(rng, 2, 2))

    def sharpness(e: float) -> float:
        """How far the gap between a sharp row and q, ranked oppositely, stays below log 3; inf where it is not so."""
        q = np.array([1 / 3 + e, 1 / 3 - e / 2, 1 / 3 - e / 2])
        sharp = np.array([1 - e**2, e**2 / 2, e**2 / 2])
        rest = (4 * q - sharp - q) / 2
        close = np.stack([sharp, q, rest, rest])
        gap, late = pmi.aggregate(close, "max"), pmi.aggregate(close, "lse")
        return math.log(3) - float(gap[0] - gap[1]) if late[0] < late[1] else math.inf

    exam.corrected(
        "no smaller gap is enough: rows (1−e², …) and q = (⅓+e, …) rank oppositely within 4e of log 3",
        lambda e: sharpness(e) - 4 * e,
        [1e-2, 1e-3, 1e-4],
        tolerance=0,
    )


def _opposite(rows: Array) -> float:
    top, lse = pmi.aggregate(rows, "max"), pmi.aggregate(rows, "lse")
    return float(-(top[0] - top[1]) * (lse[0] - lse[1]))


@paper(
    "max-reflects-kl",
    ref="A.3, above (42)",
    assumes=("softmax",),
    says="Maximal aggregation is a robust proxy for the overall relevance (18) of a token.",
    verdict=Verdict.FALSE,
    corrected="c_i ≥ KL_i, with a gap that nothing controls: PMI prefers rare events. A binary divergence certifies "
    "pairs: see certificate-kl.",
    why="A text token of probability ε that v_0 makes ten times as likely as the others do has the same PMI whatever "
    "ε, while its share of KL goes to 0.",
)
def max_reflects_kl(exam: Exam) -> None:
    for parts in (100, 1000):
        e = Fraction(1, parts)
        four = Channel.of_counts((10, 10 * parts - 10), *[(1, 10 * parts - 1)] * 3)
        c = float(pmi.aggregate(four.rows, "max")[0])
        kl = float(specific_surprise(four.rows)[0])
        exam.refutes(
            f"N = 4, text token of probability {e} in row 0, a tenth of it elsewhere: max {c:.4f}, half of it and KL",
            four,
            c / 2,
            "<=",
            kl,
        )
    exam.corrected("KL ≤ max", violations.max_over_mean, channel)


@ours(
    "certificate-kl",
    about="A.3",
    says="If d(p*‖q*) > c_k, the binary divergence at i's strongest text token, then KL and max both rank i above k.",
    verdict=Verdict.HOLDS,
    corrected="Cheap to test for every pair of tokens; certifies part of the ranking, never wrongly.",
    why="Merging outcomes loses information: d ≤ KL_i ≤ c_i; and KL_k ≤ c_k < d.",
)
def certificate_kl(exam: Exam) -> None:
    def wrong(rows: Array) -> float:
        sure = pmi.kl_certificate(rows)
        c, kl = pmi.aggregate(rows, "max"), specific_surprise(rows)
        reverse = np.maximum(c[None, :] - c[:, None], kl[None, :] - kl[:, None])
        return float(np.where(sure, reverse, -math.inf).max())

    draw = partial(models.random_channel, rows=8, columns=5)
    exam.holds("certified pairs are ranked alike", wrong, draw)
    shares = [float(pmi.kl_certificate(draw(exam.rng)).sum()) / 28 for _ in range(50)]
    exam.measure("share of the 28 unordered pairs certified, 8 × 5", float(np.mean(shares)))


@ours(
    "tail-bound",
    about="(19)",
    says="At most T N e^{−a} tokens have relevance ≥ a: the k-th largest score is ≤ min(log N, log(T N/k)).",
    verdict=Verdict.HOLDS,
    corrected="An a-priori scale for thresholds and adaptive budgets. It rests on columns that average to 1, so it "
    "fails for the self table unless its marginal is consistent.",
    why="Columns of e^C average to 1, so Σ_i e^{c_i} ≤ Σ_ij e^{C_ij} = N T; Markov's inequality.",
)
def tail_bound(exam: Exam) -> None:
    def beyond(rows: Array) -> float:
        return violations.tail(pmi.aggregate(rows, "max"), rows.shape[1])

    exam.holds("any channel", beyond, channel)
    exam.holds("60 × 10, sharp", beyond, lambda rng: synthetic(rng, 60, 10, 16, 0.05), share=0.25)


def _with_irrelevant(rows: Array, share: float, copies: int) -> Array:
    """The same tokens and as many more text tokens that all visual tokens give the same share of probability."""
    extra = np.full((len(rows), copies), share / copies)
    return np.concatenate([(1 - share) * rows, extra], axis=1)


@paper(
    "dilution",
    ref="4.2, below (18); A.3, below (47)",
    assumes=("softmax",),
    says="Averaging over many irrelevant text tokens, as in (18), dilutes a sharp signal; the maximum does not.",
    verdict=Verdict.INCOMPLETE,
    corrected="Say what is diluted. (18) is weighted by p(t|v): if irrelevant text tokens take the share w of every "
    "row, KL shrinks to (1−w) KL and the maximum stays, as the paper says. But it shrinks for all visual tokens "
    "alike, so that their order stays, too, and nothing becomes noisier; how many tokens share w does not matter. "
    "What λ means does change. An average with equal weights, which (18) is not, is diluted by the number.",
    why="An irrelevant text token has PMI 0, so its terms are 0 in (18); the ratios p/q of the others are unchanged.",
)
def dilution(exam: Exam) -> None:
    base = Channel.of_counts((3, 1), (1, 7))
    wider = Channel(_with_irrelevant(base.rows, 0.5, 8))
    before, after = specific_surprise(base.rows), specific_surprise(wider.rows)
    order = [int(kl.argmax()) for kl in (before, after)]
    exam.depends(
        "rows (3,1)/4, (1,7)/8; eight irrelevant text tokens take half of each: share left of (18), and of its order",
        float(after[0] / before[0]),
        float(order[0] == order[1]),
    )

    def draw(rng: np.random.Generator) -> tuple[Array, float, int]:
        return channel(rng), float(rng.uniform(0, 0.99)), int(rng.integers(1, 9))

    def shrinks(rows: Array, share: float, copies: int) -> float:
        wider = _with_irrelevant(rows, share, copies)
        kl = np.abs(specific_surprise(wider) - (1 - share) * specific_surprise(rows)).max()
        return float(max(kl, np.abs(pmi.aggregate(wider, "max") - pmi.aggregate(rows, "max")).max()))

    def plain(rows: Array, share: float, copies: int) -> float:
        wider = pmi.table_of_channel(_with_irrelevant(rows, share, copies))
        expected = pmi.table_of_channel(rows).mean(1) * rows.shape[1] / (rows.shape[1] + copies)
        return float(np.abs(wider.mean(1) - expected).max())

    exam.corrected("KL shrinks to (1−w) KL, the maximum stays", shrinks, draw)
    exam.corrected("an average with equal weights shrinks to T/(T + copies) of itself", plain, draw, tolerance=1e-11)


@paper(
    "attention-pmi",
    ref="1, Introduction",
    assumes=("softmax",),
    needs=("uniform text",),
    says="Attention scores approximate pointwise mutual information.",
    verdict=Verdict.ASSUMING,
    corrected="Assuming that all keys have the same marginal: then log attention is PMI less a constant. In general "
    "PMI(v_i;t_j) = log a_ij − log q_j: queries are ranked alike for each key, keys are not for a query.",
    why="A row of attention is a softmax, so a conditional; PMI divides it by the marginal, which differs between "
    "keys.",
)
def attention_pmi(exam: Exam) -> None:
    def off(attention: Channel) -> float:
        table = pmi.table_of_channel(attention.rows)
        return float(np.abs(table - np.log(attention.rows) - math.log(attention.rows.shape[1])).max())

    def balanced(rng: np.random.Generator) -> Channel:
        # a mixture of cyclic shifts has equal columns
        n = int(rng.integers(2, 7))
        weights = rng.dirichlet(np.ones(n)) * 0.99 + 0.01 / n
        return Channel(np.stack([np.roll(weights, shift) for shift in range(n)]))

    exam.holds_if("equal marginals: PMI = log attention + log T", off, balanced)
    skewed = Channel.of_counts((5, 4), (8, 1))
    table = pmi.table_of_channel(skewed.rows)
    exam.refutes(
        "attention (5,4)/9, (8,1)/9: key that token 0 attends to most, and key of its largest PMI",
        skewed,
        int(skewed.rows[0].argmax()),
        "==",
        int(table[0].argmax()),
    )

    def ranked(rows: Array) -> float:
        by_attention, by_pmi = (table.argsort(axis=0, kind="stable") for table in (rows, pmi.table_of_channel(rows)))
        return float((by_attention != by_pmi).any())

    exam.corrected("queries are ranked alike for each key", ranked, channel, tolerance=0)


@ours(
    "channels-reached",
    about="(14), (15)",
    says="Every table of positive rows is the softmax of cosines over some temperature.",
    verdict=Verdict.HOLDS,
    corrected="So a counterexample given as counts is one of embeddings, too.",
    why="With τ so small that every column of τ log p has norm at most 1, take v_i = e_i, and for t_j that column, "
    "with what its norm lacks on an axis of its own.",
)
def channels_reached(exam: Exam) -> None:
    def error(rows: Array) -> float:
        tokens = _embeddings_of(rows)
        return float(np.abs(np.exp(pmi.log_rows(pmi.cosines(tokens.visual, tokens.text) / tokens.tau)) - rows).max())

    exam.holds("embeddings made, and their softmax", error, channel, tolerance=1e-9)


def _embeddings_of(rows: Array) -> Tokens:
    logs = np.log(rows)
    tau = 1 / max(1.0, float(np.linalg.norm(logs, axis=0).max()))
    lacking = np.sqrt(np.maximum(0, 1 - ((tau * logs) ** 2).sum(0)))
    n, t = rows.shape
    visual = np.hstack([np.eye(n), np.zeros((n, t))])
    return Tokens(visual, np.hstack([(tau * logs).T, np.diag(lacking)]), tau)
