"""Floating point: what float32 and half precision do to the scores. The framework's own functions are measured."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
from torch import Tensor

from tokenprune.components.aggregators import Max
from tokenprune.core.information import cosine_similarity, log_conditional, log_marginal, pmi
from tokenprune_theory import models
from tokenprune_theory.evidence import Exam
from tokenprune_theory.instances import Logits, Tokens
from tokenprune_theory.pmi import cosines, cross_pmi, margin
from tokenprune_theory.registry import Verdict, topic

_, guess, ours = topic("Precision (4.2)")


def framework_relevance(visual: Tensor, text: Tensor, tau: float) -> Tensor:
    """Relevance as the framework computes it."""
    log_p = log_conditional(cosine_similarity(visual, text), tau)
    return Max()(pmi(log_p, log_marginal(log_p)))


def plain_relevance(logits: Tensor) -> Tensor:
    """max_j log(p_ij / mean_i p_ij), written as the equations are, in the dtype given."""
    p = torch.softmax(logits, -1)
    return torch.log(p / p.mean(0)).amax(-1)


def plain_log_relevance(logits: Tensor) -> Tensor:
    """The same with log-probabilities, every step rounded to the dtype given."""
    log_p = torch.log_softmax(logits, -1)
    return (log_p - (torch.logsumexp(log_p, 0) - math.log(len(log_p)))).amax(-1)


def _embedded(rng: np.random.Generator, n: int = 64, t: int = 12, d: int = 16) -> tuple[Tensor, Tensor]:
    make = models.random_embeddings
    return torch.from_numpy(make(rng, n, d)), torch.from_numpy(make(rng, t, d))


def _distinct(scores: Tensor) -> int:
    return len(set(scores.tolist()))


def _exact(visual: Tensor, text: Tensor, tau: float) -> Tensor:
    table = cross_pmi(cosines(visual.double().numpy(), text.double().numpy()) / tau)
    return torch.from_numpy(np.asarray(table.max(1)))


@ours(
    "float32-error",
    about="(14)–(19)",
    says="In log space, float32 relevance is within 1e-5 + 1e-6/τ of exact.",
    verdict=Verdict.HOLDS,
    corrected="The error grows like eps/τ: cosines carry an error of a few eps, and logits divide it by τ.",
    why="log-sum-exp is exact to a few ulp of its largest logit, 1/τ.",
)
def float32_error(exam: Exam) -> None:
    for tau in (0.01, 0.1, 0.5, 1.0):

        def error(visual: Tensor, text: Tensor, tau: float = tau) -> float:
            got = framework_relevance(visual.float(), text.float(), tau).double()
            return float((got - _exact(visual.float(), text.float(), tau)).abs().max())

        exam.holds(f"τ = {tau}", error, _embedded, tolerance=1e-5 + 1e-6 / tau, share=0.25)


@guess(
    "linear-space",
    about="(15)–(17)",
    assumes=("softmax",),
    says="Computing p, its mean and the logarithm of their ratio one after the other is as good as log space.",
    verdict=Verdict.FALSE,
    corrected="float32 loses a column once its logits are 88 below their row's largest (τ = 0.01 has gaps of 200); "
    "half precision at a gap of 20. 0/0 is NaN, and argmax returns the NaN's index.",
    why="e^−104 underflows to 0 in float32; the mean of a column that underflows everywhere is 0.",
)
def linear_space(exam: Exam) -> None:
    steep = Logits(np.array([[100.0, -100.0], [99.0, -99.0]]), "float32")
    logits = torch.from_numpy(steep.table).float()
    exact = float(cross_pmi(steep.table)[1, 1])
    p = torch.softmax(logits, -1)
    exam.refutes(
        "logits ((100, −100), (99, −99)): C_11 in float32 against exact",
        steep,
        float((p / p.mean(0)).log()[1, 1]),
        "==",
        exact,
    )
    half = Logits(np.array([[10.0, -10.0], [9.0, -9.0]]), "float16")
    q = torch.softmax(torch.from_numpy(half.table).half(), -1)
    exam.refutes(
        "logits ((10, −10), (9, −9)) (τ = 1/10): C_11 in float16 against exact",
        half,
        float((q / q.mean(0)).log()[1, 1]),
        "==",
        float(cross_pmi(half.table)[1, 1]),
    )
    exam.refutes(
        "e^100 in float32, a softmax at τ = 1/100 without a shift",
        Logits(np.array([[100.0]]), "float32"),
        float(torch.tensor(100.0).exp()),
        "<=",
        3.5e38,
    )
    log_p = log_conditional(logits, 1.0)
    exam.corrected(
        "the framework in float32 there",
        lambda x: abs(float(pmi(x, log_marginal(x))[1, 1]) - exact),
        [log_p],
        tolerance=1e-4,
    )


@guess(
    "max-hides-underflow",
    about="(19)",
    assumes=("softmax",),
    needs=("columns kept",),
    says="Maximal aggregation is right even where other entries of the table have underflowed to −∞.",
    verdict=Verdict.ASSUMING,
    corrected="Assuming that every text token keeps a probability in normal range in some row. A column that is lost "
    "everywhere is NaN, and by cold-relevance it may hold the largest scores of all.",
    why="Only outcomes much less likely than the row's best underflow, and the maximum of a row is at least 0.",
)
def max_hides_underflow(exam: Exam) -> None:
    def error(visual: Tensor, text: Tensor) -> float:
        logits = (visual @ text.T / 0.01).float()
        p = torch.softmax(logits, -1)
        if bool((p > 0).all()) or float(p.amax(0).min()) < 1e-30:
            return -math.inf  # nothing lost, or a text token lost altogether
        exact = torch.from_numpy(np.asarray(cross_pmi(logits.double().numpy()).max(1)))
        return float((plain_relevance(logits).double() - exact).abs().max())

    exam.holds_if("float32, τ = 0.01, tables with lost entries", error, partial(_embedded, d=3), tolerance=1e-5)
    steep = Logits(np.array([[100.0, -100.0], [99.0, -99.0]]), "float32")
    exact = float(cross_pmi(steep.table)[1].max())
    kept = torch.softmax(torch.from_numpy(steep.table).float(), -1)
    table = (kept / kept.mean(0)).log()
    exam.refutes(
        "logits ((100, −100), (99, −99)): relevance of token 1 from what float32 has left, against exact",
        steep,
        float(table[1].nan_to_num(-math.inf).max()),
        "==",
        exact,
    )


@ours(
    "half-inputs",
    about="(14)–(19)",
    says="Half-precision embeddings are precise enough if everything after them is float32.",
    verdict=Verdict.HOLDS,
    corrected="The framework casts first. The tolerance is against exact arithmetic on the same half-precision inputs.",
    why="The inputs' own rounding moves the tokens; what follows adds only float32 error.",
)
def half_inputs(exam: Exam) -> None:
    for dtype, name in ((torch.bfloat16, "bfloat16"), (torch.float16, "float16")):

        def error(visual: Tensor, text: Tensor, dtype: torch.dtype = dtype) -> float:
            v, t = visual.to(dtype), text.to(dtype)
            return float((framework_relevance(v, t, 0.1).double() - _exact(v, t, 0.1)).abs().max())

        exam.holds(f"{name} inputs, τ = 0.1", error, _embedded, tolerance=2e-5, share=0.25)
        moved = []
        for _ in range(10):
            v, t = _embedded(exam.rng)
            moved.append(
                float((framework_relevance(v.to(dtype), t.to(dtype), 0.1).double() - _exact(v, t, 0.1)).abs().max())
            )
        exam.measure(f"largest change of a score by rounding inputs to {name}, τ = 0.1", max(moved))


@guess(
    "half-arithmetic",
    about="(14)–(19)",
    assumes=("softmax",),
    says="Computing the scores in bfloat16 throughout keeps the ranking.",
    verdict=Verdict.FALSE,
    corrected="Cast to float32 before normalising. bfloat16 has 8 significant bits: scores fall onto few values, and "
    "ties decide.",
    why="A score near 2 has neighbours 2⁻⁷ apart.",
)
def half_arithmetic(exam: Exam) -> None:
    close = Logits(np.array([[3, 0], [49 / 16, 0], [0, 2]]), "bfloat16")
    pure = plain_relevance(torch.from_numpy(close.table).bfloat16())
    exact = cross_pmi(close.table).max(1)
    exam.refutes(
        "logits (3, 0), (49/16, 0), (0, 2): different scores in bfloat16 against exact",
        close,
        _distinct(pure),
        ">=",
        _distinct(torch.from_numpy(exact)),
        portable=False,
    )
    generator = torch.Generator().manual_seed(0)
    visual, text = (torch.nn.functional.normalize(torch.randn(k, 256, generator=generator), dim=-1) for k in (576, 40))
    v, t = visual.bfloat16(), text.bfloat16()
    pure, single = plain_relevance((v @ t.T) / 0.1), framework_relevance(v, t, 0.1)
    kept = [set(s.float().topk(64).indices.tolist()) for s in (pure, single)]
    exam.measure(
        "576 random tokens, τ = 0.1: of 64 kept tokens, common to bfloat16 and float32", len(kept[0] & kept[1])
    )
    exam.measure("different bfloat16 scores there", _distinct(pure))


@guess(
    "half-log-space",
    about="(15)–(17)",
    assumes=("softmax",),
    says="Log space is more precise than probabilities in every dtype.",
    verdict=Verdict.FALSE,
    corrected="In bfloat16, where nothing underflows, it is less precise: log p is about −log T and is rounded to "
    "2⁻⁸ of that, while p/q is rounded to 2⁻⁸ of a number near 1. In float32 log space is right.",
    why="The rounding error of a difference of logarithms is relative to the logarithms, not to the difference.",
)
def half_log_space(exam: Exam) -> None:
    flat = Logits(np.array([[0.5, 0], [-0.5, 1]]), "bfloat16")
    logits = torch.from_numpy(flat.table).bfloat16()
    exact = torch.from_numpy(np.asarray(cross_pmi(flat.table).max(1)))
    in_logs, in_ratios = ((f(logits).double() - exact).abs().max() for f in (plain_log_relevance, plain_relevance))
    exam.refutes(
        "logits (½, 0), (−½, 1): largest error in logs against that in ratios, both in bfloat16",
        flat,
        float(in_logs),
        "<=",
        float(in_ratios),
        portable=False,
    )


@ours(
    "perturbation",
    about="(14)–(19)",
    says="If every logit moves by at most η, relevance moves by at most 4η and D by at most 2η.",
    verdict=Verdict.HOLDS,
    corrected="4 cannot be improved. Hence a certificate: if the gap at the cut is larger than twice the error of "
    "the scores, the kept set is exact (`Selection.certified`).",
    why="log p moves by 2η (its logit and its normaliser), log q by 2η as a mean of such rows; D has no q.",
)
def perturbation(exam: Exam) -> None:
    def excess(rng: np.random.Generator) -> float:
        shape = tuple(int(k) for k in rng.integers(2, 8, size=2))
        logits = 5 * rng.standard_normal(shape)
        eta = 10.0 ** rng.uniform(-4, 0.5)
        moved = logits + eta * rng.choice([-1.0, 1.0], size=shape)
        c = np.abs(cross_pmi(moved).max(1) - cross_pmi(logits).max(1)).max() - 4 * eta
        log_p = [x - np.logaddexp.reduce(x, axis=1, keepdims=True) for x in (moved, logits)]
        return float(max(c, np.abs(log_p[0] - log_p[1]).max() - 2 * eta))

    exam.holds("random logits, signs and sizes", lambda x: x, excess)
    # one row against many: its own outcome up, the others' down, so that p and q move apart as far as they can
    big, eta = 10.0, 1.0
    logits = np.zeros((2000, 2))
    logits[:, 0], logits[0] = -big, (-big, 0.0)
    moved = logits + eta * np.array([-1.0, 1.0])
    moved[0] = logits[0] + eta * np.array([1.0, -1.0])
    factor = abs(cross_pmi(moved)[0, 0] - cross_pmi(logits)[0, 0]) / eta
    exam.holds(
        "2000 tokens, two outcomes 10 apart, η = 1: an entry moves by more than 3.9", lambda f: 3.9 - f, [factor], 0
    )
    exam.measure("factor reached", factor)

    def wrong(rng: np.random.Generator) -> float:
        scores = rng.standard_normal(20)
        noise = 10.0 ** rng.uniform(-4, -1) * rng.uniform(-1, 1, size=20)
        if margin(scores, 5) <= 2 * np.abs(noise).max():
            return -math.inf
        top = [set(np.argsort(-s, kind="stable")[:5].tolist()) for s in (scores, scores + noise)]
        return float(top[0] != top[1])

    exam.holds("gap > 2 · error: the same top 5 of 20", lambda x: x, wrong, tolerance=0)


@guess(
    "equal-texts",
    about="4.2",
    assumes=("cosines",),
    says="Equal text tokens give equal columns, so degenerate prompts can be found by testing for zero.",
    verdict=Verdict.FALSE,
    corrected="Test for a spread of at most 16 eps/τ instead.",
    why="A matrix product may sum the columns in different orders, and the softmax normaliser rounds.",
)
def equal_texts(exam: Exam) -> None:
    tiny = 2.0**-12
    tokens = Tokens.of([[1, tiny, tiny]], [[1, tiny, tiny]], 1)
    products = (tokens.visual[0] * tokens.text[0]).astype(np.float32)
    exam.refutes(
        "v = t = (1, 2⁻¹², 2⁻¹²): v·t in float32 added from the front, and from the back",
        tokens,
        float((products[0] + products[1]) + products[2]),
        "==",
        float(products[0] + (products[1] + products[2])),
    )
    generator = torch.Generator().manual_seed(0)
    visual = torch.nn.functional.normalize(torch.randn(576, 64, generator=generator), dim=-1)
    text = torch.nn.functional.normalize(torch.randn(1, 64, generator=generator), dim=-1).repeat(7, 1)
    scores = framework_relevance(visual, text, 0.1)
    exam.measure("7 equal texts, 576 tokens, float32: different scores", _distinct(scores))
    exam.corrected(
        "spread of the scores within 16 eps/τ",
        lambda s: float(s.max() - s.min()) - 16 * torch.finfo(s.dtype).eps / 0.1,
        [scores],
        tolerance=0,
    )
