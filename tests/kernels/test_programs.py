"""Every program picks what the plain tensor operations pick: order, ties, ragged rows, masks and context included."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

import tokenprune as tp
from tests.support.often import often
from tests.support.tables import rows
from tokenprune.components import dedup, normalizers, pairwise
from tokenprune.components.objectives import (
    FacilityLocation,
    GraphCut,
    LogDeterminant,
    MaximalMarginalRelevance,
    MaxMin,
    MeanDispersion,
    PMICoverage,
)
from tokenprune.components.scorers import PMI, ConditionedRelevance
from tokenprune.components.selectors import Greedy
from tokenprune.core.errors import DegenerateRelevanceWarning
from tokenprune.core.information import unit_norm
from tokenprune.hf.adapters.encoder_attention import attention_received, attention_rows
from tokenprune.kernels import bipartite, columns, coverage, volume

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

OBJECTIVES: dict[str, tp.Objective] = {
    "mmr over self-PMI": MaximalMarginalRelevance(0.5),
    "mmr, cold": MaximalMarginalRelevance(0.3, pairwise.SelfPMI(normalizers.Softmax(0.02))),
    "mmr, total": MaximalMarginalRelevance(0.7, pairwise.SelfPMI(marginal="total")),
    "mmr, no relevance": MaximalMarginalRelevance(0.0),
    "mmr over cosine": MaximalMarginalRelevance(0.4, pairwise.Cosine()),
    "max-min": MaxMin(),
    "mean dispersion": MeanDispersion(),
    "mean dispersion of PMI": MeanDispersion(pairwise.SelfPMI()),
    "graph cut": GraphCut(0.6),
    "log-determinant": LogDeterminant(),
    "facility location": FacilityLocation(),
    "facility location of tokens": FacilityLocation(0.7, None),
    "PMI coverage": PMICoverage(),
}


@pytest.fixture(autouse=True)
def _programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENPRUNE_KERNELS", "interpret")


def made(
    seed: int,
    batch: int,
    n: int,
    d: int,
    dtype: torch.dtype,
    device: str,
    counts: tuple[int, ...],
    *,
    copies: int = 0,
    mask: Tensor | None = None,
    hidden: Tensor | None = None,
    context: Tensor | None = None,
) -> tp.Problem:
    """Features with planted copies, and scores on a coarse grid: ties in many steps."""
    draw = torch.Generator().manual_seed(seed)
    visual, encoder = torch.randn(2, batch, n, d, generator=draw)
    for _ in range(copies):
        old, new = torch.randint(n, (2,), generator=draw).tolist()
        visual[:, new], encoder[:, new] = visual[:, old], encoder[:, old]
    text = torch.randn(batch, 4, d, generator=draw)
    scores = torch.randint(0, 5, (batch, n), generator=draw) / 4
    f = tp.Features(
        visual.to(device, dtype),
        text.to(device, dtype),
        encoder=encoder.to(device, dtype),
        visual_mask=None if mask is None else mask.to(device),
    )
    available = f.valid() if hidden is None else f.valid() & ~hidden.to(device)
    scores = scores.to(device, torch.float64 if dtype == torch.float64 else torch.float32)
    return tp.Problem(f, scores, counts, available, None if context is None else context.to(device))


@st.composite
def problems(draw: st.DrawFn) -> dict[str, Any]:
    batch, n = draw(st.integers(1, 3)), draw(st.integers(2, 12))
    flags = st.lists(st.booleans(), min_size=n, max_size=n)
    mask = torch.tensor(draw(st.lists(flags.filter(any), min_size=batch, max_size=batch)))
    hidden = torch.zeros_like(mask)
    context = None
    if draw(st.booleans()):
        width = draw(st.integers(1, n))
        context = torch.full((batch, width), -1)
        for b in range(batch):
            real = mask[b].nonzero().flatten().tolist()
            before = draw(st.permutations(real))[: draw(st.integers(0, width))]
            context[b, : len(before)] = torch.tensor(before, dtype=torch.long)
            hidden[b, before] = True
    left = (mask & ~hidden).sum(1).tolist()
    return {
        "seed": draw(st.integers(0, 10**6)),
        "batch": batch,
        "n": n,
        "d": draw(st.sampled_from([2, 3, 16])),
        "dtype": draw(st.sampled_from(DTYPES)),
        "counts": tuple(draw(st.integers(0, k)) for k in left),
        "copies": draw(st.integers(0, 4)),
        "mask": mask,
        "hidden": hidden,
        "context": context,
    }


def plain(objective: tp.Objective, asked: tp.Problem, monkeypatch: pytest.MonkeyPatch, repeats: bool = False) -> Tensor:
    """What tensor operations pick from the same tables."""
    with monkeypatch.context() as patch:
        patch.setattr(type(objective), "run", lambda *_: None)
        return Greedy(objective, repeats=repeats).select(asked)


def ran(objective: tp.Objective, asked: tp.Problem, repeats: bool = False) -> Tensor:
    """What the program picks; it must be there."""
    found = Greedy(objective, repeats=repeats).select(asked)
    state = objective.start(asked.features, asked.scores)
    assert objective.run(state, asked.available, asked.counts, repeats) is not None
    return found


def both(got: Tensor, want: Tensor) -> Iterator[tuple[int, tuple[list[int], list[int]]]]:
    """Row by row."""
    return enumerate(zip(rows(got), rows(want), strict=True))


def same_up_to_rounding(
    objective: tp.Objective, asked: tp.Problem, row: int, got: list[int], want: list[int], most: float = 2e-5
) -> bool:
    """Whether two orders agree, or part at a step where both picks gain the same up to rounding.

    The gains of a log-determinant are what is left after subtracting the picks' shares one by one. A program adds them
    up in another order than a matrix product does, so where two gains are equal but for their last bits, each may call
    another one the larger; all picks after that may differ. Given the picks before that step, the two are compared.
    """
    step = next((i for i, (a, b) in enumerate(zip(got, want, strict=True)) if a != b), None)
    if step is None:
        return True
    state = objective.start(asked.features, asked.scores)
    for pick in ([] if asked.context is None else [i for i in asked.context[row].tolist() if i >= 0]) + want[:step]:
        index = torch.full((asked.features.batch,), -1, device=asked.scores.device)
        index[row] = pick
        state = objective.take(state, index)
    gains = objective.gains(state)[row]
    return math.isclose(float(gains[got[step]]), float(gains[want[step]]), rel_tol=most, abs_tol=most)


def examples(few: int) -> settings:
    """Each example runs in an interpreter where there is no GPU, which makes a smaller failure take minutes to find."""
    without = [Phase.explicit, Phase.reuse, Phase.generate]
    return settings(max_examples=few, phases=without, suppress_health_check=[HealthCheck.function_scoped_fixture])


def pick_the_same(
    name: str, case: dict[str, Any], device: str, monkeypatch: pytest.MonkeyPatch, naive: bool = True
) -> None:
    if case["dtype"] == torch.float64 and ("coverage" in name or "facility" in name):
        case = {**case, "dtype": torch.float32}
    asked = made(device=device, **case)
    got = Greedy(OBJECTIVES[name]).select(asked)
    assert got.dtype == torch.int64
    assert [len(r) for r in rows(got)] == list(case["counts"])
    want = plain(OBJECTIVES[name], asked, monkeypatch)
    if name == "log-determinant":
        assert all(same_up_to_rounding(OBJECTIVES[name], asked, b, *pair) for b, pair in both(got, want))
    else:
        assert rows(got) == rows(want)
        assert not naive or rows(got) == rows(Greedy(OBJECTIVES[name], "naive").select(asked))


def test_rounding_excuses_ties_and_nothing_else(device: str) -> None:
    """Tokens 1 and 2 are one token; token 3 is another."""
    visual = torch.eye(4, device=device)[[0, 1, 1, 2]].unsqueeze(0) + 0.01
    f = tp.Features(visual, encoder=visual)
    asked = tp.Problem(f, torch.tensor([[9.0, 3.0, 3.0, 1.0]], device=device), (2,), f.valid())
    assert same_up_to_rounding(LogDeterminant(), asked, 0, [0, 1], [0, 2])
    assert same_up_to_rounding(LogDeterminant(), asked, 0, [0, 1], [0, 1])
    assert not same_up_to_rounding(LogDeterminant(), asked, 0, [0, 3], [0, 1])


@pytest.mark.parametrize("name", OBJECTIVES)
@given(case=problems())
@examples(2)
def test_programs_pick_the_same(name: str, case: dict[str, Any], device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pick_the_same(name, case, device, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
@given(case=problems())
@examples(often(40))
def test_programs_pick_the_same_often(
    name: str, case: dict[str, Any], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # that all tensor operations pick the same is no matter of programs, and has tests of its own
    pick_the_same(name, case, device, monkeypatch, naive=False)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_there_is_a_program(name: str, device: str) -> None:
    ran(OBJECTIVES[name], made(0, 2, 9, 4, torch.float32, device, (3, 2)))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_longer_rows(name: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    n = 150 if device == "cuda" else 32
    asked = made(3, 2, n, 24, torch.float32, device, (n // 4, n // 5), copies=n // 5)
    assert rows(ran(OBJECTIVES[name], asked)) == rows(plain(OBJECTIVES[name], asked, monkeypatch))


@pytest.mark.parametrize("name", ["max-min", "log-determinant", "facility location"])
def test_repeats(name: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = made(5, 1, 8, 3, torch.float32, device, (7,), copies=5)
    assert rows(ran(OBJECTIVES[name], asked, True)) == rows(plain(OBJECTIVES[name], asked, monkeypatch, True))


SHARED = (2, 8) if torch.cuda.is_available() else (1,)
"""Programs a row: several of them can only run where they run at the same time."""


@pytest.mark.slow
@pytest.mark.parametrize("programs", SHARED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_rows_shared_by_programs(
    programs: int, dtype: torch.dtype, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, n = (3, 700) if device == "cuda" else (2, 40)
    counts = (n // 3, n // 4, n // 5)[:batch]
    asked = made(11, batch, n, 16, dtype, device, counts, copies=n // 5)
    for name, objective in OBJECTIVES.items():
        want = rows(plain(objective, asked, monkeypatch))
        width = 1 << (n - 1).bit_length()
        for module in (columns, coverage, volume):
            shape = (programs, 64, width // programs, 4) if module is not columns else (programs, width // programs, 4)
            monkeypatch.setattr(module, "_shape", lambda *_, shape=shape: shape)
        assert rows(ran(objective, asked)) == want, name


def rounds(part: dedup.BipartiteDedup, asked: tp.Problem, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """What is left by tensor operations, round by round."""
    with monkeypatch.context() as patch:
        patch.setattr(dedup, "usable", lambda *_: False)
        return part.select(asked)


def rounds_leave_the_same(case: dict[str, Any], rate: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = made(device=device, **case)
    part = dedup.BipartiteDedup(rate)
    assert rows(part.select(asked)) == rows(rounds(part, asked, monkeypatch))


@given(case=problems(), rate=st.integers(1, 9))
@examples(3)
def test_rounds_leave_the_same(case: dict[str, Any], rate: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds_leave_the_same(case, rate, device, monkeypatch)


@pytest.mark.slow
@given(case=problems(), rate=st.integers(1, 9))
@examples(often(80))
def test_rounds_leave_the_same_often(
    case: dict[str, Any], rate: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds_leave_the_same(case, rate, device, monkeypatch)


@pytest.mark.parametrize("programs", SHARED)
def test_rounds_of_longer_lists(programs: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    n = 400 if device == "cuda" else 24
    asked = made(13, 3, n, 6, torch.float16, device, (7, 1, n // 2), copies=n // 4)
    part = dedup.BipartiteDedup()
    want = rows(rounds(part, asked, monkeypatch))
    for tall, block in ((4, 16), (16, 64)) if device == "cuda" else ((4, 16),):
        monkeypatch.setattr(bipartite, "_shape", lambda *_, shape=(programs, tall, block, 4): shape)
        assert rows(part.select(asked)) == want


TEXTS = {"words": 5, "a long prompt": 140, "one word": 1, "the same word": 4, "nothing": 3}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("prompt", "dtype"),
    [(name, torch.float32) for name in TEXTS] + [("words", torch.float16), ("words", torch.bfloat16)],
)
def test_relevance_is_that_of_tensors(
    prompt: str, dtype: torch.dtype, masked: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = torch.Generator().manual_seed(len(prompt))
    # norms of half-precision tokens are a program a token
    batch, n, m = 2, 100 if dtype == torch.float32 else 8, TEXTS[prompt]
    visual, text = torch.randn(batch, n, 6, generator=draw), torch.randn(batch, m, 6, generator=draw)
    if prompt == "the same word":
        text[1] = text[1, :1]
    elif prompt == "nothing":
        text.zero_()
    masks: dict[str, Tensor] = {}
    if masked:
        masks = {"visual_mask": torch.rand(batch, n, generator=draw) < 0.7, "text_mask": torch.ones(batch, m) > 0}
        masks["text_mask"][0, 1:] = False
    known = {name: mask.to(device) for name, mask in masks.items()}
    f = tp.Features(visual.to(device, dtype), text.to(device, dtype), check=False, **known)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateRelevanceWarning)
        for scorer, rounding in (
            (PMI(), 2e-5),
            (PMI(normalizers.Softmax(0.02)), 1e-4),
            (ConditionedRelevance(), 2e-5),
            (ConditionedRelevance(-1), 2e-5),
        ):
            got = scorer.score(f).masked_fill(~f.valid(), 0)
            with monkeypatch.context() as patch:
                patch.setenv("TOKENPRUNE_KERNELS", "0")
                want = scorer.score(f).masked_fill(~f.valid(), 0)
            torch.testing.assert_close(got, want, rtol=1e-5, atol=rounding)


def test_unit_rows_are_those_of_tensors(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 9, 37, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x *= torch.logspace(-200, 200, 9, dtype=torch.float64).unsqueeze(-1)
    x[1, 3] = 0
    got = unit_norm(x.to(device))
    monkeypatch.setenv("TOKENPRUNE_KERNELS", "0")
    torch.testing.assert_close(got, unit_norm(x.to(device)), rtol=1e-14, atol=0)
    assert got[1, 3].tolist() == [0] * 37


@pytest.mark.parametrize("dtype", DTYPES[:3])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("length", [1, 40, 100])
def test_attention_is_that_of_tensors(
    length: int, masked: bool, dtype: torch.dtype, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = torch.Generator().manual_seed(length)
    # as attention modules have them: a token's heads next to each other
    queries, keys = (torch.randn(2, length, 3, 20, generator=draw).to(device, dtype).transpose(1, 2) for _ in range(2))
    visible = None
    if masked:
        visible = torch.rand(2, length, generator=draw) < 0.6
        visible[:, -1] = True
        visible = visible.to(device)
    row = queries[:, :, :1]
    got = attention_rows(row, keys, 0.3, visible), attention_received(queries, keys, 0.3, 1, visible=visible)
    assert [x.dtype for x in got] == [torch.float32] * 2
    torch.testing.assert_close(got[0].sum(-1), torch.ones_like(got[0].sum(-1)))
    monkeypatch.setenv("TOKENPRUNE_KERNELS", "0")
    torch.testing.assert_close(got[0], attention_rows(row, keys, 0.3, visible), rtol=1e-4, atol=1e-6)
    want = attention_received(queries, keys, 0.3, 1, visible=visible)
    torch.testing.assert_close(got[1], want, rtol=1e-4, atol=1e-5)
