"""The public strategies keep their promises, and reach the corners that they are for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import find, given, settings

from tokenprune.core.features import SIGNALS, Features
from tokenprune.testing import channels, embeddings, features, gains_instances, joints, naive_bayes, taus

quick = settings(max_examples=50, deadline=None)
SEARCH = settings(database=None, derandomize=True, max_examples=2000)


@quick
@given(joints(), joints((2, 3, 2), zeros=False), channels(), channels(3, 4, zeros=True), naive_bayes(), taus())
def test_distributions_are_normalised(two, three, rows, holes, bayes, tau):
    assert two.sum() == pytest.approx(1)
    assert three.shape == (2, 3, 2)
    assert (three > 0).all()
    assert rows.sum(1) == pytest.approx(1)
    assert (rows > 0).all()
    assert holes.shape == (3, 4)
    assert holes.sum(1) == pytest.approx(1)
    prior, each = bayes
    assert prior.sum() == pytest.approx(1)
    assert all(c.shape[0] == len(prior) and np.allclose(c.sum(1), 1) for c in each)
    assert tau > 0


@quick
@given(embeddings(), embeddings(3, 2, dtype=torch.bfloat16))
def test_embeddings_are_exact_and_not_zero(tokens, half):
    assert (tokens.norm(dim=-1) > 0).all()
    assert torch.equal(tokens, tokens.round())
    assert half.shape == (3, 2)
    assert half.dtype is torch.bfloat16


@quick
@given(features(signals=SIGNALS, grid=True))
def test_features_hold_every_signal_asked_for(batch):
    assert isinstance(batch, Features)
    assert set(batch) == set(SIGNALS)
    assert batch.grid.size == batch.n_visual
    assert (batch["cls_attention"] >= 0).all()
    assert (batch["cls_attention"].sum(-1) < 1).all()


@quick
@given(features(2, 5, None, 3, masks=False))
def test_features_without_text_or_masks(batch):
    assert batch.visual.shape == (2, 5, 3)
    assert "text" not in batch
    assert batch.visual_mask is None


@pytest.mark.slow
def test_search_reaches_the_corners():
    twice = find(embeddings(), lambda x: len(torch.unique(x, dim=0)) < len(x), settings=SEARCH)
    assert len(twice) == 2
    opposite = find(embeddings(), lambda x: bool((x[0] == -x[1]).all()), settings=SEARCH)
    assert opposite[0].equal(-opposite[1])
    ragged = find(features(batch=2), lambda f: len(set(f.counts())) == 2, settings=SEARCH)
    assert ragged.visual_mask is not None
    assert find(features(zero_rows=True), lambda f: bool((f.visual == 0).all(-1).any()), settings=SEARCH)
    c, _ = find(gains_instances(), lambda x: len(set(x[0])) < len(x[0]), settings=SEARCH)
    assert c[0] == c[1]
    _, table = find(gains_instances(3, symmetric=True), lambda x: bool(np.ptp(x[1]) > 0), settings=SEARCH)
    assert (table == table.T).all()
    assert 0 in find(joints((2, 2)), lambda p: bool((p == 0).any()), settings=SEARCH)
