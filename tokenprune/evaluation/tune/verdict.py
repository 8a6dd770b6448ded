"""What holds on pictures that nothing was chosen by: the verdict, in numbers and in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tokenprune.core.registry import build
from tokenprune.evaluation.conditions import FULL, RANDOM, RANDOM_DRAWS, Condition
from tokenprune.evaluation.statistics import bootstrap_interval, paired_p_value
from tokenprune.evaluation.tune.goal import Goal
from tokenprune.evaluation.tune.search import Trial
from tokenprune.evaluation.tune.trial import Answered

__all__ = ["DEFAULT", "FINALISTS", "Candidate", "Verdict", "chosen", "finalists", "front", "holm", "judge", "said"]

DEFAULT = "mi-pruner"
"""What a tuned composition has to beat: the published method with the numbers it was published with."""

Ask = Callable[[Sequence[Condition]], list[Answered]]
"""Who answers some rows, to the questions of one part."""

FINALISTS = 6
"""Compositions that the validation part chooses from, besides the default."""


@dataclass(frozen=True)
class Candidate:
    """A composition with its budget."""

    label: str
    strategy: Mapping[str, Any] | str
    keep: int

    def row(self) -> Condition:
        """To be asked."""
        return Condition(self.label, "strategy", self.keep, 0, build(self.strategy))


@dataclass(frozen=True)
class Verdict:
    """The test part's numbers.

    Attributes
    ----------
    beats : bool
        More accurate than the default (or as cheap as wanted, where cost is the goal), and met its constraint.
    rows : list of mapping
        ``label``, ``keep``, ``accuracy``, ``low``, ``high``, ``tokens``, ``n``: the choice, the default, random, full.
    p_default, p_random : float
        Paired sign-flip tests over pictures, corrected for being two (Holm).
    gain : float
        Accuracy above the default's.
    gain_interval : (float, float) or None
    met : bool
        Whether the constraint holds on these pictures.
    alpha : float
    """

    beats: bool
    rows: list[dict[str, Any]]
    p_default: float
    p_random: float
    gain: float
    gain_interval: tuple[float, float] | None
    met: bool
    alpha: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def front(trials: Sequence[Trial]) -> list[Trial]:
    """Complete trials that no other beats in both accuracy and tokens, by falling tokens."""
    best: list[Trial] = []
    complete = [t for t in trials if t.state == "complete" and t.accuracy is not None and t.tokens is not None]
    for trial in sorted(complete, key=lambda t: (t.tokens or 0.0, -(t.accuracy or 0.0))):
        if not best or (trial.accuracy or 0.0) > (best[-1].accuracy or 0.0):
            best.append(trial)
    return best[::-1]


def finalists(trials: Sequence[Trial]) -> list[Candidate]:
    """The best complete trials, different compositions."""
    ranked = sorted((t for t in trials if t.state == "complete"), key=lambda t: (-t.value, t.number))
    found: list[Candidate] = []
    for trial in ranked:
        if all((trial.strategy, trial.keep) != (one.strategy, one.keep) for one in found):
            found.append(Candidate(f"trial {trial.number}", trial.strategy, trial.keep))
    return found[:FINALISTS]


def chosen(
    candidates: Sequence[Candidate],
    ask: Ask,
    goal: Goal,
    n_visual: int,
) -> tuple[Candidate, list[dict[str, Any]]]:
    """The best by the validation part: those that met the constraint there first; and the numbers of all."""
    rows = []
    unpruned = [Condition(FULL, "full")] if goal.needs_full else []
    found_all = ask([*unpruned, *(candidate.row() for candidate in candidates)])
    full, answers = (found_all[0], found_all[1:]) if goal.needs_full else (None, found_all)
    for candidate, found in zip(candidates, answers, strict=True):
        value = goal.value(found, full, n_visual)
        rows.append({**_numbers(candidate.label, candidate.keep, found), "met": goal.met(found, full), "value": value})
    best = max(range(len(rows)), key=lambda i: (rows[i]["met"], rows[i]["value"], -i))
    return candidates[best], rows


def judge(candidate: Candidate, default_keep: int, ask: Ask, goal: Goal, alpha: float) -> Verdict:
    """Ask the test part: the candidate, and what it is measured against at the same budget.

    Parameters
    ----------
    candidate : Candidate
    default_keep : int
        Budget of the default and of random.
    ask : callable
    goal : Goal
    alpha : float
        Level of the test against the default.
    """
    published = Condition(DEFAULT, "strategy", default_keep, 0, build(DEFAULT))
    drawn = [Condition(RANDOM, "strategy", default_keep, i, build("random")) for i in range(RANDOM_DRAWS)]
    full, mine, default, *draws = ask([Condition(FULL, "full"), candidate.row(), published, *drawn])
    random = Answered(
        draws[0].samples,
        draws[0].images,
        tuple(sum(c) / len(c) for c in zip(*(d.correct for d in draws), strict=True)),
        draws[0].tokens,
        draws[0].said,
    )
    tests = [paired_p_value(mine.correct, other.correct, mine.images) for other in (default, random)]
    p_default, p_random = holm(tests)
    differences = [a - b for a, b in zip(mine.correct, default.correct, strict=True)]
    gain = sum(differences) / len(differences)
    met = goal.met(mine, full)
    named = ((candidate.label, candidate.keep, mine), (DEFAULT, default_keep, default))
    rows = [_numbers(*one) for one in (*named, (RANDOM, default_keep, random), (FULL, 0, full))]
    return Verdict(
        met and gain > 0 and p_default < alpha,
        rows,
        p_default,
        p_random,
        gain,
        bootstrap_interval(differences, mine.images),
        met,
        alpha,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for being several, each at least as large as it was (Holm's step-down)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    out, highest = [1.0] * len(p_values), 0.0
    for place, i in enumerate(order):
        highest = max(highest, min(1.0, p_values[i] * (len(p_values) - place)))
        out[i] = highest
    return out


def said(verdict: Verdict, goal: Goal, looked: int) -> str:
    """The verdict in a sentence or two."""
    mine, default = verdict.rows[0], verdict.rows[1]
    difference = f"{mine['accuracy']:.1%} against {default['accuracy']:.1%} of {DEFAULT} with its published numbers"
    where = f"on {mine['n']} questions about pictures that nothing was chosen by"
    tested = f"p = {verdict.p_default:.3g} (level {verdict.alpha:g})"
    if not verdict.met:
        return (
            f"Nothing found keeps the constraint ({goal.said}) {where}: the best of {looked} compositions has "
            f"{mine['accuracy']:.1%} at {mine['tokens']:.1f} tokens. No strategy is written."
        )
    if goal.budget is None:
        return (
            f"Keeps the constraint ({goal.said}) at {mine['tokens']:.1f} tokens {where}: {difference} at as many "
            f"tokens, {tested}, after {looked} compositions were tried."
        )
    if verdict.beats:
        return f"Better than the default {where}: {difference}, {tested}, after {looked} compositions were tried."
    return (
        f"Nothing beats the default {where}: {difference}, {tested}; {looked} compositions were tried. Use "
        f"{DEFAULT} at {default['keep']} tokens, or ask more questions. No strategy is written."
    )


def _numbers(label: str, keep: int, found: Answered) -> dict[str, Any]:
    ends = bootstrap_interval(found.correct, found.images) or (found.accuracy, found.accuracy)
    return {
        "label": label,
        "keep": keep,
        "accuracy": found.accuracy,
        "low": ends[0],
        "high": ends[1],
        "tokens": found.mean_tokens,
        "n": len(found.samples),
    }
