"""What submodularity earns: surrogates with a guarantee, curvature, approximate independence, one pass."""

from __future__ import annotations

import itertools
import math
from functools import partial

import numpy as np

from tokenprune_theory import models, pmi, setfn
from tokenprune_theory.discrete import Array, Joint
from tokenprune_theory.evidence import Exam
from tokenprune_theory.instances import Channel
from tokenprune_theory.registry import Verdict, topic
from tokenprune_theory.setfn import (
    TableFunction,
    brute_force_max,
    conforti_cornuejols_bound,
    greedy,
    lazy_greedy,
    monotone_violation,
    nemhauser_bound,
    random_greedy,
    sieve_streaming,
    submodular_violation,
    tabulate,
)

_, guess, ours = topic("What submodularity earns (beyond the paper)")


def charged_pairs(c: Array, d: Array, lam: float) -> TableFunction:
    """lam sum c - (1 - lam) sum over pairs of max(D, 0), for symmetric D."""
    charged = np.maximum(d, 0)

    def f(s: frozenset[int]) -> float:
        pairs = math.fsum(charged[i, j] for i, j in itertools.combinations(sorted(s), 2))
        return lam * math.fsum(c[i] for i in s) - (1 - lam) * pairs

    return tabulate(f, len(c))


def location(benefit: Array, weights: Array) -> TableFunction:
    """sum_j w_j max_{i in S} b_ij with b >= 0; 0 for the empty set."""

    def f(s: frozenset[int]) -> float:
        return float(weights @ benefit[sorted(s)].max(0)) if s else 0.0

    return tabulate(f, len(benefit))


def _bayes_function(rng: np.random.Generator) -> TableFunction:
    return models.information(models.random_naive_bayes(rng, n=5))


@ours(
    "sum-redundancy",
    about="(22)",
    says="λ Σ c − (1−λ) Σ_pairs max(D_ij, 0) with a symmetric D is a submodular set function.",
    verdict=Verdict.HOLDS,
    corrected="Not monotone, so greedy has no constant factor; random greedy has 1/e in expectation where the "
    "function is not negative (Buchbinder et al. 2014).",
    why="Each pair is charged when its second token comes: gains fall by what later pairs add.",
)
def sum_redundancy(exam: Exam) -> None:
    def draw(rng: np.random.Generator) -> TableFunction:
        x = models.random_embeddings(rng, 6, 3)
        return charged_pairs(rng.exponential(size=6), pmi.self_pmi(x @ x.T, 0.5, "stationary"), 0.5)

    exam.holds("all subsets", lambda f: submodular_violation(f).size, draw, share=0.5)

    def shortfall(rng: np.random.Generator) -> float:
        f = draw(rng)
        lifted = TableFunction(f.values - min(0.0, float(f.values.min())))
        mean = float(np.mean([lifted(random_greedy(lifted, 3, rng).order) for _ in range(40)]))
        return brute_force_max(lifted, 3)[0] / math.e - mean

    exam.corrected("mean of random greedy ≥ OPT/e", lambda x: x, shortfall, tolerance=0, share=0.1)
    losses = [bool(monotone_violation(draw(exam.rng))) for _ in range(50)]
    exam.measure("share of instances that are not monotone", float(np.mean(losses)))


@ours(
    "facility-location",
    about="3.3",
    says="Σ_j w_j max_{i∈S} e^{C_ij} with w ≥ 0 is monotone and submodular: greedy earns 1 − 1/e.",
    verdict=Verdict.HOLDS,
    corrected="The one PMI objective here with the guarantee that the paper claims. Any non-negative, non-decreasing "
    "function of PMI will do; PMI itself will not, since it is negative for most pairs.",
    why="A maximum of non-negative numbers over a set is monotone and submodular; so are non-negative sums.",
)
def facility_location(exam: Exam) -> None:
    def draw(rng: np.random.Generator) -> TableFunction:
        rows = models.random_channel(rng, 6, 4)
        return location(np.exp(pmi.table_of_channel(rows)), rows.mean(0))

    exam.holds("monotone", lambda f: monotone_violation(f).size, draw, share=0.5)
    exam.holds("submodular", lambda f: submodular_violation(f).size, draw, share=0.5)
    exam.holds(
        "greedy ≥ (1 − (1 − 1/k)^k) OPT, k = 3",
        lambda f: nemhauser_bound(3) * brute_force_max(f, 3)[0] - greedy(f, 3).value,
        draw,
        share=0.5,
    )
    exam.holds(
        "lazy greedy gains as much", lambda f: abs(lazy_greedy(f, 3).value - greedy(f, 3).value), draw, share=0.5
    )


@guess(
    "facility-location-pmi",
    about="3.3",
    assumes=("softmax",),
    says="Facility location over PMI itself, max over no token counting as 0, is submodular.",
    verdict=Verdict.FALSE,
    corrected="Exponentiate, or cut at 0. With negative entries the first token can lose what the second wins back.",
    why="max over ∅ = 0 lies above negative entries.",
)
def facility_location_pmi(exam: Exam) -> None:
    two = Channel.of_counts((3, 1), (1, 3))
    f = location(pmi.table_of_channel(two.rows), two.rows.mean(0))
    exam.refutes(
        "rows (¾,¼), (¼,¾), weights q: gain of token 1 after token 0, and at first",
        two,
        f((0, 1)) - f((0,)),
        "<=",
        f((1,)),
    )


