"""Small mistakes that would otherwise pass: padding that counts, large shapes, checks that check little."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import tokenprune as tp
from tokenprune.core import errors
from tokenprune.core.budget import Budget
from tokenprune.core.registry import build_component, list_components
from tokenprune.core.selection import Selection
from tokenprune.hf.cost import DecoderShape, kv_bytes

SIZES, TEXTS, KEEPS = (12, 7, 9), (5, 3, 1), (6, 2, 7)
"""Rows of a ragged batch: visual tokens, text tokens, budgets. Rows end at different picks, and none is picked to its
last two tokens, between which a graph cut is a tie."""


def ragged(seed: int, garbage: float) -> tuple[tp.Features, list[tp.Features]]:
    """A batch with ``garbage`` in its padding, on the left of one row, and its rows alone."""
    generator = torch.Generator().manual_seed(seed)
    n, t, d = max(SIZES), max(TEXTS), 5
    masks = torch.zeros(3, n, dtype=torch.bool), torch.zeros(3, t, dtype=torch.bool)
    tensors: dict[str, Any] = {"visual": torch.full((3, n, d), garbage), "encoder": torch.full((3, n, d), garbage)}
    tensors |= {"text": torch.full((3, t, d), garbage), "cls_attention": torch.full((3, 2, n), garbage)}
    alone = []
    for row, (size, words) in enumerate(zip(SIZES, TEXTS, strict=True)):
        places = slice(n - size, n) if row == 1 else slice(0, size)
        masks[0][row, places] = True
        masks[1][row, :words] = True
        mine = {
            "visual": torch.randn(size, d, generator=generator),
            "encoder": torch.randn(size, d, generator=generator),
            "text": torch.randn(words, d, generator=generator),
            "cls_attention": torch.rand(2, size, generator=generator),
        }
        tensors["visual"][row, places], tensors["encoder"][row, places] = mine["visual"], mine["encoder"]
        tensors["text"][row, :words] = mine["text"]
        tensors["cls_attention"][row, :, places] = mine["cls_attention"]
        alone.append(tp.Features(**{name: value.unsqueeze(0) for name, value in mine.items()}))
    return tp.Features(**tensors, visual_mask=masks[0], text_mask=masks[1]), alone


@pytest.mark.filterwarnings("ignore::tokenprune.core.errors.DegenerateRelevanceWarning")
@pytest.mark.parametrize("garbage", [0.0, 7.0, -1e4])
@pytest.mark.parametrize("optimizer", ["vectorized", "naive"])
@pytest.mark.parametrize("name", list_components("objectives"))
def test_rows_of_a_ragged_batch_pick_as_they_do_alone(name: str, optimizer: str, garbage: float) -> None:
    """Whatever stands in the padding, wherever it stands, and however early a row is done."""
    given = {"visual", "encoder", "text", "cls_attention"}
    objective = build_component("objectives", name)
    if not objective.requires <= given:
        pytest.skip(f"{name} reads signals of a language model")
    strategy = tp.build(
        {"scorer": "cls-attention", "selector": {"name": "greedy", "objective": objective, "optimizer": optimizer}}
    )
    for seed in range(8):
        batch, alone = ragged(seed, garbage)
        picked = strategy.select(batch, list(KEEPS))
        picked.verify()
        assert picked.counts.tolist() == list(KEEPS)
        for row, one in enumerate(alone):
            offset = max(SIZES) - SIZES[row] if row == 1 else 0
            want = (strategy.select(one, KEEPS[row]).order[0] + offset).tolist()
            assert picked.order[row, : KEEPS[row]].tolist() == want, (seed, row)
            assert (picked.order[row, KEEPS[row] :] == -1).all()


@pytest.mark.parametrize("far", [0, 255, 256, 320, 575])
def test_the_most_isolated_of_576_tokens_is_picked_first_wherever_it_is(far: int) -> None:
    generator = torch.Generator().manual_seed(far)
    tokens = torch.ones(1, 576, 8) + 0.01 * torch.randn(1, 576, 8, generator=generator)
    tokens[0, far] = -tokens[0, far]
    assert tp.build("divprune").select(tp.Features(tokens), 3).order[0, 0] == far


# --- checks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [[[4]], [[-2]], [[0, 0]], [[3, 3]], [[0, 1, 0]], [[2, -1], [4, 0]]])
def test_a_selection_that_is_none_is_refused(order: list[list[int]]) -> None:
    with pytest.raises((errors.FeatureError, errors.NonFiniteError)):
        Selection(torch.tensor(order), torch.tensor(order), torch.tensor([len(row) for row in order]), 4).verify()


def test_a_pick_of_padding_is_refused() -> None:
    valid = torch.tensor([[True, True, False]])
    Selection.from_order(torch.tensor([[1, 0]]), 3, valid=valid).verify()
    with pytest.raises(errors.FeatureError, match="no real token"):
        Selection.from_order(torch.tensor([[1, 2]]), 3, valid=valid).verify()


def test_selections_compare() -> None:
    features = tp.Features(torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0)))
    one, same = (tp.build("divprune").select(features, 3) for _ in range(2))
    assert one == same
    assert one != tp.build("divprune").select(features, 2)
    order = torch.tensor([[0, 1]])
    assert Selection.from_order(order, 4) == Selection.from_order(order.clone(), 4)
    assert Selection.from_order(order, 4) != Selection.from_order(order.flip(1), 4), "another order of picks"
    assert Selection.from_order(order, 4) != Selection.from_order(order, 5)
    assert Selection.from_order(order, 4) != Selection.from_order(order, 4, scores=torch.zeros(1, 4))
    assert Selection.from_order(order, 4) != "a selection"
    with pytest.raises(TypeError, match="unhashable"):
        hash(one)


@pytest.mark.filterwarnings("ignore:.*sparse|.*nested|.*prototype")
def test_tensors_that_are_not_dense_are_refused() -> None:
    dense = torch.eye(4).unsqueeze(0)
    for value, kind in (
        (dense.to_sparse(), "sparse_coo"),
        (torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)]), "nested"),
    ):
        with pytest.raises(errors.FeatureTypeError, match=f"must be a dense tensor .* got a {kind}"):
            tp.Features(visual=value)


# --- counts --------------------------------------------------------------------------------------------------------


def test_halves_round_up() -> None:
    assert Budget(0.5).counts([1, 3, 5, 7, 9, 11]) == (1, 2, 3, 4, 5, 6)
    assert Budget(0.25).counts([2, 6, 10, 14]) == (1, 2, 3, 4)
    assert Budget(1e-9).counts([576]) == (1,)


def test_a_unit_given_later_keeps_clipping() -> None:
    budget = Budget.of(Budget(9, clip=True), "frame")
    assert (budget.unit, budget.clip) == ("frame", True)
    assert budget.counts([4, 20]) == (4, 9)
    with pytest.raises(errors.BudgetError, match="only 4"):
        Budget.of(9, "frame").counts([4])


def test_costs_count_heads_as_they_are() -> None:
    """Grouped queries, and heads that are not width / heads wide: multiplications of each matrix, by hand."""
    shape = DecoderShape(layers=3, width=64, heads=4, kv_heads=2, head_width=24, hidden=100)
    n, queries, keys = 10, 4 * 24, 2 * 24
    by_hand = 2 * n * 64 * queries + 2 * (2 * n * 64 * keys) + 2 * n * queries * 64 + 3 * (2 * n * 64 * 100)
    # logits and weighted values: every query with every key, of every query head
    assert shape.layer_flops(n) == by_hand + 2 * (2 * n * n * queries)
    assert kv_bytes(shape, [10, 5, 5], 2) == 2 * 20 * keys * 2
    assert math.isclose(shape.layer_flops(20) / shape.layer_flops(10), 2, rel_tol=0.2)


def test_the_width_of_heads_is_the_configured_one() -> None:
    sizes = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 100}
    assert DecoderShape.of(SimpleNamespace(**sizes, head_dim=24)).head_width == 24
    assert DecoderShape.of(SimpleNamespace(**sizes)).head_width == 16
