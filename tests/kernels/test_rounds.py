"""Rounds pick what a loop over all pairs picks, whatever the size of a round."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import tokenprune as tp
from tests.kernels.test_programs import examples, made, plain, problems, same_up_to_rounding
from tests.support.tables import rows
from tokenprune.components import normalizers, pairwise
from tokenprune.components.objectives import LogDeterminant, MaximalMarginalRelevance, MaxMin
from tokenprune.components.selectors import Greedy
from tokenprune.core.information import cosine_similarity
from tokenprune.kernels import rounds, volume

OBJECTIVES: dict[str, tp.Objective] = {
    "mmr over self-PMI": MaximalMarginalRelevance(0.5),
    "mmr, cold": MaximalMarginalRelevance(0.3, pairwise.SelfPMI(normalizers.Softmax(0.02))),
    "mmr, total": MaximalMarginalRelevance(0.7, pairwise.SelfPMI(marginal="total")),
    "mmr, no relevance": MaximalMarginalRelevance(0.0),
    "mmr over cosine": MaximalMarginalRelevance(0.4, pairwise.Cosine()),
    "max-min": MaxMin(),
    "log-determinant": LogDeterminant(),
}


@pytest.fixture(autouse=True)
def _programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENPRUNE_KERNELS", "interpret")


def long(patch: pytest.MonkeyPatch, together: int) -> None:
    """Every input is too long for a table, and rounds are small."""
    patch.setattr(pairwise, "DENSE_LIMIT", 1)
    patch.setattr(pairwise, "DENSE_BYTES", 1)
    patch.setattr(rounds, "TOGETHER", together)
    patch.setattr(volume, "TOGETHER", together)


def whole(draw: torch.Generator, *shape: int) -> Tensor:
    """Of -1, 0 and 1: products add up to the same bits in any order, as an interpreter may choose it."""
    return torch.randint(-1, 2, shape, generator=draw).float()


@pytest.mark.parametrize("name", OBJECTIVES)
@given(case=problems(), together=st.sampled_from([1, 3, 8]))
@examples(2)
def test_rounds_pick_the_same(
    name: str, case: dict[str, Any], together: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if case["dtype"] == torch.float64:
        case = {**case, "dtype": torch.float32}
    objective, asked = OBJECTIVES[name], made(device=device, **case)
    want = plain(objective, asked, monkeypatch)
    with monkeypatch.context() as patch:
        long(patch, together)
        # neither a table nor plain operations may be what picks
        patch.setattr(pairwise.CosineTable, "_whole", None)
        patch.setattr(Greedy, "_steps", None)
        got = Greedy(objective).select(asked)
    assert got.dtype == torch.int64
    assert [len(r) for r in rows(got)] == list(case["counts"])
    for b, pair in enumerate(zip(rows(got), rows(want), strict=True)):
        assert same_up_to_rounding(objective, asked, b, *pair)


def test_copies_go_by_position(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All tokens stand twice; of two that are alike in everything the first is picked first, in whichever round."""
    draw = torch.Generator().manual_seed(0)
    once = whole(draw, 1, 12, 6)
    scores = torch.rand(1, 12, generator=draw).repeat(1, 2).to(device)
    f = tp.Features(torch.cat([once, once], dim=1).to(device))
    asked = tp.Problem(f, scores, (16,), f.valid())
    long(monkeypatch, 5)
    for name in ("mmr over self-PMI", "mmr, no relevance", "max-min"):
        picks = rows(Greedy(OBJECTIVES[name]).select(asked))[0]
        assert len(set(picks)) == 16
        assert all(p - 12 in picks[: picks.index(p)] for p in picks if p >= 12)


def test_a_token_that_falls_to_a_tie_waits_for_lower_positions(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two alike tokens, which a round holds, comes to gain as much as tokens outside the round."""
    long(monkeypatch, 5)
    f = tp.Features(torch.eye(12, device=device)[[*range(10), 10, 10, 11]][None])
    scores = torch.tensor([[2.0] * 10 + [3.0, 3.9, 4.0]], device=device)
    objective = MaximalMarginalRelevance(0.5, pairwise.Cosine())
    picks = Greedy(objective).select(tp.Problem(f, scores, (12,), f.valid()))
    assert rows(picks)[0] == [12, 11, *range(10)]


def test_a_gain_that_is_no_number_leaves_the_row_empty(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    f = tp.Features(torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0)).to(device))
    scores = torch.rand(2, 9, generator=torch.Generator().manual_seed(1)).to(device)
    scores[1, 5] = torch.nan
    long(monkeypatch, 3)
    got = Greedy(MaximalMarginalRelevance()).select(tp.Problem(f, scores, (4, 4), f.valid()))
    assert (got[0] >= 0).all()
    assert got[1].tolist() == [-1] * 4


@pytest.mark.parametrize(
    ("dtype", "masked"), [(torch.float32, True), (torch.float32, False), (torch.float16, True), (torch.bfloat16, False)]
)
def test_what_pairs_fold_to(dtype: torch.dtype, masked: bool, device: str) -> None:
    """More than one square of pairs, and a token of zeros."""
    draw = torch.Generator().manual_seed(0)
    n = 300 if device == "cuda" else 35
    tokens = torch.randn(1, n, 20, generator=draw).to(device, dtype)
    tokens[0, 3] = 0
    mask = (torch.rand(1, n, generator=draw) < 0.7).to(device) if masked else None
    real = torch.ones(1, n, dtype=torch.bool, device=device) if mask is None else mask
    cosine = cosine_similarity(tokens.double(), tokens.double()).masked_fill(~real.unsqueeze(1), -torch.inf)
    tau = 0.01 if masked else 0.1
    got = rounds.log_partitions(tokens, tau, mask)
    assert got.isfinite().all()
    torch.testing.assert_close(got[real], (cosine / tau).logsumexp(-1).float()[real], rtol=1e-5, atol=1e-4)
    cosine.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
    got = rounds.nearest_cosines(tokens, mask)
    torch.testing.assert_close(got[real], cosine.amax(-1).float()[real], rtol=1e-5, atol=1e-5)


def test_copies_have_equal_sums(device: str) -> None:
    """Wherever they stand, to the bit."""
    once = whole(torch.Generator().manual_seed(3), 1, 13, 20)
    found = rounds.log_partitions(torch.cat([once, once.flip(1), once], dim=1).to(device), 0.1)[0]
    assert torch.equal(found[:13], found[26:])
    assert torch.equal(found[:13], found[13:26].flip(0))
