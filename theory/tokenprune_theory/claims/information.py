"""Sections 3.3, A.1 and A.2: information identities, submodularity, and what greedy selection is worth."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import rel_entr

from tokenprune_theory import models, pmi, violations
from tokenprune_theory.discrete import Array, Joint, specific_surprise
from tokenprune_theory.evidence import Exam
from tokenprune_theory.instances import Channel
from tokenprune_theory.registry import Verdict, topic
from tokenprune_theory.sequence import select
from tokenprune_theory.setfn import (
    TableFunction,
    brute_force_max,
    greedy,
    monotone_violation,
    nemhauser_bound,
    submodular_violation,
    tabulate,
)

BIT = math.log(2)

paper, guess, ours = topic("Information (3.3, A.1, A.2)")


def _pairs(rng: np.random.Generator) -> Joint:
    return models.random_joint(rng, tuple(rng.integers(1, 5, size=2)))


def _triples(rng: np.random.Generator) -> Joint:
    return models.random_joint(rng, tuple(rng.integers(1, 4, size=3)))


def _four(rng: np.random.Generator) -> Joint:
    return models.random_joint(rng, (2, 2, 3, 2))


def _bayes(rng: np.random.Generator) -> Joint:
    return models.random_naive_bayes(rng, n=4)


def _channel(rng: np.random.Generator) -> Array:
    return models.random_channel(rng, int(rng.integers(1, 7)), int(rng.integers(1, 7)))


EDGES = [
    Joint(np.eye(3) / 3, ("t", "v0")),
    Joint(np.full((2, 3), 1 / 6), ("t", "v0")),
    Joint(np.ones((1, 1)), ("t", "v0")),
]
"""Deterministic, independent, and of one symbol."""


@paper(
    "entropy",
    ref="Def. 4, (25); A.4",
    says="0 ≤ H(X) ≤ log n; the uniform distribution, and no other, has the most entropy.",
    verdict=Verdict.HOLDS,
    corrected="True of the prior p(v). It says nothing of the marginal p(t) that the prior induces, and being the "
    "least informative choice does not make it the right one.",
    why="log n − H(p) = KL(p ‖ uniform) ≥ ½ ‖p − uniform‖₁² by Pinsker, which is 0 only at the uniform.",
)
def entropy(exam: Exam) -> None:
    exam.holds(
        "range and equality case", violations.entropy_range, lambda rng: rng.dirichlet(np.ones(rng.integers(1, 9)))
    )


@paper(
    "mi-forms",
    ref="Def. 1, (6), (7), (32)",
    says="MI(X;Y) = H(X) − H(X|Y) = H(Y) − H(Y|X) = E[PMI].",
    verdict=Verdict.HOLDS,
    corrected="With 0 · log 0 = 0; zero cells, one-symbol alphabets and deterministic channels included.",
    why="Write p(x,y) = p(x|y) p(y) inside the logarithm and sum out.",
)
def mi_forms(exam: Exam) -> None:
    exam.holds("five forms agree", violations.information_forms, _pairs)
    exam.holds("deterministic, independent, one symbol", violations.information_forms, EDGES)


@ours(
    "mi-sign",
    about="Def. 1",
    says="MI is symmetric, not negative, and 0 only for independent variables.",
    verdict=Verdict.HOLDS,
    corrected="In floating point −1e-16 occurs: clamp when displaying, never when testing.",
    why="Pinsker: MI(X;Y) = KL(p(x,y) ‖ p(x)p(y)) ≥ ½ ‖p(x,y) − p(x)p(y)‖₁².",
)
def mi_sign(exam: Exam) -> None:
    exam.holds("symmetric and above Pinsker's bound", violations.information_sign, _pairs)
    exam.holds("product distributions give 0", lambda j: abs(j.mutual_information("t", "v0")), [EDGES[1], EDGES[2]])


@paper(
    "conditional-forms",
    ref="Defs 5, 6, (26)–(28)",
    says="H(X|Y) = −Σ p(x,y) log p(x|y); MI(X;Y|Z) = H(X|Z) − H(X|Y,Z) = Σ p(x,y,z) log p(x|y,z)/p(x|z) ≥ 0.",
    verdict=Verdict.HOLDS,
    corrected="The sum in (26) is printed over an index u that its summand does not have; x is meant.",
    why="Chain rule of entropy; CMI is an average over z of KL divergences.",
)
def conditional_forms(exam: Exam) -> None:
    exam.holds("sums agree with entropies", violations.conditional_forms, _triples)


@paper(
    "chain-rule",
    ref="Def. 2, (8), (10)–(12), (33)–(38)",
    says="The gain MI(S∪v;T) − MI(S;T) is MI(v;T|S) = MI(v;T,S) − MI(v;S) = MI(v;S|T) + MI(v;T) − MI(v;S).",
    verdict=Verdict.HOLDS,
    corrected="For all variables: no independence is needed up to here.",
    why="Chain rule of mutual information, applied twice to MI(v; T, S).",
)
def chain_rule(exam: Exam) -> None:
    exam.holds("five forms agree", violations.chain_rule, _four)


@paper(
    "kl-form",
    ref="(53), (54)",
    says="Σ_j p(t_j|v_i) PMI(v_i;t_j) = KL(p(·|v_i) ‖ p).",
    verdict=Verdict.HOLDS,
    corrected="It is the specific surprise of one outcome, not a mutual information: MI(V;T) is its average over i.",
    why="By definition; averaging over the prior gives Σ p(v,t) log p(t|v)/p(t).",
)
def kl_form(exam: Exam) -> None:
    exam.holds("row KL, and its average is MI(V;T)", violations.kl_average, _channel)


@paper(
    "joint-weights",
    ref="(18)",
    assumes=("softmax",),
    says="The weight p(v_i;x_j) of the average may be read as p(x_j|v_i).",
    verdict=Verdict.FALSE,
    corrected="p(v_i, x_j) = p(x_j|v_i)/N: the joint-weighted sum is KL_i/N. The order of tokens is the same, the "
    "magnitude is not, and with it what λ means.",
    why="Uniform prior: the joint is the conditional over N.",
)
def joint_weights(exam: Exam) -> None:
    def weighted(rows: Array) -> Array:
        return np.asarray(rel_entr(rows / len(rows), np.broadcast_to(rows.mean(0) / len(rows), rows.shape)).sum(1))

    two = Channel.of_counts((3, 1), (1, 3))
    exam.refutes(
        "rows (¾,¼), (¼,¾): joint-weighted mean of row 0 against its KL",
        two,
        float(weighted(two.rows)[0]),
        "==",
        float(specific_surprise(two.rows)[0]),
    )
    exam.corrected(
        "KL_i = N times the joint-weighted mean",
        lambda rows: np.abs(len(rows) * weighted(rows) - specific_surprise(rows)).max(),
        _channel,
    )


@paper(
    "total-probability",
    ref="Prop. A.1, (16), (48)–(50)",
    assumes=("softmax",),
    says="p(t_j) = (1/N) Σ_i p(t_j|v_i), since patches are equally probable, exclusive and exhaustive events.",
    verdict=Verdict.HOLDS,
    corrected="The events are the indices 1..N, so that equal embeddings are different events; that the mapping from "
    "patch to token is deterministic does not make the embeddings themselves exclusive. A.4 lists tokens from i = 0, "
    "which would be N + 1 events of probability 1/N.",
    why="Indices are exclusive and exhaustive whatever stands at them. Embeddings are not once two patches are alike: "
    "as events they are fewer than N.",
)
def total_probability(exam: Exam) -> None:
    def counted(rows: Channel) -> float:
        # a finite experiment: draw an index, then one of its balls, of which every row has as many; count the balls
        balls = np.round(rows.rows * 60).astype(int)
        drawn = [(i, j) for i, row in enumerate(balls) for j, times in enumerate(row) for _ in range(times)]
        text = np.array([sum(j == outcome for _, outcome in drawn) for j in range(rows.rows.shape[1])]) / len(drawn)
        return float(np.abs(text - np.exp(pmi.log_marginal(np.log(rows.rows)))).max())

    def urns(rng: np.random.Generator) -> Channel:
        n, t = int(rng.integers(1, 5)), int(rng.integers(1, 5))
        balls = 1 + rng.multinomial(60 - t, np.full(t, 1 / t), size=n)
        return Channel(np.vstack([balls, balls[:1]]) / 60)

    exam.holds(
        "drawing an index, then a text token: balls counted, duplicates included", counted, urns, 1e-14, share=0.5
    )
    twins = Channel.of_counts((3, 1), (3, 1), (1, 3))
    exam.weaker(
        "embeddings as events: text (¾,¼), (¾,¼), (¼,¾): p(t_0) over the two that differ, against over three indices",
        twins,
        float(np.unique(twins.rows, axis=0).mean(0)[0]),
        "==",
        float(twins.rows.mean(0)[0]),
        without="distinct",
    )


@paper(
    "definitions-agree",
    ref="Defs 3, 7, (9), (29)",
    says="Diminishing returns and the lattice inequality define the same functions.",
    verdict=Verdict.HOLDS,
    corrected="And it is enough to check sets that differ by one element.",
    why="The lattice inequality for S∪i and S∪j is one step of diminishing returns; longer steps telescope.",
)
def definitions_agree(exam: Exam) -> None:
    def draw(rng: np.random.Generator) -> TableFunction:
        n = int(rng.integers(2, 5))
        size = np.array([m.bit_count() for m in range(2**n)])
        # concave in the size is submodular; more or less noise of one unit makes it a close call
        noise = rng.integers(-1, 2, size=2**n) * (rng.random(2**n) < rng.random())
        return TableFunction((size * (2 * n + 1 - size) // 2 + noise).astype(np.float64))

    exam.holds("verdicts of both checks", violations.lattice_equivalence, draw, tolerance=0)
    shares = [bool(submodular_violation(draw(exam.rng))) for _ in range(100)]
    exam.measure("share of the instances that are not submodular", float(np.mean(shares)))


@paper(
    "mi-submodular",
    ref="A.2",
    assumes=("joint",),
    says="Mutual information exhibits submodularity (diminishing returns).",
    verdict=Verdict.FALSE,
    corrected="Not in general, as the paper itself goes on to say: S ↦ MI(V_S;T) is submodular under an assumption "
    "such as conditional independence.",
    why="T = A xor B with fair bits: A alone says nothing of T, and neither does B; together they say all. The second "
    "gain is larger than the first. The paper's left-and-right-part remark is this case.",
)
def mi_submodular(exam: Exam) -> None:
    hidden = models.parity(2)
    f = models.information(hidden)
    exam.refutes(
        "T = A xor B: gain of B after A, and at first (bits)",
        hidden,
        (f((0, 1)) - f((0,))) / BIT,
        "<=",
        f((1,)) / BIT,
    )
    counts = np.zeros((2, 2, 2))
    counts[0, 1, 0] = counts[1, 0, 0] = counts[1, 1, 1] = 1
    three = models.from_counts(counts)
    g = models.information(three)
    exam.refutes(
        "(t, v0, v1) uniform on 010, 100, 111: f(both), and f(v0) + f(v1) (bits)",
        three,
        g((0, 1)) / BIT,
        "<=",
        (g((0,)) + g((1,))) / BIT,
    )
    hits = [
        violations.information_submodular(models.random_joint(exam.rng, (2,) * 5, zeros=False)) > 1e-9
        for _ in range(50)
    ]
    exam.measure("share of flat random joints of 5 bits that are not submodular", float(np.mean(hits)))


@paper(
    "mi-submodular-ci",
    ref="A.2, (30), (31)",
    assumes=("independence",),
    says="MI(V_S;T) is submodular if a candidate and the selected set are independent given T.",
    verdict=Verdict.HOLDS,
    corrected="As worded, for every candidate and set, (30) is mutual independence given T. The weaker reading, "
    "independence of pairs, is not enough. Sufficient, not necessary.",
    why="Under it MI(V_S;T) = H(V_S) − Σ_{i∈S} H(v_i|T): entropy, which is submodular, minus a modular function.",
)
def mi_submodular_ci(exam: Exam) -> None:
    exam.holds("naive Bayes, all subsets", violations.information_submodular, _bayes, share=0.5)
    three = models.parity(3)
    f = models.information(three)
    exam.weaker(
        "independent pairs only, T = xor of three bits: gain of v2 after v0 and v1, and at first (bits)",
        three,
        (f((0, 1, 2)) - f((0, 1))) / BIT,
        "<=",
        f((2,)) / BIT,
        without="independence",
        under=("joint", "pairs independent"),
    )
    exam.corrected(
        "there MI(v2; {v0, v1} | T) is one bit",
        lambda j: abs(j.mutual_information("v2", ("v0", "v1"), "t") - BIT),
        [three],
    )
    # t fair, v0 = v1 = t xor a noise bit of probability 1/4: dependent given t, and submodular all the same
    counts = np.zeros((2, 2, 2))
    for t in (0, 1):
        counts[t, t, t], counts[t, 1 - t, 1 - t] = 3, 1
    exam.corrected(
        "v0 = v1 = noisy T: dependent given T, yet submodular",
        violations.information_submodular,
        [models.from_counts(counts)],
    )


@paper(
    "mi-monotone",
    ref="3.3",
    says="MI(V_S;T) does not decrease as S grows (the paper: under conditional independence).",
    verdict=Verdict.HOLDS,
    corrected="Without any assumption.",
    why="A gain is a conditional mutual information, and those are not negative.",
)
def mi_monotone(exam: Exam) -> None:
    exam.holds("arbitrary joints, all subsets", violations.information_monotone, _four)


def _tight(k: int) -> TableFunction:
    """Coverage where greedy, ties to the lowest index, is as bad as it can be: k slices across, then k blocks.

    k blocks of k^(k-1) elements each are the best choice. Slice m takes from each block 1/k of what slices before it
    left, so that it always gains exactly as much as a block does.
    """
    blocks: list[set[tuple[int, int]]] = [{(b, e) for e in range(k ** (k - 1))} for b in range(k)]
    left = [sorted(block) for block in blocks]
    slices = []
    for _ in range(k - 1):
        share = len(left[0]) // k
        slices.append({e for rest in left for e in rest[:share]})
        left = [rest[share:] for rest in left]
    sets = [*slices, *blocks]
    return tabulate(lambda s: float(len(set().union(*(sets[i] for i in s)))), len(sets))


@guess(
    "greedy-guarantee",
    about="3.3, (13)",
    assumes=("joint",),
    needs=("independence",),
    says="Greedy selection reaches 1 − 1/e of the best MI(V_S;T).",
    verdict=Verdict.ASSUMING,
    corrected="Assuming exact mutual information and mutual independence given T: greedy ≥ (1 − (1 − 1/k)^k) · OPT, "
    "and no better constant holds.",
    why="Nemhauser, Wolsey and Fisher 1978 for monotone submodular functions. Tight: cover disjoint blocks of fair "
    "bits, with slices across the blocks that tie with the blocks and come first.",
)
def greedy_guarantee(exam: Exam) -> None:
    def draw(rng: np.random.Generator) -> tuple[TableFunction, int]:
        return models.information(models.random_naive_bayes(rng, n=5)), int(rng.integers(2, 5))

    exam.holds_if("naive Bayes, against brute force", violations.greedy_shortfall, draw, tolerance=1e-9, share=0.5)
    exam.holds_if(
        "attained for k = 2, 3, 4 (value ratios 3/4, 19/27, 175/256)",
        lambda k: abs(greedy(_tight(k), k).value / brute_force_max(_tight(k), k)[0] - nemhauser_bound(k)),
        [2, 3, 4],
    )
    sets = [[0, 2], [0, 1], [2, 3]]
    cover = tabulate(lambda s: float(len(set().union(*(sets[i] for i in s)))), 3)
    exam.holds_if(
        "bits a, b, c, d; candidates (a,c), (a,b), (c,d): MI is the number of bits covered",
        lambda f: np.abs(f.values / BIT - cover.values).max(),
        [models.information(models.coverage_bits(sets))],
    )
    exam.holds_if(
        "there, k = 2: 3 bits of 4",
        lambda f: abs(greedy(f, 2).value / brute_force_max(f, 2)[0] - 0.75),
        [cover],
    )
    hidden = models.dependent(2, 0.45)
    f = models.information(hidden)
    exam.refutes(
        "T = A xor B, two copies of T with 9 in 20 flipped, k = 2: greedy over optimum",
        hidden,
        greedy(f, 2).value / brute_force_max(f, 2)[0],
        ">=",
        1 - 1 / math.e,
    )


@guess(
    "greedy-without-ci",
    about="3.3",
    assumes=("joint",),
    says="Greedy selection on MI keeps some constant factor without the independence assumption.",
    verdict=Verdict.FALSE,
    corrected="The ratio goes to 0. What remains is 1 − e^−γ with the submodularity ratio γ, and γ = 0 for an xor.",
    why="Bits A, B with T = A xor B have no gain alone; any copy of T, however noisy, is picked first.",
)
def greedy_without_ci(exam: Exam) -> None:
    for flip in (0.45, 0.48):
        hidden = models.dependent(2, flip)
        f = models.information(hidden)
        exam.refutes(
            f"T = A xor B, two copies of T flipped with probability {flip}, k = 2: greedy over optimum",
            hidden,
            greedy(f, 2).value / brute_force_max(f, 2)[0],
            ">=",
            0.05,
        )


@paper(
    "estimator",
    ref="A.2, (31), (38), (39)",
    assumes=("independence",),
    says="MI(v;T) − MI(v;S) is the gain MI(v;T|S).",
    verdict=Verdict.HOLDS,
    corrected="Under (31), MI(v;S|T) = 0. Without it the gain is larger by exactly MI(v;S|T): (39) is a lower bound.",
    why="(38) without its first term.",
)
def estimator(exam: Exam) -> None:
    exam.holds("naive Bayes, all sets", violations.estimator_error, _bayes, share=0.5)
    exam.corrected("gain − (39) = MI(v;S|T) ≥ 0 for any joint", violations.estimator_identity, _four)
    hidden = models.parity(2)
    exam.weaker(
        "without (31), T = A xor B: (39) and the gain of B after A (bits)",
        hidden,
        _estimate_after(hidden) / BIT,
        "==",
        _gain_after(hidden) / BIT,
        without="independence",
        under=("joint",),
    )


def _gain_after(joint: Joint) -> float:
    return joint.mutual_information("v1", "t", "v0")


def _estimate_after(joint: Joint) -> float:
    return joint.mutual_information("v1", "t") - joint.mutual_information("v1", "v0")


@guess(
    "estimator-sign",
    about="(39)",
    assumes=("independence",),
    says="(39) can serve as a gain: it is not negative, as gains of MI are.",
    verdict=Verdict.HOLDS,
    corrected="Under (31), from which the paper derives (39): data processing bounds MI(v;S) by MI(v;T). "
    "Without it the estimate is negative whenever tokens share more with each other than with T.",
    why="MI(v;S) is not bounded by MI(v;T) unless S and v meet only through T.",
)
def estimator_sign(exam: Exam) -> None:
    exam.holds("naive Bayes, all sets: (39) ≥ 0", violations.negative_estimate, _bayes, share=0.5)
    counts = np.zeros((2, 2, 2))
    counts[0, 1, 0], counts[1, 0, 0], counts[1, 1, 1] = 1, 2, 1
    joint = models.from_counts(counts)
    exam.weaker(
        "without (31), counts (t,v0,v1) 010×1, 100×2, 111×1: estimate for v1 after v0",
        joint,
        _estimate_after(joint),
        ">=",
        0.0,
        without="independence",
        under=("joint",),
    )
    exam.measure("its true gain there", _gain_after(joint))
    exam.measure("MI(v1;v0|T) there, which (31) says is 0", joint.mutual_information("v1", "v0", "t"))
    draws = [_estimate_after(models.random_joint(exam.rng, (2, 2, 2), zeros=False)) < 0 for _ in range(200)]
    exam.measure("share of flat random joints of 3 bits where the estimate is negative", float(np.mean(draws)))


@paper(
    "independence-forms",
    ref="A.2, (30), (31)",
    says="p(v,S|T) = p(v|T) p(S|T) and MI(v;S|T) = 0 say the same.",
    verdict=Verdict.HOLDS,
    corrected="For each candidate and set. How far one fails bounds how far the other does.",
    why="MI(v;S|T) is the mean over t of KL(p(v,S|t) ‖ p(v|t) p(S|t)), which is 0 exactly where both are equal, and by "
    "Pinsker at least half the squared distance between them.",
)
def independence_forms(exam: Exam) -> None:
    exam.holds("any joint: MI(v;S|T) is that KL, and at least Pinsker's bound", violations.independence_apart, _four)
    exam.holds("products p(t) p(v|t) p(S|t): MI(v;S|T) = 0", violations.independence_error, _bayes, share=0.5)


@paper(
    "cross-term",
    ref="A.2, (37)–(39), below (39)",
    assumes=("independence",),
    says="Under (31) the crossmodal term MI(v;T,S) is MI(v;T).",
    verdict=Verdict.HOLDS,
    corrected="An equality, not only a limit. Without (31) the term is larger by MI(v;S|T).",
    why="Chain rule: MI(v;T,S) = MI(v;T) + MI(v;S|T).",
)
def cross_term(exam: Exam) -> None:
    exam.holds("naive Bayes", violations.cross_term_error, _bayes, share=0.5)
    hidden = models.parity(2)
    exam.weaker(
        "without (31), T = A xor B: MI(B;T,A) and MI(B;T) (bits)",
        hidden,
        hidden.mutual_information("v1", ("t", "v0")) / BIT,
        "==",
        hidden.mutual_information("v1", "t") / BIT,
        without="independence",
        under=("joint",),
    )


@paper(
    "relevance-dominates",
    ref="A.2, below (39)",
    assumes=("independence",),
    says="(31) implies that crossmodal relevance is much stronger than internal redundancy.",
    verdict=Verdict.FALSE,
    corrected="It implies MI(v;S) ≤ MI(v;T), with equality possible, and nothing stronger.",
    why="Data processing on v – T – S. With T = v0 = v1 both are H(T).",
)
def relevance_dominates(exam: Exam) -> None:
    joint = models.functions_of_bits(1, [1], [[1], [1]])
    exam.refutes(
        "T = v0 = v1, a fair bit: MI(v0;v1) against half of MI(v0;T) (bits)",
        joint,
        joint.mutual_information("v0", "v1") / BIT,
        "<=",
        joint.mutual_information("v0", "t") / 2 / BIT,
    )
    exam.corrected("MI(v;S) ≤ MI(v;T) under (30)", violations.bottleneck, _bayes)


@paper(
    "sparse-overlap",
    ref="A.2, below (39)",
    assumes=("independence",),
    says="Keeping less than half of the tokens leads to trivial overlap among those kept.",
    verdict=Verdict.FALSE,
    corrected="How many are kept does not bound how alike they are: that depends on the tokens and on the rule. Under "
    "(30) the overlap of a kept token with the others is at most MI(v;T), and copies attain that at any rate. What "
    "makes overlap small is a term that charges for it. What the paper calls empirically justified is about its data, "
    "and is not tried here.",
    why="Of ten tokens let five show the same bit. The two of largest MI(v;T) are two of these, and share all they "
    "say.",
)
def sparse_overlap(exam: Exam) -> None:
    # bits a, b with a read off exactly by five tokens; five others read b through noise of one in four
    prior = np.full(4, 0.25)
    a, b = np.arange(4) // 2, np.arange(4) % 2
    sharp = np.stack([1.0 - a, a], 1)
    noisy = np.stack([0.75 - b / 2, 0.25 + b / 2], 1)
    joint = models.naive_bayes(prior, [sharp] * 5 + [noisy] * 5)
    ranked = sorted(range(10), key=lambda i: (-joint.mutual_information(f"v{i}", "t"), i))
    first, second = (f"v{i}" for i in ranked[:2])
    exam.refutes(
        "five tokens show bit a, five a noisy bit b, keep 2 of 10 by MI(v;T): share of one's information that the "
        "other repeats",
        joint,
        joint.mutual_information(first, second) / joint.mutual_information(first, "t"),
        "<=",
        0.5,
    )
    exam.corrected("the overlap is at most MI(v;T)", violations.bottleneck, _bayes)
    for keep in (5, 10, 20):
        shares = []
        for _ in range(20):
            x = models.random_embeddings(exam.rng, 40, 8)
            top = np.argsort(-x[:, 0])[:keep]
            shares.append(float(np.sort(x[top] @ x[top].T, axis=1)[:, -2].mean()))
        exam.measure(f"mean cosine of a kept token to its nearest kept one, top {keep} of 40", float(np.mean(shares)))


def _xor_masks(r: int) -> list[int]:
    """All XORs of r bits, and as many further bits as make 2^r - 1 single ones."""
    return [*models.xors(r), *(1 << b for b in range(r, 2**r - 1))]


def _xor_pool(r: int) -> Joint:
    """These as candidates, with T all of the bits."""
    return models.functions_of_bits(2**r - 1, [1 << b for b in range(2**r - 1)], [[mask] for mask in _xor_masks(r)])


def _pairwise_max_ratio(r: int) -> tuple[float, float]:
    """Greedy with MI(v;T) - max_j MI(v;v_j), over the optimum, on all XORs of r bits followed by further bits."""
    k = 2**r - 1
    pool = _xor_masks(r)
    # every candidate is a fair bit that T determines, and two different XORs are independent
    pairs = np.eye(len(pool))
    picks = select(np.ones(len(pool)), pairs, 0.5, k).order
    return float(models.gf2_rank([pool[i] for i in picks])), float(k)


@guess(
    "pairwise-redundancy",
    about="(39) and (20)",
    assumes=("independence",),
    says="The largest redundancy with one selected token stands in for the redundancy with the set.",
    verdict=Verdict.FALSE,
    corrected="max_j MI(v;v_j) ≤ MI(v;S) and no more: with it greedy reaches log₂(k+1)/k of the optimum, so no "
    "constant factor is left, even under exact conditional independence. The sum over pairs is no upper bound either.",
    why="T = (A, B), candidates A, B, A xor B: all pairs are independent, the three together are not. With all 2^r − "
    "1 xors of r bits first in the pool and k = 2^r − 1, every step is a tie; the picks have rank r while the "
    "optimum is k.",
)
def pairwise_redundancy(exam: Exam) -> None:
    joint = models.functions_of_bits(2, [1, 2], [[1], [2], [3]])
    exam.refutes(
        "T = (A,B), v = A xor B, S = {A, B}: MI(v;S) against the largest MI(v;v_j) (bits)",
        joint,
        joint.mutual_information("v2", ("v0", "v1")) / BIT,
        "==",
        max(joint.mutual_information("v2", v) for v in ("v0", "v1")) / BIT,
    )
    for r in (2, 3, 4):
        value, best = _pairwise_max_ratio(r)
        k = 2**r - 1
        exam.corrected(
            f"r = {r}: greedy gets {r} of {k} bits", lambda x, y: abs(x - y), [(value / best, math.log2(k + 1) / k)]
        )
    value, best = _pairwise_max_ratio(3)
    exam.refutes("r = 3: greedy over optimum", _xor_pool(3), value / best, ">=", 1 - 1 / math.e)
    exam.corrected(
        "max_j MI(v;v_j) ≤ MI(v;S)",
        lambda j: max(j.mutual_information("v0", v) for v in ("v1", "v2")) - j.mutual_information("v0", ("v1", "v2")),
        _four,
    )
    copies = models.functions_of_bits(2, [1, 2], [[3], [1], [2]])
    exam.refutes(
        "the same three bits: MI(v;S) against the sum of MI(v;v_j) (bits)",
        copies,
        copies.mutual_information("v0", ("v1", "v2")) / BIT,
        "<=",
        sum(copies.mutual_information("v0", v) for v in ("v1", "v2")) / BIT,
    )


@guess(
    "algorithm-guarantee",
    about="3.3, A.2, 5.4",
    assumes=("independence",),
    says="Algorithm 1 inherits the 1 − 1/e guarantee of submodular maximisation.",
    verdict=Verdict.FALSE,
    corrected="Its score is the gain of no set function (see path-dependence), and tokens are outcomes of one "
    "variable, not random variables. Facility location over the PMI tables is monotone submodular and has the "
    "guarantee.",
    why="Even where everything the paper assumes is true (candidates independent given T, exact MI, λ = ½), the "
    "pairwise maximum breaks it: see pairwise-redundancy.",
)
def algorithm_guarantee(exam: Exam) -> None:
    value, best = _pairwise_max_ratio(3)
    exam.refutes(
        "k = 7, all xors of three bits first: value over optimum, 3/7", _xor_pool(3), value / best, ">=", 1 - 1 / math.e
    )


@paper(
    "pruning-stage",
    ref="C.2",
    says="Processing cannot increase information, so pruning in projection space is safe.",
    verdict=Verdict.INCOMPLETE,
    corrected="The inequality needs T – V – g(V). A selection that reads the prompt is g(V, T), for which it says "
    "nothing: which tokens were kept can itself tell about T.",
    why="V = (0, 1) always, T a fair bit, keep token number T: V says nothing of T, the kept token equals it.",
)
def pruning_stage(exam: Exam) -> None:
    blind = Joint(np.array([[0.5], [0.5]]), ("t", "v0")).mutual_information("t", "v0")
    kept = Joint(np.eye(2) / 2, ("t", "v0")).mutual_information("t", "v0")
    exam.depends("information about T in (0, 1), and in the token that T picks from it (bits)", blind / BIT, kept / BIT)

    def processed(joint: Joint, merge: Array) -> float:
        p = joint.p @ merge
        return Joint(p, joint.names).mutual_information("t", "v0") - joint.mutual_information("t", "v0")

    def draw(rng: np.random.Generator) -> tuple[Joint, Array]:
        joint = models.random_joint(rng, (3, 4))
        return joint, models.random_channel(rng, 4, int(rng.integers(1, 5)))

    exam.corrected("g(V) without the prompt: MI(T;g(V)) ≤ MI(T;V)", processed, draw)


def _restricted(rows: Array) -> TableFunction:
    """MI(V;T) with V uniform on S; 0 for the empty set."""

    def f(s: frozenset[int]) -> float:
        return float(specific_surprise(rows[sorted(s)]).mean()) if s else 0.0

    return tabulate(f, len(rows))


def _merged(rows: Array) -> TableFunction:
    """MI(V';T) where V' is V with all tokens outside S merged into one outcome."""

    def f(s: frozenset[int]) -> float:
        q = rows.mean(0)
        outside = [i for i in range(len(rows)) if i not in s]
        total = sum(float(rel_entr(rows[i], q).sum()) for i in s)
        if outside:
            total += len(outside) * float(rel_entr(rows[outside].mean(0), q).sum())
        return total / len(rows)

    return tabulate(f, len(rows))


@guess(
    "index-model-restricted",
    about="3.3 and 4.2",
    assumes=("softmax",),
    says="With tokens as outcomes, MI under the uniform distribution on S is monotone and submodular.",
    verdict=Verdict.FALSE,
    corrected="Neither. Section 3.3 is about tokens as random variables; everything that is computed is about tokens "
    "as outcomes of one index variable, and nothing carries the guarantee over.",
    why="One token alone has MI 0; adding a third that repeats one of two different tokens lowers it.",
)
def index_model_restricted(exam: Exam) -> None:
    three = Channel.of_counts((3, 1), (1, 3), (3, 1))
    f = _restricted(three.rows)
    exam.refutes(
        "text (¾,¼), (¼,¾), (¾,¼): f of all three against f of the first two (bits)",
        three,
        f((0, 1, 2)) / BIT,
        ">=",
        f((0, 1)) / BIT,
    )
    exam.refutes(
        "same rows: gain of the second after the first, and at first (bits)",
        three,
        f((0, 1)) / BIT,
        "<=",
        f((1,)) / BIT,
    )
    hits = [bool(monotone_violation(_restricted(models.random_channel(exam.rng, 4, 3)), 1e-9)) for _ in range(50)]
    exam.measure("share of random 4 × 3 channels that are not monotone", float(np.mean(hits)))


@guess(
    "index-model-merged",
    about="3.3 and 4.2",
    assumes=("softmax",),
    says="With the unselected tokens merged into one outcome, MI is monotone and submodular.",
    verdict=Verdict.FALSE,
    corrected="Monotone (data processing), not submodular.",
    why="Two pairs of equal tokens: telling one token apart leaves a mixed rest; telling its twin apart as well "
    "leaves a pure one, which is worth more than the first step was.",
)
def index_model_merged(exam: Exam) -> None:
    exam.corrected(
        "monotone", lambda rows: monotone_violation(_merged(rows)).size, lambda rng: models.random_channel(rng, 4, 3)
    )
    four = Channel.of_counts((3, 1), (3, 1), (1, 3), (1, 3))
    f = _merged(four.rows)
    exam.refutes(
        "text (¾,¼), (¾,¼), (¼,¾), (¼,¾): gain of token 1 after token 0, and at first (bits)",
        four,
        (f((0, 1)) - f((0,))) / BIT,
        "<=",
        f((1,)) / BIT,
    )
    hits = [bool(submodular_violation(_merged(models.random_channel(exam.rng, 4, 3)), 1e-9)) for _ in range(50)]
    exam.measure("share of random 4 × 3 channels that are not submodular", float(np.mean(hits)))
