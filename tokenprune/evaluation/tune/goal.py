"""What is wanted of a composition: accuracy at a budget, or the least cost at an accuracy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tokenprune.core.errors import ConfigError
from tokenprune.evaluation.tune.trial import Answered

__all__ = ["SLACK", "Goal", "goal_of"]

SLACK = 1.02
"""A budget counts as kept up to 2 % more tokens on average: rules that decide for each question hit it no closer."""


@dataclass(frozen=True)
class Goal:
    """A constraint.

    Attributes
    ----------
    budget : int or None
        Most visual tokens that layers process on average; the goal is then accuracy.
    min_accuracy : float or None
        Least share of the unpruned model's accuracy; the goal is then few tokens.
    said : str
        The constraint in words.
    """

    budget: int | None
    min_accuracy: float | None
    said: str

    @property
    def needs_full(self) -> bool:
        """Whether it is measured against what the unpruned model answers."""
        return self.min_accuracy is not None

    def value(self, found: Answered, full: Answered | None, n_visual: int) -> float:
        """What the search maximises; comparable between compositions that answered the same questions."""
        if self.budget is not None:
            over = max(0.0, found.mean_tokens / (SLACK * self.budget) - 1)
            return found.accuracy - over
        assert self.min_accuracy is not None
        assert full is not None
        base = sum(full.correct[: len(found.correct)]) / len(found.correct)
        share = found.accuracy / base if base else 0.0
        # all that is accurate enough is better than all that is not
        return 1 + (1 - found.mean_tokens / n_visual) if share >= self.min_accuracy else share / self.min_accuracy

    def met(self, found: Answered, full: Answered | None) -> bool:
        """Whether the constraint holds."""
        if self.budget is not None:
            return found.mean_tokens <= SLACK * self.budget
        assert self.min_accuracy is not None
        assert full is not None
        return found.accuracy >= self.min_accuracy * full.accuracy


def goal_of(budget: int | None, min_accuracy: float | None, max_ms: float | None, costs: Path | None) -> Goal:
    """Read the constraint that was given.

    Parameters
    ----------
    budget : int, optional
    min_accuracy : float, optional
    max_ms : float, optional
        Most milliseconds to the first token, by what ``tokenprune bench`` measured in ``costs``.
    costs : Path, optional

    Raises
    ------
    ConfigError
        None or several constraints, a number out of range, or a time that no measured budget keeps.
    """
    given = [x for x in (budget, min_accuracy, max_ms) if x is not None]
    if len(given) != 1:
        raise ConfigError("give one constraint: --budget TOKENS, --min-accuracy SHARE or --max-ms MILLISECONDS")
    if (max_ms is None) != (costs is None):
        raise ConfigError("--max-ms and --costs belong together: the folder that `tokenprune bench --out` wrote")
    if budget is not None:
        if budget < 1:
            raise ConfigError(f"--budget must be at least 1, got {budget}")
        return Goal(budget, None, f"at most {budget} visual tokens on average")
    if min_accuracy is not None:
        if not 0 < min_accuracy <= 1:
            raise ConfigError(f"--min-accuracy is a share of the unpruned model's, in (0, 1]; got {min_accuracy}")
        return Goal(None, min_accuracy, f"at least {min_accuracy:.1%} of the unpruned model's accuracy")
    assert max_ms is not None
    assert costs is not None
    found = largest_budget(_costs(costs), max_ms)
    return Goal(found, None, f"at most {max_ms:g} ms to the first token, which is {found} visual tokens")


def _costs(folder: Path) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["rows"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"--costs {str(folder)!r} holds no finished `tokenprune bench`: {error}") from error
    return rows


def largest_budget(rows: Sequence[dict[str, Any]], max_ms: float) -> int:
    """The largest budget whose time to the first token, measured or between two that were, is at most ``max_ms``.

    Of the first batch size, and of each budget the median over strategies and ways.

    Raises
    ------
    ConfigError
        No such times, or none that short.
    """
    timed: dict[int, list[float]] = {}
    batch = min((row["batch"] for row in rows), default=1)
    for row in rows:
        ms = row.get("first_token_ms")
        ms = ms.get("median") if isinstance(ms, dict) else ms
        # the unpruned model's budget is 0: its time says nothing about budgets
        if row.get("keep") and row["batch"] == batch and isinstance(ms, int | float):
            timed.setdefault(int(row["keep"]), []).append(float(ms))
    if not timed:
        raise ConfigError("--costs: no row of it has a budget and the time to the first token")
    budgets = sorted(timed)
    # longer prompts take no less time; a clock that says otherwise was disturbed
    times = np.maximum.accumulate([float(np.median(timed[k])) for k in budgets])
    if max_ms < times[0]:
        raise ConfigError(
            f"--max-ms {max_ms:g} cannot be met: {budgets[0]} tokens, the fewest measured, take {times[0]:.4g} ms"
        )
    if max_ms >= times[-1]:
        return budgets[-1]
    above = int(np.searchsorted(times, max_ms, side="right"))
    low, high = times[above - 1], times[above]
    part = (max_ms - low) / (high - low)
    return int(budgets[above - 1] + part * (budgets[above] - budgets[above - 1]))
