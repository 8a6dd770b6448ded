"""Section 4.2: the marginal that stands under the self table."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from tokenprune_theory import models, pmi
from tokenprune_theory.discrete import Array, Joint, kl_divergence, log_sum_exp, specific_surprise
from tokenprune_theory.evidence import Exam
from tokenprune_theory.instances import Channel, Cosines, Tokens
from tokenprune_theory.registry import Verdict, topic
from tokenprune_theory.sequence import select

paper, guess, ours = topic("The self table and its marginal (4.2)")

TWO_AND_ONE = Tokens.of([[1, 0], [1, 0], [0, 1]], [[1, 0]], 1)
"""Two equal tokens and one orthogonal to them."""


def hub_and_spokes(n: int) -> Cosines:
    """A hub with n - 1 spokes at a cosine of 0.97 to it, which are orthogonal otherwise; temperature 1/100."""
    spoke = 0.97
    cos = np.full((n, n), 0.9409)
    cos[0], cos[:, 0] = spoke, spoke
    np.fill_diagonal(cos, 1)
    return Cosines(cos, 0.01)


def _kernel(rng: np.random.Generator) -> tuple[Array, float]:
    x = models.random_embeddings(rng, int(rng.integers(2, 9)), int(rng.integers(1, 5)))
    return x @ x.T, float(rng.choice([0.1, 0.5, 2.0]))


@paper(
    "uniform-marginal",
    ref="4.2, Algorithm 1 line 7; (15), (17)",
    assumes=("cosines",),
    says="p(v_j) = 1/N goes together with the row softmax p(v_j|v_i).",
    verdict=Verdict.FALSE,
    corrected="The law of total probability, used for text in (16), gives q_j = mean_i p(v_j|v_i), which is not 1/N. "
    "The price: mean_i KL(p_i ‖ 1/N) = MI(V;V') + KL(q ‖ 1/N).",
    why="Rows are normalised, columns are not: mean_i e^{D_ij} = N q_j. Tokens in dense regions get q_j > 1/N.",
)
def uniform_marginal(exam: Exam) -> None:
    q = np.exp(pmi.log_marginal(pmi.log_rows(pmi.cosines(TWO_AND_ONE.visual, TWO_AND_ONE.visual))))
    exam.refutes("v = e1, e1, e2, τ = 1: mean_i p(v_0|v_i)", TWO_AND_ONE, float(q[0]), "==", 1 / 3)
    wheel = hub_and_spokes(576)
    hub = 576 * float(np.exp(pmi.log_marginal(pmi.log_rows(wheel.table / wheel.tau))[0]))
    exam.refutes("a hub and 575 spokes, cosines .97 and .97², τ = 1/100: N q_hub", wheel, hub, "==", 1.0)

    def price(cos: Array, tau: float) -> float:
        rows = np.exp(pmi.log_rows(cos / tau))
        uniform = np.full(len(rows), 1 / len(rows))
        mi = Joint(rows / len(rows), ("v0", "t")).mutual_information("v0", "t")
        return abs(float(kl_divergence(rows, uniform).mean()) - mi - float(kl_divergence(rows.mean(0), uniform)))

    exam.corrected("the price is exact", price, _kernel)
    exam.corrected(
        "mean_j e^{D_ij} = 1 in rows, mean_i e^{D_ij} = N q_j in columns",
        lambda cos, tau: max(
            float(np.abs(np.exp(pmi.self_pmi(cos, tau)).mean(1) - 1).max()),
            float(
                np.abs(
                    np.exp(pmi.self_pmi(cos, tau)).mean(0) / len(cos) - np.exp(pmi.log_rows(cos / tau)).mean(0)
                ).max()
            ),
        ),
        _kernel,
    )


@guess(
    "self-tail",
    about="(17), (20)",
    assumes=("cosines",),
    says="At most N e^{−a} tokens have D_ij ≥ a with a selected token j, as for PMI with a text token.",
    verdict=Verdict.FALSE,
    corrected="With a marginal that the table has (total, stationary for its own prior, sinkhorn). With 1/N a token "
    "in a dense region looks redundant to nearly all others at once.",
    why="Markov's inequality needs columns of e^D that average to 1; with 1/N they average to N q_j.",
)
def self_tail(exam: Exam) -> None:
    wheel = hub_and_spokes(100)
    column = pmi.self_pmi(wheel.table, wheel.tau)[:, 0]
    exam.refutes(
        "a hub and 99 spokes, cosines .97 and .97², τ = 1/100: tokens with D ≥ 1 to the hub, and 100/e",
        wheel,
        int((column >= 1).sum()),
        "<=",
        100 / math.e,
    )

    def beyond(cos: Array, tau: float, how: str) -> float:
        d = np.sort(pmi.self_pmi(cos, tau, how), axis=0)[::-1]
        rank = np.arange(1, len(d) + 1)[:, None]
        return float((d - np.log(len(d) / rank)).max())

    for how in ("total", "sinkhorn"):
        exam.corrected(f"marginal {how}", partial(beyond, how=how), _kernel, tolerance=1e-9, share=0.5)


@guess(
    "self-symmetric",
    about="(17), (20)",
    assumes=("cosines",),
    says="PMI between visual tokens is symmetric, as pointwise mutual information is.",
    verdict=Verdict.FALSE,
    corrected="D_ij − D_ji = log Z_j − log Z_i: symmetric for a pair exactly when both normalisers are equal. Which "
    "index is the candidate matters.",
    why="The kernel is symmetric, the row normaliser is not.",
)
def self_symmetric(exam: Exam) -> None:
    d = TWO_AND_ONE.pairs
    exam.refutes("v = e1, e1, e2, τ = 1: D_02 and D_20", TWO_AND_ONE, float(d[0, 2]), "==", float(d[2, 0]))

    def identity(cos: Array, tau: float) -> float:
        d, z = pmi.self_pmi(cos, tau), log_sum_exp(cos / tau, axis=1)
        return float(np.abs(d - d.T - (z[None, :] - z[:, None])).max())

    exam.corrected("the difference is that of the normalisers", identity, _kernel)
    angles = 2 * np.pi * np.arange(7) / 7
    circle = np.cos(angles[:, None] - angles[None, :])
    exam.corrected(
        "orthonormal tokens and points around a circle: symmetric",
        lambda cos: np.abs(pmi.self_pmi(cos, 0.1) - pmi.self_pmi(cos, 0.1).T).max(),
        [np.eye(5), circle],
    )


@ours(
    "self-diagonal",
    about="(15), (17)",
    says="D_ii is the largest entry of its row, and 0 ≤ D_ii ≤ log N − log(1 + (N−1)e^{−2/τ}).",
    verdict=Verdict.HOLDS,
    corrected="Algorithm 1 never reads it, but e^{1/τ} is inside Z_i. An exact duplicate of a selected token has "
    "D_ij = D_ii.",
    why="cos_ii = 1 is the largest cosine; the mean of e^{D_ij} over j is 1; and no cosine is below −1.",
)
def self_diagonal(exam: Exam) -> None:
    def error(cos: Array, tau: float) -> float:
        d, n = pmi.self_pmi(cos, tau), len(cos)
        diagonal = np.diag(d)
        high = math.log(n) - math.log1p((n - 1) * math.exp(-2 / tau))
        return float(max((d.max(1) - diagonal).max(), -diagonal.min(), diagonal.max() - high))

    exam.holds("random tokens", error, _kernel)


@ours(
    "marginal-total",
    about="4.2",
    says="With q_j = mean_i p(v_j|v_i) the table is the PMI of a joint distribution: columns of e^D average to 1.",
    verdict=Verdict.HOLDS,
    corrected="Option marginal='total'. Valid, and not symmetric.",
    why="The law of total probability for a uniform prior.",
)
def marginal_total(exam: Exam) -> None:
    def error(cos: Array, tau: float) -> float:
        return float(np.abs(np.exp(pmi.self_pmi(cos, tau, "total")).mean(0) - 1).max())

    exam.holds("columns", error, _kernel)


@ours(
    "marginal-stationary",
    about="4.2",
    says="With the prior π_i ∝ Z_i the marginal is the prior itself, the joint is proportional to the kernel, and "
    "PMI is symmetric.",
    verdict=Verdict.HOLDS,
    corrected="Option marginal='stationary'. Same conditional p(v_j|v_i), another prior: dense regions are more "
    "probable.",
    why="Σ_i Z_i p(v_j|v_i) = Σ_i e^{cos_ij/τ} = Z_j, by symmetry of the kernel.",
)
def marginal_stationary(exam: Exam) -> None:
    def error(cos: Array, tau: float) -> float:
        rows = np.exp(pmi.log_rows(cos / tau))
        kernel = np.exp((cos - 1) / tau)
        z = kernel.sum(1) / kernel.sum()
        d = pmi.self_pmi(cos, tau, "stationary")
        return max(
            float(np.abs(z @ rows - z).max()),
            float(np.abs(d - d.T).max()),
            float(np.abs(z[:, None] * z[None, :] * np.exp(d) - kernel / kernel.sum()).max()),
        )

    exam.holds("stationary, symmetric, joint ∝ kernel", error, _kernel)


@ours(
    "marginal-sinkhorn",
    about="4.2",
    says="Scaling the kernel on both sides makes both marginals exactly 1/N, as the paper assumes, and PMI symmetric.",
    verdict=Verdict.HOLDS,
    corrected="Option marginal='sinkhorn': the faithful form of a uniform prior. Damped steps, since full ones swing.",
    why="A symmetric positive kernel has one scaling vector u with u_i Σ_j k_ij u_j = 1/N.",
)
def marginal_sinkhorn(exam: Exam) -> None:
    def error(cos: Array, tau: float) -> float:
        d = pmi.self_pmi(cos, tau, "sinkhorn")
        return max(float(np.abs(np.exp(d).mean(0) - 1).max()), float(np.abs(d - d.T).max()))

    exam.holds("uniform marginals, symmetric", error, _kernel, tolerance=1e-10, share=0.5)
    agree: dict[str, list[float]] = {how: [] for how in ("total", "stationary", "sinkhorn")}
    for _ in range(3):
        x = models.random_embeddings(exam.rng, 80, 8)
        c = exam.rng.exponential(size=80)
        paper = set(select(c, pmi.self_pmi(x @ x.T, 0.1), 0.5, 16).order)
        for how, shares in agree.items():
            shares.append(len(paper & set(select(c, pmi.self_pmi(x @ x.T, 0.1, how), 0.5, 16).order)) / 16)
    for how, shares in agree.items():
        exam.measure(f"overlap of 16 of 80 tokens, uniform and {how}", float(np.mean(shares)))


@guess(
    "index-model-optimum",
    about="4.2",
    assumes=("softmax",),
    says="With tokens as outcomes, the share of MI(V;T) that a set holds is Σ_{i∈S} KL_i/N, and maximal aggregation "
    "maximises it.",
    verdict=Verdict.FALSE,
    corrected="It is modular, and the top k by KL (aggregator 'mean') maximise it; by max they need not.",
    why="MI(V;T) = mean_i KL_i, a sum over tokens.",
)
def index_model_optimum(exam: Exam) -> None:
    two = Channel.of_counts((1, 1), (1, 3))
    kl, top = specific_surprise(two.rows), pmi.aggregate(two.rows, "max")
    exam.refutes(
        "counts (1, 1), (1, 3), keep 1: KL of the token chosen by max against the other",
        two,
        float(kl[top.argmax()]),
        ">=",
        float(kl[top.argmin()]),
    )

    def apart(rows: Array) -> float:
        mi = Joint(rows / len(rows), ("v0", "t")).mutual_information("v0", "t")
        return abs(mi - float(specific_surprise(rows).sum()) / len(rows))

    exam.corrected("MI(V;T) = Σ_i KL_i/N", apart, partial(models.random_channel, rows=6, columns=4))
    rows = models.random_channel(exam.rng, 200, 20)
    kl, top = specific_surprise(rows), pmi.aggregate(rows, "max")
    for label, score in (("KL", kl), ("max", top)):
        exam.measure(f"share of MI(V;T) in the top 20 of 200 by {label}", kl[np.argsort(-score)[:20]].sum() / kl.sum())
