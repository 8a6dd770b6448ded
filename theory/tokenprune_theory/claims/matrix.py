"""Sections 4.2 and A.3: the crossmodal PMI table and how its rows are reduced to one score."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from scipy.special import logsumexp
from scipy.stats import spearmanr

from tokenprune_theory import laws, models, pmi
from tokenprune_theory.discrete import Array, renyi_divergence, specific_surprise
from tokenprune_theory.registry import Run, Verdict, claim

matrix = partial(claim, section="PMI and its aggregation (4.2, A.3)")


def rows_of_counts(*counts: tuple[int, ...]) -> Array:
    """A channel from counts."""
    table = np.array(counts, dtype=np.float64)
    return np.asarray(table / table.sum(1, keepdims=True))


def channel(rng: np.random.Generator) -> Array:
    """A random channel of 2 to 7 rows and columns."""
    return models.random_channel(rng, int(rng.integers(2, 8)), int(rng.integers(2, 8)))


def synthetic(rng: np.random.Generator, n: int = 576, t: int = 40, d: int = 64, tau: float = 0.1) -> Array:
    """Softmax rows of random embeddings."""
    x, y = models.random_embeddings(rng, n, d), models.random_embeddings(rng, t, d)
    return np.asarray(np.exp(pmi.log_rows(x @ y.T / tau)))


@matrix(
    "pmi-normalised",
    ref="(15)–(17)",
    says="p(t|v)/N is a joint distribution: Σ_j q_j e^{C_ij} = 1 in every row, mean_i e^{C_ij} = 1 in every column.",
    verdict=Verdict.HOLDS,
    corrected="For any logits, since (16) is the marginal that (15) has.",
    why="q_j e^{C_ij} = p(t_j|v_i), whose rows sum to 1 and whose column means are q_j.",
)
def _(run: Run) -> None:
    run.holds("random logits", laws.normalised, lambda rng: 5 * rng.standard_normal(tuple(rng.integers(1, 9, size=2))))
    run.holds(
        "gaps of up to 200 nats (tau = 0.01)",
        laws.normalised,
        lambda rng: rng.uniform(-100, 100, size=(6, 5)),
    )


@matrix(
    "pmi-range",
    ref="(17)",
    says="PMI(v_i;t_j) ≤ min(−log q_j, log N).",
    verdict=Verdict.HOLDS,
    corrected="With cosine logits sharper: log N/(1+(N−1)κ) ≤ C_ij ≤ log Nκ/(κ+N−1), κ = "
    "(1+(T−1)e^{2/τ})/(1+(T−1)e^{−2/τ}), both attained in one dimension (v_0 = t_0 = +1, all others −1; and with the "
    "sign of v_0 turned).",
    why="p ≤ 1, and q_j ≥ p(t_j|v_i)/N. κ is the largest ratio of two rows' probabilities of one outcome.",
)
def _(run: Run) -> None:
    run.holds("any channel", laws.pmi_range, channel)

    def beyond(n: int, t: int, d: int, tau: float, seed: int) -> float:
        rng = np.random.default_rng(seed)
        x = models.random_embeddings(rng, n, d)
        table = pmi.cross_pmi(x @ models.random_embeddings(rng, t, d).T / tau)
        low, high = pmi.cosine_pmi_range(n, t, tau)
        return max(float(table.max()) - high, low - float(table.min()))

    def draw(rng: np.random.Generator) -> tuple[int, int, int, float, int]:
        n, t, d = (int(k) for k in rng.integers(1, 7, size=3))
        return n, t, d, float(rng.choice([0.05, 0.1, 0.5, 2.0])), int(rng.integers(2**31))

    run.holds("cosine logits stay in the range", beyond, draw)

    def attained(n: int, t: int, tau: float) -> float:
        x, y = -np.ones((n, 1)), -np.ones((t, 1))
        y[0] = x[0] = 1
        low, high = pmi.cosine_pmi_range(n, t, tau)
        top = pmi.cross_pmi(x @ y.T / tau)[0, 0]
        x *= -1
        bottom = pmi.cross_pmi(x @ y.T / tau)[0, 0]
        return max(abs(float(top) - high), abs(float(bottom) - low))

    run.holds("attained", attained, [(576, 35, 0.1), (576, 35, 0.5), (2, 2, 0.1), (9, 3, 1.0)], tolerance=1e-9)


@matrix(
    "relevance-sign",
    ref="(19)",
    says="max_j PMI(v_i;t_j) ≥ 0 for every token, and 0 only where its row is the marginal.",
    verdict=Verdict.HOLDS,
    corrected="So relevance lies in [0, log N]: it can never vote against a token.",
    why="The q-weighted mean of e^{C_ij} over j is 1, so the largest is at least 1; and max ≥ KL, which is 0 only at "
    "q.",
)
def _(run: Run) -> None:
    run.holds("not below 0, nor below KL", laws.relevance_sign, channel)
    run.holds("equal rows give 0", lambda rows: np.abs(pmi.aggregate(np.repeat(rows[:1], 3, 0), "max")).max(), channel)


@matrix(
    "max-over-mean",
    ref="(18), (19)",
    says="The maximum of a PMI row is at least its weighted average.",
    verdict=Verdict.HOLDS,
    corrected="For whole rows, whose weights sum to 1.",
    why="An average does not exceed the maximum.",
)
def _(run: Run) -> None:
    run.holds("any channel", laws.max_over_mean, channel)


@matrix(
    "max-over-mean-selected",
    ref="(18), (20)",
    says="The maximum over the selected tokens is at least the weighted average over them.",
    verdict=Verdict.FALSE,
    corrected="Only if the weights are renormalised over the selected tokens.",
    why="Over a part of the row the weights sum to less than 1, so a sum of negative terms can exceed its largest "
    "term.",
)
def _(run: Run) -> None:
    d = float(pmi.self_pmi(np.eye(2), 0.5)[0, 1])
    weighted = math.exp(d) / 2 * d
    run.refutes("orthonormal pair, τ = 0.5, S = {1}: weighted sum against maximum for token 0", weighted, "<=", d)

    def renormalised(similarity: Array, tau: float) -> float:
        table = pmi.self_pmi(similarity, tau)[:, :2]
        weights = np.exp(table) / np.exp(table).sum(1, keepdims=True)
        return float(np.max((weights * table).sum(1) - table.max(1)))

    def draw(rng: np.random.Generator) -> tuple[Array, float]:
        x = models.random_embeddings(rng, 5, 3)
        return x @ x.T, 0.5

    run.corrected("renormalised weights", renormalised, draw)


@matrix(
    "lse-bounds",
    ref="(40), (41)",
    says="max z ≤ LSE(z) ≤ max z + log N.",
    verdict=Verdict.HOLDS,
    corrected="The lower bound is strict for two or more finite entries, the upper an equality exactly when all are "
    "equal.",
    why="e^{max z} ≤ Σ e^{z_j} ≤ N e^{max z}.",
)
def _(run: Run) -> None:
    run.holds("entries in ±700", laws.lse_enclosed, lambda rng: rng.uniform(-700, 700, size=int(rng.integers(1, 9))))
    run.holds(
        "one entry, equal entries, −∞ and +∞ among them",
        laws.lse_enclosed,
        [np.array([3.0]), np.full(4, -2.0), np.array([-math.inf, 1.0]), np.array([-math.inf, 0.0, 0.0])],
    )
    run.holds(
        "equality at equal entries",
        lambda n: abs(float(logsumexp(np.full(n, 0.7))) - 0.7 - math.log(n)),
        [1, 2, 5, 40],
    )


@matrix(
    "max-ratio-below-sum",
    ref="(45), (46)",
    says="max_j p(t_j|v_i)/q_j ≤ Σ_j p(t_j|v_i)/q_j.",
    verdict=Verdict.HOLDS,
    corrected="In ratios. It does not survive taking logarithms term by term: see max-below-sum.",
    why="All terms are positive.",
)
def _(run: Run) -> None:
    run.holds("any channel", laws.max_ratio_over_sum, channel)


@matrix(
    "max-below-sum",
    ref="(47)",
    says="max_j PMI(v_i;t_j) ≤ Σ_j PMI(v_i;t_j).",
    verdict=Verdict.FALSE,
    corrected="The logarithm of the sum in (46) is LSE, not the sum of logarithms. True: KL ≤ Rényi ≤ max ≤ LSE ≤ "
    "max + log T.",
    why="PMI entries are negative for outcomes that v_i makes less likely. With uniform q the sum is −T · KL(uniform "
    "‖ p) ≤ 0 while the maximum is ≥ 0, so every row but the uniform one violates it.",
)
def _(run: Run) -> None:
    for counts in (((1, 1), (1, 2)), ((9, 1), (1, 9))):
        rows = rows_of_counts(*counts)
        table = pmi.table_of_channel(rows)
        run.refutes(f"counts {counts[0]}, {counts[1]}: max and sum of row 0", table[0].max(), "<=", table[0].sum())
    hits = [r.max() > r.sum() for _ in range(100) for r in pmi.table_of_channel(channel(run.rng))]
    run.measure("share of random rows that violate it", float(np.mean(hits)))


@matrix(
    "renyi-ladder",
    ref="A.3",
    says="Maximal aggregation is a tight lower bound of the sum and has the same optimisation direction.",
    verdict=Verdict.FALSE,
    corrected="0 ≤ KL = D_1 ≤ D_2 ≤ … ≤ D_∞ = max ≤ LSE ≤ max + log T: Rényi divergences of p(·|v_i) from q. They "
    "are ordered for each token, but they do not rank tokens alike.",
    why="Rényi divergences do not decrease with the order; order 1 is (18) and order ∞ is (19). LSE bounds close the "
    "chain.",
)
def _(run: Run) -> None:
    run.corrected("each rung below the next", laws.ladder, channel)
    rows = rows_of_counts((1, 1), (1, 3))
    c, kl = pmi.aggregate(rows, "max"), specific_surprise(rows)
    run.refutes(
        f"counts (1, 1), (1, 3): max {c[0]:.4f} > {c[1]:.4f}, so KL of row 0 against row 1",
        float(kl[0]),
        ">=",
        float(kl[1]),
    )
    table = synthetic(run.rng)
    sums = pmi.aggregate(table, "sum")
    top = pmi.aggregate(table, "max")
    run.measure("Spearman correlation of max and sum of PMI, 576 × 40", float(spearmanr(top, sums).statistic))
    keep = set(np.argsort(-top)[:64])
    for how in ("kl", "sum", "lse"):
        other = set(np.argsort(-pmi.aggregate(table, how))[:64])
        run.measure(f"tokens that max and {how} both keep of 64 (chance 7)", len(keep & other))


@matrix(
    "renyi-gap",
    ref="beyond",
    says="D_∞ − D_α ≤ log(1/p(t*|v_i))/(α−1) with t* the token of largest PMI: one knob from mean to max.",
    verdict=Verdict.HOLDS,
    corrected="With a finite order the score is as close to max as wanted, and smooth.",
    why="Keep only the term of t* in the sum: D_α ≥ (log p* + (α−1) max)/(α−1).",
)
def _(run: Run) -> None:
    def gap(rows: Array) -> float:
        q, table = rows.mean(0), pmi.table_of_channel(rows)
        star = rows[np.arange(len(rows)), table.argmax(1)]
        worst = -math.inf
        for order in (1.5, 2.0, 8.0, 50.0):
            limit = -np.log(star) / (order - 1)
            worst = max(worst, float((table.max(1) - renyi_divergence(rows, q, order) - limit).max()))
        return worst

    run.holds("orders 1.5, 2, 8, 50", gap, channel)


@matrix(
    "lse-dependence",
    ref="(43), (44)",
    says="LSE of PMI measures how much a token depends on the text: it is least at independence.",
    verdict=Verdict.FALSE,
    corrected="e^LSE_i = Σ_j p(t_j|v_i)/q_j is linear in p: a score of how rare the text tokens are that v_i "
    "prefers. Its mean over tokens is T whatever the table, and its q-weighted form is 0.",
    why="mean_i Σ_j p_ij/q_j = Σ_j q_j/q_j = T, so dependence cannot raise it everywhere.",
)
def _(run: Run) -> None:
    rows = rows_of_counts((99, 1), (81, 19))
    run.refutes(
        "rows (.99, .01), (.81, .19): LSE of row 0, log 1.2, against log 2 of a row that is independent",
        float(pmi.aggregate(rows, "lse")[0]),
        ">=",
        math.log(2),
    )
    run.corrected(
        "mean_i e^LSE_i = T",
        lambda rows: abs(float(np.exp(pmi.aggregate(rows, "lse")).mean()) - rows.shape[1]) / rows.shape[1],
        channel,
    )
    two = rows_of_counts((1, 3), (1, 1))
    kl, lse = specific_surprise(two), pmi.aggregate(two, "lse")
    run.refutes(
        f"counts (1, 3), (1, 1): KL {kl[0]:.4f} > {kl[1]:.4f}, so LSE of row 0 against row 1",
        float(lse[0]),
        ">=",
        float(lse[1]),
    )


@matrix(
    "max-lse-order",
    ref="A.3",
    says="max and LSE rank tokens alike.",
    verdict=Verdict.FALSE,
    corrected="They must agree where c_i − c_k > log T, and no smaller gap is enough. For two tokens and two text "
    "tokens they always agree.",
    why="max ≤ LSE ≤ max + log T. Tight: a row that is one-hot on an outcome a little more likely than 1/T, and the "
    "row q.",
)
def _(run: Run) -> None:
    rows = rows_of_counts((1, 1, 2), (1, 1, 1))
    top, lse = pmi.aggregate(rows, "max"), pmi.aggregate(rows, "lse")
    run.refutes(
        f"counts (1, 1, 2), (1, 1, 1): max {top[0]:.4f} > {top[1]:.4f}, so LSE of row 0 against row 1",
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

    run.corrected("a gap of log T decides", uncertified, sharp)
    run.corrected("2 × 2: never opposite", _opposite, lambda rng: models.random_channel(rng, 2, 2))
    e = 1e-3
    q = np.array([1 / 3 + e, 1 / 3 - e / 2, 1 / 3 - e / 2])
    one_hot = np.array([1.0, 0, 0])
    rest = (4 * q - one_hot - q) / 2
    close = np.stack([one_hot, q, rest, rest])
    gap, late = pmi.aggregate(close, "max"), pmi.aggregate(close, "lse")
    run.refutes(
        f"one-hot row and row q, T = 3: gap {gap[0] - gap[1]:.4f} of {math.log(3):.4f}, yet LSE of row 0 against row 1",
        float(late[0]),
        ">=",
        float(late[1]),
    )


def _opposite(rows: Array) -> float:
    top, lse = pmi.aggregate(rows, "max"), pmi.aggregate(rows, "lse")
    return float(-(top[0] - top[1]) * (lse[0] - lse[1]))


@matrix(
    "max-reflects-kl",
    ref="A.3, 5.5",
    says="A large maximum shows a token of large information.",
    verdict=Verdict.FALSE,
    corrected="c_i ≥ KL_i, with a gap that nothing controls: PMI prefers rare events. A binary divergence certifies "
    "pairs: see certificate-kl.",
    why="A text token of probability ε that only v_0 makes possible has PMI log N whatever ε, while its share of KL "
    "goes to 0.",
)
def _(run: Run) -> None:
    for e in (1e-2, 1e-4):
        rows = np.array([[e, 1 - e], [0, 1], [0, 1], [0, 1]])
        c = float(pmi.aggregate(rows, "max")[0])
        kl = float(specific_surprise(rows)[0])
        run.refutes(
            f"N = 4, event of probability {e:g} in row 0 only: max {c:.4f}, half of it against KL", c / 2, "<=", kl
        )
    run.corrected("KL ≤ max", laws.max_over_mean, channel)


@matrix(
    "certificate-kl",
    ref="beyond",
    says="If d(p*‖q*) > c_k, the binary divergence at i's strongest text token, then KL and max both rank i above k.",
    verdict=Verdict.HOLDS,
    corrected="Cheap to test for every pair of tokens; certifies part of the ranking, never wrongly.",
    why="Merging outcomes loses information: d ≤ KL_i ≤ c_i; and KL_k ≤ c_k < d.",
)
def _(run: Run) -> None:
    def wrong(rows: Array) -> float:
        sure = pmi.kl_certificate(rows)
        c, kl = pmi.aggregate(rows, "max"), specific_surprise(rows)
        reverse = np.maximum(c[None, :] - c[:, None], kl[None, :] - kl[:, None])
        return float(np.where(sure, reverse, -math.inf).max())

    draw = partial(models.random_channel, rows=8, columns=5)
    run.holds("certified pairs are ranked alike", wrong, draw)
    shares = [float(pmi.kl_certificate(draw(run.rng)).sum()) / 28 for _ in range(50)]
    run.measure("share of the 28 unordered pairs certified, 8 × 5", float(np.mean(shares)))


@matrix(
    "tail-law",
    ref="beyond",
    says="At most T N e^{−a} tokens have relevance ≥ a: the k-th largest score is ≤ min(log N, log(T N/k)).",
    verdict=Verdict.HOLDS,
    corrected="An a-priori scale for thresholds and adaptive budgets. It rests on columns that average to 1, so it "
    "fails for the self table unless its marginal is consistent.",
    why="Columns of e^C average to 1, so Σ_i e^{c_i} ≤ Σ_ij e^{C_ij} = N T; Markov's inequality.",
)
def _(run: Run) -> None:
    def beyond(rows: Array) -> float:
        return laws.tail(pmi.aggregate(rows, "max"), rows.shape[1])

    run.holds("any channel", beyond, channel)
    run.holds("60 × 10, sharp", beyond, lambda rng: synthetic(rng, 60, 10, 16, 0.05), share=0.25)
