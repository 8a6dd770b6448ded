"""What cannot be served is refused: by our errors, naming argument, value and what is accepted, changing nothing."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune as tp
from tests.support.tables import GivenScores
from tokenprune.components import (
    aggregators,
    crops,
    dedup,
    normalizers,
    objectives,
    pairwise,
    priors,
    scorers,
    selectors,
)
from tokenprune.components.layerwise import attention as layer_attention
from tokenprune.components.layerwise import basis, pivots, rules
from tokenprune.core import errors, registry

N, T, D = 9, 4, 6
KEEP_ALL = 1.0


def visual() -> Tensor:
    return torch.randn(2, N, D, generator=torch.Generator().manual_seed(0))


def text() -> Tensor:
    return torch.randn(2, T, D, generator=torch.Generator().manual_seed(1))


def spoiled(x: Tensor, value: float) -> Tensor:
    x[1, 2, 3] = value
    return x


def refused(error: type[tp.TokenPruneError], words: tuple[str, ...], call: Callable[[], object]) -> None:
    """Hold a call to the rules: this error, also a built-in one, saying these words; no warning, no side effect."""
    assert issubclass(error, tp.TokenPruneError)
    assert issubclass(error, ValueError | TypeError)
    names = {kind: tp.list_components(kind) for kind in registry.KINDS}
    draws = torch.random.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(error) as caught:
            call()
    message = str(caught.value)
    for word in words:
        assert word in message, f"{word!r} not in: {message}"
    assert len(message) < 600
    assert names == {kind: tp.list_components(kind) for kind in registry.KINDS}
    assert torch.equal(draws, torch.random.get_rng_state())


BAD_FEATURES: dict[str, tuple[type[tp.TokenPruneError], tuple[str, ...], Callable[[], object]]] = {
    "visual 0-dim": (errors.FeatureError, ("visual", "3 dimensions", "()"), lambda: tp.Features(torch.tensor(1.0))),
    "visual 2-dim": (errors.FeatureError, ("visual", "3 dimensions", "(9, 6)"), lambda: tp.Features(visual()[0])),
    "visual 4-dim": (errors.FeatureError, ("visual", "(1, 2, 9, 6)"), lambda: tp.Features(visual()[None])),
    "text 2-dim": (errors.FeatureError, ("text", "3 dimensions", "(4, 6)"), lambda: tp.Features(visual(), text()[0])),
    "text batch": (errors.FeatureError, ("text", "1", "2", "visual"), lambda: tp.Features(visual(), text()[:1])),
    "text width": (errors.FeatureError, ("text", "'d'", "5", "6"), lambda: tp.Features(visual(), text()[..., :5])),
    "no text": (errors.FeatureError, ("no text token", "(2, 0, 6)"), lambda: tp.Features(visual(), text()[:, :0])),
    "no visual": (errors.FeatureError, ("no visual token", "(2, 0, 6)"), lambda: tp.Features(visual()[:, :0])),
    "no batch": (errors.FeatureError, ("empty batch", "(0, 9, 6)"), lambda: tp.Features(visual()[:0])),
    "no width": (errors.FeatureError, ("visual", "(2, 9, 0)"), lambda: tp.Features(visual()[..., :0])),
    "visual NaN": (
        errors.NonFiniteError,
        ("visual", "NaN", "1 place"),
        lambda: tp.Features(spoiled(visual(), math.nan)),
    ),
    "visual inf": (errors.NonFiniteError, ("visual", "inf"), lambda: tp.Features(spoiled(visual(), math.inf))),
    "text -inf": (errors.NonFiniteError, ("text", "inf"), lambda: tp.Features(visual(), spoiled(text(), -math.inf))),
    "half overflow": (errors.NonFiniteError, ("visual",), lambda: tp.Features((visual() * 1e6).half())),
    "signal NaN": (
        errors.NonFiniteError,
        ("keys", "NaN"),
        lambda: tp.Features(visual(), keys=spoiled(visual(), math.nan)),
    ),
    "visual list": (errors.FeatureTypeError, ("visual", "tensor", "list"), lambda: tp.Features([[1.0]])),  # type: ignore[arg-type]
    "visual None": (errors.FeatureTypeError, ("visual", "tensor", "None"), lambda: tp.Features(None)),  # type: ignore[arg-type]
    "visual array": (errors.FeatureTypeError, ("visual", "ndarray"), lambda: tp.Features(visual().numpy())),  # type: ignore[arg-type]
    "visual int": (errors.FeatureTypeError, ("visual", "int64", "float32"), lambda: tp.Features(visual().long())),
    "visual bool": (errors.FeatureTypeError, ("visual", "bool"), lambda: tp.Features(visual() > 0)),
    "visual complex": (
        errors.FeatureTypeError,
        ("visual", "complex64"),
        lambda: tp.Features(visual().to(torch.complex64)),
    ),
    "visual float8": (
        errors.FeatureTypeError,
        ("visual", "float8_e4m3fn", "bfloat16"),
        lambda: tp.Features(visual().to(torch.float8_e4m3fn)),
    ),
    "token ids": (
        errors.FeatureTypeError,
        ("text", "int64"),
        lambda: tp.Features(visual(), torch.ones(2, 4, 6).long()),
    ),
    "all meta": (errors.FeatureError, ("visual", "meta"), lambda: tp.Features(visual().to("meta"))),
    "text meta": (errors.FeatureError, ("text", "meta", "cpu"), lambda: tp.Features(visual(), text().to("meta"))),
    "mask meta": (
        errors.FeatureError,
        ("visual_mask", "meta", "cpu"),
        lambda: tp.Features(visual(), visual_mask=torch.ones(2, N, dtype=torch.bool, device="meta")),
    ),
    "mask int": (
        errors.FeatureTypeError,
        ("visual_mask", "bool", "int64"),
        lambda: tp.Features(visual(), visual_mask=torch.ones(2, N).long()),
    ),
    "mask list": (
        errors.FeatureTypeError,
        ("text_mask", "bool", "list"),
        lambda: tp.Features(visual(), text(), text_mask=[[True] * T] * 2),  # type: ignore[arg-type]
    ),
    "mask shape": (
        errors.FeatureError,
        ("text_mask", "(2, 4)", "(2, 5)"),
        lambda: tp.Features(visual(), text(), text_mask=torch.ones(2, 5, dtype=torch.bool)),
    ),
    "mask rank": (
        errors.FeatureError,
        ("visual_mask", "(2, 9)", "(9,)"),
        lambda: tp.Features(visual(), visual_mask=torch.ones(N, dtype=torch.bool)),
    ),
    "row without text": (
        errors.FeatureError,
        ("text_mask", "no text token", "row 1"),
        lambda: tp.Features(visual(), text(), text_mask=torch.tensor([[True] * T, [False] * T])),
    ),
    "row without tokens": (
        errors.FeatureError,
        ("visual_mask", "no visual token", "row 0"),
        lambda: tp.Features(visual(), visual_mask=torch.tensor([[False] * N, [True] * N])),
    ),
    "mask of no text": (
        errors.FeatureError,
        ("text_mask", "without text"),
        lambda: tp.Features(visual(), text_mask=torch.ones(2, T, dtype=torch.bool)),
    ),
    "signal name": (
        errors.UnknownNameError,
        ("cls_atention", "did you mean 'cls_attention'", "extra"),
        lambda: tp.Features(visual(), cls_atention=visual()),
    ),
    "signal tokens": (
        errors.FeatureError,
        ("keys", "'n'", "8", "9", "visual"),
        lambda: tp.Features(visual(), keys=torch.ones(2, 8, 3)),
    ),
    "signal widths": (
        errors.FeatureError,
        ("encoder_cls", "'e'", "5", "7", "encoder"),
        lambda: tp.Features(visual(), encoder=torch.ones(2, N, 7), encoder_cls=torch.ones(2, 5)),
    ),
    "joint widths": (
        errors.FeatureError,
        ("joint_text", "'c'"),
        lambda: tp.Features(visual(), joint_visual=torch.ones(2, N, 7), joint_text=torch.ones(2, 3, 5)),
    ),
    "signal rank": (
        errors.FeatureError,
        ("cls_attention", "3 dimensions"),
        lambda: tp.Features(visual(), cls_attention=torch.ones(N)),
    ),
    "grid size": (errors.FeatureError, ("grid", "6", "9"), lambda: tp.Features(visual(), grid=tp.Grid(2, 3))),
    "grid type": (errors.FeatureTypeError, ("grid", "tuple"), lambda: tp.Features(visual(), grid=(3, 3))),  # type: ignore[arg-type]
    "grid zero": (errors.FeatureError, ("Grid.width", "0"), lambda: tp.Grid(3, 0)),
    "grid float": (errors.FeatureError, ("Grid.height", "3.0"), lambda: tp.Grid(3.0, 3)),  # type: ignore[arg-type]
    "grid bool": (errors.FeatureError, ("Grid.frames", "True"), lambda: tp.Grid(3, 3, True)),
    "extra type": (errors.FeatureTypeError, ("extra", "mapping", "list"), lambda: tp.Features(visual(), extra=[1])),  # type: ignore[arg-type]
    "extra name": (errors.FeatureError, ("keys", "keyword"), lambda: tp.Features(visual(), extra={"keys": visual()})),
    "extra rows": (errors.FeatureError, ("own", "2 rows"), lambda: tp.Features(visual(), extra={"own": torch.ones(3)})),
    "replaced": (
        errors.FeatureError,
        ("text", "'b'"),
        lambda: tp.Features(visual(), text()).replace(visual=visual()[:1]),
    ),
}


@pytest.mark.parametrize("case", BAD_FEATURES)
def test_features(case: str) -> None:
    refused(*BAD_FEATURES[case])


def test_non_finite_padding_is_no_error() -> None:
    mask = torch.ones(2, N, dtype=torch.bool)
    mask[1, 2] = False
    f = tp.Features(spoiled(visual(), math.nan), text(), visual_mask=mask)
    assert bool(f.visual.isfinite().all())
    assert f.counts() == [N, N - 1]


BAD_BUDGETS: list[tuple[object, tuple[str, ...]]] = [
    (0, ("keep=0", "at least 1")),
    (-3, ("keep=-3", "at least 1")),
    (N + 1, ("keep=10", "unit 0", "9 visual tokens", "1..9", "clip=True")),
    (0.0, ("keep=0.0", "(0, 1]")),
    (-0.5, ("keep=-0.5", "(0, 1]")),
    (1.5, ("keep=1.5", "(0, 1]")),
    (64.0, ("keep=64.0", "(0, 1]", "int 64")),
    (math.nan, ("keep=nan", "(0, 1]")),
    (math.inf, ("keep=inf", "(0, 1]")),
    (True, ("keep", "count", "ratio", "bool True")),
    ("64", ("keep", "count", "ratio", "'64'")),
    (b"64", ("keep", "count", "ratio", "b'64'")),
    (None, ("keep", "count", "ratio", "None")),
    (3j, ("keep", "count", "3j")),
    ({"keep": 3}, ("keep", "count", "{'keep': 3}")),
    (torch.tensor(3), ("keep", "count", "tensor(3)")),
    ([], ("keep", "empty")),
    ([3], ("keep", "1 budgets", "2 units")),
    ([3, 3, 3], ("keep", "3 budgets", "2 units")),
    ([3, "3"], ("keep", "str '3'")),
    ([3, True], ("keep", "bool True")),
    ([3, 0], ("keep=0", "at least 1")),
    ([3, 10], ("keep=10", "unit 1")),
    ([[3], [3]], ("keep", "list [3]")),
]


@pytest.mark.parametrize(("keep", "words"), BAD_BUDGETS, ids=lambda v: repr(v) if not isinstance(v, tuple) else "")
def test_budgets(keep: Any, words: tuple[str, ...]) -> None:
    f = tp.Features(visual(), text())
    for name in ("mi-pruner", "similarity"):
        refused(errors.BudgetError, words, lambda name=name: tp.build(name).select(f, keep))  # type: ignore[misc]


def test_ragged_budget_names_the_unit() -> None:
    mask = torch.ones(2, N, dtype=torch.bool)
    mask[1, :4] = False
    f = tp.Features(visual(), text(), visual_mask=mask)
    refused(errors.BudgetError, ("keep=6", "unit 1", "5 visual tokens"), lambda: tp.build("mi-pruner").select(f, 6))
    assert tp.build("mi-pruner").select(f, tp.Budget(6, clip=True)).counts.tolist() == [6, 5]


def test_units() -> None:
    f = tp.Features(visual(), text())
    strategy = tp.build("mi-pruner")
    call: Callable[[], object] = lambda: strategy.select(f, 3, unit="frames")  # type: ignore[arg-type]  # noqa: E731
    refused(errors.BudgetError, ("unit", "'frames'", "did you mean 'frame'"), call)
    refused(errors.FeatureError, ("unit='frame'", "grid"), lambda: strategy.select(f, 3, unit="frame"))
    refused(errors.BudgetError, ("clip", "str 'yes'"), lambda: tp.Budget(3, clip="yes"))  # type: ignore[arg-type]
    gridded = f.replace(grid=tp.Grid(1, 3, frames=3))
    refused(errors.BudgetError, ("keep=4", "3 visual tokens"), lambda: strategy.select(gridded, 4, unit="frame"))
    refused(errors.BudgetError, ("2 budgets", "6 units"), lambda: strategy.select(gridded, [1, 1], unit="frame"))


BAD_NUMBERS: list[tuple[str, Callable[[Any], object], str]] = [
    ("tau", lambda v: tp.build("mi-pruner", tau=v), "(0, 100]"),
    ("tau", lambda v: normalizers.Softmax(v), "(0, 100]"),
    ("lam", lambda v: tp.build("mi-pruner", lam=v), "[0, 1]"),
    ("lam", lambda v: objectives.MaximalMarginalRelevance(v), "[0, 1]"),
    ("order", lambda v: aggregators.Renyi(v), "(0, inf]"),
    ("width", lambda v: priors.Centre(v), "(0, 100]"),
    ("floor", lambda v: priors.Salience(v), "(0, 1]"),
    ("share", lambda v: tp.build("mi-attention", share=v), "[0, 1]"),
]


@pytest.mark.parametrize(("option", "make", "accepted"), BAD_NUMBERS, ids=lambda v: v if isinstance(v, str) else "")
def test_numbers(option: str, make: Callable[[Any], object], accepted: str) -> None:
    for value in (-0.1, math.nan, -math.inf):
        refused(errors.ConfigError, (option, accepted, repr(value)), lambda v=value: make(v))  # type: ignore[misc]
    for value in ("0.5", True, [0.5], 1j, torch.tensor(0.5)):
        refused(errors.OptionTypeError, (option, accepted, repr(value)), lambda v=value: make(v))  # type: ignore[misc]


@pytest.mark.parametrize(
    ("option", "make"),
    [
        ("rate", lambda v: dedup.BipartiteDedup(v)),
        ("crops", lambda v: crops.CropBudgets(v)),
        ("heads", lambda v: layer_attention.AttentionRows(heads=v)),
        ("image", lambda v: pivots.PivotQuota(image=v)),
        ("text", lambda v: pivots.PivotQuota(text=v)),
        ("pivots", lambda v: rules.PivotsAndQuotas(pivots=v)),
        ("quotas", lambda v: rules.PivotsAndQuotas(quotas=v)),
        ("size", lambda v: basis.FarthestPoints(size=v)),
        ("start", lambda v: basis.FarthestPoints(start=v)),
        ("m", lambda v: aggregators.TopM(v)),
    ],
)
def test_whole_numbers(option: str, make: Callable[[Any], object]) -> None:
    for wrong in (2.5, 2.0, math.inf, True, "3"):
        refused(errors.OptionTypeError, (option, "int", repr(wrong)), lambda v=wrong: make(v))  # type: ignore[misc]
    refused(errors.ConfigError, (option, "at least", "-1"), lambda: make(-1))


def test_ends_of_ranges() -> None:
    refused(errors.ConfigError, ("tau", "(0, 100]", "0"), lambda: tp.build("mi-pruner", tau=0))
    refused(errors.ConfigError, ("tau", "inf"), lambda: tp.build("mi-pruner", tau=math.inf))
    refused(errors.ConfigError, ("lam", "1.0000001"), lambda: tp.build("mi-pruner", lam=1.0000001))
    refused(errors.ConfigError, ("m", "at least 1", "0"), lambda: aggregators.TopM(0))
    for wrong in (2.5, math.inf, True, "3", None):
        refused(errors.OptionTypeError, ("m", "int", repr(wrong)), lambda v=wrong: aggregators.TopM(v))  # type: ignore[misc]
    refused(errors.OptionTypeError, ("seed", "int", "0.5"), lambda: tp.build("random", seed=0.5))
    refused(errors.OptionTypeError, ("seed", "int", "True"), lambda: tp.build("random", seed=True))
    for fine in ({"lam": 0}, {"lam": 1}, {"tau": 1e-3}, {"tau": 100}):
        assert tp.build("mi-pruner", **fine)


BAD_NAMES: dict[str, tuple[type[tp.TokenPruneError], tuple[str, ...], Callable[[], object]]] = {
    "strategy": (errors.UnknownNameError, ("'mi-prunner'", "did you mean 'mi-pruner'"), lambda: tp.build("mi-prunner")),
    "nothing like it": (errors.UnknownNameError, ("'xyzzy'", "known: ", "mi-pruner"), lambda: tp.build("xyzzy")),
    "scorer": (errors.UnknownNameError, ("scorer", "'pni'", "'pmi'"), lambda: tp.build({"scorer": "pni"})),
    "normalizer": (
        errors.UnknownNameError,
        ("normalizer", "'softmx'", "'softmax'"),
        lambda: tp.build("mi-pruner", normalizer="softmx"),
    ),
    "nested": (
        errors.UnknownNameError,
        ("aggregator", "'maxx'", "'max'"),
        lambda: tp.build({"scorer": {"name": "pmi", "aggregator": {"name": "maxx"}}}),
    ),
    "selector": (
        errors.UnknownNameError,
        ("selector", "'topk'", "'top-k'"),
        lambda: tp.build({"scorer": "pmi", "selector": "topk"}),
    ),
    "kind": (errors.UnknownNameError, ("'scorer'", "'scorers'"), lambda: tp.list_components("scorer")),
    "kind to register": (errors.UnknownNameError, ("'scorer'", "'scorers'"), lambda: tp.register("scorer", "x")),
    "option": (
        errors.UnknownOptionError,
        ("'mi-pruner'", "'lambda_'", "did you mean 'lam'"),
        lambda: tp.build("mi-pruner", lambda_=0.5),
    ),
    "part's option": (
        errors.UnknownOptionError,
        ("'softmax'", "'taw'", "did you mean 'tau'"),
        lambda: tp.build("mi-pruner", normalizer={"name": "softmax", "taw": 1}),
    ),
    "part": (
        errors.UnknownOptionError,
        ("'selektor'", "'selector'"),
        lambda: tp.build({"scorer": "pmi", "selektor": 1}),
    ),
    "option that is no name": (errors.UnknownOptionError, ("3",), lambda: tp.build({"scorer": "pmi", 3: 1})),  # type: ignore[dict-item]
    "preset": (
        errors.ConfigError,
        ("preset", "'open-endet'", "'open-ended'"),
        lambda: tp.build("mi-pruner", preset="open-endet"),
    ),
    "preset type": (errors.ConfigError, ("preset", "5"), lambda: tp.build("mi-pruner", preset=5)),
    "marginal": (
        errors.ConfigError,
        ("marginal", "'unifrom'", "'uniform'"),
        lambda: tp.build("mi-pruner", marginal="unifrom"),
    ),
    "optimizer": (errors.ConfigError, ("optimizer", "'lasy'", "'lazy'"), lambda: selectors.Greedy(optimizer="lasy")),  # type: ignore[arg-type]
    "optimizer where none is needed": (
        errors.ConfigError,
        ("optimizer", "'lasy'", "'lazy'"),
        lambda: tp.build("mi-pruner", lam=1, optimizer="lasy"),
    ),
    "marginal needs softmax": (
        errors.ConfigError,
        ("sinkhorn", "softmax", "MinMax"),
        lambda: tp.build("mi-pruner", marginal="sinkhorn", normalizer="minmax"),
    ),
    "tau twice": (
        errors.OptionTypeError,
        ("tau", "normalizer"),
        lambda: tp.build("mi-pruner", tau=0.2, normalizer="minmax"),
    ),
    "positions": (
        errors.ConfigError,
        ("positions", "'keeps'", "'keep'"),
        lambda: tp.build({"scorer": "pmi", "positions": "keeps"}),
    ),
    "reduce": (errors.ConfigError, ("reduce", "'men'", "'mean'"), lambda: scorers.ClsAttention("men")),  # type: ignore[arg-type]
    "attention source": (
        errors.ConfigError,
        ("source", "'clss'", "'cls'"),
        lambda: tp.build("attention", source="clss"),
    ),
    "name type": (errors.OptionTypeError, ("str", "int 5"), lambda: tp.build(5)),  # type: ignore[arg-type]
    "name None": (errors.OptionTypeError, ("str", "None"), lambda: tp.build(None)),  # type: ignore[arg-type]
    "kind type": (errors.OptionTypeError, ("kind", "str", "int 5"), lambda: tp.list_components(5)),  # type: ignore[arg-type]
    "kind list": (errors.OptionTypeError, ("kind", "str", "list"), lambda: tp.list_components([])),  # type: ignore[arg-type]
    "pattern type": (errors.OptionTypeError, ("pattern", "str", "int 5"), lambda: tp.list_strategies(5)),  # type: ignore[arg-type]
    "name to register": (errors.OptionTypeError, ("name", "str", "int 5"), lambda: tp.register("scorers", 5)),  # type: ignore[arg-type]
    "thing to register": (
        errors.OptionTypeError,
        ("'x'", "class or function", "int"),
        lambda: tp.register("scorers", "x")(5),
    ),
    "part without a name": (
        errors.ConfigError,
        ("scorer", "'name'", "{'tau': 1}"),
        lambda: tp.build({"scorer": {"tau": 1}}),
    ),
    "part that is no part": (
        errors.OptionTypeError,
        ("normalizer", "int 5"),
        lambda: tp.build("mi-pruner", normalizer=5),
    ),
    "part of another kind": (
        errors.OptionTypeError,
        ("aggregator", "normalizers", "Softmax"),
        lambda: tp.build("mi-pruner", aggregator=normalizers.Softmax()),
    ),
    "class for an object": (
        errors.OptionTypeError,
        ("aggregator", "Max"),
        lambda: tp.build("mi-pruner", aggregator=aggregators.Max),
    ),
    "scorer that is none": (errors.OptionTypeError, ("scorer", "Max"), lambda: tp.Strategy(aggregators.Max())),  # type: ignore[arg-type]
    "no scorer": (errors.ConfigError, ("scorer", "missing"), lambda: tp.build({})),
    "built already": (
        errors.UnknownOptionError,
        ("built already", "lam"),
        lambda: tp.build(tp.build("random"), lam=1),  # type: ignore[arg-type]
    ),
    "missing option": (
        errors.OptionTypeError,
        ("'two-stage'", "salience"),
        lambda: tp.build({"scorer": "pmi", "selector": "two-stage"}),
    ),
}


@pytest.mark.parametrize("case", BAD_NAMES)
def test_names(case: str) -> None:
    refused(*BAD_NAMES[case])


def test_missing_signals_are_named_before_anything_runs() -> None:
    f = tp.Features(visual())
    strategy = tp.build("mi-pruner")
    refused(errors.MissingSignalError, ("'text'", "given: visual"), lambda: strategy.select(f, 3))
    attention = tp.build("mi-attention")
    full = tp.Features(visual(), text())
    refused(errors.MissingSignalError, ("'cls_attention'", "b h n", "visual, text"), lambda: attention.select(full, 3))
    assert attention.requires == {"visual", "text", "cls_attention"}
    assert tp.build("random").requires == {"visual"}
    salient = tp.build("mi-pruner", prior="salience", lam=1)
    refused(errors.MissingSignalError, ("'cls_attention'",), lambda: salient.select(full, 3))
    refused(
        errors.MissingSignalError,
        ("'places'", "Grid(height, width)", "Centre(width=0.5) reads it"),
        lambda: tp.build("mi-pruner", prior="centre").select(full, 3),
    )
    refused(errors.MissingSignalError, ("'own'",), lambda: full["own"])


def test_features_that_are_none() -> None:
    refused(errors.OptionTypeError, ("features", "Tensor"), lambda: tp.build("random").select(visual(), 3))  # type: ignore[arg-type]


def bad_selector(order: object) -> tp.Strategy:
    class Broken(tp.Selector):
        def select(self, problem: tp.Problem) -> Any:
            return order

    return tp.Strategy(scorers.Random(), Broken())


@pytest.mark.parametrize(
    ("order", "words"),
    [
        (torch.zeros(2, 3, dtype=torch.long), ("(2, 2)", "(2, 3)")),
        (torch.zeros(2, 2), ("int64", "float32")),
        ([[0, 1], [0, 1]], ("int64", "list")),
        (torch.tensor([[0, N], [0, 1]]), ("0..8", "9")),
        (torch.tensor([[0, -2], [0, 1]]), ("-2",)),
        (torch.tensor([[0, 1], [0, -1]]), ("row 1", "1", "2")),
        (torch.tensor([[0, 1], [5, 5]]), ("token 5", "row 1", "twice")),
        (None, ("int64", "None")),
    ],
)
def test_picks_of_a_broken_selector(order: object, words: tuple[str, ...]) -> None:
    f = tp.Features(visual())
    refused(errors.FeatureError, ("Broken", *words), lambda: bad_selector(order).select(f, 2))


def test_picks_of_padding() -> None:
    mask = torch.ones(2, N, dtype=torch.bool)
    mask[1, 3] = False
    f = tp.Features(visual(), visual_mask=mask)
    order = torch.tensor([[3, 1], [1, 3]])
    refused(errors.FeatureError, ("Broken", "token 3 in row 1", "padding"), lambda: bad_selector(order).select(f, 2))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_scores_of_a_broken_scorer(value: float) -> None:
    f = tp.Features(visual())
    scores = torch.ones(2, N)
    scores[1, 4] = value
    refused(errors.NonFiniteError, ("GivenScores", "NaN or inf"), lambda: tp.Strategy(GivenScores(scores)).select(f, 2))
    for bad in (torch.ones(2, N, 1), torch.ones(N)):
        refused(
            errors.FeatureError,
            ("GivenScores", "(2, 9)", str(tuple(bad.shape))),
            lambda bad=bad: tp.Strategy(GivenScores(bad)).select(f, 2),  # type: ignore[misc]
        )
    none: Any = None
    refused(errors.FeatureError, ("GivenScores", "NoneType"), lambda: tp.Strategy(GivenScores(none)).select(f, 2))


def test_components_that_do_not_fit_each_other() -> None:
    f = tp.Features(visual(), text())
    summed = tp.build("mi-pruner", normalizer="minmax", aggregator="sum")
    refused(errors.ConfigError, ("'sum'", "minmax"), lambda: summed.select(f, 3))
    renyi = tp.build("similarity", aggregator="renyi")
    refused(errors.ConfigError, ("'renyi'", "distribution"), lambda: renyi.select(f, 3))
    refused(
        errors.ConfigError,
        ("Greedy.repeats", "vectorized", "'lazy'"),
        lambda: selectors.Greedy(optimizer="lazy", repeats=True),
    )


def test_degenerate_relevance_is_a_warning_of_ours() -> None:
    f = tp.Features(visual(), text()[:, :1])
    with pytest.warns(errors.DegenerateRelevanceWarning) as caught:
        selection = tp.build("mi-pruner", lam=1).select(f, 4)
    assert len(caught) == 1
    assert "rows [0, 1]" in str(caught[0].message)
    assert selection.indices.tolist() != [[0, 1, 2, 3]] * 2
    with pytest.raises(errors.DegenerateRelevanceWarning):
        tp.build("mi-pruner").select(f, 4)  # this test-suite turns our warnings into errors


def test_errors_also_are_built_in_ones() -> None:
    for name in errors.__all__:
        thing = getattr(errors, name)
        if isinstance(thing, type) and issubclass(thing, tp.TokenPruneError) and thing is not tp.TokenPruneError:
            assert issubclass(thing, ValueError | TypeError | ImportError), name


def test_marginals_are_listed_whole() -> None:
    refused(
        errors.ConfigError,
        ("known: ", *pairwise.get_args(pairwise.SelfMarginal)),
        lambda: pairwise.SelfPMI(marginal="q"),
    )  # type: ignore[arg-type]
