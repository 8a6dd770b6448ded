"""The margin of a selection, and what it certifies."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tokenprune as tp
from tokenprune.core.errors import ConfigError
from tokenprune.testing import embeddings, taus
from tokenprune_theory import pmi


def selection(scores, kept, valid=None):
    scores = torch.tensor([scores])
    mask = None if valid is None else torch.tensor([valid])
    return tp.Selection.from_order(torch.tensor([kept]), scores.shape[1], scores, valid=mask)


def test_margin_is_worst_kept_minus_best_dropped():
    assert selection([3.0, 1.0, 2.0, 0.5], [0, 2]).margin.tolist() == [1.0]
    assert selection([3.0, 1.0, 2.0], [0, 1]).margin.tolist() == [-1.0]
    assert selection([1.0, 1.0], [0]).margin.tolist() == [0.0]


def test_padding_is_not_dropped():
    assert selection([3.0, 1.0, 2.5], [0], [True, True, False]).margin.tolist() == [2.0]


def test_nothing_dropped_is_certain():
    whole = selection([3.0, 1.0], [0, 1])
    assert whole.margin.tolist() == [math.inf]
    assert whole.certified(1e9).tolist() == [True]


def test_rows_of_different_length():
    scores = torch.tensor([[3.0, 2.0, 1.0], [1.0, 5.0, 4.0]])
    both = tp.Selection.from_order(torch.tensor([[0, 1], [1, -1]]), 3, scores)
    assert both.margin.tolist() == [1.0, 1.0]


def test_twice_the_error_must_fit_into_the_gap():
    gap = selection([3.0, 1.0], [0])
    assert gap.certified(0.99).tolist() == [True]
    assert gap.certified(1.0).tolist() == [False]


@pytest.mark.parametrize("error", [-1.0, math.nan])
def test_an_error_is_not_negative(error):
    with pytest.raises(ConfigError, match="error must be at least 0"):
        selection([3.0, 1.0], [0]).certified(error)


def test_without_scores_there_is_no_margin():
    with pytest.raises(ConfigError, match="needs scores"):
        _ = tp.Selection.from_order(torch.tensor([[0]]), 2).margin


def test_a_strategy_tells_its_selection_which_tokens_are_real():
    features = tp.Features(
        torch.tensor([[[1.0, 0], [0, 1], [5, 5]]]),
        torch.tensor([[[1.0, 0.1], [0.3, 1]]]),
        visual_mask=torch.tensor([[True, True, False]]),
    )
    chosen = tp.build({"scorer": "similarity"}).select(features, keep=1)
    assert chosen.valid.tolist() == [[True, True, False]]
    assert chosen.margin.item() == pytest.approx(abs(float(chosen.scores[0, 0] - chosen.scores[0, 1])))


@given(
    st.lists(st.integers(-20, 20), min_size=2, max_size=8),
    st.integers(1, 7),
    st.sampled_from([0.1, 0.5, 1.0, 3.0]),
    st.data(),
)
def test_certified_means_that_no_such_error_changes_the_set(scores, k, error, data):
    k = min(k, len(scores))
    values = torch.tensor([scores], dtype=torch.float64)
    order = values.argsort(dim=1, descending=True, stable=True)[:, :k]
    given_ = tp.Selection.from_order(order, len(scores), values)
    shift = data.draw(st.lists(st.floats(-error, error), min_size=len(scores), max_size=len(scores)))
    moved = values + torch.tensor([shift], dtype=torch.float64)
    again = moved.argsort(dim=1, descending=True, stable=True)[:, :k].sort(1).values
    if given_.certified(error):
        assert torch.equal(again, given_.indices)
    elif k < len(scores):
        # the certificate is not merely careful: at twice the gap some error does change the set
        worst, best = given_.mask[0], ~given_.mask[0]
        attack = values.clone()
        attack[0, worst] -= error * 1.001
        attack[0, best] += error * 1.001
        kept = set(attack.argsort(dim=1, descending=True, stable=True)[0, :k].tolist())
        assert kept != set(given_.row(0))


@given(embeddings((3, 8), 4), embeddings((2, 4), 4), taus(), st.integers(1, 4))
def test_float32_selections_that_are_certified_are_exact(visual, text, tau, k):
    k = min(k, len(visual))
    strategy = tp.build("mi-pruner", lam=1.0, tau=tau)
    exact = pmi.cross_pmi(pmi.cosines(visual.double().numpy(), text.double().numpy()) / tau).max(1)
    if exact.max() - exact.min() <= 1e-4 / tau:
        return  # relevance that is flat is scored by cosine instead
    chosen = strategy.select(tp.Features(visual[None], text[None]), keep=k)
    if chosen.certified(1e-5 + 1e-6 / tau):
        best = torch.from_numpy(exact).argsort(descending=True, stable=True)[:k].tolist()
        assert chosen.row(0) == sorted(best)
