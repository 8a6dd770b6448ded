"""Hold any part to what its kind promises and to what it declares, on small instances, the smallest first."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

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
    Normalizer,
    Objective,
    Prior,
    Problem,
    Scorer,
    Selector,
    aggregated,
)
from tokenprune.core.ranking import relevance
from tokenprune.core.strategy import Strategy
from tokenprune.testing.greedy_paths import try_objective
from tokenprune.testing.instances import Instance, Recorder, instances, row_of

__all__ = ["CheckReport", "check"]

CLOSE = 1e-6


@dataclass(frozen=True)
class CheckReport:
    """What was tried: how many instances, and what could not be checked, with the reason."""

    part: str
    instances: int
    unchecked: tuple[str, ...] = ()


def check(part: object, *, extra: Mapping[str, str] | None = None) -> CheckReport:
    """Try a part on small instances: ragged batches, ties, scores as small as probabilities.

    Scorers, aggregators, normalizers, priors, objectives, selectors and strategies are tried; of other kinds nothing is
    known here, which the report says.

    Parameters
    ----------
    part : Component or Strategy
        An instance, with its options.
    extra : mapping of str to str, optional
        Shapes of signals of your own that it reads, in the letters of ``tokenprune.core.features.SIGNALS``:
        ``{"depth": "b n"}``.

    Returns
    -------
    CheckReport
        Where nothing wrong was found.

    Raises
    ------
    CheckError
        Something is wrong; the message shows the smallest instance found. It is an ``AssertionError`` too.
    """
    if not isinstance(part, Component | Strategy):
        raise CheckError(f"{part!r} is an instance of no kind of part: subclass tokenprune.Scorer, Objective, ...")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateRelevanceWarning)
        return _check(part, dict(extra or {}))


def _check(part: Component | Strategy, extra: dict[str, str]) -> CheckReport:
    tables: tuple[tuple[type, Callable[[Any], int]], ...] = ((Aggregator, _aggregator), (Normalizer, _normalizer))
    for kind, tried in tables:
        if isinstance(part, kind):
            return CheckReport(repr(part), tried(part))
    kinds: tuple[tuple[type, Callable[[Any, Instance], None]], ...] = (
        (Objective, _objective),
        (Scorer, _scorer),
        (Prior, _prior),
        (Selector, _selector),
        (Strategy, _strategy),
    )
    one = next((tried for kind, tried in kinds if isinstance(part, kind)), None)
    if one is None:
        return CheckReport(repr(part), 0, (f"no checks for the kind {part.kind!r}",))  # type: ignore[union-attr]
    declared = part.requires if isinstance(part, Strategy) else part.required_signals()
    unknown = sorted(n for n in declared - extra.keys() if not is_signal(n) and n not in LAYOUTS)
    if unknown:
        return CheckReport(
            repr(part), 0, tuple(f"signal {n!r} is not built in: give extra={{{n!r}: 'b n'}}" for n in unknown)
        )
    count, skipped = 0, set[str]()
    # a prior may ask where tokens lie, which is no signal
    laid_out = declared | {"frames"} if isinstance(part, Prior) else declared
    for instance in instances(laid_out, extra):
        seen: set[str] = set()
        try:
            one(part, Instance(Recorder.of(instance.features, seen), instance.scores, instance.scale))
        except CheckError:
            raise
        except MissingSignalError as error:
            features = instance.features
            if features.grids is None or features.grid is not None:
                _fail(f"{part!r}: {error}", instance, error)
            skipped.add(f"rows on different grids: {error}")
            continue
        except FeatureError as error:
            _fail(f"{part!r}: {error}", instance, error)
        except TokenPruneError as error:
            return CheckReport(repr(part), count, (f"refused: {error}",))
        except Exception as error:  # a part that breaks on sound features is wrong, whatever it raises
            _fail(f"{part!r} breaks: {type(error).__name__}: {error}", instance, error)
        given = frozenset(instance.features)
        reads = part.reads(given) if isinstance(part, Strategy) else part.required_signals(given)
        undeclared = seen - reads - declared - {"visual"}
        if undeclared:
            _fail(f"{part!r} reads {sorted(undeclared)}, which it does not declare in requires", instance)
        count += 1
    return CheckReport(repr(part), count, tuple(sorted(skipped)))


def _fail(what: str, instance: Instance, error: Exception | None = None) -> NoReturn:
    raise CheckError(f"{what}\nsmallest instance found: {instance}") from error


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=CLOSE, atol=1e-9)


def _objective(part: Objective, instance: Instance) -> None:
    def fail(what: str, where: Instance) -> NoReturn:
        _fail(f"{part!r}: {what}", where)

    try_objective(part, instance, fail)


def _rows(name: str, whole: Tensor, alone: Callable[[Instance], Tensor], instance: Instance) -> None:
    """Each row by itself, without padding and with it, must be what it is in the batch."""
    for row in range(whole.shape[0]):
        real = instance.features.valid()[row]
        if not _same(alone(row_of(instance, row))[0], whole[row, real]):
            _fail(f"{name} of row {row} depend on padding or on other rows of the batch", instance)
        if not _same(alone(row_of(instance, row, padded=True))[0, real], whole[row, real]):
            _fail(f"{name} of row {row} depend on other rows of the batch", instance)


def _scorer(part: Scorer, instance: Instance) -> None:
    whole = relevance(part, instance.features)
    torch.manual_seed(torch.initial_seed() + 1)
    if not torch.equal(whole, relevance(part, instance.features)):
        _fail(f"{part!r}: scores of the same features differ from call to call", instance)
    _rows(f"{part!r}: scores", whole, lambda one: relevance(part, one.features), instance)
    half = {n: instance.features._signals[n].bfloat16() for n in sorted(_floating(part, instance))}
    exact = {n: v.float() for n, v in half.items()}
    low, high = (relevance(part, instance.features.replace(**given)).double() for given in (half, exact))
    if not torch.allclose(low, high, rtol=0.05, atol=0.05 * float(high.abs().max())):
        _fail(f"{part!r}: scores of half precision are off: {low.tolist()}, float32 {high.tolist()}", instance)


def _floating(part: Scorer, instance: Instance) -> Iterable[str]:
    given = frozenset(instance.features)
    return {"visual"} | {n for n in part.required_signals(given) if n in given and is_signal(n)}


def _prior(part: Prior, instance: Instance) -> None:
    def found(one: Instance) -> Tensor:
        prior = part.log_prior(one.features)
        real = one.features.valid()
        if prior is None:
            return torch.zeros(real.shape).double()
        if not isinstance(prior, Tensor) or prior.shape != real.shape:
            _fail(f"{part!r} must return None or a tensor {tuple(real.shape)}, got {prior!r}", instance)
        if bool((prior[~real] > -1e30).any()) or not _same(prior.exp().sum(1), torch.ones(len(real))):
            _fail(f"{part!r}: probabilities of real tokens do not sum to 1, 0 at padding: {prior.tolist()}", instance)
        return prior

    _rows(f"{part!r}: log-probabilities", found(instance), found, instance)


def _selector(part: Selector, instance: Instance) -> None:
    real = instance.features.valid()
    sizes = tuple(int(c) for c in real.sum(1))
    for counts in (tuple(1 for _ in sizes), tuple((s + 1) // 2 for s in sizes), sizes):
        order = part.select(Problem(instance.features, instance.scores.clone(), counts, real.clone(), sizes=sizes))
        if not isinstance(order, Tensor) or order.dtype != torch.long or order.ndim != 2 or len(order) != len(sizes):
            _fail(f"{part!r} must return int64 picks with {len(sizes)} rows, got {order!r}", instance)
        again = part.select(Problem(instance.features, instance.scores.clone(), counts, real.clone(), sizes=sizes))
        if not torch.equal(order, again):
            _fail(f"{part!r}: picks of the same features differ from call to call", instance)
        for row, picks in enumerate(order.tolist()):
            kept = [i for i in picks if i != -1]
            if any(not 0 <= i < real.shape[1] or not real[row, i] for i in kept):
                _fail(f"{part!r} picks {kept} in row {row}, not all of them real tokens", instance)
            if part.distinct and len(set(kept)) < len(kept):
                _fail(f"{part!r} picks a token twice in row {row}: {kept}", instance)
            if not part.own_counts and (len(kept) > counts[row] or (part.fills_budget and len(kept) < counts[row])):
                _fail(f"{part!r} picks {kept} in row {row}, asked for {counts[row]}", instance)


def _strategy(part: Strategy, instance: Instance) -> None:
    smallest = min(instance.features.counts())
    for keep in sorted({1, smallest}):
        whole = part.select(instance.features, keep)
        if part.select(instance.features, keep).order.tolist() != whole.order.tolist():
            _fail(f"{part!r}: picks of the same features differ from call to call", instance)


def _aggregator(part: Aggregator) -> int:
    generator = torch.Generator().manual_seed(0)
    for rows, columns in ((1, 2), (2, 3), (3, 1), (4, 5)):
        log_p = torch.randn(2, rows, columns, dtype=torch.float64, generator=generator).log_softmax(-1)
        table = log_p - log_p.logsumexp(1, keepdim=True)
        what = f"table {table.tolist()}, log weights {log_p.tolist()}"
        try:
            whole = aggregated(part, table, log_p, torch.ones(2, columns, dtype=torch.bool))
        except FeatureError as error:
            raise CheckError(f"{error}; on {what}") from error
        if not _same(whole, aggregated(part, table, log_p, torch.ones(2, columns, dtype=torch.bool))):
            raise CheckError(f"{part!r}: the same table gives other numbers from call to call; on {what}")
        if not _same(whole[:1], aggregated(part, table[:1], log_p[:1], torch.ones(1, columns, dtype=torch.bool))):
            raise CheckError(f"{part!r}: other rows of the batch decide a row; on {what}")
        more, weights = (torch.cat([x, torch.full_like(x[..., :1], 7.0)], -1) for x in (table, log_p))
        mask = torch.arange(columns + 1).expand(2, -1) < columns
        if not _same(whole, aggregated(part, more, weights, mask)):
            raise CheckError(f"{part!r}: columns that the mask leaves out decide; on {what}")
    return 4


def _normalizer(part: Normalizer) -> int:
    generator = torch.Generator().manual_seed(0)
    for rows, columns in ((1, 2), (2, 3), (4, 5)):
        similarity = torch.rand(2, rows, columns, dtype=torch.float64, generator=generator) * 2 - 1
        what = f"similarity {similarity.tolist()}"
        log_p = part(similarity)
        if not isinstance(log_p, Tensor) or log_p.shape != similarity.shape:
            raise CheckError(f"{part!r} must return a table {tuple(similarity.shape)}; on {what}")
        if not _same(log_p.exp().sum(-1), torch.ones(2, rows)):
            raise CheckError(f"{part!r}: probabilities of a row do not sum to 1: {log_p.exp().tolist()}; on {what}")
        some = part.log_prob(similarity[..., :1], part.statistics(similarity))
        if not _same(some.exp(), log_p[..., :1].exp()):
            raise CheckError(f"{part!r}: log_prob of some columns is not that of the whole table; on {what}")
        more = torch.cat([similarity, torch.full_like(similarity[..., :1], 7.0)], -1)
        masked = part(more, torch.arange(columns + 1).expand(2, -1) < columns)[..., :columns]
        if not _same(masked.exp(), log_p.exp()):
            raise CheckError(f"{part!r}: columns that the mask leaves out decide; on {what}")
    return 3
