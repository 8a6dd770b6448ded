"""A strategy made of parts keeps what its method, written out as one loop, keeps: same picks, order, merged tokens.

Features are normal numbers in float64; rows of a batch differ in length and in what they keep. Where noise of 1e-11
changes what the reference picks (two tokens that are each other's nearest, probabilities that are 1 up to rounding),
rounding decides, and such an example says nothing. What happens to exact ties has a test of its own.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any, Final

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

import tokenprune as tp
from tokenprune.components.aggregators import Mean
from tokenprune.core.errors import (
    ConfigError,
    DegenerateRelevanceWarning,
    MissingSignalError,
    PluginError,
    UnknownNameError,
)
from tokenprune.core.reference import Reference, list_references, load_reference
from tokenprune.core.schedule import LayerSchedule
from tokenprune.core.strategy import AnyStrategy

SHARES: Final = st.sampled_from([None, 0.0, 0.3, 0.5, 0.9, 1.0])
TAUS: Final = st.sampled_from([0.05, 0.1, 0.5])
LAMBDAS: Final = st.sampled_from([0.0, 0.3, 0.5, 1.0])
MARGINALS: Final = st.sampled_from(["uniform", "total", "stationary", "sinkhorn"])

OPTIONS: Final[dict[str, dict[str, st.SearchStrategy[Any]]]] = {
    "random": {"seed": st.integers(0, 3)},
    "similarity": {"aggregator": st.sampled_from(["max", "mean"])},
    "attention": {"source": st.sampled_from(["received", "cls"])},
    "mi-pruner": {"lam": LAMBDAS, "tau": TAUS, "marginal": MARGINALS},
    "mi-attention": {
        "form": st.sampled_from(["vispruner", "visionzip"]),
        "share": SHARES,
        "lam": LAMBDAS,
        "tau": TAUS,
        "marginal": MARGINALS,
        "seed_redundancy": st.booleans(),
    },
    "divprune": {"faithful": st.booleans()},
    "visionzip": {
        "share": st.sampled_from([0.0, 0.5, 54 / 64, 1.0]),
        "cls": st.booleans(),
        "combine": st.sampled_from(["sum", "mean"]),
    },
    "vispruner": {"share": st.sampled_from([0.0, 0.5, 0.75, 1.0]), "rate": st.integers(1, 8)},
    "cdpruner": {"relevance_sign": st.sampled_from([None, 1, -1])},
    "holov": {
        "crops": st.sampled_from([None, 1, 4, 40]),
        "alpha": st.sampled_from([0.0, 0.09, 5.0]),
        "within": st.sampled_from(["scores", "holistic"]),
        "faithful": st.booleans(),
    },
    "mmtok": {
        "alpha": st.sampled_from([0.0, 0.5, 2.0]),
        "tau_text": st.sampled_from([0.02, 0.1]),
        "tau_visual": st.sampled_from([0.2, 0.05]),
        "faithful": st.booleans(),
    },
    "trimtokenator": {"share": st.sampled_from([0.0, 0.3, 0.8, 1.0]), "squared": st.booleans()},
    "fastervlm": {},
    "scope": {"alpha": st.sampled_from([0.5, 1.0, 2.0]), "combine": st.sampled_from(["multi", "add"])},
    "trim": {"adaptive": st.booleans()},
    "apet": {"basis": st.integers(1, 12), "start": st.integers(0, 30)},
}
"""Options of each method that its reference has too, and the values that are tried."""

APART: Final = {
    "mi-pruner": {"preset", "normalizer", "aggregator", "prior", "optimizer"},
    "mi-attention": {"salience"},
    "visionzip": {"salience"},
    "vispruner": {"salience"},
    "holov": {"salience"},
    "cdpruner": {"faithful"},
    "trim": {"faithful"},
    "apet": {"layer", "faithful"},
}
"""Options of strategies that exchange a part, or concern more than one image: those are held to laws of their own."""


ELSEWHERE: Final = frozenset("hiprune prumerge prumerge-plus dycoke evs fastvid holitom prunevid vidcom2".split())
"""Strategies whose references read encoder layers by number or where tokens lie: ``test_video_references``."""

NONE: Final = frozenset({"flowcut"})
"""It acts while the encoder runs, which features of a finished one cannot show."""


def act(strategy: AnyStrategy) -> tp.Strategy | None:
    """What a strategy does in front of the language model."""
    if isinstance(strategy, LayerSchedule):
        return strategy.before
    assert isinstance(strategy, tp.Strategy)
    return strategy


ACTING: Final = [
    entry.name
    for entry in tp.core.registry.registry.entries("strategies")
    if entry.target.startswith("tokenprune_strategies.") and act(tp.build(entry.name)) is not None
]


def made(draw: Callable[[st.SearchStrategy[Any]], Any], *, text: int, masks: bool = True) -> tp.Features:
    """Every signal of a batch of pictures, each of its own length."""
    batch, n = draw(st.integers(1, 3)), draw(st.integers(8, 40))
    sizes = {"b": batch, "n": n, "t": text, "d": draw(st.integers(4, 24)), "e": 7, "k": 5, "h": 3, "c": 6, "s": 3}
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))

    def normal(shape: str) -> Tensor:
        return torch.randn([sizes.get(letter, 2) for letter in shape.split()], generator=generator, dtype=torch.float64)

    signals = {name: normal(signal.shape) for name, signal in tp.SIGNALS.items()}
    # embeddings share a direction; without one, small temperatures make probabilities of 1
    shared = 2 * normal("d")
    signals["visual"], signals["text"] = signals["visual"] + shared, signals["text"] + shared
    signals = {name: value.softmax(-1) if "attention" in name else value for name, value in signals.items()}
    if not draw(st.booleans()):
        signals = {name: value for name, value in signals.items() if not name.startswith("joint")}

    def mask(size: int, least: int) -> Tensor:
        real = torch.rand(batch, size, generator=generator) < 0.7
        real[:, torch.randperm(size, generator=generator)[:least]] = True
        return real

    extra = {"candidates": mask(n, 2)} if draw(st.booleans()) else {}
    return tp.Features(
        signals.pop("visual"),
        signals.pop("text"),
        visual_mask=mask(n, 4) if masks and draw(st.booleans()) else None,
        text_mask=mask(text, 2) if text > 2 and draw(st.booleans()) else None,
        extra=extra,
        **signals,
    )


def build(name: str, options: dict[str, Any]) -> tp.Strategy:
    """The strategy's act in front of the language model."""
    strategy = act(tp.build(name, **{k: v for k, v in options.items() if v is not None}))
    assert strategy is not None
    return strategy


