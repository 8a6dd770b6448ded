"""From embeddings to PMI to scores: identities, invariances, limits of floating point."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import rel_entr
from torch import Tensor

from tests.support import reference
from tokenprune import Features, Grid
from tokenprune.components import aggregators, normalizers, priors, scorers
from tokenprune.core.errors import ConfigError, DegenerateRelevanceWarning, MissingSignalError
from tokenprune.core.information import cosine_similarity, log_conditional, log_marginal, pmi, unit_norm
from tokenprune.core.kinds import Aggregator, Normalizer
from tokenprune.testing import channels, embeddings, features, taus

AGGREGATORS = [
    aggregators.Max(),
    aggregators.Mean(),
    aggregators.Sum(),
    aggregators.LogSumExp(),
    aggregators.Renyi(0.5),
    aggregators.Renyi(2),
    aggregators.TopM(2),
]


def tolerance(dtype: torch.dtype, tau: float) -> float:
    """Cosines carry a rounding error of eps, and logits are 1 / tau times that."""
    return 1e-12 if dtype == torch.float64 else 1e-5 + 2e-6 / tau


def random_tokens(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def cross_table(visual: Tensor, text: Tensor, tau: float) -> tuple[Tensor, Tensor, Tensor]:
    log_p = log_conditional(cosine_similarity(visual, text), tau)
    log_q = log_marginal(log_p)
    return log_p, log_q, pmi(log_p, log_q)


# --- the definition ---------------------------------------------------------------------------------------------


@given(embeddings(zero_rows=True, d=3), embeddings(zero_rows=True, d=3), taus())
def test_pmi_equals_the_paper(visual: Tensor, text: Tensor, tau: float) -> None:
    want = torch.tensor(reference.cross_pmi(visual.tolist(), text.tolist(), tau), dtype=torch.float64)
    for dtype in (torch.float32, torch.float64):
        _, _, table = cross_table(visual.to(dtype), text.to(dtype), tau)
        assert table.dtype == dtype
        torch.testing.assert_close(table.double(), want, rtol=1e-6, atol=tolerance(dtype, tau))


@given(embeddings(n=(1, 8)), st.integers(1, 6), st.integers(0, 2**31), taus(), st.sampled_from([32, 64]))
def test_rows_and_columns_average_to_one(visual: Tensor, n_text: int, seed: int, tau: float, bits: int) -> None:
    dtype = torch.float32 if bits == 32 else torch.float64
    text = random_tokens(seed, n_text, visual.shape[1], dtype=dtype)
    _, log_q, table = cross_table(visual.to(dtype), text, tau)
    tol = tolerance(dtype, tau)
    rows = (log_q + table).exp().sum(-1)
    columns = table.exp().mean(-2)
    torch.testing.assert_close(rows, torch.ones_like(rows), rtol=0, atol=tol)
    torch.testing.assert_close(columns, torch.ones_like(columns), rtol=0, atol=tol * table.exp().max().item())


@given(st.integers(0, 2**31), st.integers(2, 7), st.integers(2, 6), taus())
def test_identities_hold_under_a_prior_and_masks(seed: int, n: int, n_text: int, tau: float) -> None:
    visual, text = random_tokens(seed, 1, n, 4), random_tokens(seed + 1, 1, n_text, 4)
    keep_v, keep_t = torch.arange(n) != 0, torch.arange(n_text) != n_text - 1
    weight = random_tokens(seed + 2, 1, n).exp() * keep_v
    log_prior = (weight / weight.sum()).log()
    log_p = log_conditional(cosine_similarity(visual, text), tau, keep_t[None])
    for log_pi in (log_prior, None):
        log_q = log_marginal(log_p, log_pi, keep_v[None])
        table = pmi(log_p, log_q)[0, keep_v][:, keep_t]
        share = log_prior[0, keep_v].exp() if log_pi is not None else torch.ones(n - 1, dtype=torch.float64) / (n - 1)
        rows = (log_q[0, keep_t] + table).exp().sum(-1)
        columns = (share[:, None] * table.exp()).sum(0)
        torch.testing.assert_close(rows, torch.ones_like(rows), rtol=0, atol=1e-12)
        torch.testing.assert_close(columns, torch.ones_like(columns), rtol=0, atol=1e-11 * float(table.exp().max()))


@given(channels(rows=(1, 6), columns=(1, 6)), st.booleans())
def test_weighted_mean_is_the_divergence_from_the_marginal(rows: NDArray[np.float64], zeros: bool) -> None:
    if zeros:
        rows = rows * (rows > rows.mean())
        rows[rows.sum(1) == 0, 0] = 1
        rows /= rows.sum(1, keepdims=True)
    log_p = torch.from_numpy(rows).log()
    score = aggregators.Mean()(pmi(log_p, log_marginal(log_p)), log_p)
    want = rel_entr(rows, rows.mean(0)).sum(1)
    np.testing.assert_allclose(score.numpy(), want, atol=1e-12)
    assert float(score.min()) >= -1e-12


@given(embeddings(n=(1, 8), d=3), embeddings(n=(1, 6), d=3), taus())
def test_bounds(visual: Tensor, text: Tensor, tau: float) -> None:
    n = visual.shape[0]
    for dtype in (torch.float32, torch.float64):
        _, log_q, table = cross_table(visual.to(dtype), text.to(dtype), tau)
        tol = tolerance(dtype, tau)
        assert bool((table <= (-log_q).clamp_max(math.log(n)) + tol).all())
        # rows average to 1 under q, so none lies below it everywhere: relevance is never negative
        assert float(table.amax(-1).min()) >= -tol


@pytest.mark.parametrize(("n", "m", "tau"), [(2, 2, 0.5), (9, 4, 0.1), (576, 35, 0.1), (5, 1, 0.1)])
def test_range_of_cosine_logits_is_attained(n: int, m: int, tau: float) -> None:
    """In one dimension, with one token apart from the rest on either side."""
    kappa = (1 + (m - 1) * math.exp(2 / tau)) / (1 + (m - 1) * math.exp(-2 / tau))
    apart = -torch.ones(n, 1, dtype=torch.float64)
    apart[0] = 1
    for sign, want in ((1, math.log(n * kappa / (kappa + n - 1))), (-1, math.log(n / (1 + (n - 1) * kappa)))):
        text = -torch.ones(m, 1, dtype=torch.float64)
        text[0] = 1
        _, _, table = cross_table(sign * apart, text, tau)
        assert float(table[0, 0]) == pytest.approx(want, abs=1e-10)


def test_known_range_at_the_papers_size() -> None:
    apart = -torch.ones(576, 1, dtype=torch.float64)
    apart[0] = 1
    text = -torch.ones(35, 1, dtype=torch.float64)
    text[0] = 1
    assert float(cross_table(apart, text, 0.1)[2].max()) == pytest.approx(6.356107626, abs=1e-9)
    assert float(cross_table(-apart, text, 0.1)[2].min()) == pytest.approx(-23.525, abs=1e-3)


# --- invariances ------------------------------------------------------------------------------------------------


@given(embeddings(d=3), embeddings(d=3), taus(), st.integers(0, 2**31))
def test_positive_scale_of_a_token_does_not_matter(visual: Tensor, text: Tensor, tau: float, seed: int) -> None:
    factor = 10 ** random_tokens(seed, visual.shape[0], 1)
    _, _, before = cross_table(visual.double(), text.double(), tau)
    _, _, after = cross_table(visual.double() * factor, text.double() / 7, tau)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-13 / tau + 1e-12)


def test_sign_of_a_token_matters() -> None:
    visual, text = random_tokens(0, 5, 3), random_tokens(1, 4, 3)
    flipped = visual * torch.tensor([-1.0, 1, 1, 1, 1], dtype=torch.float64)[:, None]
    assert float((cross_table(visual, text, 0.1)[2] - cross_table(flipped, text, 0.1)[2]).abs().max()) > 0.1


@given(embeddings(d=3, zero_rows=True), embeddings(d=3, zero_rows=True), taus(), st.randoms(use_true_random=False))
def test_permutation(visual: Tensor, text: Tensor, tau: float, random: object) -> None:
    rows, columns = list(range(visual.shape[0])), list(range(text.shape[0]))
    random.shuffle(rows)  # type: ignore[attr-defined]
    random.shuffle(columns)  # type: ignore[attr-defined]
    before = cross_table(visual.double(), text.double(), tau)[2]
    after = cross_table(visual[rows].double(), text[columns].double(), tau)[2]
    torch.testing.assert_close(after, before[rows][:, columns], rtol=0, atol=1e-12 / min(tau, 1))


@given(embeddings(d=3), embeddings(d=3), taus())
def test_duplicating_all_tokens_changes_nothing(visual: Tensor, text: Tensor, tau: float) -> None:
    visual, text = visual.double(), text.double()
    before = cross_table(visual, text, tau)[2]
    tol = 1e-12 / min(tau, 1)
    more_visual = cross_table(torch.cat([visual, visual]), text, tau)[2]
    torch.testing.assert_close(more_visual, torch.cat([before, before]), rtol=0, atol=tol)
    more_text = cross_table(visual, torch.cat([text, text]), tau)[2]
    torch.testing.assert_close(more_text, torch.cat([before, before], 1), rtol=0, atol=tol)


@given(embeddings(d=3), embeddings(d=3), taus())
def test_one_duplicate_is_a_prior_weight_of_two(visual: Tensor, text: Tensor, tau: float) -> None:
    visual, text = visual.double(), text.double()
    twice = cross_table(torch.cat([visual, visual[:1]]), text, tau)[2][:-1]
    log_p = log_conditional(cosine_similarity(visual, text), tau)
    weight = torch.ones(visual.shape[0], dtype=torch.float64)
    weight[0] = 2
    weighted = pmi(log_p, log_marginal(log_p, (weight / weight.sum()).log()))
    torch.testing.assert_close(twice, weighted, rtol=0, atol=1e-12 / min(tau, 1))


# --- floating point ---------------------------------------------------------------------------------------------


def test_zero_vector_has_cosine_zero_to_everything() -> None:
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [-0.0, 0.0]])
    assert unit_norm(x).tolist() == [[0, 0], [pytest.approx(0.6), pytest.approx(0.8)], [0, 0]]
    assert torch.equal(cosine_similarity(x, x)[0], torch.zeros(3))
    assert bool(cross_table(x, x, 0.01)[2].isfinite().all())


@pytest.mark.parametrize("norm", [1e30, 3e38, 1e-30, 1e-42])
def test_norms_at_the_ends_of_the_range(norm: float) -> None:
    """Squares of these overflow or vanish in float32."""
    direction = torch.tensor([[1.0, 0.0], [0.0, -1.0], [1.0, 1.0]])
    scaled = direction * norm
    torch.testing.assert_close(cosine_similarity(scaled, direction), cosine_similarity(direction, direction))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_space_survives_where_a_ratio_of_probabilities_does_not(dtype: torch.dtype) -> None:
    logits = torch.tensor([[100.0, -100.0], [99.0, -99.0]], dtype=dtype)
    log_p = log_conditional(logits / 100, 0.01)
    table = pmi(log_p, log_marginal(log_p))
    want = math.log(2) - math.log(1 + math.exp(2))
    assert float(table[0, 1]) == pytest.approx(want, abs=3e-5 if dtype == torch.float32 else 1e-12)
    assert want == pytest.approx(-1.43378, abs=1e-5)
    naive = logits.float().softmax(-1)
    assert bool((naive / naive.mean(0)).log()[0, 1].isnan()), "the example no longer shows the failure"


@pytest.mark.parametrize("tau", [0.001, 0.01, 0.1, 1.0])
def test_error_of_float32_grows_no_faster_than_one_over_tau(tau: float) -> None:
    visual, text = random_tokens(3, 200, 8), random_tokens(4, 30, 8)
    exact = cross_table(visual, text, tau)[2].amax(-1)
    single = cross_table(visual.float(), text.float(), tau)[2].amax(-1)
    assert float((single - exact).abs().max()) <= 1e-5 + 1e-6 / tau


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_cast_before_anything_else(dtype: torch.dtype) -> None:
    visual, text = random_tokens(5, 40, 16, dtype=dtype), random_tokens(6, 7, 16, dtype=dtype)
    got, want = cross_table(visual, text, 0.01)[2], cross_table(visual.float(), text.float(), 0.01)[2]
    assert got.dtype == torch.float32
    assert torch.equal(got, want)


@pytest.mark.parametrize("other", [torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_may_differ(other: torch.dtype) -> None:
    """A float32 projector beside bfloat16 embeddings, or a float64 check of either."""
    visual, text = random_tokens(5, 6, 4), random_tokens(6, 3, 4, dtype=other)
    table = cosine_similarity(visual, text)
    assert table.dtype == torch.float64
    torch.testing.assert_close(table, cosine_similarity(visual, text.double()), rtol=0, atol=1e-6)


def test_layout_and_gradients_of_the_input_do_not_matter() -> None:
    base = random_tokens(7, 4, 6, 5)
    text = random_tokens(8, 1, 3, 5)
    want = cosine_similarity(base, text.expand(4, 3, 5).contiguous())
    torch.testing.assert_close(cosine_similarity(base.mT.contiguous().mT, text.expand(4, 3, 5)), want)
    torch.testing.assert_close(cosine_similarity(base.clone().requires_grad_(), text).detach(), want)


@given(features(masks=False, d=3, zero_rows=True))
def test_a_batch_is_its_rows(f: Features) -> None:
    cosine = cosine_similarity(f.visual.double(), f.text.double())
    for b in range(f.batch):
        alone = cosine_similarity(f.visual[b].double(), f.text[b].double())
        torch.testing.assert_close(cosine[b], alone, rtol=0, atol=1e-12)
        for normalizer in (normalizers.Softmax(), normalizers.MinMax()):
            # of the same cosines: min-max makes a zero of a row's smallest, so the last bit of two alike decides there
            torch.testing.assert_close(normalizer(cosine)[b], normalizer(cosine[b]), rtol=0, atol=1e-6)


# --- masks ------------------------------------------------------------------------------------------------------


@given(
    features(batch=(1, 2), n=(2, 6), t=(1, 4), d=3, dtype=torch.float64),
    st.sampled_from([normalizers.Softmax(0.1), normalizers.Softmax(0.01), normalizers.MinMax()]),
    st.sampled_from(AGGREGATORS),
)
def test_masking_is_removing(f: Features, normalizer: Normalizer, aggregator: Aggregator) -> None:
    """Tables and scores of a padded batch are those of its rows without their padding."""
    if isinstance(normalizer, normalizers.MinMax) and isinstance(aggregator, aggregators.Sum):
        return  # refused: see test_sum_refuses_impossible_outcomes
    cosines = cosine_similarity(f.visual, f.text)
    if isinstance(normalizer, normalizers.MinMax):
        # it divides by a row's spread: where that is but rounding, the order in which a product adds up decides all
        masked = torch.ones_like(cosines, dtype=torch.bool) if f.text_mask is None else f.text_mask.unsqueeze(1)
        spread = cosines.where(masked, -math.inf).amax(-1) - cosines.where(masked, math.inf).amin(-1)
        assume(not bool(((spread != 0) & (spread < 1e-6)).any()))
    log_p = normalizer(cosines, f.text_mask)
    table = pmi(log_p, log_marginal(log_p, None, f.visual_mask))
    scores = aggregator(table, log_p, f.text_mask)
    for b in range(f.batch):
        seen_v = f.valid()[b]
        seen_t = torch.ones(f.text.shape[1], dtype=torch.bool) if f.text_mask is None else f.text_mask[b]
        alone_p = normalizer(cosine_similarity(f.visual[b, seen_v], f.text[b, seen_t]))
        alone = pmi(alone_p, log_marginal(alone_p))
        torch.testing.assert_close(table[b, seen_v][:, seen_t], alone, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(scores[b, seen_v], aggregator(alone, alone_p), rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore::tokenprune.core.errors.DegenerateRelevanceWarning")
@given(features(batch=(1, 2), n=(2, 6), t=(1, 4), d=3), st.sampled_from([math.nan, math.inf, -math.inf, 1e38]))
def test_what_stands_in_the_padding_is_never_read(f: Features, garbage: float) -> None:
    visual = f.visual.masked_fill(~f.valid().unsqueeze(-1), garbage)
    text = f.text if f.text_mask is None else f.text.masked_fill(~f.text_mask.unsqueeze(-1), garbage)
    again = Features(visual, text, visual_mask=f.visual_mask, text_mask=f.text_mask)
    for scorer in (scorers.PMI(), scorers.PMI(normalizers.MinMax(), aggregators.Mean()), scorers.TextSimilarity()):
        assert torch.equal(scorer.score(again), scorer.score(f))


# --- normalizers ------------------------------------------------------------------------------------------------


@given(channels(rows=(1, 5), columns=(1, 6)))
def test_minmax_divides_by_the_row_sum(table: NDArray[np.float64]) -> None:
    p = normalizers.MinMax()(torch.from_numpy(table)).exp().numpy()
    rise = table - table.min(1, keepdims=True)
    total = rise.sum(1, keepdims=True)
    flat = total <= 1e-12
    want = np.where(flat, 1 / table.shape[1], rise / np.where(flat, 1, total))
    np.testing.assert_allclose(p, want, atol=1e-12)


def test_minmax_skips_outcomes_that_no_token_makes_possible() -> None:
    """The middle column is every row's minimum: probability 0 over marginal 0."""
    log_p = normalizers.MinMax()(torch.tensor([[0.9, 0.1, 0.5], [0.7, 0.2, 0.6]]))
    table = pmi(log_p, log_marginal(log_p))
    assert table[:, 1].tolist() == [-math.inf, -math.inf]
    for aggregator in (aggregators.Max(), aggregators.Mean(), aggregators.LogSumExp(), aggregators.Renyi(2)):
        assert bool(aggregator(table, log_p).isfinite().all())
    assert float(aggregators.Max()(table).min()) >= 0


