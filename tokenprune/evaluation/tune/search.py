"""The search: compositions that a sampler proposes, asked more questions the better they do, and remembered."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tokenprune.core.errors import ConfigError, TokenPruneError, UnsupportedError
from tokenprune.core.matching import matched_keep
from tokenprune.core.registry import build
from tokenprune.core.schedule import LayerSchedule
from tokenprune.core.strategy import AnyStrategy
from tokenprune.evaluation.conditions import Condition
from tokenprune.evaluation.tune.fit import Estimates, with_estimates
from tokenprune.evaluation.tune.goal import Goal
from tokenprune.evaluation.tune.space import Alternatives, Open, Space
from tokenprune.evaluation.tune.trial import Answered, Questions
from tokenprune.results.store import ResultFolder

__all__ = ["KEEP", "RUNGS", "Trial", "asked_keep_of", "gives_up", "importances", "need_optuna", "search", "tried"]

RUNGS = (1, 2, 4)
"""Questions asked before a composition may be given up, as quarters of all: asynchronous successive halving."""

HOPELESS = 1.5
"""A composition that keeps so many times the budget on the first batch is asked no more."""

GUIDED, ATTEMPTS = 4, 40
"""How often another composition is looked for where one was tried already: by what is known, then blindly. Where all
are known the space holds no others, or nearly none."""

KEEP = "keep"
"""Name of the budget where that is open, too."""


def need_optuna() -> Any:
    """Import the sampler.

    Raises
    ------
    UnsupportedError
        It is not installed; says how to get it.
    """
    try:
        import optuna
    except ImportError as error:
        raise UnsupportedError(
            "tune needs the package optuna, which is not installed: pip install 'tokenprune-vlm[tune]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


@dataclass(frozen=True)
class Trial:
    """One composition and how it did on training questions.

    Attributes
    ----------
    number : int
    params : mapping
        What was chosen, by name.
    strategy : mapping
        As :func:`tokenprune.build` takes it.
    keep : int
        Budget that it was asked with.
    state : str
        "complete", "pruned" (given up after some questions) or "refused" (asked nothing; ``why`` says the reason).
    steps : sequence of (rung, value)
    accuracy, tokens : float or None
        Over the questions it was asked; None where there were none.
    n : int
        Questions.
    why : str
        Why it was refused: parts that do not go together, a signal that the model lacks, a budget that it cannot have.
    """

    number: int
    params: Mapping[str, Any]
    strategy: Mapping[str, Any]
    keep: int
    state: str
    steps: Sequence[tuple[int, float]]
    accuracy: float | None
    tokens: float | None
    n: int
    why: str = ""

    @property
    def value(self) -> float:
        """What the search maximises, after the last rung."""
        return self.steps[-1][1] if self.steps else -1.0

    def line(self) -> dict[str, Any]:
        """For results.jsonl."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {"kind": "trial", **fields, "steps": [list(step) for step in self.steps]}


def tried(lines: Iterable[Mapping[str, Any]]) -> list[Trial]:
    """Trials among the lines of a folder."""
    names = Trial.__dataclass_fields__
    return [Trial(**{name: line[name] for name in names}) for line in lines if line.get("kind") == "trial"]


def _distribution(one: Open) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if isinstance(one, Alternatives):
        return CategoricalDistribution(one.labels)
    return FloatDistribution(one.low, one.high, log=one.log)


def _keep_distribution(n_visual: int) -> Any:
    from optuna.distributions import IntDistribution

    return IntDistribution(min(4, n_visual), n_visual, log=True)


def _study(space: Space, goal: Goal, n_visual: int, seed: int, done: Sequence[Trial], attempt: int = 0) -> Any:
    """A study that knows what was tried; the same trials, seed and attempt propose the same composition next."""
    optuna = need_optuna()
    # a seed for each place in the sequence, so that a search that was stopped goes on as if it had not been
    mine = seed + len(done) + 100_003 * attempt
    if attempt < GUIDED:
        sampler = optuna.samplers.TPESampler(seed=mine, multivariate=True, group=True, n_startup_trials=12)
    else:
        sampler = optuna.samplers.RandomSampler(seed=mine)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    known = {name: _distribution(one) for name, one in space.open().items()} | {KEEP: _keep_distribution(n_visual)}
    states = {"complete": "COMPLETE", "pruned": "PRUNED", "refused": "PRUNED"}
    for trial in done:
        steps = dict(trial.steps)
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState[states[trial.state]],
                params=dict(trial.params),
                distributions={name: known[name] for name in trial.params},
                value=trial.value if trial.state == "complete" else None,
                intermediate_values=steps or {RUNGS[0]: -1.0},
            )
        )
    return study


def _suggest(trial: Any, one: Open) -> Any:
    if isinstance(one, Alternatives):
        return trial.suggest_categorical(one.name, one.labels)
    return trial.suggest_float(one.name, one.low, one.high, log=one.log)