def alike(name: str, f: tp.Features, keep: int, row: int, options: dict[str, Any]) -> bool:
    """Whether two tokens are equal by symmetry where one has to be picked first, so that their last bits decide."""
    visual = f.visual[row][f.valid()[row]]
    if name == "trimtokenator":  # of two survivors, each is as similar to both on average as the other
        return max(keep, int(options["share"] * len(visual))) == 2
    if name == "divprune":  # the most isolated token may be its nearest neighbour's nearest neighbour
        unit = torch.nn.functional.normalize(visual, dim=-1)
        nearest = (1 - unit @ unit.T).fill_diagonal_(torch.inf).amin(1).topk(2).values
        return float(nearest[0] - nearest[1]) < 1e-9
    return False


def decided(reference: Reference, f: tp.Features, keep: int, row: int, options: dict[str, Any]) -> bool:
    """Whether the picks of a row are the same with a little noise in every signal."""
    picks = reference(f, keep, row, **options)[0].tolist()
    for seed in range(2):
        draw = torch.Generator().manual_seed(seed)
        noisy = {
            n: f[n] * (1 + 1e-11 * torch.randn(f[n].shape, generator=draw, dtype=f[n].dtype))
            for n in tp.SIGNALS
            if n in f
        }
        if reference(f.replace(**noisy), keep, row, **options)[0].tolist() != picks:
            return False
    return True