@given(st.integers(0, 2**31), st.floats(0.01, 100), st.floats(-3, 3))
def test_minmax_ignores_scale_and_shift(seed: int, scale: float, shift: float) -> None:
    table = random_tokens(seed, 3, 5)
    got, want = (normalizers.MinMax()(x).exp() for x in (scale * table + shift, table))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_minmax_does_not_blow_up_rounding_noise(dtype: torch.dtype) -> None:
    """Equal text tokens give columns that differ by rounding; they are one outcome seen several times."""
    visual = random_tokens(9, 64, 33, dtype=dtype)
    text = random_tokens(10, 1, 33, dtype=dtype) * torch.tensor([1.0, 2, 3, 5, 7, 11, 13], dtype=dtype)[:, None]
    p = normalizers.MinMax()(cosine_similarity(visual, text)).exp()
    torch.testing.assert_close(p, torch.full_like(p, 1 / 7))


def test_softmax_sharpens_with_tau() -> None:
    table = torch.tensor([[0.2, 0.1, -0.3]])
    assert normalizers.Softmax(0.01)(table).exp()[0, 0] > 0.9999
    torch.testing.assert_close(normalizers.Softmax(100)(table).exp(), torch.full((1, 3), 1 / 3), atol=2e-3, rtol=0)


# --- aggregators ------------------------------------------------------------------------------------------------

