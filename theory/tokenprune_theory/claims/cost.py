"""Sections 3.3, 4.3 and 5.4: what scoring and selecting cost."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from tokenprune_theory import models, pmi
from tokenprune_theory.discrete import Array
from tokenprune_theory.evidence import Exam
from tokenprune_theory.instances import Cosines, Numbers, Step, Tokens
from tokenprune_theory.registry import Verdict, topic
from tokenprune_theory.sequence import select

paper, guess, ours = topic("Cost (3.3, 4.3, 5.4)")


def _problem(rng: np.random.Generator) -> tuple[Array, Array, int]:
    n = int(rng.integers(2, 30))
    return *models.random_selection_problem(rng, n), int(rng.integers(1, n + 1))


def _ladder(n: int) -> Cosines:
    """Tokens each of which is more like all that follow than the ones before it are, and a little less relevant.

    Tokens i < j of the first n - 1 have cosine i / 2n, whatever j. The last stands apart, and with its own text token:
    so all others are relevant to the other one, by a cosine that falls in steps of 1 / 1000 n.
    """
    m = n - 1
    table = np.eye(n + 2)
    place = np.minimum.outer(np.arange(m), np.arange(m)) / (2 * n)
    table[:m, :m] = np.where(np.eye(m, dtype=bool), 1, place)
    table[:m, n] = table[n, :m] = (n - np.arange(m)) / (1000 * n)
    table[m, n + 1] = table[n + 1, m] = 0.5
    return Cosines(table, 0.01, text=2)


def _lazy_evaluations(tokens: Cosines, k: int) -> int:
    return select(tokens.relevance, tokens.pairs, 0.5, k, method="lazy").evaluations


@paper(
    "heap-cost",
    ref="4.3",
    assumes=("cosines",),
    needs=("relevance only",),
    says="Selection with a heap costs O(N + N_keep log N).",
    verdict=Verdict.ASSUMING,
    corrected="Assuming λ = 1. For λ < 1 entries are evaluated again: O(N N_keep log N) at worst, and attained by "
    "tokens that become more alike pick by pick; a small share of that on typical inputs.",
    why="With a score that does not change, each pop finds a current entry after at most one evaluation. With D_ij "
    "growing with j every pick makes all stale keys wrong.",
)
def heap_cost(exam: Exam) -> None:
    def over(c: Array, d: Array, k: int) -> float:
        # first pick and heap: fewer than 2N gains; then at most one more evaluation a pick
        return select(c, d, 1.0, k, method="lazy").evaluations - (2 * len(c) + k)

    exam.holds_if("λ = 1: at most 2N + N_keep gains", over, _problem, tolerance=0)

    def all_of_them(n: int) -> float:
        k = n // 2
        return float(_lazy_evaluations(_ladder(n), k) - (k * n - k * (k - 1) // 2))

    def share(n: int) -> float:
        return _lazy_evaluations(_ladder(n), n // 2) / (n + n // 2 * math.log2(n))

    exam.corrected("λ = ½, a ladder of tokens: every gain there is, N = 8, 16, 32, 64", all_of_them, [8, 16, 32, 64], 0)
    exam.refutes(
        "the ladder, λ = ½, N_keep = N/2: gains evaluated over N + N_keep log₂ N, at N = 64 and twice that at N = 8",
        Step(_ladder(64), 0.5),
        share(64),
        "<=",
        2 * share(8),
    )
    n, k = 64, 32
    exam.measure("gains that the scan evaluates there", k * n - k * (k - 1) // 2)
    c, d = np.sort(exam.rng.exponential(size=300))[::-1], models.random_embeddings(exam.rng, 300, 16)
    lazy = select(c, pmi.self_pmi(d @ d.T, 0.1), 0.5, 30, method="lazy").evaluations
    exam.measure(
        "share of the scan's gains that lazy selection evaluates, 30 of 300 random tokens", lazy / (30 * 300 - 435)
    )


@paper(
    "naive-cost",
    ref="3.3, 4.3",
    says="Scanning all candidates at each step costs O(N N_keep).",
    verdict=Verdict.HOLDS,
    corrected="Exactly N_keep N − N_keep (N_keep − 1)/2 scores, each O(1) only if the running maximum over the "
    "selected tokens is kept; from scratch each costs the number selected.",
    why="At step s there are N − s candidates.",
)
def naive_cost(exam: Exam) -> None:
    def off(c: Array, d: Array, k: int) -> float:
        return abs(select(c, d, 0.5, k).evaluations - (k * len(c) - k * (k - 1) // 2))

    exam.holds("number of scores", off, _problem, tolerance=0)


@paper(
    "self-cost",
    ref="4.3",
    assumes=("cosines",),
    says="Intra-modal scoring costs O(N N_keep) instead of O(N N), since only selected tokens enter the maximum.",
    verdict=Verdict.FALSE,
    corrected="O(N² d) once for the normalisers, then O(N N_keep d) for the columns of selected tokens. Memory is "
    "O(N) with the normalisers reduced in blocks: see blockwise.",
    why="p(v_j|v_i) is normalised over all N tokens. log Z_i differs from candidate to candidate, so it cannot be "
    "left out.",
)
def self_cost(exam: Exam) -> None:
    tokens = Tokens.of([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]], [[1, 0, 0]], 1)
    c = np.zeros(4)
    exam.refutes(
        "v = e1, e2, e3, e3, τ = 1, λ = 0: two tokens by cosine to those selected alone, and by D",
        tokens,
        select(c, pmi.cosines(tokens.visual, tokens.visual), 0.0, 2).order,
        "==",
        select(c, tokens.pairs, 0.0, 2).order,
    )
    changed = []
    for _ in range(100):
        y = models.random_embeddings(exam.rng, 20, 4)
        c = exam.rng.exponential(size=20)
        sets = [set(select(c, table, 0.5, 6).order) for table in (y @ y.T / 0.1, pmi.self_pmi(y @ y.T, 0.1))]
        changed.append(sets[0] != sets[1])
    exam.measure("share of random instances (6 of 20) where leaving out Z keeps another set", float(np.mean(changed)))
    exam.measure("multiply-adds of the normalisers, N = 576, d = 4096", 576 * 576 * 4096)
    exam.measure("multiply-adds of 64 columns", 576 * 64 * 4096)


@ours(
    "blockwise",
    about="(15)",
    says="log Z_i can be folded in block by block with logaddexp, in O(N) memory, without losing precision.",
    verdict=Verdict.HOLDS,
    corrected="Columns of D are then computed one a pick.",
    why="logaddexp is associative up to rounding of a few ulp.",
)
def blockwise(exam: Exam) -> None:
    def error(x: Array, tau: float, block: int) -> float:
        whole = pmi.log_normalizer(x @ x.T, tau, block=len(x))
        return float(np.abs(pmi.log_normalizer(x @ x.T, tau, block) - whole).max())

    def draw(rng: np.random.Generator) -> tuple[Array, float, int]:
        return models.random_embeddings(rng, 40, 4), float(rng.choice([0.01, 0.1, 0.5])), int(rng.integers(1, 40))

    exam.holds("any block size", error, draw)


@paper(
    "settings-of-interest",
    ref="4.3",
    says="N_keep log N < N in settings of interest.",
    verdict=Verdict.INCOMPLETE,
    corrected="Name the base and the setting. Of the paper's own budgets of 576, 32 satisfies it in any base, as 5 % "
    "does; 64 in base e, not in base 2; 128 in base 10 only. Half of 1280 does in none.",
    why="576/log₂ 576 = 62.8, 576/ln 576 = 90.6, 576/log₁₀ 576 = 208.7.",
)
def settings_of_interest(exam: Exam) -> None:
    def below(keep: int, n: int, base: float) -> bool:
        return keep * math.log(n, base) < n

    exam.depends("64 of 576, in base e and in base 2", below(64, 576, math.e), below(64, 576, 2))
    exam.depends("128 of 576, in base 10 and in base e", below(128, 576, 10), below(128, 576, math.e))
    exam.depends("base 2: 32 of 576 and half of 1280", below(32, 576, 2), below(640, 1280, 2))


@paper(
    "nine-million",
    ref="5.4",
    assumes=("stated numbers",),
    says="From 32 · 576² to 32 · 32² is 9 million fewer.",
    verdict=Verdict.FALSE,
    corrected="10,584,064 fewer (10,616,832 − 32,768), and that counts pairs of visual tokens only.",
    why="32 · 576² = 10,616,832.",
)
def nine_million(exam: Exam) -> None:
    model = Numbers({"N": 576, "N_keep": 32, "blocks": 32})
    exam.refutes("32 · 576² − 32 · 32² to the nearest million", model, round((32 * 576**2 - 32 * 32**2) / 1e6), "==", 9)


@paper(
    "visual-pairs",
    ref="5.4",
    says="Keeping N_keep of N visual tokens cuts the pairs of visual tokens that a block attends over from N² to "
    "N_keep².",
    verdict=Verdict.HOLDS,
    corrected="Of visual tokens with one another; half of each under a causal mask. What a block computes has the "
    "text in it as well: see attention-pairs.",
    why="Every kept visual token attends to every kept one.",
)
def visual_pairs(exam: Exam) -> None:
    def off(before: int, kept: int, text: int) -> float:
        # attention of a sequence, and what of it lies between visual tokens
        counts = []
        for n in (before, kept):
            visual = np.arange(n + text) < n
            counts.append(int((visual[:, None] & visual[None, :]).sum()))
        return abs(counts[0] - before**2) + abs(counts[1] - kept**2)

    def draw(rng: np.random.Generator) -> tuple[int, int, int]:
        n = int(rng.integers(1, 60))
        return n, int(rng.integers(1, n + 1)), int(rng.integers(0, 20))

    exam.holds("pairs counted in a sequence", off, draw, tolerance=0)


@guess(
    "attention-pairs",
    about="(24), 5.4",
    assumes=("stated numbers",),
    says="Keeping N_keep of N tokens cuts the attention of a block from N² to N_keep² pairs.",
    verdict=Verdict.FALSE,
    corrected="From (N+T)² to (N_keep+T)², by (24), with T all other tokens of the prompt, template and system text "
    "included; half of that under a causal mask. Text sets the floor.",
    why="Attention runs over the whole sequence V_keep ⊕ T.",
)
def attention_pairs(exam: Exam) -> None:
    # by 4.1 a picture has ten times the text's tokens or more
    n, k, t = 576, 32, 57
    exam.refutes(
        "N = 576, N_keep = 32, ten visual tokens for each other one: share of pairs left, and twice (N_keep/N)²",
        Numbers({"N": n, "N_keep": k, "tokens a text token": 10}),
        Fraction((k + t) ** 2, (n + t) ** 2),
        "<=",
        2 * Fraction(k**2, n**2),
    )


@paper(
    "map-cost",
    ref="B.4",
    says="MAP inference of a determinantal point process costs O(N N_keep²).",
    verdict=Verdict.HOLDS,
    corrected="By the fast greedy algorithm (Chen et al. 2018): pick t costs t multiply-adds a candidate. The N² d of "
    "its kernel matrix comes first, as the N² d of the normalisers do here: see self-cost.",
    why="Each pick adds a row to a Cholesky factor; N · (0 + 1 + … + N_keep − 1) in all.",
)
def map_cost(exam: Exam) -> None:
    def multiplications(n: int, k: int) -> float:
        rng = np.random.default_rng(n * 100 + k)
        x = rng.standard_normal((n, n + 1))
        kernel = x @ x.T
        rows = np.zeros((0, n))
        variance = np.diag(kernel).copy()
        spent, picks = 0, list[int]()
        for _ in range(k):
            pick = int(np.argmax(np.where(np.isin(np.arange(n), picks), -np.inf, variance)))
            row = (kernel[pick] - rows[:, pick] @ rows) / math.sqrt(variance[pick])
            spent += rows.size
            rows, variance = np.vstack([rows, row]), variance - row**2
            picks.append(pick)
        # the volume it has found is that of its picks, so this is the algorithm and not a loop that counts
        volume = float(np.linalg.slogdet(kernel[np.ix_(picks, picks)])[1])
        found = sum(2 * math.log(abs(rows[step, pick])) for step, pick in enumerate(picks))
        return max(abs(spent - n * k * (k - 1) // 2), abs(volume - found) - 1e-8)

    def draw(rng: np.random.Generator) -> tuple[int, int]:
        n = int(rng.integers(2, 12))
        return n, int(rng.integers(1, n + 1))

    exam.holds(
        "multiply-adds of greedy MAP, and the volume of its picks", multiplications, draw, tolerance=0, share=0.25
    )


@paper(
    "short-prompts",
    ref="B.4; 4.1",
    says="The instruction is much shorter than the budget, N_T ≪ N_keep.",
    verdict=Verdict.INCOMPLETE,
    corrected="Depends on the prompt and the budget. By 4.1 a picture has 10 to 100 times the tokens of the text: of "
    "576 that leaves 5 to 57 text tokens, and 57 is more than the budget of 32. Then N_T, not N_keep, is the larger "
    "term of O(N max(N_T, N_keep)).",
    why="576/100 = 5.76 and 576/10 = 57.6, against budgets of 32, 64 and 128.",
)
def short_prompts(exam: Exam) -> None:
    def shorter(ratio: int, keep: int) -> bool:
        return Fraction(576, ratio) < keep

    exam.depends(
        "budget of 32: N_T < N_keep at 100, and at 10 visual tokens a text token", shorter(100, 32), shorter(10, 32)
    )
    exam.depends(
        "10 visual tokens a text token: N_T < N_keep at a budget of 128, and of 32", shorter(10, 128), shorter(10, 32)
    )
