"""The framework, held to the mathematics: every registered objective, the aggregators, the marginals, the picks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenprune.components.aggregators import LogSumExp, Max, Mean, Renyi, TopM
from tokenprune.components.normalizers import Softmax
from tokenprune.components.objectives import MaximalMarginalRelevance, PMICoverage
from tokenprune.components.pairwise import SelfPMI
from tokenprune.components.scorers import PMI
from tokenprune.components.selectors import Greedy
from tokenprune.core.errors import MissingSignalError, TokenPruneError
from tokenprune.core.features import Features, is_signal
from tokenprune.core.information import log_marginal, pmi
from tokenprune.core.kinds import Objective, Problem, Scorer
from tokenprune.core.ranking import TopK
from tokenprune.core.registry import build_component, list_components
from tokenprune.core.strategy import Strategy
from tokenprune_theory import models
from tokenprune_theory.conformity import PathGains, objective_violations, random_features
from tokenprune_theory.discrete import Array
from tokenprune_theory.evidence import Exam
from tokenprune_theory.optimum import best_coverage, best_sequence
from tokenprune_theory.pmi import aggregate, cosines, cross_pmi, self_pmi
from tokenprune_theory.registry import Verdict, topic
from tokenprune_theory.sequence import select
from tokenprune_theory.setfn import Violation, brute_force_max, greedy, nemhauser_bound

_, _, ours = topic("This framework")


def _made(exam: Exam, name: str) -> Objective | None:
    """A registered objective with its default options, where instances can be made for it; else say why not."""
    try:
        objective: Objective = build_component("objectives", name)
    except TokenPruneError as error:
        exam.leaves_out(name, f"cannot be made with default options: {error}")
        return None
    unknown = sorted(signal for signal in objective.required_signals() if not is_signal(signal))
    if unknown:
        signals = ", ".join(unknown)
        exam.leaves_out(
            name, f"reads {signals}, of which nothing is known here; tokenprune.testing.check takes its shape"
        )
        return None
    return objective


@contextmanager
def _others_go_on(exam: Exam, name: str) -> Iterator[None]:
    """A plugin may raise anything: that is noted, and the other objectives are still tried."""
    try:
        yield
    except MissingSignalError as error:
        exam.leaves_out(name, str(error))
    except Exception as error:
        exam.fails(f"{name} raises {type(error).__name__}: {error}")


def _instance(objective: Objective, rng: np.random.Generator) -> tuple[Features, Tensor]:
    features = random_features(rng, objective.required_signals())
    return features, torch.from_numpy(rng.standard_normal((features.batch, features.n_visual))).abs()


@ours(
    "objectives",
    about="this framework",
    says="Every registered objective has the properties that it declares, and its two ways of evaluating a gain agree.",
    verdict=Verdict.HOLDS,
    corrected="Modular, submodular, monotone and non-increasing gains, on every sequence of up to three picks; "
    "plugins included.",
    why="Selectors rely on the declarations: lazy evaluation needs gains that never rise, to the bit.",
)
def objectives(exam: Exam) -> None:
    for name in list_components("objectives"):
        objective = _made(exam, name)
        if objective is None:
            continue
        found: dict[str, list[Violation]] = {}
        with _others_go_on(exam, name):
            for _ in range(max(1, exam.cases // 50)):
                for what, violation in objective_violations(objective, *_instance(objective, exam.rng)).items():
                    found.setdefault(what, []).append(violation)
        for what, each in found.items():
            exam.holds(
                f"{name}: {what.replace('_', ' ')}",
                lambda x: x,
                [v.size for v in each],
                each[0].tolerance,
                portable=False,
            )


@ours(
    "objectives-guarantee",
    about="this framework",
    says="Greedy selection with an objective that is declared monotone and submodular earns 1 − 1/e.",
    verdict=Verdict.HOLDS,
    corrected="Facility location is one; the score of Algorithm 1 is none.",
    why="See greedy-guarantee.",
)
def objectives_guarantee(exam: Exam) -> None:
    for name in list_components("objectives"):
        objective = _made(exam, name)
        if objective is None or not (objective.monotone and objective.submodular):
            continue

        def shortfall(rng: np.random.Generator, objective: Objective = objective) -> float:
            f = PathGains(objective, *_instance(objective, rng)).set_function()
            return max(nemhauser_bound(k) * brute_force_max(f, k)[0] - greedy(f, k).value for k in (2, 3))

        with _others_go_on(exam, name):
            exam.holds(name, lambda x: x, shortfall, tolerance=1e-9, share=0.1, portable=False)


def _tensor(rows: Array) -> tuple[Tensor, Tensor]:
    """PMI table and log-probabilities of a channel, by the framework."""
    log_p = torch.from_numpy(rows).log()
    return pmi(log_p, log_marginal(log_p)), log_p


@ours(
    "aggregators",
    about="this framework",
    says="mean ≤ renyi(2) ≤ renyi(8) ≤ max ≤ lse ≤ max + log T, each equal to its own formula; top-m ≤ max.",
    verdict=Verdict.HOLDS,
    corrected="Aggregators mean, renyi, max and lse are places on the ladder of renyi-ladder.",
    why="mean is the KL divergence, renyi(α) the Rényi divergence of order α, max that of order ∞.",
)
def aggregators(exam: Exam) -> None:
    def channel(rng: np.random.Generator) -> Array:
        rows = models.random_channel(rng, int(rng.integers(2, 8)), int(rng.integers(2, 8)))
        return np.maximum(rows, 1e-12)

    def values(rows: Array) -> list[Array]:
        rungs = (Mean(), Renyi(1), Renyi(2), Renyi(8), Renyi(math.inf), Max(), LogSumExp())
        table, log_p = _tensor(rows)
        return [np.asarray(rung(table, log_p)) for rung in rungs]

    def order(rows: Array) -> float:
        rungs = values(rows)
        pairs = itertools.pairwise([*rungs, rungs[-2] + math.log(rows.shape[1])])
        top_m = np.asarray(TopM(2)(*_tensor(rows)))
        return float(max(*((low - high).max() for low, high in pairs), (top_m - rungs[-2]).max()))

    def formula(rows: Array) -> float:
        rows = rows / rows.sum(1, keepdims=True)
        wanted = [
            aggregate(rows, "kl"),
            aggregate(rows, "kl"),
            aggregate(rows, "renyi", 2),
            aggregate(rows, "renyi", 8),
            aggregate(rows, "max"),
            aggregate(rows, "max"),
            aggregate(rows, "lse"),
        ]
        return float(max(np.abs(a - b).max() for a, b in zip(values(rows), wanted, strict=True)))

    exam.holds("order, float64", lambda rows: order(rows / rows.sum(1, keepdims=True)), channel)
    exam.holds("formulas, float64", formula, channel, tolerance=1e-11)


def _embedded(rng: np.random.Generator) -> tuple[Array, Array, float]:
    n, t, d = (int(k) for k in rng.integers(2, 8, size=3))
    make = models.random_embeddings
    return make(rng, n, d), make(rng, t, d), float(rng.choice([0.01, 0.1, 0.5]))


def _features(visual: Array, text: Array, padding: int = 2) -> Features:
    """One unit of float64, with noise as padding behind both."""
    n, t = len(visual), len(text)
    noise = np.ones((padding, visual.shape[1]))
    return Features(
        torch.from_numpy(np.vstack([visual, noise]))[None],
        torch.from_numpy(np.vstack([text, noise]))[None],
        visual_mask=(torch.arange(n + padding) < n)[None],
        text_mask=(torch.arange(t + padding) < t)[None],
    )


@ours(
    "scores",
    about="this framework",
    says="The scorer 'pmi' and the pairs 'self-pmi' are the tables of Eqns 14–17, with every marginal; padding has "
    "no influence.",
    verdict=Verdict.HOLDS,
    corrected="float64 here; see float32-error for single precision.",
    why="Compared with the formulas written out independently.",
)
def scores(exam: Exam) -> None:
    def relevance(visual: Array, text: Array, tau: float) -> float:
        exact = cross_pmi(cosines(visual, text) / tau).max(1)
        if np.ptp(exact) <= 1e-9 / tau:
            return -math.inf  # the documented fallback is another score
        got = PMI(Softmax(tau)).score(_features(visual, text))[0, : len(visual)]
        return float(np.abs(got.numpy() - exact).max())

    exam.holds("relevance", relevance, _embedded, tolerance=1e-10)
    for marginal in ("uniform", "total", "stationary", "sinkhorn"):

        def table(visual: Array, text: Array, tau: float, marginal: Any = marginal) -> float:
            got = SelfPMI(Softmax(tau), marginal).table(_features(visual, text)).dense()
            n = len(visual)
            wanted = np.maximum(self_pmi(cosines(visual, visual), tau, marginal), -708)
            return float(np.abs(got[0, :n, :n].numpy() - wanted).max())

        # the framework stops scaling at a step of 1e-6
        tolerance = 1e-4 if marginal == "sinkhorn" else 1e-10
        exam.holds(f"self table, marginal {marginal}", table, _embedded, tolerance, share=0.25)


@ours(
    "greedy-picks",
    about="this framework",
    says="Vectorised, lazy and naive greedy selection pick what Algorithm 1 in plain Python picks, in the same order.",
    verdict=Verdict.HOLDS,
    corrected="First pick by relevance; ties to the lowest index.",
    why="Maxima are exact, so all of them compare the same numbers.",
)
def greedy_picks(exam: Exam) -> None:
    def differs(visual: Array, text: Array, lam: float) -> float:
        features = _features(visual, text)
        objective = MaximalMarginalRelevance(lam)
        scores = PMI().score(features)
        c = scores[0, : len(visual)].numpy()
        d = objective.pairs.table(features).dense()[0].numpy()
        k = (len(visual) + 1) // 2
        problem = Problem(features, scores, (k,), features.valid())
        wanted = list(select(c, d, lam, k).order)
        optimizers: Any = ("vectorized", "lazy", "naive")
        return float(any(Greedy(objective, o).select(problem)[0].tolist() != wanted for o in optimizers))

    def draw(rng: np.random.Generator) -> tuple[Array, Array, float]:
        # on a grid, for duplicates and ties; two different texts, for a relevance that is not degenerate
        visual = rng.integers(-2, 3, size=(int(rng.integers(2, 8)), 3)).astype(np.float64)
        visual[~visual.any(1), 0] = 1
        visual[:2] = [[1, 0, 0], [0, 1, 0]]
        return visual, np.array([[1.0, 0, 0], [0.0, 1, 1]]), float(rng.choice([0.0, 0.2, 0.5, 1.0]))

    exam.holds("picks", differs, draw, tolerance=0, share=0.5)


@dataclass(frozen=True, eq=False)
class _Fixed(Scorer):
    """Scores that are given."""

    scores: Tensor

    def score(self, features: Features) -> Tensor:
        """The scores given."""
        return self.scores


@ours(
    "certificate",
    about="this framework",
    says="`Selection.certified(error)` is never wrong: scores that are off by no more than that keep the same tokens.",
    verdict=Verdict.HOLDS,
    corrected="Of top-k by these scores. The margin is the worst kept score minus the best dropped one.",
    why="Each score moves by at most the error, so a gap of more than twice that stays open.",
)
def certificate(exam: Exam) -> None:
    def wrong(rng: np.random.Generator) -> float:
        visual, text, _ = _embedded(rng)
        features = _features(visual, text)
        error = 10.0 ** rng.uniform(-6, -1)
        scores = torch.from_numpy(rng.standard_normal((1, features.n_visual)))
        noise = torch.from_numpy(error * rng.uniform(-1, 1, size=(1, features.n_visual)))
        keep = max(1, len(visual) // 2)
        given, moved = (Strategy(_Fixed(s), TopK()).select(features, keep) for s in (scores, scores + noise))
        if not bool(given.certified(error)):
            return -math.inf
        return float(not torch.equal(given.indices, moved.indices))

    exam.holds("top-k of perturbed scores", lambda x: x, wrong, tolerance=0)


@ours(
    "optimality",
    about="this framework",
    says="`Selection.optimality` bounds the best picks from above, for coverage and for sequences of Algorithm 1.",
    verdict=Verdict.HOLDS,
    corrected="Of as many tokens, by the objective that the picks were chosen for. For Algorithm 1 the best is that "
    "of all sequences, since the same tokens get another total in another order.",
    why="See online-bound. In a sequence a token is charged at least its t-th smallest redundancy after t picks, so "
    "the best assignment of tokens to steps is no less than the best sequence. The judge is an integer program.",
)
def optimality(exam: Exam) -> None:
    def coverage(visual: Array, text: Array, tau: float) -> float:
        features = _features(visual, text)
        objective = PMICoverage(Softmax(tau))
        k = (len(visual) + 1) // 2
        table = objective.start(features, features.visual[..., 0]).table[0, : len(text), : len(visual)].numpy()
        return best_coverage(table, k) - _bound(objective, features, k)

    def sequence(visual: Array, text: Array, tau: float) -> float:
        features = _features(visual[:5], text)
        objective = MaximalMarginalRelevance(0.5)
        k = (len(visual[:5]) + 1) // 2
        pairs = objective.pairs.table(features).dense()[0, :5, :5].numpy()
        n = len(visual[:5])
        bonus = 0.5 * PMI().score(features)[0, :n].numpy()
        return best_sequence(bonus, pairs[:n, :n], 0.5, k) - _bound(objective, features, k)

    exam.holds("pmi-coverage, against the integer program", coverage, _embedded, tolerance=1e-6, share=0.1)
    exam.holds("mmr, against the integer program", sequence, _embedded, tolerance=1e-6, share=0.1)


def _bound(objective: Objective, features: Features, k: int) -> float:
    strategy = Strategy(PMI(), Greedy(objective))
    found = strategy.assess(features, strategy.select(features, k)).optimality
    assert found is not None
    return float(found.bound)