ORDERS = [0.01, 0.5, 0.999, 1 - 1e-9, 1.0, 1 + 1e-9, 1.000001, 1.001, 1.1, 2, 8, 100, 1e4, 1e9, 1e30, 1e300, math.inf]


def renyi(p: NDArray[np.float64], q: NDArray[np.float64], order: float) -> float:
    """The definition, over outcomes of positive probability."""
    p, q = p[p > 0], q[p > 0]
    if order == 1:
        return float((p * np.log(p / q)).sum())
    if order == math.inf:
        return float(np.log(p / q).max())
    exponent = order * np.log(p) + (1 - order) * np.log(q)
    top = exponent.max()
    return float((top + np.log(np.exp(exponent - top).sum())) / (order - 1))


@given(channels(rows=(1, 5), columns=(1, 5), zeros=True), st.sampled_from([torch.float32, torch.float64]))
def test_renyi_ladder(rows: NDArray[np.float64], dtype: torch.dtype) -> None:
    log_p = torch.from_numpy(rows).log().to(dtype)
    table = pmi(log_p, log_marginal(log_p))
    tol = 1e-12 if dtype == torch.float64 else 1e-5
    ladder = [aggregators.Renyi(order)(table, log_p) for order in ORDERS]
    for low, high in itertools.pairwise(ladder):
        assert bool((low <= high + tol).all())
    assert float(ladder[0].min()) >= -tol
    assert torch.equal(ladder[ORDERS.index(1.0)], aggregators.Mean()(table, log_p))
    largest = aggregators.Max()(table)
    assert torch.equal(ladder[-1], largest)
    total = aggregators.LogSumExp()(table)
    assert bool((largest <= total + tol).all())
    assert bool((total <= largest + math.log(rows.shape[1]) + tol).all())