def hold(strategy: tp.Strategy, reference: Reference, f: tp.Features, keep: list[int], **options: Any) -> None:
    """Insist on the same picks in the same order, and on the same merged tokens, in every row."""
    selection = strategy.select(f, keep)
    for row, k in enumerate(keep):
        picks, tokens = reference(f, k, row, **options)
        got = [i for i in selection.order[row].tolist() if i >= 0]
        assert got == picks.tolist()
        assert (tokens is None) == (selection.merged is None)
        if tokens is not None and selection.merged is not None:
            source = selection.merged.source[row]
            assert torch.allclose(selection.merged.tokens[row][source >= 0], tokens, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", sorted(OPTIONS))
@given(data=st.data())
def test_picks_are_those_of_the_reference(name: str, data: st.DataObject) -> None:
    f = made(data.draw, text=data.draw(st.integers(2, 6)))
    if name == "random" and data.draw(st.booleans()):
        f = f.replace(noise=None)  # then a draw follows from the tokens
    keep = [data.draw(st.integers(1, size)) for size in f.counts()]
    options = {option: data.draw(values) for option, values in OPTIONS[name].items()}
    if name == "apet" and f.visual_mask is not None:
        options["start"] = 0  # a place in the padded row there, among the real tokens here
    if name == "visionzip" and not options["cls"]:
        f = f.replace(encoder_cls=None)
    reference = load_reference(name)
    assume(not any(alike(name, f, k, row, options) for row, k in enumerate(keep)))
    if name != "random":  # there a little noise is another picture
        assume(all(decided(reference, f, k, row, options) for row, k in enumerate(keep)))
    hold(build(name, options), reference, f, keep, **options)


@pytest.mark.parametrize("name", ["mi-pruner", "mi-attention"])
@given(data=st.data())
def test_where_one_text_token_tells_nothing_apart_the_cosine_decides(name: str, data: st.DataObject) -> None:
    f = made(data.draw, text=1)
    keep = [data.draw(st.integers(1, size)) for size in f.counts()]
    options = {"lam": data.draw(LAMBDAS)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateRelevanceWarning)
        hold(build(name, options), load_reference(name), f, keep, **options)


@pytest.mark.parametrize("name", sorted(set(OPTIONS) - {"random", "visionzip", "apet", "trim"}))
def test_ties_go_to_the_lowest_index_in_both(name: str) -> None:
    """Four kinds of tokens on the axes of their space, each several times over, so that every number is exact."""
    n, width = 12, 4
    kinds = torch.eye(width, dtype=torch.float64)[torch.arange(n) % width].unsqueeze(0)
    level = torch.full((1, 1, n), 1 / 16, dtype=torch.float64)
    f = tp.Features(
        kinds,
        torch.eye(width, dtype=torch.float64)[:2].unsqueeze(0),
        encoder=kinds,
        keys=kinds,
        cls_attention=level,
        received_attention=level[:, 0],
    )
    for keep in (1, 3, 7, n):
        hold(build(name, {}), load_reference(name), f, [keep])


def test_every_strategy_that_acts_before_the_language_model_has_a_reference() -> None:
    assert sorted(ACTING) == sorted([*OPTIONS, *ELSEWHERE, *NONE])
    assert set(ACTING) - set(list_references()) == NONE


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_options_are_those_of_the_strategy(name: str) -> None:
    strategy, reference = tp.core.registry.registry.load("strategies", name), load_reference(name).function
    known = set(inspect.signature(strategy).parameters)
    parameters = set(inspect.signature(reference).parameters) - set(tp.SIGNALS) - {"keep", "row", "candidates"}
    assert parameters == set(OPTIONS[name]) == known - APART.get(name, set())
    defaults = {k: p.default for k, p in inspect.signature(reference).parameters.items() if k in parameters}
    own = {k: p.default for k, p in inspect.signature(strategy).parameters.items()}
    for option, default in defaults.items():
        if option not in ("aggregator", "lam"):  # a part there, a word here; a preset there, its number here
            assert default == own[option], option


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_the_strategy_links_its_reference_and_the_reference_is_short(name: str) -> None:
    function = load_reference(name).function
    said = inspect.getdoc(tp.core.registry.registry.load("strategies", name)) or ""
    assert f"{function.__module__}.{function.__name__}" in said
    longest = max(
        len([line for line in inspect.getsource(f).splitlines() if line.strip()])
        for _, f in inspect.getmembers(inspect.getmodule(function), inspect.isfunction)
        if f.__module__ == function.__module__
    )
    assert longest <= 45


def test_the_mean_of_similarities_is_another_reading() -> None:
    assert act(tp.build("similarity", aggregator="mean")).scorer.aggregator == Mean()  # type: ignore[union-attr]


def test_what_references_refuse() -> None:
    f = tp.Features(torch.randn(1, 6, 4), torch.randn(1, 3, 4))
    with pytest.raises(UnknownNameError, match="mi-pruner"):
        load_reference("mi-prunner")
    with pytest.raises(MissingSignalError, match="cls_attention"):
        load_reference("vispruner")(f, 2)
    with pytest.raises(ConfigError, match="received_attention"):
        load_reference("attention")(f, 2)
    with pytest.raises(ConfigError, match="keys and encoder"):
        load_reference("mi-attention")(f.replace(cls_attention=torch.rand(1, 2, 6)), 2, form="visionzip")


def test_a_broken_reference_names_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    broken = metadata.EntryPoint("mine", "tokenprune_no_such_module:mine", "tokenprune.references")
    monkeypatch.setattr(metadata, "entry_points", lambda **_: metadata.EntryPoints([broken]))
    with pytest.raises(PluginError, match=r"mine.*tokenprune_no_such_module"):
        load_reference("mine")


def test_a_row_of_its_own_signals() -> None:
    """A plugin's reference may read signals of its own; padding is taken out of those as well."""

    def largest(height: Tensor, keep: int) -> Tensor:
        return height.argsort(descending=True)[:keep]

    mask = torch.tensor([[True, True, True, True], [True, False, True, True]])
    height = torch.tensor([[1.0, 4, 2, 3], [1, 9, 3, 2]])
    f = tp.Features(torch.randn(2, 4, 3), visual_mask=mask, extra={"height": height})
    assert [Reference("largest", largest)(f, 2, row)[0].tolist() for row in (0, 1)] == [[1, 3], [2, 3]]
