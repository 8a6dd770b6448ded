"""Long inputs on a CPU: what selection needs beside its features, measured in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import tokenprune as tp
from tokenprune.components import pairwise, rounds
from tokenprune.components.normalizers import MinMax, Softmax
from tokenprune.components.objectives import FacilityLocation, MaximalMarginalRelevance, MaxMin, remade
from tokenprune.components.pairwise import Cosine, CosineTable, SelfPMI, reduced
from tokenprune.components.selectors import Greedy
from tokenprune.core.errors import NonFiniteError
from tokenprune.core.kinds import PairTable

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_no_table_of_all_pairs(tmp_path: Path) -> None:
    """One would be 1,024 MiB, and so is what an allocator takes that cannot use the room of freed blocks again."""
    asked = [
        "--strategies",
        "mi-pruner,divprune,mmtok",
        "--keep",
        "32",
        "--width",
        "512",
        "--out",
        str(tmp_path / "m.json"),
    ]
    command = [sys.executable, str(ROOT / "experiments" / "speed" / "memory.py"), *asked]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))["rows"]
    assert [row["strategy"] for row in rows] == ["mi-pruner", "divprune", "mmtok"]
    for row in rows:
        assert 32 < row["above_mib"] < 400, row  # tokens of norm 1 alone are 32


class _Blocks(PairTable):
    """A table that comes in blocks of uneven size."""

    def __init__(self, whole: Tensor) -> None:
        self.whole = whole

    def column(self, index: Tensor) -> Tensor:
        return self.whole[torch.arange(len(index)), :, index]

    def dense(self) -> Tensor:
        return self.whole

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        for start, stop in ((0, 3), (3, 4), (4, 9)):
            yield slice(start, stop), self.whole[:, start:stop]


def test_blocks_are_reduced_into_one_tensor() -> None:
    whole = torch.randn(2, 9, 9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(reduced(_Blocks(whole), lambda _, block: block.amin(-1)), whole.amin(-1))
    places = reduced(_Blocks(whole), lambda rows, block: block.diagonal(rows.start, 1, 2).unsqueeze(-1))
    assert torch.equal(places, whole.diagonal(0, 1, 2).unsqueeze(-1))


def test_rows_of_long_inputs_are_those_of_the_whole_table() -> None:
    tokens = torch.randn(1, 2100, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    table = CosineTable(tokens)
    assert table.gram is None
    torch.testing.assert_close(reduced(table, lambda _, block: block.sum(-1)), table.dense().sum(-1))


@pytest.mark.parametrize("tau_text", [0.05, None])
@pytest.mark.parametrize("masked", [False, True])
def test_coverage_without_a_table_is_that_of_one(
    tau_text: float | None, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same picks and gains, with padding and without; and single gains are those of all, to the bit."""
    draw = torch.Generator().manual_seed(2)
    valid = torch.arange(38) < torch.tensor([[38], [31]])
    features = tp.Features(
        torch.randn(2, 38, 6, generator=draw, dtype=torch.float64),
        text=torch.randn(2, 5, 6, generator=draw, dtype=torch.float64),
        encoder=torch.randn(2, 38, 6, generator=draw, dtype=torch.float64),
        visual_mask=valid if masked else None,
    )
    objective = FacilityLocation(0.7, tau_text, 0.3)
    strategy = tp.Strategy(selector=Greedy(objective), name="coverage")
    state = objective.start(features, torch.zeros(2, 38))
    picked, gains = strategy.select(features, 12).order, objective.gains(state)
    monkeypatch.setattr(remade, "KEPT", 0)
    long = objective.start(features, torch.zeros(2, 38))
    assert long.table.shape[1] == (0 if tau_text is None else 5)
    assert torch.equal(strategy.select(features, 12).order, picked)
    taken, other = (objective.take(one, picked[:, 0]) for one in (state, long))
    torch.testing.assert_close(objective.gains(long), gains)
    torch.testing.assert_close(objective.gains(other), objective.gains(taken))
    some = torch.tensor([[5, 3, 7], [0, 2, 30]])
    assert torch.equal(objective.gains_of(other, some), objective.gains(other).gather(1, some))