@given(channels(rows=(1, 4), columns=(1, 5), zeros=True), st.sampled_from([0.3, 0.9, 1.0, 1.5, 2, 10, math.inf]))
@example(np.array([[0.25, 0.75], [0.5, 0.5]]), 1.5)
def test_renyi_equals_its_definition(rows: NDArray[np.float64], order: float) -> None:
    log_p = torch.from_numpy(rows).log()
    got = aggregators.Renyi(order)(pmi(log_p, log_marginal(log_p)), log_p)
    want = [renyi(row, rows.mean(0), order) for row in rows]
    np.testing.assert_allclose(got.numpy(), want, atol=1e-10)


@pytest.mark.parametrize("order", [1 - 1e-3, 1 - 1e-6, 1 + 1e-8, 1 + 1e-6, 1 + 1e-3])
def test_renyi_is_continuous_at_the_mean(order: float) -> None:
    """In float32, where log(sum p e^((a-1) C)) / (a-1) cancels to nothing."""
    log_p, _, table = cross_table(random_tokens(0, 50, 8).float(), random_tokens(1, 12, 8).float(), 0.1)
    mean = aggregators.Mean()(table, log_p)
    near = aggregators.Renyi(order)(table, log_p)
    torch.testing.assert_close(near, mean, rtol=abs(order - 1) + 1e-5, atol=1e-5)


