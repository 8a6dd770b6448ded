"""What is estimated from training questions: how much of a budget a question needs, and where relevance lies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenprune.components.budgets import SIGNALS, budget_signals, relevance_mass
from tokenprune.components.scorers import PMI
from tokenprune.core.adaptive import Adaptive, BudgetRule, Evidence
from tokenprune.core.strategy import Strategy
from tokenprune.evaluation.conditions import Condition
from tokenprune.evaluation.tune.trial import Questions

__all__ = ["CELLS", "LADDER", "Estimates", "estimate", "fit_need", "fit_prior", "needed_budgets", "with_estimates"]

CELLS = 4
"""Cells down and across of a fitted prior."""

LADDER = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4)
"""Budgets at which training questions are asked, as shares of the one that is tuned for."""

RIDGES = tuple(10.0**k for k in range(-3, 4))
"""Strengths of the ridge, per question, of which leaving one out chooses."""


@dataclass(frozen=True)
class _Probe(BudgetRule):
    """Looks, and keeps all there are."""

    signals: list[Tensor] = field(default_factory=list, hash=False, compare=False)
    cells: list[Tensor] = field(default_factory=list, hash=False, compare=False)
    requires = frozenset({"visual", "text"})

    @property
    def least(self) -> float:
        """Below what any pick is worth."""
        return -1.0

    def worth(self, evidence: Evidence) -> Tensor:
        """Nought for every pick."""
        features, scores = evidence.features, evidence.problem.scores
        self.signals.append(budget_signals(features, scores))
        if features.grids is not None:
            mass = relevance_mass(scores, features.valid())
            for row, grid in enumerate(features.grids):
                place = grid.coordinates()[:, 1:]
                size = torch.tensor([grid.height, grid.width])
                cell = ((2 * place + 1) * CELLS // (2 * size)).clamp_max(CELLS - 1)
                found = torch.zeros(CELLS * CELLS, dtype=torch.float64)
                tokens = torch.zeros_like(found)
                flat = cell[:, 0] * CELLS + cell[:, 1]
                found.index_add_(0, flat, mass[row, : grid.size].cpu())
                tokens.index_add_(0, flat, torch.ones(grid.size, dtype=torch.float64))
                # per area: a cell of more tokens is not a better one; a cell without a token says nothing
                density = torch.where(tokens > 0, found / tokens.clamp_min(1), math.nan)
                self.cells.append(density / density.nanmean())
        return torch.zeros(evidence.order.shape, dtype=torch.float64, device=evidence.order.device)


@dataclass(frozen=True)
class Estimates:
    """Parts with numbers of these questions, as :func:`tokenprune.build_component` takes them; None where unknown.

    Attributes
    ----------
    rule, prior : mapping or None
    notes : tuple of str
        Why there is none.
    """

    rule: Mapping[str, Any] | None
    prior: Mapping[str, Any] | None
    notes: tuple[str, ...] = ()


def needed_budgets(correct: NDArray[np.float64], budgets: Sequence[float]) -> NDArray[np.float64]:
    """The smallest budget from which on a question is answered right: (budgets, questions) -> (questions,).

    Budgets ascend; NaN where none is enough.
    """
    # right at this budget and at all larger ones
    settled = np.flip(np.cumprod(np.flip(correct > 0.5, 0), 0), 0).astype(bool)
    first = settled.argmax(0)
    return np.where(settled.any(0), np.asarray(budgets, dtype=float)[first], np.nan)


def fit_need(signals: NDArray[np.float64], needed: NDArray[np.float64]) -> dict[str, Any] | None:
    """Ridge regression of the log of what questions need on cheap signals, as options of the rule ``fitted``.

    The strength is that with the least error of leaving one question out. The mean share over the questions is 1, so
    that a budget is kept on average. None where all need the same or fewer than ten have an answer.

    Parameters
    ----------
    signals : array, (questions, signals)
    needed : array, (questions,)
        NaN where no budget was enough.
    """
    known = ~np.isnan(needed)
    if known.sum() < 10 or len(set(needed[known].tolist())) < 2:
        return None
    means, spreads = signals.mean(0), signals.std(0)
    spreads = np.where(spreads > 1e-9, spreads, 1.0)
    scaled = (signals - means) / spreads
    x, y = scaled[known], np.log(needed[known])
    y = y - y.mean()
    best: tuple[float, NDArray[np.float64]] | None = None
    for ridge in RIDGES:
        inverse = np.linalg.inv(x.T @ x + ridge * len(x) * np.eye(x.shape[1]))
        weights = inverse @ x.T @ y
        leverage = np.einsum("ij,jk,ik->i", x, inverse, x)
        # the mean is estimated from the rest, too
        error = float(np.mean(((y - x @ weights) / (1 - leverage - 1 / len(x))) ** 2))
        if best is None or error < best[0]:
            best = (error, weights)
    assert best is not None
    weights = best[1]
    bias = -math.log(float(np.mean(np.exp(scaled @ weights))))
    named = {"weights": weights, "means": means, "spreads": spreads}
    return {
        "name": "fitted",
        **{k: [round(float(v), 6) for v in row] for k, row in named.items()},
        "bias": round(bias, 6),
    }


def fit_prior(densities: Sequence[Tensor]) -> dict[str, Any]:
    """Mean relevance of each cell over pictures, as options of the prior ``fitted``.

    Parameters
    ----------
    densities : sequence of float64 Tensor, (CELLS * CELLS,)
        Relevance per token of each cell, 1 on average; NaN in cells in which no token's middle lies, which are believed
        to be as good as any where that is so in every picture.
    """
    mean = torch.stack(list(densities)).nanmean(0).nan_to_num(1.0).clamp_min(1e-3)
    return {"name": "fitted", "weights": [[round(v, 4) for v in row] for row in mean.view(CELLS, CELLS).tolist()]}


def estimate(questions: Questions, default: Strategy, keep: int) -> Estimates:
    """Ask training questions at a ladder of budgets, and look at their signals once."""
    probe = _Probe()
    looking = Condition("probe", "strategy", keep, 0, Strategy(PMI(), Adaptive(probe), name="probe"))
    questions.ask([looking])
    notes = []
    rule = prior = None
    signals = torch.cat(probe.signals).cpu().numpy()
    if len(signals) != questions.n:
        notes.append("no rule is fitted: questions are about several pictures or tiles, each with signals of its own")
    else:
        budgets = sorted({max(1, round(share * keep)) for share in LADDER})
        rows = questions.ask([Condition("ladder", "strategy", k, 0, default) for k in reversed(budgets)])[::-1]
        rule = fit_need(signals, needed_budgets(np.array([row.correct for row in rows]), budgets))
        if rule is None:
            notes.append("no rule is fitted: too few questions need different budgets")
        else:
            about = ", ".join(f"{name} {w:+.2f}" for name, w in zip(SIGNALS, rule["weights"], strict=True))
            notes.append(f"fitted rule, log of the share of the budget for each standard deviation: {about}")
    if probe.cells:
        prior = fit_prior(probe.cells)
    else:
        notes.append("no prior is fitted: where tokens lie is not known")
    return Estimates(rule, prior, tuple(notes))


def with_estimates(composition: Any, found: Estimates) -> Any:
    """A copy in which ``rule: fitted`` and ``prior: fitted`` hold their numbers; uniform where there are none."""
    if isinstance(composition, Mapping):
        out = {}
        for key, value in composition.items():
            bare = value in ("fitted", {"name": "fitted"})
            if key == "prior" and bare:
                out[key] = "uniform" if found.prior is None else dict(found.prior)
            elif key == "rule" and bare:
                out[key] = {"name": "fitted"} if found.rule is None else dict(found.rule)
            else:
                out[key] = with_estimates(value, found)
        return out
    if isinstance(composition, list):
        return [with_estimates(value, found) for value in composition]
    return composition
