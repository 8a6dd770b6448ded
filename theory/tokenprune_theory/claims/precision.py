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
from tokenprune_theory.pmi import cosines, cross_pmi, margin
from tokenprune_theory.registry import Run, Verdict, claim

precision = partial(claim, section="Precision (4.2)", ref="(14)–(19)")


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


@precision(
    "float32-error",
    says="In log space, float32 relevance is within 1e-5 + 1e-6/τ of exact.",
    verdict=Verdict.HOLDS,
    corrected="The error grows like eps/τ: cosines carry an error of a few eps, and logits divide it by τ.",
    why="log-sum-exp is exact to a few ulp of its largest logit, 1/τ.",
)
def _(run: Run) -> None:
    for tau in (0.01, 0.1, 0.5, 1.0):

        def error(visual: Tensor, text: Tensor, tau: float = tau) -> float:
            got = framework_relevance(visual.float(), text.float(), tau).double()
            return float((got - _exact(visual.float(), text.float(), tau)).abs().max())

        run.holds(f"τ = {tau}", error, _embedded, tolerance=1e-5 + 1e-6 / tau, share=0.25)


@precision(
    "linear-space",
    says="Computing p, its mean and the logarithm of their ratio one after the other is as good as log space.",
    verdict=Verdict.FALSE,
    corrected="float32 loses a column once its logits are 88 below their row's largest (τ = 0.01 has gaps of 200); "
    "half precision at a gap of 20. 0/0 is NaN, and argmax returns the NaN's index.",
    why="e^−104 underflows to 0 in float32; the mean of a column that underflows everywhere is 0.",
)
def _(run: Run) -> None:
    logits = torch.tensor([[100.0, -100.0], [99.0, -99.0]])
    exact = float(cross_pmi(logits.double().numpy())[1, 1])
    p = torch.softmax(logits, -1)
    run.refutes(
        "logits ((100, −100), (99, −99)): C_11 in float32 against exact",
        float((p / p.mean(0)).log()[1, 1]),
        "==",
        exact,
    )
    half = torch.tensor([[10.0, -10.0], [9.0, -9.0]], dtype=torch.float16)
    q = torch.softmax(half, -1)
    run.refutes(
        "logits ((10, −10), (9, −9)) (τ = 0.1): C_11 in float16 against exact",
        float((q / q.mean(0)).log()[1, 1]),
        "==",
        float(cross_pmi(half.double().numpy())[1, 1]),
    )
    run.refutes(
        "e^100 in float32, a softmax at τ = 0.01 without a shift", float(torch.tensor(100.0).exp()), "<=", 3.5e38
    )
    log_p = log_conditional(logits, 1.0)
    run.corrected(
        "the framework in float32 there",
        lambda x: abs(float(pmi(x, log_marginal(x))[1, 1]) - exact),
        [log_p],
        tolerance=1e-4,
    )


@precision(
    "max-hides-underflow",
    says="Maximal aggregation is right even where other entries of the table have underflowed to −∞.",
    verdict=Verdict.ASSUMING,
    corrected="Assuming that every text token keeps a probability in normal range in some row. A column that is lost "
    "everywhere is NaN, and by cold-relevance it may hold the largest scores of all.",
    why="Only outcomes much less likely than the row's best underflow, and the maximum of a row is at least 0.",
)
def _(run: Run) -> None:
    def error(visual: Tensor, text: Tensor) -> float:
        logits = (visual @ text.T / 0.01).float()
        p = torch.softmax(logits, -1)
        if bool((p > 0).all()) or float(p.amax(0).min()) < 1e-30:
            return -math.inf  # nothing lost, or a text token lost altogether
        exact = torch.from_numpy(np.asarray(cross_pmi(logits.double().numpy()).max(1)))
        return float((plain_relevance(logits).double() - exact).abs().max())

    run.holds_if("float32, τ = 0.01, tables with lost entries", error, partial(_embedded, d=3), tolerance=1e-5)
    logits = torch.tensor([[100.0, -100.0], [99.0, -99.0]])
    exact = float(cross_pmi(logits.double().numpy())[1].max())
    kept = torch.softmax(logits, -1)
    table = (kept / kept.mean(0)).log()
    run.refutes(
        "logits ((100, −100), (99, −99)): relevance of token 1 from what float32 has left, against exact",
        float(table[1].nan_to_num(-math.inf).max()),
        "==",
        exact,
    )


@precision(
    "half-inputs",
    says="Half-precision embeddings are precise enough if everything after them is float32.",
    verdict=Verdict.HOLDS,
    corrected="The framework casts first. The tolerance is against exact arithmetic on the same half-precision inputs.",
    why="The inputs' own rounding moves the tokens; what follows adds only float32 error.",
)
def _(run: Run) -> None:
    for dtype, name in ((torch.bfloat16, "bfloat16"), (torch.float16, "float16")):

        def error(visual: Tensor, text: Tensor, dtype: torch.dtype = dtype) -> float:
            v, t = visual.to(dtype), text.to(dtype)
            return float((framework_relevance(v, t, 0.1).double() - _exact(v, t, 0.1)).abs().max())

        run.holds(f"{name} inputs, τ = 0.1", error, _embedded, tolerance=2e-5, share=0.25)
        moved = []
        for _ in range(10):
            v, t = _embedded(run.rng)
            moved.append(
                float((framework_relevance(v.to(dtype), t.to(dtype), 0.1).double() - _exact(v, t, 0.1)).abs().max())
            )
        run.measure(f"largest change of a score by rounding inputs to {name}, τ = 0.1", max(moved))