def test_large_values_do_not_overflow() -> None:
    table = torch.tensor([[700.0, -700.0, 690.0], [-700.0, -700.0, -700.0], [-math.inf, 1.0, 0.0]])
    got = aggregators.LogSumExp()(table)
    torch.testing.assert_close(got, torch.tensor([700 + 4.54e-5, -700 + math.log(3), 1 + math.log1p(math.exp(-1))]))


@given(channels(rows=(1, 4), columns=(1, 6)), st.integers(1, 8))
def test_top_m_is_the_mean_of_the_largest(table: NDArray[np.float64], m: int) -> None:
    got = aggregators.TopM(m)(torch.from_numpy(table)).numpy()
    np.testing.assert_allclose(got, np.sort(table, 1)[:, ::-1][:, :m].mean(1), atol=1e-12)
    if m == 1:
        assert np.array_equal(got, table.max(1))


def test_mean_of_similarities_weighs_columns_equally() -> None:
    table = torch.tensor([[[1.0, 2.0, 9.0]]])
    assert aggregators.Mean()(table).item() == 4
    assert aggregators.Mean()(table, mask=torch.tensor([[True, True, False]])).item() == 1.5


def test_sum_refuses_impossible_outcomes() -> None:
    with pytest.raises(ConfigError, match=r"'sum'.*minmax"):
        aggregators.Sum()(torch.tensor([[-math.inf, 1.0]]))


