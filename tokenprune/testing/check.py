"""Hold any part to what its kind promises and to what it declares, on small instances, the smallest first."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor

from tokenprune.components.selectors import Greedy
from tokenprune.core.adaptive import Adaptive, BudgetRule
from tokenprune.core.encoder_kinds import EncoderStage
from tokenprune.core.errors import (
    CheckError,
    DegenerateRelevanceWarning,
    FeatureError,
    MissingSignalError,
    TokenPruneError,
)
from tokenprune.core.features import LAYOUTS, is_signal
from tokenprune.core.kinds import (
    Aggregator,
    Component,
    Merger,
    Normalizer,
    Objective,
    Pairwise,
    Prior,
    Scorer,
    Selector,
)
from tokenprune.core.layer_kinds import DecodeRule, KeepRule, Measure
from tokenprune.core.ranking import relevance
from tokenprune.core.schedule import LayerSchedule
from tokenprune.core.strategy import Strategy
from tokenprune.testing.greedy_paths import try_objective
from tokenprune.testing.instances import LARGEST, Instance, Recorder, halves, instances, refuse, row_of, same_numbers
from tokenprune.testing.layers import (
    LAYER_SHAPES,
    depths,
    shapes_between,
    try_decode_rule,
    try_measure,
    try_rule,
    try_schedule,
    try_stage,
)
from tokenprune.testing.picks import try_merger, try_selector, try_strategy
from tokenprune.testing.tables import try_aggregator, try_normalizer, try_pairwise

__all__ = ["CheckReport", "check"]

Declared = frozenset[str]


@dataclass(frozen=True)
class CheckReport:
    """What was tried: how many instances, and what could not be checked, with the reason."""

    part: str
    instances: int
    unchecked: tuple[str, ...] = ()


def check(part: object, *, extra: Mapping[str, str] | None = None, largest: int = LARGEST) -> CheckReport:
    """Try a part on small instances: ragged batches, ties, scores as small as probabilities.

    Every kind is tried that is made of tensors: scorers, aggregators, normalizers, priors, tables over pairs,
    objectives, selectors, mergers, rules, measures and stages by what their kind promises and what they declare;
    strategies as a whole and part by part; schedules by all their acts in turn, on numbers instead of a model.

    Parameters
    ----------
    part : Component or AnyStrategy
        An instance, with its options.
    extra : mapping of str to str, optional
        Shapes of signals of your own that it reads, in the letters of ``tokenprune.core.features.SIGNALS``:
        ``{"depth": "b n"}``.
    largest : int, default 8
        Instances have 1, 2, ... up to so many visual tokens, and three times as many once: fewer take less time.

    Returns
    -------
    CheckReport
        Where nothing wrong was found.

    Raises
    ------
    CheckError
        Something is wrong; the message shows the smallest instance found. It is an ``AssertionError`` too.
    """
    if not isinstance(part, Component | Strategy | LayerSchedule):
        raise CheckError(f"{part!r} is an instance of no kind of part: subclass tokenprune.Scorer, Objective, ...")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateRelevanceWarning)
        asked = _Asked(dict(extra or {}), largest)
        if not isinstance(part, Component):
            return _check(part, asked)
        # parts inside first: what is wrong there is told of there
        reports = [_check(one, asked) for one in (*_parts(part), part)]
        unchecked = tuple(dict.fromkeys(why for report in reports for why in report.unchecked))
        return replace(reports[-1], unchecked=unchecked)


@dataclass(frozen=True)
class _Asked:
    """Shapes of signals that are not built in, and how large instances get."""

    extra: Mapping[str, str]
    largest: int


def _check(part: Component | Strategy | LayerSchedule, asked: _Asked) -> CheckReport:
    if isinstance(part, LayerSchedule):
        return _schedule(part, asked)
    if isinstance(part, Strategy):
        return _strategy(part, asked)
    if isinstance(part, BudgetRule):
        # a rule says how far a selector's picks go: what it promises is what a selector of that budget does
        return _check(Adaptive(part, Greedy()), asked)
    tables: tuple[tuple[type, Callable[[Any], int]], ...] = (
        (Aggregator, try_aggregator),
        (Normalizer, try_normalizer),
        (KeepRule, try_rule),
        (EncoderStage, try_stage),
    )
    for kind, tried in tables:
        if isinstance(part, kind):
            return _on_tables(part, tried)
    kinds: tuple[tuple[type, Callable[[Any, Instance], None]], ...] = (
        (Objective, _objective),
        (Scorer, _scorer),
        (Prior, _prior),
        (Selector, try_selector),
        (Merger, try_merger),
        (Pairwise, try_pairwise),
        (Measure, try_measure),
        (DecodeRule, try_decode_rule),
    )
    one = next((tried for kind, tried in kinds if isinstance(part, kind)), None)
    if one is None:
        return CheckReport(repr(part), 0, (f"no checks for the kind {part.kind!r}",))
    declared = part.required_signals()
    # a prior may ask where tokens lie, which is no signal
    laid_out = declared | {"frames"} if isinstance(part, Prior) else declared
    return _on_instances(part, partial(one, part), declared, laid_out, asked)


def _on_tables(part: Component, tried: Callable[[Any], int]) -> CheckReport:
    try:
        count = tried(part)
    except CheckError:
        raise
    except TokenPruneError as error:
        return CheckReport(repr(part), 0, (f"refused: {error}",))
    except Exception as error:
        raise CheckError(f"{part!r} breaks: {type(error).__name__}: {error}") from error
    if count < 0:
        return CheckReport(repr(part), 0, ("its counts follow from what is measured in a model",))
    return CheckReport(repr(part), count)


def _on_instances(
    part: Component | Strategy | LayerSchedule,
    one: Callable[[Instance], None],
    declared: Declared,
    laid_out: Declared,
    asked: _Asked,
) -> CheckReport:
    """Try one part on all instances, and note what it reads."""
    name = part.name if isinstance(part, LayerSchedule) else repr(part)
    between = LAYER_SHAPES if isinstance(part, Component | Strategy) else {}
    shapes = {**{n: between[n] for n in between if n in declared}, **asked.extra}
    unknown = sorted(n for n in declared - shapes.keys() if not is_signal(n) and n not in LAYOUTS)
    if unknown:
        return CheckReport(
            name, 0, tuple(f"signal {n!r} is not built in: give extra={{{n!r}: 'b n'}}" for n in unknown)
        )
    count, skipped = 0, set[str]()
    for instance in instances(laid_out, shapes, largest=asked.largest):
        seen: set[str] = set()
        before = {n: instance.features._signals[n].clone() for n in instance.features}
        try:
            one(replace(instance, features=Recorder.of(instance.features, seen)))
        except CheckError:
            raise
        except MissingSignalError as error:
            features = instance.features
            if features.grids is None or features.grid is not None:
                refuse(f"{name}: {error}", instance, error)
            skipped.add(f"rows on different grids: {error}")
            continue
        except FeatureError as error:
            refuse(f"{name}: {error}", instance, error)
        except TokenPruneError as error:
            return CheckReport(name, count, (f"refused: {error}",))
        except Exception as error:  # a part that breaks on sound features is wrong, whatever it raises
            refuse(f"{name} breaks: {type(error).__name__}: {error}", instance, error)
        for n, value in before.items():
            if not torch.equal(value, instance.features._signals[n]):
                refuse(f"{name} changes the signal {n!r} that it was given", instance)
        given = frozenset(instance.features)
        reads = part.required_signals(given) if isinstance(part, Component) else part.reads(given)
        undeclared = {n for n in seen if "#" not in n} - reads - declared - {"visual"}
        if undeclared:
            refuse(f"{name} reads {sorted(undeclared)}, which it does not declare in requires", instance)
        count += 1
    return CheckReport(name, count, tuple(sorted(skipped)))


def _parts(whole: Strategy | Component) -> Iterator[Component]:
    """Parts of a strategy, or inside a part, each once."""
    seen: list[Component] = []
    fields = (whole.scorer, whole.selector, whole.merger, whole.stage) if isinstance(whole, Strategy) else (whole,)
    for part in fields:
        for one in () if part is None else part.parts():
            if one is not whole and one not in seen:
                seen.append(one)
                yield one


def _strategy(part: Strategy, asked: _Asked) -> CheckReport:
    """Every part, then the whole."""
    unchecked = list[str]()
    for one in _parts(part):
        unchecked += [f"{one!r}: {why}" for why in _check(one, asked).unchecked]
    whole = _on_instances(part, partial(try_strategy, part), part.requires, part.requires, asked)
    return replace(whole, unchecked=tuple(dict.fromkeys((*whole.unchecked, *unchecked))))


def _schedule(part: LayerSchedule, asked: _Asked) -> CheckReport:
    """Parts of all acts, rules and measures; then all acts in turn, in a deep and in a shallow model."""
    unchecked, tried = list[str](), 0
    measures = part.measures + tuple(m for event in part.events for m in event.measures)
    # what follows from measures is tried with the acts that take them
    rules = (rule for rule in (part.before_rule, *(event.rule for event in part.events)) if rule.follows)
    decoding = () if part.decoding is None else (part.decoding.rule,)
    measured = {m.name for m in measures}
    for one in dict.fromkeys((*measures, *decoding, *rules)):
        unchecked += [f"{one!r}: {why}" for why in _check(one, asked).unchecked]
    for act in part.acts:
        for single in _parts(act):
            if not single.required_signals() & measured:
                unchecked += [f"{single!r}: {why}" for why in _check(single, asked).unchecked]
    for depth in depths(part):
        layers = replace(asked, extra={**shapes_between(part, depth), **asked.extra})
        report = _on_instances(part, partial(_run_schedule, part, depth), part.requires, part.requires, layers)
        tried += report.instances
        unchecked += report.unchecked
    return CheckReport(part.name, tried, tuple(dict.fromkeys(unchecked)))


def _run_schedule(part: LayerSchedule, depth: int, instance: Instance) -> None:
    try_schedule(part, instance, depth)


def _objective(part: Objective, instance: Instance) -> None:
    def fail(what: str, where: Instance) -> NoReturn:
        refuse(f"{part!r}: {what}", where)

    try_objective(part, instance, fail)


def _rows(name: str, whole: Tensor, alone: Callable[[Instance], Tensor], instance: Instance) -> None:
    """Each row by itself, without padding and with it, must be what it is in the batch."""
    for row in range(whole.shape[0]):
        real = instance.features.valid()[row]
        if not same_numbers(alone(row_of(instance, row))[0], whole[row, real]):
            refuse(f"{name} of row {row} depend on padding or on other rows of the batch", instance)
        if not same_numbers(alone(row_of(instance, row, padded=True))[0, real], whole[row, real]):
            refuse(f"{name} of row {row} depend on other rows of the batch", instance)


def _scorer(part: Scorer, instance: Instance) -> None:
    whole = relevance(part, instance.features)
    torch.manual_seed(torch.initial_seed() + 1)
    if not torch.equal(whole, relevance(part, instance.features)):
        refuse(f"{part!r}: scores of the same features differ from call to call", instance)
    _rows(f"{part!r}: scores", whole, lambda one: relevance(part, one.features), instance)
    given = frozenset(instance.features)
    read = {"visual"} | {n for n in part.required_signals(given) if n in given and is_signal(n)}
    for pair in halves(instance, sorted(read)):
        low, high = (relevance(part, one.features).double() for one in pair)
        if not torch.allclose(low, high, rtol=0.05, atol=0.05 * float(high.abs().max())):
            refuse(f"{part!r}: scores of half precision are off: {low.tolist()}, float32 {high.tolist()}", instance)


def _prior(part: Prior, instance: Instance) -> None:
    def found(one: Instance) -> Tensor:
        prior = part.log_prior(one.features)
        real = one.features.valid()
        if prior is None:
            return torch.zeros(real.shape).double()
        if not isinstance(prior, Tensor) or prior.shape != real.shape:
            refuse(f"{part!r} must return None or a tensor {tuple(real.shape)}, got {prior!r}", instance)
        if bool((prior[~real] > -1e30).any()) or not same_numbers(prior.exp().sum(1), torch.ones(len(real))):
            refuse(f"{part!r}: probabilities of real tokens do not sum to 1, 0 at padding: {prior.tolist()}", instance)
        return prior

    _rows(f"{part!r}: log-probabilities", found(instance), found, instance)