@precision(
    "half-arithmetic",
    says="Computing the scores in bfloat16 throughout keeps the ranking.",
    verdict=Verdict.FALSE,
    corrected="Cast to float32 before normalising. bfloat16 has 8 significant bits: scores fall onto few values, and "
    "ties decide.",
    why="A score near 2 has neighbours 2⁻⁷ apart.",
)
def _(run: Run) -> None:
    generator = torch.Generator().manual_seed(0)
    visual, text = (torch.nn.functional.normalize(torch.randn(k, 256, generator=generator), dim=-1) for k in (576, 40))
    v, t = visual.bfloat16(), text.bfloat16()
    pure = plain_relevance((v @ t.T) / 0.1)
    single = framework_relevance(v, t, 0.1)
    run.refutes(
        "576 random tokens, τ = 0.1: different scores in bfloat16 against float32 after bfloat16 inputs",
        _distinct(pure),
        ">=",
        _distinct(single) // 2,
        portable=False,
    )
    kept = [set(s.float().topk(64).indices.tolist()) for s in (pure, single)]
    run.measure("of 64 kept tokens, common to both", len(kept[0] & kept[1]))
    run.measure("different bfloat16 scores", _distinct(pure))


@precision(
    "half-log-space",
    says="Log space is more precise than probabilities in every dtype.",
    verdict=Verdict.FALSE,
    corrected="In bfloat16, where nothing underflows, it is less precise: log p is about −log T and is rounded to "
    "2⁻⁸ of that, while p/q is rounded to 2⁻⁸ of a number near 1. In float32 log space is right.",
    why="The rounding error of a difference of logarithms is relative to the logarithms, not to the difference.",
)
def _(run: Run) -> None:
    generator = torch.Generator().manual_seed(0)
    visual, text = (torch.nn.functional.normalize(torch.randn(k, 1024, generator=generator), dim=-1) for k in (576, 40))
    logits = (visual @ text.T / 0.1).bfloat16()
    exact = torch.from_numpy(np.asarray(cross_pmi(logits.double().numpy()).max(1)))
    in_logs, in_ratios = ((f(logits).double() - exact).abs().max() for f in (plain_log_relevance, plain_relevance))
    run.refutes(
        "576 × 40 random tokens of width 1024, τ = 0.1: error in logs against error in ratios, both in bfloat16",
        float(in_logs),
        "<=",
        float(in_ratios),
        portable=False,
    )


@precision(
    "perturbation",
    says="If every logit moves by at most η, relevance moves by at most 4η and D by at most 2η.",
    verdict=Verdict.HOLDS,
    corrected="4 cannot be improved. Hence a certificate: if the gap at the cut is larger than twice the error of "
    "the scores, the kept set is exact (`Selection.certified`).",
    why="log p moves by 2η (its logit and its normaliser), log q by 2η as a mean of such rows; D has no q.",
)
def _(run: Run) -> None:
    def excess(rng: np.random.Generator) -> float:
        shape = tuple(int(k) for k in rng.integers(2, 8, size=2))
        logits = 5 * rng.standard_normal(shape)
        eta = 10.0 ** rng.uniform(-4, 0.5)
        moved = logits + eta * rng.choice([-1.0, 1.0], size=shape)
        c = np.abs(cross_pmi(moved).max(1) - cross_pmi(logits).max(1)).max() - 4 * eta
        log_p = [x - np.logaddexp.reduce(x, axis=1, keepdims=True) for x in (moved, logits)]
        return float(max(c, np.abs(log_p[0] - log_p[1]).max() - 2 * eta))

    run.holds("random logits, signs and sizes", lambda x: x, excess)
    # one row against many: its own outcome up, the others' down, so that p and q move apart as far as they can
    big, eta = 10.0, 1.0
    logits = np.zeros((2000, 2))
    logits[:, 0], logits[0] = -big, (-big, 0.0)
    moved = logits + eta * np.array([-1.0, 1.0])
    moved[0] = logits[0] + eta * np.array([1.0, -1.0])
    factor = abs(cross_pmi(moved)[0, 0] - cross_pmi(logits)[0, 0]) / eta
    run.holds(
        "2000 tokens, two outcomes 10 apart, η = 1: an entry moves by more than 3.9", lambda f: 3.9 - f, [factor], 0
    )
    run.measure("factor reached", factor)

    def wrong(rng: np.random.Generator) -> float:
        scores = rng.standard_normal(20)
        noise = 10.0 ** rng.uniform(-4, -1) * rng.uniform(-1, 1, size=20)
        if margin(scores, 5) <= 2 * np.abs(noise).max():
            return -math.inf
        top = [set(np.argsort(-s, kind="stable")[:5].tolist()) for s in (scores, scores + noise)]
        return float(top[0] != top[1])

    run.holds("gap > 2 · error: the same top 5 of 20", lambda x: x, wrong, tolerance=0)


@precision(
    "equal-texts",
    says="Equal text tokens give equal columns, so degenerate prompts can be found by testing for zero.",
    verdict=Verdict.FALSE,
    corrected="Test for a spread of at most 16 eps/τ instead.",
    why="A matrix product may sum the columns in different orders, and the softmax normaliser rounds.",
)
def _(run: Run) -> None:
    generator = torch.Generator().manual_seed(0)
    visual = torch.nn.functional.normalize(torch.randn(576, 64, generator=generator), dim=-1)
    text = torch.nn.functional.normalize(torch.randn(1, 64, generator=generator), dim=-1).repeat(7, 1)
    scores = framework_relevance(visual, text, 0.1)
    run.refutes("7 equal texts, 576 tokens, float32: different scores", _distinct(scores), "<=", 1, portable=False)
    run.corrected(
        "spread of the scores within 16 eps/τ",
        lambda s: float(s.max() - s.min()) - 16 * torch.finfo(s.dtype).eps / 0.1,
        [scores],
        tolerance=0,
    )