def test_renyi_refuses_a_table_without_a_distribution() -> None:
    with pytest.raises(ConfigError, match=r"renyi.*distribution"):
        aggregators.Renyi()(torch.zeros(1, 2, 2))


def test_sum_is_not_an_upper_bound_of_max() -> None:
    """Counts [[1, 1], [1, 2]] refute Eqn 47; the two orders of tokens are unrelated too."""
    log_p = torch.tensor([[1 / 2, 1 / 2], [1 / 3, 2 / 3]], dtype=torch.float64).log()
    table = pmi(log_p, log_marginal(log_p))
    assert float(aggregators.Max()(table)[0]) == pytest.approx(0.182, abs=1e-3)
    assert float(aggregators.Sum()(table)[0]) == pytest.approx(0.028, abs=1e-3)


# --- priors -----------------------------------------------------------------------------------------------------


def test_uniform_prior_is_the_default() -> None:
    f = Features(random_tokens(1, 2, 6, 3), random_tokens(2, 2, 4, 3))
    log_p = log_conditional(cosine_similarity(f.visual, f.text), 0.1)
    uniform = torch.full((2, 6), -math.log(6), dtype=torch.float64)
    assert priors.Uniform().log_prior(f) is None
    torch.testing.assert_close(log_marginal(log_p), log_marginal(log_p, uniform))


@given(features(t=None, signals=("cls_attention",), grid=True, dtype=torch.float64))
def test_priors_are_distributions_over_real_tokens(f: Features) -> None:
    for prior in (priors.Centre(), priors.Centre(0.05), priors.Salience()):
        log_prior = prior.log_prior(f)
        assert log_prior is not None
        total = log_prior.exp().sum(1)
        torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-5)
        assert bool((log_prior[~f.valid()] == -math.inf).all())
        assert bool(log_prior[f.valid()].isfinite().all())