@ours(
    "curvature",
    about="3.3",
    says="Under independence given T, greedy ≥ (1 − e^−c)/c · OPT with the curvature c of MI(V_S;T).",
    verdict=Verdict.HOLDS,
    corrected="Better than 1 − 1/e wherever tokens are not completely redundant, and computable from the full set.",
    why="Conforti and Cornuéjols 1984, for monotone submodular functions.",
)
def curvature(exam: Exam) -> None:
    def shortfall(f: TableFunction) -> float:
        return conforti_cornuejols_bound(setfn.curvature(f)) * brute_force_max(f, 3)[0] - greedy(f, 3).value

    exam.holds("naive Bayes, k = 3", shortfall, _bayes_function, share=0.5)


@ours(
    "submodularity-ratio",
    about="3.3",
    says="For any joint, greedy ≥ (1 − e^−γ) · OPT with the submodularity ratio γ along the greedy picks.",
    verdict=Verdict.HOLDS,
    corrected="γ can be next to 0 (an xor has 0), so this certifies instances, not the method.",
    why="Das and Kempe 2011, for monotone functions.",
)
def submodularity_ratio(exam: Exam) -> None:
    def shortfall(joint: Joint) -> float:
        f = models.information(joint)
        trace = greedy(f, 2)
        prefixes = [trace.order[:i] for i in range(3)]
        gamma = setfn.submodularity_ratio(f, prefixes, 2)
        return -math.expm1(-gamma) * brute_force_max(f, 2)[0] - trace.value

    exam.holds(
        "flat random joints of 5 bits, k = 2", shortfall, partial(models.random_joint, shape=(2,) * 5), share=0.5
    )
    xor = models.information(models.parity(2))
    exam.holds("an xor has ratio 0", lambda f: abs(setfn.submodularity_ratio(f, [()], 2)), [xor])


def _greedy_on_estimate(joint: Joint, k: int) -> float:
    """MI of the set that greedy selection on Eqn 39 picks."""
    names = [name for name in joint.names if name != "t"]
    picks: list[str] = []
    for _ in range(k):
        left = [v for v in names if v not in picks]
        score = {v: joint.mutual_information(v, "t") - joint.mutual_information(v, picks) for v in left}
        picks.append(max(left, key=lambda v: score[v]))
    return joint.mutual_information(picks, "t")


@ours(
    "approximate-independence",
    about="(39)",
    says="If MI(v;S|T) ≤ ε for all v and S, greedy on the gain and greedy on (39) both reach (1 − 1/e)(OPT − kε).",
    verdict=Verdict.HOLDS,
    corrected="So (39) costs nothing in the guarantee, and the guarantee degrades gracefully as independence fails.",
    why="gain(b|S∪B) = MI(b;T) − MI(b;S∪B) + MI(b;S∪B|T) ≤ ĝ(b|S) + ε, and ĝ ≤ gain by (38). So each step closes 1/k "
    "of OPT − f(S) − kε, as in Nemhauser's proof.",
)
def approximate_independence(exam: Exam) -> None:
    def instance(rng: np.random.Generator) -> Joint:
        near = models.random_naive_bayes(rng, n=4, targets=2)
        far = models.random_joint(rng, near.p.shape, zeros=False)
        weight = rng.random() ** 3 / 4
        return Joint((1 - weight) * near.p + weight * far.p, near.names)

    def shortfall(joint: Joint) -> float:
        names = ("v0", "v1", "v2", "v3")
        epsilon = max(joint.mutual_information(v, [u for u in names if u != v], "t") for v in names)
        f = models.information(joint)
        bound = nemhauser_bound(2) * (brute_force_max(f, 2)[0] - 2 * epsilon)
        return bound - min(greedy(f, 2).value, _greedy_on_estimate(joint, 2))

    exam.holds("mixtures of naive Bayes and an arbitrary joint, k = 2", shortfall, instance, share=0.5)


@ours(
    "streaming",
    about="3.3",
    says="Under independence given T, one pass of sieve-streaming gets (½ − ε) · OPT in any order of the tokens.",
    verdict=Verdict.HOLDS,
    corrected="For MI(V_S;T) or facility location. Not for the score of Algorithm 1, which is no set function.",
    why="Badanidiyuru et al. 2014, for monotone submodular functions.",
)
def streaming(exam: Exam) -> None:
    def shortfall(f: TableFunction, order: list[int]) -> float:
        return 0.4 * brute_force_max(f, 2)[0] - sieve_streaming(f, 2, 0.1, order).value

    def draw(rng: np.random.Generator) -> tuple[TableFunction, list[int]]:
        return _bayes_function(rng), rng.permutation(5).tolist()

    exam.holds("naive Bayes, k = 2, ε = 0.1, random orders", shortfall, draw, share=0.5)


@ours(
    "online-bound",
    about="3.3, (13)",
    says="After any picks S, no set of k tokens has more than f(S) plus the k largest gains, for f monotone and "
    "submodular.",
    verdict=Verdict.HOLDS,
    corrected="An upper bound from the run itself, usually far better than 1 − 1/e: `Selection.optimality`. Without "
    "monotonicity it holds at S = ∅ only.",
    why="f(O) ≤ f(S∪O) ≤ f(S) + Σ_{o∈O∖S} f(o|S): the first by monotonicity, the second by submodularity.",
)
def online_bound(exam: Exam) -> None:
    def exceeded(f: TableFunction, k: int) -> float:
        best = brute_force_max(f, k)[0]
        order = greedy(f, f.n - 1).order
        reaches = []
        for size in range(len(order) + 1):
            picks = order[:size]
            gains = sorted((f([*picks, i]) - f(picks) for i in range(f.n) if i not in picks), reverse=True)
            reaches.append(f(picks) + math.fsum(gains[:k]))
        return best - min(reaches)

    def draw(rng: np.random.Generator) -> tuple[TableFunction, int]:
        return _bayes_function(rng), int(rng.integers(1, 5))

    exam.holds("naive Bayes, every prefix, against brute force", exceeded, draw, share=0.5)
