"""Parts of the baselines against plain references and the laws that they state."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import tokenprune as tp
from tests.support.tables import ForbiddenPairs, GivenPairs, GivenScores, blank_features, problem, rows
from tokenprune.components import pairwise
from tokenprune.components.crops import CropBudgets
from tokenprune.components.dedup import BipartiteDedup
from tokenprune.components.mergers import NearestCentre, PickOrder
from tokenprune.components.objectives import FacilityLocation, GraphCut, LogDeterminant, MaxMin, MeanDispersion, Modular
from tokenprune.components.pairwise import CosineTable
from tokenprune.components.scorers import ConditionedRelevance, TextAlignment
from tokenprune.components.selectors import Candidates, Greedy, Prefilter, Strided, TwoStage
from tokenprune.core.errors import ConfigError, MissingSignalError
from tokenprune.core.information import cosine_similarity, log_marginal, pmi
from tokenprune.core.ranking import TopK
from tokenprune.testing import features

VECTORS = Path(__file__).parents[1] / "vectors"


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def value_of(objective: tp.Objective, f: tp.Features, scores: Tensor, picks: list[int]) -> list[float]:
    """Gains along a sequence of picks in the first row."""
    state = objective.start(f, scores)
    gains = []
    for pick in picks:
        gains.append(float(objective.gains(state)[0, pick]))
        state = objective.take(state, torch.full((f.batch,), pick))
    return gains


# --- objectives -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("picks", [[3, 0, 5], [5, 3, 0], [1, 2, 4, 6]])
def test_log_determinant_adds_up_to_the_volume(picks: list[int]) -> None:
    x, q = normal(1, 8, 6), normal(1, 8, seed=1).abs() + 0.1
    objective = LogDeterminant(ridge=1e-3)
    unit = x[0] / x[0].norm(dim=1, keepdim=True)
    kernel = q[0, :, None] * (unit @ unit.T + 1e-3 * torch.eye(8)) * q[0]
    expected = float(torch.logdet(kernel[picks][:, picks]))
    assert sum(value_of(objective, tp.Features(x), q, picks)) == pytest.approx(expected, abs=1e-9)


def test_log_determinant_beyond_the_rank_goes_by_quality() -> None:
    """Four copies of each of two directions: after one of each nothing adds volume."""
    x = torch.eye(2, dtype=torch.float64).repeat(4, 1)[None]
    q = torch.tensor([[0.1, 0.2, 0.9, 0.3, 0.5, 0.8, 0.7, 0.4]], dtype=torch.float64)
    order = Greedy(LogDeterminant()).select(problem(q, (8,), features=tp.Features(x)))
    assert order[0].tolist() == [2, 5, 6, 4, 7, 3, 1, 0]


def test_facility_location_value_and_guarantee() -> None:
    f = tp.Features(normal(1, 7, 4), normal(1, 3, 4, seed=1), encoder=normal(1, 7, 5, seed=2))
    objective = FacilityLocation()
    state = objective.start(f, torch.zeros(1, 7))
    assert float(state.table[0, :3].sum()) == pytest.approx(1)
    assert float(state.table[0, 3:].sum()) == pytest.approx(0.5)

    def value(chosen: tuple[int, ...]) -> float:
        return float(state.table[0][:, list(chosen)].amax(1).sum())

    order = rows(Greedy(objective).select(problem(torch.zeros(1, 7), (3,), features=f)))[0]
    assert sum(value_of(objective, f, torch.zeros(1, 7), order)) == pytest.approx(value(tuple(order)))
    best = max(value(chosen) for chosen in itertools.combinations(range(7), 3))
    assert value(tuple(order)) >= (1 - 1 / math.e) * best


def test_pmi_coverage_is_facility_location_over_pmi_and_earns_the_guarantee() -> None:
    torch.manual_seed(3)
    visual, text = torch.randn(1, 9, 4, dtype=torch.float64), torch.randn(1, 5, 4, dtype=torch.float64)
    f = tp.Features(visual, text)
    objective = tp.build_component("objectives", "pmi-coverage")
    log_p = objective.normalizer(cosine_similarity(visual, text))
    marginal = log_marginal(log_p)
    benefit = (marginal.exp().unsqueeze(1) * pmi(log_p, marginal).exp())[0]  # q_j exp PMI_ij
    values = {c: float(benefit[list(c)].amax(0).sum()) for c in itertools.combinations(range(9), 3)}
    selection = tp.Strategy(selector=Greedy(objective)).select(f, 3)
    reached = values[tuple(selection.row(0))]
    assert reached >= (1 - 1 / math.e) * max(values.values())
    state = objective.start(f, torch.zeros(1, 9))
    for pick in selection.order[0]:
        state = objective.take(state, pick.view(1))
    assert float(objective.value(state)) == pytest.approx(reached, abs=1e-12)


def test_facility_location_reads_only_what_counts() -> None:
    assert FacilityLocation(alpha=0).requires == {"visual", "text"}
    assert FacilityLocation(tau_text=None).requires == {"visual", "encoder"}
    with pytest.raises(ConfigError, match="no row to cover"):
        FacilityLocation(alpha=0, tau_text=None)


@pytest.mark.parametrize("picks", [[0, 4, 2], [2, 0, 4]])
def test_graph_cut_adds_up(picks: list[int]) -> None:
    x = normal(1, 6, 3)
    unit = x[0] / x[0].norm(dim=1, keepdim=True)
    s = (1 + unit @ unit.T) / 2
    expected = float(s[:, picks].sum() - 0.7 * s[picks][:, picks].sum())
    assert sum(value_of(GraphCut(lam=0.7), tp.Features(x), torch.zeros(1, 6), picks)) == pytest.approx(expected)


def test_mean_dispersion_averages() -> None:
    x = normal(1, 6, 3)
    unit = x[0] / x[0].norm(dim=1, keepdim=True)
    s = unit @ unit.T
    gains = value_of(MeanDispersion(), tp.Features(x), torch.zeros(1, 6), [4, 1, 3])
    assert gains == pytest.approx([-float(s[4].mean()), -float(s[1, 4]), -float((s[3, 4] + s[3, 1]) / 2)])


def test_repeats_pick_copies_again() -> None:
    """Three distinct vectors, four places: only a greedy that does not mask its picks can repeat one."""
    f = tp.Features(torch.eye(3, dtype=torch.float64)[None])
    plain = Greedy(MaxMin()).select(problem(torch.zeros(1, 3), (3,), features=f))
    assert sorted(plain[0].tolist()) == [0, 1, 2]
    doubled = tp.Features(torch.eye(3, dtype=torch.float64).repeat(2, 1)[None])
    again = Greedy(MaxMin(), repeats=True).select(problem(torch.zeros(1, 6), (5,), features=doubled))[0].tolist()
    assert len(set(again)) < 5
    assert {i % 3 for i in again[:3]} == {0, 1, 2}
    with pytest.raises(ConfigError, match="vectorized"):
        Greedy(MaxMin(), "lazy", repeats=True)


# --- selectors --------------------------------------------------------------------------------------------------


def dedup(tokens: Tensor, listed: list[int], count: int, rate: int) -> list[int]:
    """The rounds, told plainly."""
    unit = (tokens / tokens.norm(dim=1, keepdim=True)).tolist()

    def cosine(a: int, b: int) -> float:
        return math.fsum(x * y for x, y in zip(unit[a], unit[b], strict=True))

    while len(listed) > count:
        even, odd = listed[0::2], listed[1::2]
        redundancy = {e: max(cosine(e, o) for o in odd) for e in even}
        even.sort(key=lambda e: -redundancy[e])
        listed = even[min(rate, len(listed) - count) :] + odd
    return listed


@given(n=st.integers(2, 40), seed=st.integers(0, 1000), rate=st.integers(1, 9), data=st.data())
def test_dedup_is_its_rounds(n: int, seed: int, rate: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, n))
    tokens, scores = normal(1, n, 5, seed=seed), normal(1, n, seed=seed + 1)
    f = tp.Features(tokens, encoder=tokens)
    found = BipartiteDedup(rate).select(problem(scores, (count,), features=f))[0].tolist()
    assert found == dedup(tokens[0], scores[0].argsort(descending=True).tolist(), count, rate)


def test_dedup_of_a_long_list_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = normal(1, 30, 5)
    whole = CosineTable(tokens)
    monkeypatch.setattr(pairwise, "DENSE_LIMIT", 29)
    blocks = CosineTable(tokens)
    assert whole.gram is not None
    assert blocks.gram is None
    some, others = torch.tensor([[4, 0, 29]]), torch.tensor([[7, 7]])
    torch.testing.assert_close(whole.between(some, others), blocks.between(some, others))


@pytest.mark.parametrize(
    "case",
    json.loads((VECTORS / "vispruner" / "cases.json").read_text(encoding="utf-8"))["official_failures"],
    ids=lambda case: f"{case['hp']['visual_token_num']} of {case['N']}",
)
def test_vispruner_works_where_its_reference_fails(case: dict[str, Any]) -> None:
    n, keep, share = case["N"], case["hp"]["visual_token_num"], case["hp"]["important_ratio"]
    f = tp.Features(normal(1, n, 8), encoder=normal(1, n, 8), cls_attention=normal(1, 2, n, seed=1).softmax(-1))
    kept = tp.build("vispruner", share=share).select(f, keep)
    top = f["cls_attention"].mean(1)[0].topk(int(keep * share)).indices.tolist()
    assert kept.order[0, : len(top)].tolist() == top
    assert len(set(kept.row(0))) == keep


@given(n=st.integers(1, 60), seed=st.integers(0, 1000), crops=st.none() | st.integers(1, 70), data=st.data())
def test_crops_share_out_the_budget(n: int, seed: int, crops: int | None, data: st.DataObject) -> None:
    """Redistribution fills the budget; without overflow it is the official rule."""
    keep = data.draw(st.integers(1, n))
    f, attention = tp.Features(normal(1, n, 4, seed=seed)), (3 * normal(1, n, seed=seed + 1)).softmax(-1)
    ask = problem(attention, (keep,), features=f)
    filled = rows(CropBudgets(crops).select(ask))[0]
    official = rows(CropBudgets(crops, "lose").select(ask))[0]
    assert len(set(filled)) == len(filled) == keep
    assert len(set(official)) == len(official) <= keep
    if len(official) == keep:
        assert filled == official
    else:
        assert set(official) < set(filled)


def test_crops_by_hand() -> None:
    """Means 6.4, 2.2, 0.8 and 0.6 of 10: five places are 3, 1, 0 and 0, and one that the first crop cannot hold."""
    attention = torch.tensor([[6.9, 6.4, 5.9, 2.2, 3.2, 1.2, 0.8, 1.8, -0.2, 0.6, 0.6, 0.6]])
    f = tp.Features(normal(1, 12, 4))
    # the first crop is kept whole, so ascending; of the others the best
    assert rows(CropBudgets(4).select(problem(attention, (5,), features=f))) == [[0, 1, 2, 4, 3]]
    assert rows(CropBudgets(4, "lose").select(problem(attention, (5,), features=f))) == [[0, 1, 2, 4]]


def test_crops_do_not_depend_on_features() -> None:
    """The scaled variance cancels: the official rule is attention alone."""
    attention = normal(1, 60, seed=1).softmax(-1)
    picks = {
        tuple(rows(CropBudgets(6).select(problem(attention, (17,), features=tp.Features(normal(1, 60, 8, seed=s)))))[0])
        for s in range(5)
    }
    assert len(picks) == 1
    holistic = CropBudgets(6, within="holistic", alpha=5.0)
    picks = {
        tuple(rows(holistic.select(problem(attention, (17,), features=tp.Features(normal(1, 60, 8, seed=s)))))[0])
        for s in range(5)
    }
    assert len(picks) > 1


def test_overflow_is_lost_or_redistributed() -> None:
    """One token has all the attention: its crop of two is given everything."""
    attention = torch.zeros(1, 8)
    attention[0, 2] = 1.0
    ask = problem(attention, (4,))
    assert rows(CropBudgets(4, "lose", alpha=0).select(ask)) == [[2, 3]]
    assert rows(CropBudgets(4, alpha=0).select(ask)) == [[0, 2, 3, 4]]


def test_stride() -> None:
    available = torch.tensor([[True] * 10, [False, True] * 5])
    order = Strided().select(problem(torch.zeros(2, 10), (4, 2), available))
    assert rows(order) == [[0, 2, 4, 6], [1, 5]]


def test_two_stage_holds_places_back() -> None:
    scores = torch.arange(10.0)[None]
    order = TwoStage(None, Strided(), share=0.5, reserve=1).select(problem(scores, (6,)))
    assert rows(order) == [[9, 8, 0, 2, 4, 1]]


def test_prefilter_hides_the_rest() -> None:
    """The least typical of all is not the least typical of the survivors."""
    tokens = torch.tensor([[[1.0, 0.0], [1.0, 0.1], [0.6, 0.8], [-1.0, 0.0], [-1.0, 0.1]]])
    ask = problem(torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0]]), (1,), features=tp.Features(tokens))
    spread = Greedy(MeanDispersion())
    assert rows(spread.select(ask)) == [[3]]
    assert rows(Prefilter(0.6, spread).select(ask)) == [[2]]
    assert rows(Prefilter(0.0, spread).select(ask)) == [[0]]


def test_candidates_come_first() -> None:
    scores = torch.arange(6.0)[None]
    f = tp.Features(torch.ones(1, 6, 1), extra={"candidates": torch.tensor([[True, True, False, True, False, False]])})
    assert rows(Candidates(TopK()).select(problem(scores, (2,), features=f))) == [[3, 1]]
    assert rows(Candidates(TopK()).select(problem(scores, (5,), features=f))) == [[3, 1, 0, 5, 4]]
    repeated = Candidates(TopK(), repeat_first=True).select(problem(scores, (5,), features=f))
    assert repeated.tolist() == [[3, 1, 0, 0, 0]]
    assert rows(Candidates(TopK()).select(problem(scores, (2,)))) == [[5, 4]]


def test_candidates_that_run_out_are_context() -> None:
    """The objective counts candidates as picked when excluded tokens follow."""
    table = torch.zeros(1, 4, 4)
    table[0, 2, 0] = table[0, 0, 2] = 1.0
    f = tp.Features(torch.ones(1, 4, 1), extra={"candidates": torch.tensor([[True, False, False, False]])})
    greedy = Greedy(tp.build_component("objectives", {"name": "mmr", "pairs": GivenPairs(table)}))
    order = Candidates(greedy).select(problem(torch.tensor([[0.0, 0.1, 0.5, 0.2]]), (3,), features=f))
    assert rows(order) == [[0, 3, 1]]


def test_mmtok_over_exclusion() -> None:
    """60 of 64 tokens are excluded, 8 are wanted: the reference repeats position 0, the default does not."""
    expected = json.loads((VECTORS / "mmtok" / "cases.json").read_text(encoding="utf-8"))
    allowed = (torch.arange(64) >= 60)[None]
    f = tp.Features(normal(1, 64, 8), normal(1, 3, 8, seed=1), encoder=normal(1, 64, 8), extra={"candidates": allowed})
    official = tp.build("mmtok", faithful=True).select(f, 8)
    assert official.indices[0].tolist() == expected["over_excluded_64tokens_60excluded_T8"]
    assert set(range(60, 64)) < set(tp.build("mmtok").select(f, 8).row(0))


# --- scorers ----------------------------------------------------------------------------------------------------


def test_relevance_reads_the_joint_space_where_given() -> None:
    x, text = normal(2, 5, 4), normal(2, 3, 4, seed=1)
    joint: dict[str, Any] = {"joint_visual": normal(2, 5, 6, seed=2), "joint_text": normal(2, 2, 6, seed=3)}
    strategy = tp.build("cdpruner")
    assert strategy.requires == {"visual", "text"}
    assert strategy.select(tp.Features(x, **joint), 2).indices.shape == (2, 2)
    with pytest.raises(MissingSignalError, match="'text'"):
        strategy.select(tp.Features(x), 2)
    scorer = ConditionedRelevance()
    cosine = torch.cosine_similarity(joint["joint_visual"][:, :, None], joint["joint_text"][:, None], dim=-1).mean(-1)
    assert scorer.score(tp.Features(x, text, **joint)).argsort(1).tolist() == (-cosine).argsort(1).tolist()
    near = torch.cosine_similarity(x[:, :, None], text[:, None], dim=-1).mean(-1)
    assert scorer.score(tp.Features(x, text)).argsort(1).tolist() == near.argsort(1).tolist()


def test_relevance_of_a_row_is_its_own_unless_faithful() -> None:
    x, text = normal(2, 5, 4), normal(2, 3, 4, seed=1)
    both, alone = tp.Features(x, text), tp.Features(x[:1], text[:1])
    torch.testing.assert_close(ConditionedRelevance().score(both)[:1], ConditionedRelevance().score(alone))
    batch = ConditionedRelevance(over="batch")
    assert not torch.allclose(batch.score(both)[:1], batch.score(alone))
    scores = batch.score(both)
    span = float(scores.amax() - scores.amin())
    assert span == pytest.approx(1)


@given(features(t=(1, 3)))
def test_alignment_is_the_mean_distance(f: tp.Features) -> None:
    for squared in (True, False):
        scores = TextAlignment(squared).score(f)
        for b in range(f.batch):
            text = f.text[b] if f.text_mask is None else f.text[b, f.text_mask[b]]
            distance = (f.visual[b, :, None] - text).double().norm(dim=-1)
            expected = -(distance.square() if squared else distance).mean(1)
            torch.testing.assert_close(scores[b].double(), expected, rtol=1e-4, atol=1e-4)


# --- mergers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [True, False])
def test_merged_means_conserve_the_sum(cls: bool) -> None:
    """Every patch is somewhere: salient, or in the mean of exactly one centre."""
    x = normal(1, 12, 4)
    f = tp.Features(x, encoder=x, keys=normal(1, 12, 3, seed=1), encoder_cls=normal(1, 4, seed=2))
    order = torch.tensor([[7, 2, 9, 0, 4]])
    merged = NearestCentre(0.6, "mean", cls=cls).merge(f, order)
    # 3 of 5 in round 1; with [CLS] among them two patches, and the last pick gives its place away
    salient, centres = ([2, 7], [0, 9]) if cls else ([2, 7, 9], [0, 4])
    assert merged.source[0].tolist() == ([4] if cls else []) + salient + centres
    tokens = merged.tokens[0, int(cls) :]
    torch.testing.assert_close(tokens[: len(salient)], x[0, salient])
    if cls:
        torch.testing.assert_close(merged.tokens[0, 0], f["encoder_cls"][0])
    unit = f["keys"][0] / f["keys"][0].norm(dim=1, keepdim=True)
    nearest = (unit @ unit[centres].T).argmax(1)
    total = torch.zeros(4, dtype=torch.float64)
    for c, centre in enumerate(centres):
        size = 1 + sum(int(nearest[i]) == c for i in range(12) if i not in salient + centres)
        total += size * tokens[len(salient) + c]
        assert centre == merged.source[0].tolist()[int(cls) + len(salient) + c]
    torch.testing.assert_close(total + x[0, salient].sum(0), x[0].sum(0))


def test_sum_adds_the_mean_of_members() -> None:
    x = torch.tensor([[[1.0], [2.0], [4.0], [9.0]]])
    f = tp.Features(x, encoder=x, keys=torch.tensor([[[1.0, 0.0], [1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]]))
    merged = NearestCentre(0.0).merge(f, torch.tensor([[0, 3]]))
    assert merged.tokens[0].flatten().tolist() == [1 + (2 + 4) / 2, 9]


def test_cls_needs_the_encoder_space() -> None:
    with pytest.raises(ConfigError, match="encoder"):
        NearestCentre(cls=True, values="visual")


def test_visionzip_numbers() -> None:
    """The counts of the paper: 162 + 30, 108 + 20, 54 + 10; [CLS] is one of the first."""
    for keep, contextual in ((192, 30), (128, 20), (64, 10), (32, 5)):
        x = normal(1, 576, 2)
        f = tp.Features(
            x, encoder=x, keys=x, encoder_cls=normal(1, 2), cls_attention=normal(1, 1, 576, seed=1).softmax(-1)
        )
        kept = tp.build("visionzip").select(f, keep)
        assert kept.merged is not None
        source = kept.merged.source[0].tolist()
        dominant = f["cls_attention"][0, 0].topk(keep - contextual - 1).indices.tolist()
        assert source[1 : keep - contextual] == sorted(dominant)
        assert len(source[keep - contextual :]) == contextual
        torch.testing.assert_close(kept.merged.tokens[0, 1 : keep - contextual], x[0, sorted(dominant)])


def test_holov_faithful_pads_and_keeps_the_pick_order() -> None:
    attention = torch.tensor([[0.1, 0.0, 0.2, 5.0, 0.0, 0.0, 0.0, 0.0]])
    f = tp.Features(normal(1, 8, 3), cls_attention=attention)
    kept = tp.build("holov", crops=2, faithful=True).select(f, 5)
    assert kept.sequence.tolist() == [[0, 1, 2, 3, -1]]
    assert kept.merged is not None
    assert kept.merged.tokens[0, 4].tolist() == [0.0, 0.0, 0.0]
    assert tp.build("holov", crops=2).select(f, 5).row(0) == [0, 1, 2, 3, 4]
    order = torch.tensor([[3, 0, 2]])
    assert torch.equal(PickOrder().merge(f, order).tokens, f.visual[:, [3, 0, 2]])


def test_strategies_without_a_scorer() -> None:
    """Only selectors that read no scores may do without."""
    without: list[tp.Selector] = [Greedy(MaxMin()), Candidates(Greedy(MaxMin())), Strided()]
    for selector in without:
        assert tp.Strategy(selector=selector).select(blank_features(1, 4), 2).scores is None
    needing: list[tp.Selector] = [TopK(), Greedy(Modular()), Candidates(TopK())]
    for selector in needing:
        with pytest.raises(ConfigError, match="scorer is missing"):
            tp.Strategy(selector=selector)
    assert tp.Strategy(GivenScores(torch.ones(1, 4)), Greedy(Modular())).select(blank_features(1, 4), 1).row(0) == [0]
    lone = tp.build_component("objectives", {"name": "mmr", "lam": 1.0, "pairs": ForbiddenPairs()})
    assert tp.Strategy(GivenScores(torch.ones(1, 4)), Greedy(lone)).select(blank_features(1, 4), 2).row(0) == [0, 1]