def test_centre_prior_is_highest_in_the_middle_of_every_frame() -> None:
    f = Features(random_tokens(0, 1, 30, 2), grid=Grid(3, 5, frames=2))
    log_prior = priors.Centre().log_prior(f).view(2, 3, 5)
    assert torch.equal(log_prior[0], log_prior[1])
    torch.testing.assert_close(log_prior, log_prior.flip(1))
    torch.testing.assert_close(log_prior, log_prior.flip(2))
    assert int(log_prior[0].argmax()) == 7
    # half a side from the middle, one standard deviation off
    narrow = priors.Centre(width=2 / 3).log_prior(f).view(2, 3, 5)
    assert float(narrow[0, 1, 2] - narrow[0, 0, 2]) == pytest.approx(0.5, abs=1e-6)


def test_salience_prior_is_proportional_to_the_attention() -> None:
    attention = torch.tensor([[[0.1, 0.2, 0.0], [0.3, 0.0, 0.0]]])
    f = Features(torch.ones(1, 3, 2), cls_attention=attention)
    weight = torch.tensor([[0.2, 0.1, 1e-6]])
    torch.testing.assert_close(priors.Salience().log_prior(f).exp(), weight / weight.sum())


def test_priors_name_what_they_miss() -> None:
    f = Features(torch.ones(1, 3, 2), torch.ones(1, 2, 2))
    with pytest.raises(MissingSignalError, match="grid"):
        priors.Centre().log_prior(f)
    with pytest.raises(MissingSignalError, match="cls_attention"):
        priors.Salience().log_prior(f)


@given(st.integers(0, 2**31), taus())
def test_prior_changes_the_marginal_by_total_probability(seed: int, tau: float) -> None:
    f = Features(
        random_tokens(seed, 1, 5, 3), random_tokens(seed + 1, 1, 4, 3), cls_attention=random_tokens(seed, 1, 2, 5).abs()
    )
    weight = f["cls_attention"][0].mean(0).tolist()
    log_p = reference.conditional(f.visual[0].tolist(), f.text[0].tolist(), tau)
    log_q = reference.marginal(log_p, [w / sum(weight) for w in weight])
    want = [max(p - q for p, q in zip(row, log_q, strict=True)) for row in log_p]
    got = scorers.PMI(normalizers.Softmax(tau), prior=priors.Salience()).score(f)[0]
    np.testing.assert_allclose(got.numpy(), want, atol=1e-10)


# --- the degenerate prompt --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("copies", [1, 2, 7])
@pytest.mark.parametrize("normalizer", [normalizers.Softmax(), normalizers.Softmax(0.01), normalizers.MinMax()])
@pytest.mark.parametrize("aggregator", [aggregators.Max(), aggregators.Mean(), aggregators.LogSumExp()])
def test_text_that_says_nothing_falls_back_to_cosine(
    dtype: torch.dtype, copies: int, normalizer: Normalizer, aggregator: Aggregator
) -> None:
    """Equal columns are not equal to the bit after a matrix product, so an exact test would miss them."""
    visual, word = random_tokens(11, 1, 100, 48, dtype=dtype), random_tokens(12, 1, 1, 48, dtype=dtype)
    f = Features(visual, word.repeat(1, copies, 1))
    with pytest.warns(DegenerateRelevanceWarning) as caught:
        scores = scorers.PMI(normalizer, aggregator).score(f)
    assert len(caught) == 1
    torch.testing.assert_close(scores, cosine_similarity(visual, word).squeeze(-1), rtol=0, atol=1e-6)


def test_only_the_rows_that_need_it_fall_back() -> None:
    visual, text = random_tokens(13, 3, 20, 8), random_tokens(14, 3, 4, 8)
    text_mask = torch.tensor([[True] * 4, [False, True, False, False], [True] * 4])
    with pytest.warns(DegenerateRelevanceWarning, match=r"rows \[1\]") as caught:
        scores = scorers.PMI().score(Features(visual, text, text_mask=text_mask))
    assert len(caught) == 1
    torch.testing.assert_close(scores[1], cosine_similarity(visual[1], text[1, 1:2]).squeeze(-1))
    for b in (0, 2):
        torch.testing.assert_close(scores[b], scorers.PMI().score(Features(visual[b : b + 1], text[b : b + 1]))[0])
