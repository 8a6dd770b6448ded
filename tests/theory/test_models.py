"""Constructions are what their names say, and Algorithm 1 in plain Python agrees with another one."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenprune as tp
from tests.support import reference
from tokenprune.testing import embeddings, gains_instances, naive_bayes
from tokenprune_theory import models, pmi
from tokenprune_theory.claims.submodular import location
from tokenprune_theory.conformity import PathGains
from tokenprune_theory.sequence import first_pick, max_spanning_tree, select, value_range

BIT = math.log(2)


@given(naive_bayes(n=3))
def test_naive_bayes_is_independent_given_the_target(instance):
    joint = models.naive_bayes(*instance)
    assert joint.mutual_information("v0", ("v1", "v2"), "t") == pytest.approx(0, abs=1e-12)
    prior, (first, *_) = instance
    assert joint.marginal(("t", "v0")) == pytest.approx(prior[:, None] * first)


def test_parity_hides_everything_but_the_whole():
    f = models.information(models.parity(3))
    assert [f(s) / BIT for s in ((), (0,), (1, 2), (0, 1, 2))] == pytest.approx([0, 0, 0, 1], abs=1e-12)


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True), min_size=1, max_size=3))
def test_coverage_bits_cover(sets):
    f = models.information(models.coverage_bits(sets))
    for k in range(len(sets) + 1):
        for s in itertools.combinations(range(len(sets)), k):
            assert f(s) / BIT == pytest.approx(len({b for i in s for b in sets[i]}), abs=1e-12)


@given(st.lists(st.integers(1, 7), min_size=1, max_size=4))
def test_rank_is_information_about_all_bits(vectors):
    f = models.information(models.functions_of_bits(3, [1, 2, 4], [[v] for v in vectors]))
    assert f.values / BIT == pytest.approx(models.linear_rank(vectors).values, abs=1e-12)
    span = {0}
    for v in vectors:
        span |= {v ^ s for s in span}
    assert 2 ** models.gf2_rank(vectors) == len(span)


def test_xors_list_single_bits_last():
    assert models.xors(3) == [3, 5, 6, 7, 1, 2, 4]


@given(gains_instances(), st.sampled_from([0.0, 0.2, 0.5, 1.0]), st.data())
def test_two_programs_of_algorithm_1_agree(instance, lam, data):
    c, d = instance
    k = data.draw(st.integers(1, len(c)))
    other = reference.greedy(c.tolist(), d.tolist(), lam, k)
    assert list(select(c, d, lam, k).order) == list(other.order)


def test_conventions_for_the_first_pick():
    c, d = np.array([0.0, 1.0, 0.9]), np.diag([0.5, 1.0, 0.2])
    assert [first_pick(c, d, 0.5, how) for how in ("relevance", "minus infinity", "diagonal")] == [1, 0, 2]
    assert first_pick(c, d, 1.0, "minus infinity") == 1


@settings(max_examples=25)
@given(gains_instances((2, 5), symmetric=True))
def test_spanning_tree_is_the_heaviest(instance):
    _, d = instance
    n = len(d)
    edges = list(itertools.combinations(range(n), 2))

    def spans(tree):
        reached = {0}
        for _ in range(n):
            reached |= {b for a, b in tree if a in reached} | {a for a, b in tree if b in reached}
        return len(reached) == n

    best = max(sum(d[a, b] for a, b in tree) for tree in itertools.combinations(edges, n - 1) if spans(tree))
    weight, _ = max_spanning_tree(d, range(n))
    assert weight == pytest.approx(best)
    low, _ = value_range(np.zeros(n), d, 0.0, range(n))
    assert low == pytest.approx(-best)


@settings(max_examples=25)
@given(embeddings((2, 5), 3, dtype=torch.float64), embeddings((1, 3), 3, dtype=torch.float64))
def test_facility_location_of_the_framework(visual, text):
    """The registered objective against sum_r w_r max_{i in S} M_ri, by brute force over all sets."""
    objective = tp.build_component("objectives", "facility-location")
    features = tp.Features(visual[None], text[None], encoder=visual[None])
    f = PathGains(objective, features, torch.zeros(1, len(visual))).set_function()
    x, t = visual.numpy(), text.numpy()
    served = [np.exp(pmi.log_rows(pmi.cosines(t, x) / objective.tau_text)) / len(t)]
    served.append(objective.alpha * np.exp(pmi.log_rows(pmi.cosines(x, x) / objective.tau_visual)) / len(x))
    benefit = np.concatenate(served).T
    assert f.values == pytest.approx(location(benefit, np.ones(benefit.shape[1])).values, abs=1e-9)


def test_log_normalizer_in_blocks_and_whole():
    x = models.random_embeddings(np.random.default_rng(0), 30, 4)
    whole = np.log(np.exp(x @ x.T / 0.5).sum(1))
    for block in (1, 7, 30, 100):
        assert pmi.log_normalizer(x @ x.T, 0.5, block) == pytest.approx(whole, abs=1e-12)


def test_margin():
    assert pmi.margin(np.array([3.0, 1.0, 2.5]), 2) == 1.5
    assert pmi.margin(np.array([3.0, 1.0]), 2) == math.inf


@pytest.mark.parametrize(("call", "named"), [(pmi.self_pmi, "marginal"), (pmi.aggregate, "how")])
def test_unknown_options_are_named(call, named):
    arguments = (np.eye(2), 0.1, "other") if named == "marginal" else (np.eye(2), "other")
    with pytest.raises(ValueError, match=f"{named} must be .*, got 'other'"):
        call(*arguments)
