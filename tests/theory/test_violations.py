"""Universal claims: hypothesis looks for violations, with tolerances that rounding explains."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tokenprune.components.aggregators import LogSumExp, Max, Mean, Renyi
from tokenprune.components.normalizers import Softmax
from tokenprune.components.pairwise import SelfPMI
from tokenprune.core.features import Features
from tokenprune.core.information import cosine_similarity, log_conditional, log_marginal
from tokenprune.core.information import pmi as framework_pmi
from tokenprune.testing import channels, embeddings, gains_instances, joints, naive_bayes, taus
from tokenprune_theory import models, pmi, violations
from tokenprune_theory.discrete import Joint
from tokenprune_theory.setfn import TableFunction

TIGHT = 1e-12
SMALL = ((1, 3), (1, 3), (1, 3))

of_pairs = pytest.mark.parametrize("violation", [violations.information_forms, violations.information_sign])
of_triples = pytest.mark.parametrize(
    "violation",
    [
        violations.conditional_forms,
        violations.chain_rule,
        violations.estimator_identity,
        violations.information_monotone,
    ],
)
of_channels = pytest.mark.parametrize(
    "violation",
    [
        violations.kl_average,
        violations.pmi_range,
        violations.relevance_sign,
        violations.max_over_mean,
        violations.max_ratio_over_sum,
        violations.ladder,
        lambda rows: violations.tail(pmi.aggregate(rows, "max"), rows.shape[1]),
    ],
)


def float32_tolerance(tau: float) -> float:
    return 1e-5 + 1e-6 / tau


@of_pairs
@given(p=joints())
def test_violations_of_pairs(violation, p):
    assert violation(Joint(p, ("t", "v0"))) <= TIGHT


@of_triples
@given(p=joints(SMALL))
def test_violations_of_triples(violation, p):
    assert violation(Joint(p, ("t", "v0", "v1"))) <= TIGHT


@of_channels
@given(rows=channels())
def test_violations_of_channels(violation, rows):
    assert violation(rows) <= TIGHT


@given(channels(zeros=True))
def test_ladder_survives_impossible_outcomes(rows):
    rows = rows[:, rows.any(0)]
    assert violations.ladder(rows) <= TIGHT
    assert violations.kl_average(rows) <= TIGHT


@given(joints(((1, 6),)))
def test_entropy_range(p):
    assert violations.entropy_range(p) <= TIGHT


@settings(max_examples=30)
@given(naive_bayes(n=4))
def test_independence_given_the_target(instance):
    joint = models.naive_bayes(*instance)
    assert violations.information_submodular(joint) <= TIGHT
    assert violations.estimator_error(joint) <= TIGHT
    assert violations.bottleneck(joint) <= TIGHT
    f = models.information(joint)
    for k in (1, 2, 3):
        assert violations.greedy_shortfall(f, k) <= 1e-9


@given(arrays(np.int64, st.sampled_from([4, 8, 16]), elements=st.integers(-2, 2)))
def test_definitions_of_submodularity(values):
    assert violations.lattice_equivalence(TableFunction(values.astype(np.float64))) == 0


@given(
    arrays(
        np.float64,
        st.integers(1, 6),
        elements=st.floats(-700, 700) | st.just(-math.inf),
    ).filter(lambda z: np.isfinite(z).any())
)
def test_lse(z):
    assert violations.lse_enclosed(z) <= TIGHT
    low, high = pmi.lse_bounds(z)
    value = float(torch.logsumexp(torch.from_numpy(z), 0))
    assert low - 1e-9 <= value <= high + 1e-9


@given(gains_instances(), st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0]), st.data())
def test_gains_fall_and_lazy_picks_are_naive_picks(instance, lam, data):
    c, d = instance
    order = tuple(data.draw(st.permutations(range(len(c)))))
    assert violations.rising_gain(c, d, lam, order) <= 0
    assert violations.lazy_differs(c, d, lam, data.draw(st.integers(1, len(c)))) == 0


@given(embeddings(dtype=torch.float64), taus())
def test_self_tables(visual, tau):
    x = visual.numpy()
    cos = pmi.cosines(x, x)
    d = pmi.self_pmi(cos, tau)
    scale = 1 + 1 / tau
    assert np.abs(np.exp(d).mean(1) - 1).max() <= TIGHT * scale * len(x)
    z = pmi.log_normalizer(cos, tau, block=2)
    assert np.abs((d - d.T) - (z[None] - z[:, None])).max() <= TIGHT * scale
    symmetric = pmi.self_pmi(cos, tau, "stationary")
    assert np.abs(symmetric - symmetric.T).max() <= TIGHT * scale
    total = np.exp(pmi.self_pmi(cos, tau, "total"))
    assert np.abs(total.mean(0) - 1).max() <= 1e-11 * scale
    balanced = pmi.self_pmi(cos, tau, "sinkhorn")
    assert np.abs(balanced - balanced.T).max() <= TIGHT * scale


@settings(max_examples=30)
@given(embeddings(dtype=torch.float64), st.sampled_from([0.1, 0.5, 10.0]))
def test_sinkhorn_marginals_are_uniform(visual, tau):
    x = visual.numpy()
    table = np.exp(pmi.self_pmi(pmi.cosines(x, x), tau, "sinkhorn"))
    assert np.abs(table.mean(0) - 1).max() <= 1e-9
    assert np.abs(table.mean(1) - 1).max() <= 1e-9


@given(embeddings((2, 6), 3), embeddings((2, 5), 3), taus())
def test_framework_tables_in_float32(visual, text, tau):
    log_p = log_conditional(cosine_similarity(visual, text), tau)
    table = framework_pmi(log_p, log_marginal(log_p))
    exact = pmi.cross_pmi(pmi.cosines(visual.double().numpy(), text.double().numpy()) / tau)
    assert np.abs(table.double().numpy() - exact).max() <= float32_tolerance(tau)
    q = torch.exp(log_marginal(log_p))
    assert (table.exp() * q).sum(-1).sub(1).abs().max() <= float32_tolerance(tau)
    low, high = pmi.cosine_pmi_range(*table.shape, tau)
    assert low - float32_tolerance(tau) <= table.min()
    assert table.max() <= high + float32_tolerance(tau)
    assert Max()(table).min() >= -float32_tolerance(tau)


@given(embeddings((2, 6), 3), embeddings((2, 5), 3), taus())
def test_framework_ladder_in_float32(visual, text, tau):
    log_p = log_conditional(cosine_similarity(visual, text), tau)
    table = framework_pmi(log_p, log_marginal(log_p))
    rungs = [a(table, log_p) for a in (Mean(), Renyi(2), Renyi(8), Max(), LogSumExp())]
    rungs.append(rungs[-2] + math.log(table.shape[-1]))
    for low, high in itertools.pairwise(rungs):
        assert (low - high).max() <= float32_tolerance(tau)


@settings(max_examples=30)
@given(embeddings((2, 6), 3), st.sampled_from([0.1, 0.5, 10.0]))
@pytest.mark.parametrize("marginal", ["uniform", "total", "stationary", "sinkhorn"])
def test_framework_marginals(marginal, visual, tau):
    got = SelfPMI(Softmax(tau), marginal).table(Features(visual[None].double())).dense()[0].numpy()
    x = visual.double().numpy()
    tolerance = 1e-4 if marginal == "sinkhorn" else 1e-10
    assert np.abs(got - pmi.self_pmi(pmi.cosines(x, x), tau, marginal)).max() <= tolerance