def test_ties_of_long_coverage_go_to_the_lower_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token has the same bits whatever it is read beside: its twin further on is never taken for it."""
    monkeypatch.setattr(remade, "KEPT", 0)
    few = torch.randn(2, 23, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    features = tp.Features(torch.zeros(2, 46, 1), encoder=torch.cat([few, few], 1))
    picks = Greedy(FacilityLocation(1.0, None, 0.3))
    strategy = tp.Strategy(selector=picks, name="coverage")
    assert int(strategy.select(features, 12).order.max()) < 23


ROUNDS: dict[str, tp.Objective] = {
    "mmr over self-PMI": MaximalMarginalRelevance(0.5),
    "mmr, stationary": MaximalMarginalRelevance(0.6, SelfPMI(Softmax(0.05), "stationary")),
    "mmr over min-max": MaximalMarginalRelevance(0.5, SelfPMI(MinMax())),
    "mmr over cosine": MaximalMarginalRelevance(0.3, Cosine()),
    "max-min": MaxMin(),
}


def _asked(n: int = 90, count: int = 40, *, masked: bool = False, context: Tensor | None = None) -> tp.Problem:
    draw = torch.Generator().manual_seed(5)
    mask = torch.rand(1, n, generator=draw) < 0.8 if masked else None
    features = tp.Features(torch.randn(1, n, 12, generator=draw, dtype=torch.float64), visual_mask=mask)
    available = features.valid().clone()
    if context is not None:
        available[0, context] = False
    scores = torch.rand(1, n, generator=draw, dtype=torch.float64)
    return tp.Problem(features, scores, (count,), available, None if context is None else context[None])


@pytest.mark.parametrize("together", [1, 6, 1000])
@pytest.mark.parametrize("name", ROUNDS)
def test_rounds_pick_what_steps_pick(name: str, together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairwise, "DENSE_LIMIT", 1)
    monkeypatch.setattr(rounds, "TOGETHER", together)
    for asked in (_asked(), _asked(masked=True), _asked(context=torch.tensor([7, 3, 60]))):
        with monkeypatch.context() as patch:
            patch.setattr(type(ROUNDS[name]), "run", lambda *_: None)
            want = Greedy(ROUNDS[name]).select(asked)
        with monkeypatch.context() as patch:
            patch.setattr(Greedy, "_steps", None)
            assert torch.equal(Greedy(ROUNDS[name]).select(asked), want)


def test_copies_in_rounds_go_by_position(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens of -1, 0 and 1, whose products have the same bits in any order, each of them twice."""
    monkeypatch.setattr(pairwise, "DENSE_LIMIT", 1)
    monkeypatch.setattr(rounds, "TOGETHER", 5)
    once = torch.randint(-1, 2, (1, 20, 8), generator=torch.Generator().manual_seed(2)).double()
    features = tp.Features(torch.cat([once, once], 1))
    asked = tp.Problem(features, torch.ones(1, 40), (30,), features.valid())
    picks = Greedy(MaximalMarginalRelevance(0.5, Cosine())).select(asked)[0].tolist()
    assert len(set(picks)) == 30
    assert all(p - 20 in picks[: picks.index(p)] for p in picks if p >= 20)


def test_a_token_that_falls_to_a_tie_waits_for_lower_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two alike tokens, which a round holds, comes to gain as much as tokens outside the round."""
    monkeypatch.setattr(pairwise, "DENSE_LIMIT", 1)
    monkeypatch.setattr(rounds, "TOGETHER", 5)
    features = tp.Features(torch.eye(12)[[*range(10), 10, 10, 11]][None])
    scores = torch.tensor([[2.0] * 10 + [3.0, 3.9, 4.0]])
    asked = tp.Problem(features, scores, (12,), features.valid())
    picks = Greedy(MaximalMarginalRelevance(0.5, Cosine())).select(asked)
    assert picks.tolist() == [[12, 11, *range(10)]]


def test_rounds_refuse_a_gain_that_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairwise, "DENSE_LIMIT", 1)
    asked = _asked()
    asked.scores[0, 4] = torch.nan
    with pytest.raises(NonFiniteError, match="NaN"):
        Greedy(MaximalMarginalRelevance()).select(asked)


@pytest.mark.parametrize("masked", [False, True])
def test_pairs_are_folded_once_for_both(masked: bool) -> None:
    """A token of zeros among them, and blocks that do not divide them."""
    features = _asked(masked=masked).features
    tokens, mask, real = features.visual, features.visual_mask, features.valid()[0]
    tokens[0, 11] = 0
    unit = CosineTable(tokens).unit
    cosine = (unit[0] @ unit[0].T).masked_fill(~real, -torch.inf)
    for tau in (0.1, 0.002):
        got = rounds.log_partitions(unit, tau, mask, 16)[0]
        assert got.isfinite().all()
        torch.testing.assert_close(got[real], (cosine / tau).logsumexp(-1)[real])
    cosine.fill_diagonal_(-torch.inf)
    torch.testing.assert_close(rounds.nearest_cosines(unit, mask, 16)[0][real], cosine.amax(-1)[real])