def search(
    space: Space,
    goal: Goal,
    questions: Questions,
    full: Answered,
    estimates: Estimates,
    folder: ResultFolder,
    *,
    n_visual: int,
    n_layers: int,
    trials: int,
    timeout: float | None = None,
    seed: int = 0,
    refused: Callable[[Any], str | None] = lambda strategy: None,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> list[Trial]:
    """Try compositions until ``trials`` of them were asked, or ``timeout`` seconds are over.

    Those that are refused cost nothing and do not count, as long as there are no more of them than of the others. None
    is tried twice; a space that holds no others ends the search.

    Parameters
    ----------
    space, goal
    questions : Questions
        Of the training part.
    full : Answered
        What the unpruned model answers to them.
    estimates : Estimates
    folder : ResultFolder
        Trials that it holds are not repeated.
    n_visual : int
        Visual tokens of a picture.
    n_layers : int
        Decoder layers of the model.
    trials : int
    timeout : float, optional
    seed : int
    refused : callable
        Told a strategy, says why the model cannot run it.
    progress : callable
    """
    done = tried(folder.read())
    end = None if timeout is None else time.monotonic() + timeout
    asked = sum(trial.state != "refused" for trial in done)
    while asked < trials and len(done) < 2 * trials and (end is None or time.monotonic() < end):
        progress(asked, trials, "trial")
        proposal = _proposed(space, goal, estimates, n_visual, seed, done)
        if proposal is None:
            break
        params, composition, keep = proposal
        # where the search begins is what others are measured against, whole
        rivals = [] if len(done) < len(space.start) else done
        why, state = "", "refused"
        steps: list[tuple[int, float]] = []
        answered: Answered | None = None
        try:
            strategy = build(composition)
            keep = asked_keep_of(strategy, keep, goal, n_visual, n_layers)
            why = refused(strategy) or ""
            if not why:
                row = Condition("trial", "strategy", keep, 0, strategy)
                steps, answered, state = _asked(row, goal, questions, full, n_visual, rivals)
        except TokenPruneError as error:
            why = str(error)
        one = Trial(
            len(done),
            params,
            composition,
            keep,
            state,
            steps,
            None if answered is None else answered.accuracy,
            None if answered is None else answered.mean_tokens,
            0 if answered is None else len(answered.samples),
            why,
        )
        folder.append([one.line()])
        done.append(one)
        asked += state != "refused"
    return done


def _proposed(
    space: Space, goal: Goal, estimates: Estimates, n_visual: int, seed: int, done: Sequence[Trial]
) -> tuple[dict[str, Any], dict[str, Any], int] | None:
    """Choices, the composition and its budget, none that was tried; None where no other is found."""
    known = [(trial.strategy, trial.params.get(KEEP)) for trial in done]
    for attempt in range(ATTEMPTS):
        study = _study(space, goal, n_visual, seed, done, attempt)
        if len(done) < len(space.start) and not attempt:
            begin = dict(space.start[len(done)])
            if goal.budget is None:
                begin[KEEP] = max(_keep_distribution(n_visual).low, n_visual // 9)
            study.enqueue_trial(begin)
        trial = study.ask()
        composition = with_estimates(space.compose(partial(_suggest, trial)), estimates)
        keep = goal.budget
        if keep is None:
            distribution = _keep_distribution(n_visual)
            keep = trial.suggest_int(KEEP, distribution.low, distribution.high, log=True)
        if (composition, trial.params.get(KEEP)) not in known:
            return dict(trial.params), composition, keep
    return None


def asked_keep_of(strategy: AnyStrategy, keep: int, goal: Goal, n_visual: int, n_layers: int) -> int:
    """What a composition is asked for, so that layers process the budget on average.

    Raises
    ------
    UnreachableBudgetError
        The layers before it acts see too much.
    """
    if goal.budget is None or not isinstance(strategy, LayerSchedule):
        return keep
    return matched_keep(strategy, goal.budget, n_visual, n_layers)


def gives_up(value: float, rung: int, rivals: Sequence[Trial]) -> bool:
    """Whether a composition is below the better half of those that were asked as much.

    Unlike Optuna's own pruner this needs no more than the values, so that a search goes on from the lines of a folder.
    """
    values = sorted((step for trial in rivals for at, step in trial.steps if at == rung), reverse=True)
    return len(values) > 1 and value < values[(len(values) - 1) // 2]


def _asked(
    row: Condition, goal: Goal, questions: Questions, full: Answered, n_visual: int, rivals: Sequence[Trial]
) -> tuple[list[tuple[int, float]], Answered, str]:
    """Values after each rung, the answers, and how it ended."""
    answered: Answered | None = None
    steps: list[tuple[int, float]] = []
    start = 0
    for rung in RUNGS:
        stop = -(-len(questions) * rung // RUNGS[-1])
        for number in range(start, stop):
            (more,) = questions.ask([row], number, number + 1)
            answered = more if answered is None else answered + more
            if number == 0 and goal.budget is not None and answered.mean_tokens > HOPELESS * goal.budget:
                return [(rung, goal.value(answered, full, n_visual))], answered, "pruned"
        start = stop
        assert answered is not None
        value = goal.value(answered, full, n_visual)
        steps.append((rung, value))
        if rung != RUNGS[-1] and gives_up(value, rung, rivals):
            return steps, answered, "pruned"
    assert answered is not None
    return steps, answered, "complete"


def importances(space: Space, goal: Goal, n_visual: int, seed: int, done: Sequence[Trial]) -> dict[str, float]:
    """How much of what separates good from bad trials each open value accounts for (PED-ANOVA); largest first.

    Of values that every composition chooses; empty where fewer than ten compositions answered all questions.

    Raises
    ------
    ConfigError
        No trial at all.
    """
    if not done:
        raise ConfigError("there are no trials to compare")
    optuna = need_optuna()
    complete = [trial for trial in done if trial.state == "complete"]
    if len(complete) < 10 or len({trial.value for trial in complete}) < 2:
        return {}
    study = _study(space, goal, n_visual, seed, complete)
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    with warnings.catch_warnings():
        # values that few compositions choose have no share worth telling, which their share shows
        warnings.simplefilter("ignore", UserWarning)
        found: dict[str, float] = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return dict(sorted(found.items(), key=lambda item: -item[1]))
