"""``tune`` as a function: split, estimate, search, choose, judge, write."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenprune.core.errors import ConfigError, StoppedError, TokenPruneWarning, UnreachableBudgetError
from tokenprune.core.registry import build
from tokenprune.core.strategy import Strategy
from tokenprune.data.items import Item
from tokenprune.evaluation.conditions import FULL, Condition
from tokenprune.evaluation.runner import question_batch
from tokenprune.evaluation.tune.fit import Estimates, estimate
from tokenprune.evaluation.tune.goal import Goal
from tokenprune.evaluation.tune.search import Trial, importances, need_optuna, search, tried
from tokenprune.evaluation.tune.space import Space
from tokenprune.evaluation.tune.split import SHARES, Split, split
from tokenprune.evaluation.tune.trial import Answered, Questions
from tokenprune.evaluation.tune.verdict import (
    DEFAULT,
    Ask,
    Candidate,
    Verdict,
    chosen,
    finalists,
    front,
    judge,
    said,
)
from tokenprune.evaluation.tune.written import write_strategy
from tokenprune.hf.adapters.base import adapter_for
from tokenprune.hf.cost import DecoderShape
from tokenprune.hf.patching import turn_of
from tokenprune.hf.sources import refusal
from tokenprune.results.provenance import provenance, short
from tokenprune.results.store import ResultFolder, write_atomically

__all__ = ["Plan", "Tuned", "tune"]


@dataclass(frozen=True)
class Tuned:
    """What tuning came to.

    Attributes
    ----------
    words : str
        The verdict.
    verdict : Verdict
    candidate : Candidate
        What was judged.
    strategy : Path or None
        The file; None where nothing is better than the default, or nothing keeps the constraint.
    summary : dict
        As in summary.json.
    """

    words: str
    verdict: Verdict
    candidate: Candidate
    strategy: Path | None
    summary: dict[str, Any]


class _Remembered:
    """Answers of one part of the split, asked once in the life of a folder."""

    def __init__(self, folder: ResultFolder, part: str, questions: Questions) -> None:
        self.folder, self.part, self.questions = folder, part, questions

    def __call__(self, rows: Sequence[Condition]) -> list[Answered]:
        """Look, then ask what is not known."""
        keys = [json.dumps(row.key) for row in rows]
        known = {
            json.dumps(line["key"]): Answered(**{n: tuple(v) for n, v in line["answers"].items()})
            for line in self.folder.read()
            if line.get("kind") == "answers" and line["part"] == self.part
        }
        missing = [row for row, key in zip(rows, keys, strict=True) if key not in known]
        for row, found in zip(missing, self.questions.ask(missing) if missing else (), strict=True):
            answers = {n: getattr(found, n) for n in Answered.__dataclass_fields__}
            self.folder.append([{"kind": "answers", "part": self.part, "key": list(row.key), "answers": answers}])
            known[json.dumps(row.key)] = found
        return [known[key] for key in keys]


@dataclass(frozen=True)
class Plan:
    """What is asked for.

    Attributes
    ----------
    goal : Goal
        The constraint.
    space : Space
        What may be composed.
    trials : int
        Compositions to ask, those that the folder holds among them.
    timeout : float or None
        Seconds after which no further composition is tried; the verdict follows.
    seed : int
        Of the split and the search.
    alpha : float
        Level of the test against the default.
    batch_size, max_new_tokens : int
    """

    goal: Goal
    space: Space
    trials: int = 40
    timeout: float | None = None
    seed: int = 0
    alpha: float = 0.01
    batch_size: int = 16
    max_new_tokens: int = 6


def tune(
    model: Any,
    processor: Any,
    items: Sequence[Item],
    out: Path,
    config: Mapping[str, Any],
    plan: Plan,
    *,
    facts: Mapping[str, Any] | None = None,
    note: Callable[[str], None] = lambda text: warnings.warn(text, TokenPruneWarning, stacklevel=3),
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> Tuned:
    """Find the best composition for a model and questions, and say whether it holds on pictures it never saw.

    Parameters
    ----------
    model, processor
    items : sequence of Item
    out : Path
        Gone on with where it stopped, if all that decides an answer, the space and the constraint are as they were.
    config : mapping
        Options that decide an answer.
    plan : Plan
    facts : mapping, optional
        Environment, for a reader.
    note, progress : callable

    Raises
    ------
    ConfigError
        Too few pictures, a budget that the pictures do not have, a folder that was begun otherwise; nothing is written.
    UnreachableBudgetError
        No composition keeps the constraint on training questions.
    UnsupportedError
        The package that searches is not installed.
    StoppedError
        Ctrl-C; says how far it came.
    """
    need_optuna()
    goal, space = plan.goal, plan.space
    parts = split(items, plan.seed)
    with turn_of(model):
        first = question_batch(model, processor, items[:1])
        n_visual = max(first.units)
    if goal.budget is not None and goal.budget >= n_visual:
        raise ConfigError(f"--budget {goal.budget}: the first picture has {n_visual} visual tokens; give fewer")
    searched = {"strategy": space.strategy, "start": list(space.start)}
    about = {"goal": goal.said, "space": searched, "seed": plan.seed, "shares": SHARES}
    record = provenance({**config, "tune": about}, model, processor, items)
    with turn_of(model), ResultFolder(out, record) as folder:
        try:
            done, estimates, remembered = _searched(model, processor, parts, folder, plan, n_visual, note, progress)
            candidate, rows, verdict = _judged(done, remembered, plan, n_visual, progress)
        except KeyboardInterrupt:
            done = tried(folder.read())
            told = f"stopped after {_looked(done)} of {plan.trials} compositions; the same command goes on"
            raise StoppedError(told) from None
        words = said(verdict, goal, _looked(done))
        path = folder.path / "strategy.yaml"
        wanted = verdict.beats if goal.budget is not None else verdict.met
        if wanted:
            write_strategy(path, candidate, verdict, goal, record, _looked(done))
        else:
            path.unlink(missing_ok=True)
        summary = {
            "environment": dict(facts or {}),
            "words": words,
            "run": short(record),
            "goal": goal.said,
            "n_visual": n_visual,
            "questions": {
                name: {"n": len(part), "pictures": len({item.image_id for item in part})}
                for name, part in parts.parts().items()
            },
            "candidate": {"label": candidate.label, "keep": candidate.keep, "strategy": candidate.strategy},
            "verdict": verdict.as_dict(),
            "validation": rows,
            "notes": list(estimates.notes),
            "importances": importances(space, goal, n_visual, plan.seed, done),
            "front": [trial.line() for trial in front(done)],
            "trials": [trial.line() for trial in done],
        }
        write_atomically(folder.path / "summary.json", json.dumps(summary, indent=1, allow_nan=False) + "\n")
    return Tuned(words, verdict, candidate, path if wanted else None, summary)


def _looked(done: Sequence[Trial]) -> int:
    """Compositions that were asked anything."""
    return sum(trial.state != "refused" for trial in done)


def _searched(
    model: Any,
    processor: Any,
    parts: Split,
    folder: ResultFolder,
    plan: Plan,
    n_visual: int,
    note: Callable[[str], None],
    progress: Callable[[int, int, str], None],
) -> tuple[list[Trial], Estimates, dict[str, _Remembered]]:
    """All trials, what was estimated for them, and who asks each part."""
    asked = {
        name: Questions(model, processor, part, plan.batch_size, plan.max_new_tokens, keep=name == "train")
        for name, part in parts.parts().items()
    }
    remembered = {name: _Remembered(folder, name, questions) for name, questions in asked.items()}
    progress(0, plan.trials, "estimates")
    full = remembered["train"]([Condition(FULL, "full")])[0] if plan.goal.needs_full else None
    estimates = _estimates(folder, asked["train"], plan.goal, n_visual)
    for line in estimates.notes:
        note(line)
    adapter = adapter_for(model)
    done = search(
        plan.space,
        plan.goal,
        asked["train"],
        full,
        estimates,
        folder,
        n_visual=n_visual,
        n_layers=DecoderShape.of(model.config.get_text_config()).layers,
        trials=plan.trials,
        timeout=plan.timeout,
        seed=plan.seed,
        refused=lambda strategy: refusal(adapter, strategy),
        progress=progress,
    )
    if not finalists(done):
        why = next((f"; one was refused: {trial.why}" for trial in done if trial.why), "")
        raise ConfigError(f"none of {len(done)} compositions answered all training questions: give more --trials{why}")
    if full is not None and max(trial.value for trial in done) < 1:
        best = max(done, key=lambda trial: trial.value)
        raise UnreachableBudgetError(
            f"none of {len(done)} compositions has {plan.goal.said} on training questions; the nearest has "
            f"{best.accuracy or 0:.1%} of answers right at {best.tokens or 0:.1f} tokens, the unpruned model "
            f"{full.accuracy:.1%}: lower --min-accuracy, or give more --trials"
        )
    return done, estimates, remembered


def _judged(
    done: Sequence[Trial],
    ask: Mapping[str, Ask],
    plan: Plan,
    n_visual: int,
    progress: Callable[[int, int, str], None],
) -> tuple[Candidate, list[dict[str, Any]], Verdict]:
    """The choice of the validation part, its numbers, and those of the test part."""
    goal = plan.goal
    progress(plan.trials, plan.trials, "validation")
    candidates = finalists(done)
    keeps = [goal.budget] if goal.budget is not None else sorted({one.keep for one in candidates})
    candidates += [Candidate(f"{DEFAULT} (default)", DEFAULT, keep) for keep in keeps]
    candidate, rows = chosen(candidates, ask["validation"], goal, n_visual)
    progress(plan.trials, plan.trials, "test")
    # where cost is the goal, the default may keep what the choice keeps on average
    mine = next(row for row in rows if row["label"] == candidate.label and row["keep"] == candidate.keep)
    fair = goal.budget if goal.budget is not None else max(1, round(mine["tokens"]))
    return candidate, rows, judge(candidate, fair, ask["test"], goal, plan.alpha)


def _estimates(folder: ResultFolder, questions: Questions, goal: Goal, n_visual: int) -> Estimates:
    """Estimated once in the life of a folder."""
    for line in folder.read():
        if line.get("kind") == "estimates":
            return Estimates(line["rule"], line["prior"], tuple(line["notes"]))
    default = build(DEFAULT)
    assert isinstance(default, Strategy)
    found = estimate(questions, default, goal.budget or max(1, n_visual // 9))
    folder.append([{"kind": "estimates", "rule": found.rule, "prior": found.prior, "notes": list(found.notes)}])
    return found
