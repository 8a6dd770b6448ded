"""From scores and tables to kept tokens: optimisers agree, laws hold, goldens stand."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import tokenprune as tp
from tests.support import reference
from tests.support.tables import ForbiddenPairs, GivenPairs, GivenScores, blank_features, problem, rows
from tokenprune.components import normalizers, pairwise, priors, scorers
from tokenprune.components.objectives import MaximalMarginalRelevance, Modular
from tokenprune.components.selectors import Greedy, TwoStage
from tokenprune.core.errors import ConfigError, DegenerateRelevanceWarning, FeatureError, NonFiniteError
from tokenprune.core.information import cosine_similarity, log_marginal, pmi
from tokenprune.core.ranking import TopK, top_k
from tokenprune.testing import features, gains_instances
from tokenprune_theory import pmi as theory

OPTIMIZERS = ("vectorized", "lazy", "naive")
LAMBDAS = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
MARGINALS = ("uniform", "total", "stationary", "sinkhorn")


def random_features(seed: int, batch: int, n: int, n_text: int, d: int, **kwargs: Any) -> tp.Features:
    draw = torch.Generator().manual_seed(seed)
    visual = torch.randn(batch, n, d, generator=draw, dtype=torch.float64)
    return tp.Features(visual, torch.randn(batch, n_text, d, generator=draw, dtype=torch.float64), **kwargs)


def traces(f: tp.Features, *, tau: float, lam: float, keep: list[int]) -> list[reference.Trace]:
    """The reference on each row without its padding, in positions of the padded row."""
    found = []
    for b, k in enumerate(keep):
        seen = f.valid()[b]
        text = f.text[b] if f.text_mask is None else f.text[b, f.text_mask[b]]
        trace = reference.mi_pruner(f.visual[b, seen].tolist(), text.tolist(), tau=tau, lam=lam, keep=k)
        place = seen.nonzero().flatten().tolist()
        found.append(reference.Trace([place[i] for i in trace.order], trace.gains, trace.lead))
    return found


# --- the optimisers agree ---------------------------------------------------------------------------------------


@st.composite
def tied_problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, tuple[int, ...], Tensor, Tensor | None]:
    """Ragged batches of problems whose numbers are multiples of 1/2: ties in nearly every one."""
    batch, n = draw(st.integers(1, 3)), draw(st.integers(2, 7))
    instances = [draw(gains_instances(n)) for _ in range(batch)]
    scores = torch.from_numpy(np.stack([c for c, _ in instances]))
    table = torch.from_numpy(np.stack([t for _, t in instances]))
    flags = st.lists(st.booleans(), min_size=n, max_size=n)
    available = torch.tensor(draw(st.lists(flags, min_size=batch, max_size=batch)))
    context = None
    if draw(st.booleans()):
        width = draw(st.integers(1, n))
        picks = [draw(st.lists(st.integers(0, n - 1), max_size=width, unique=True)) for _ in range(batch)]
        context = torch.tensor([p + [-1] * (width - len(p)) for p in picks])
        for row, p in enumerate(picks):
            available[row, p] = False
    counts = tuple(draw(st.integers(0, int(a.sum()))) for a in available)
    return scores, table, counts, available, context


@given(tied_problems(), LAMBDAS, st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=150)
def test_lazy_naive_and_vectorized_agree_with_the_reference(
    case: tuple[Tensor, Tensor, tuple[int, ...], Tensor, Tensor | None], lam: float, dtype: torch.dtype
) -> None:
    """Order and ties included; multiples of 1/2 make every gain exact, in both dtypes."""
    scores, table, counts, available, context = case
    objective = MaximalMarginalRelevance(lam, GivenPairs(table.to(dtype)))
    asked = problem(scores.to(dtype), counts, available, context)
    want = []
    for b, count in enumerate(counts):
        before = [] if context is None else rows(context)[b]
        # what is no candidate is kept out of the reference by an unbeatable handicap
        handicap = [s if a else -1e6 for s, a in zip(scores[b].tolist(), available[b].tolist(), strict=True)]
        if lam:
            want.append(reference.greedy(handicap, table[b].tolist(), lam, count, before).order)
    for optimizer in OPTIMIZERS:
        order = Greedy(objective, optimizer).select(asked)
        assert order.dtype == torch.int64
        assert order.shape == (len(counts), max(counts))
        assert [len(r) for r in rows(order)] == list(counts)
        if lam:
            assert rows(order) == want, optimizer
        else:
            want = want or rows(order)
            assert rows(order) == want, optimizer


@given(features(n=(2, 8), d=3, zero_rows=True), LAMBDAS, st.sampled_from(MARGINALS), st.data())
def test_optimizers_agree_on_embeddings(f: tp.Features, lam: float, marginal: Any, data: st.DataObject) -> None:
    counts = tuple(data.draw(st.integers(1, c)) for c in f.counts())
    objective = MaximalMarginalRelevance(lam, pairwise.SelfPMI(normalizers.Softmax(0.1), marginal))
    asked = tp.Problem(f, f.visual.sum(-1), counts, f.valid())
    first, *others = (rows(Greedy(objective, optimizer).select(asked)) for optimizer in OPTIMIZERS)
    assert others == [first, first]
    for b, picks in enumerate(first):
        assert len(set(picks)) == counts[b]
        assert bool(f.valid()[b, picks].all())


def test_ties_go_to_the_lowest_index() -> None:
    """A heap that breaks ties by time of insertion takes 2 before 1 here."""
    scores = torch.tensor([[1.0, 0.5, 0.5, 0.5]], dtype=torch.float64)
    table = torch.zeros(1, 4, 4, dtype=torch.float64)
    table[0, 1, 0] = 0.5  # token 1 falls behind after the first pick ...
    table[0, 2, 3] = table[0, 3, 2] = 0.5  # ... and is level again after the second
    objective = MaximalMarginalRelevance(0.5, GivenPairs(table))
    for optimizer in OPTIMIZERS:
        assert rows(Greedy(objective, optimizer).select(problem(scores, (4,)))) == [[0, 2, 1, 3]]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("value", [0.0, -0.0, 3.5, -1e30])
def test_all_equal_scores_keep_the_lowest_indices(optimizer: Any, value: float) -> None:
    scores = torch.full((2, 6), value)
    asked = problem(scores, (4, 6), torch.tensor([[False, True, True, True, True, True], [True] * 6]))
    want = [[1, 2, 3, 4], [0, 1, 2, 3, 4, 5]]
    assert rows(top_k(asked.scores, asked.counts, asked.available)) == want
    assert rows(Greedy(Modular(), optimizer).select(asked)) == want
    pairs = GivenPairs(torch.zeros(2, 6, 6))
    assert rows(Greedy(MaximalMarginalRelevance(0.5, pairs), optimizer).select(asked)) == want


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_minus_zero_ties_with_zero(optimizer: Any) -> None:
    scores = torch.tensor([[-0.0, 0.0, -0.0]])
    assert rows(Greedy(Modular(), optimizer).select(problem(scores, (3,)))) == [[0, 1, 2]]
    assert rows(TopK().select(problem(scores, (3,)))) == [[0, 1, 2]]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_nothing_to_pick_is_no_pick(optimizer: Any) -> None:
    greedy = Greedy(MaximalMarginalRelevance(0.5, GivenPairs(torch.zeros(2, 3, 3))), optimizer)
    assert greedy.select(problem(torch.zeros(2, 3), (0, 0))).shape == (2, 0)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_gain_that_is_not_a_number_raises(optimizer: Any) -> None:
    """An argmax would pick the NaN."""
    table = torch.zeros(2, 4, 4)
    table[1, 2, 0] = math.nan
    greedy = Greedy(MaximalMarginalRelevance(0.5, GivenPairs(table)), optimizer)
    scores = torch.tensor([[4.0, 3.0, 2.0, 1.0]]).expand(2, 4)
    with pytest.raises(NonFiniteError, match="NaN"):
        greedy.select(problem(scores, (3, 3)))


def test_lazy_refuses_objectives_whose_gains_may_rise() -> None:
    class Rising(Modular):
        non_increasing_gains = False

    with pytest.raises(ConfigError, match=r"lazy.*non_increasing_gains"):
        Greedy(Rising(), "lazy")


# --- laws -------------------------------------------------------------------------------------------------------


@given(gains_instances(n=(2, 7)), LAMBDAS)
def test_gains_never_rise_after_the_first_pick(
    instance: tuple[NDArray[np.float64], NDArray[np.float64]], lam: float
) -> None:
    scores, table = (torch.from_numpy(a)[None] for a in instance)
    n = scores.shape[1]
    objective = MaximalMarginalRelevance(lam, GivenPairs(table))
    state = objective.start(blank_features(1, n), scores)
    for pick in rows(Greedy(objective).select(problem(scores, (n,))))[0]:
        before, state = objective.gains(state), objective.take(state, torch.tensor([pick]))
        if pick != rows(TopK().select(problem(lam * scores, (1,))))[0][0]:
            assert bool((objective.gains(state) <= before).all())


def test_gains_may_rise_from_no_pick_to_one() -> None:
    """Two orthonormal tokens: D = -1.434, so the second gain exceeds the first by 0.717."""
    f = tp.Features(torch.eye(2, dtype=torch.float64)[None])
    objective = MaximalMarginalRelevance(0.5, pairwise.SelfPMI(normalizers.Softmax(0.5)))
    state = objective.start(f, torch.zeros(1, 2, dtype=torch.float64))
    assert float(objective.gains(state)[0, 1]) == 0
    state = objective.take(state, torch.tensor([0]))
    assert float(objective.gains(state)[0, 1]) == pytest.approx(0.717, abs=1e-3)


@given(gains_instances(n=(2, 7)), st.data())
def test_top_k_is_optimal_when_only_relevance_counts(
    instance: tuple[NDArray[np.float64], NDArray[np.float64]], data: st.DataObject
) -> None:
    scores = torch.from_numpy(instance[0])[None]
    n = scores.shape[1]
    k = data.draw(st.integers(1, n))
    best = max(sum(instance[0][list(s)]) for s in itertools.combinations(range(n), k))
    for selector in (TopK(), Greedy(MaximalMarginalRelevance(1, ForbiddenPairs()))):
        picks = rows(selector.select(problem(scores, (k,))))[0]
        assert float(instance[0][picks].sum()) == best


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("lam", [1, 1.0])
def test_lambda_one_never_makes_the_pairwise_table(optimizer: Any, lam: float) -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.0, 1.0]])
    greedy = Greedy(MaximalMarginalRelevance(lam, ForbiddenPairs()), optimizer)
    assert rows(greedy.select(problem(scores, (3, 2), context=torch.tensor([[-1], [0]])))) == [[1, 2, 0], [2, 0]]
    with pytest.raises(AssertionError, match="was made"):
        Greedy(MaximalMarginalRelevance(0.99, ForbiddenPairs()), optimizer).select(problem(scores, (2, 2)))


def test_mi_pruner_at_lambda_one_is_top_k() -> None:
    assert tp.build("mi-pruner", lam=1).selector == TopK()
    assert tp.build("mi-pruner", preset="closed-form").selector == TopK()
    assert tp.build("mi-pruner", preset="open-ended") == tp.build("mi-pruner")


@given(features(n=(2, 8), t=(2, 4), d=3), LAMBDAS.filter(bool))
@pytest.mark.filterwarnings("ignore::tokenprune.core.errors.DegenerateRelevanceWarning")
def test_first_pick_is_the_most_relevant(f: tp.Features, lam: float) -> None:
    selection = tp.build("mi-pruner", lam=lam).select(f, 1)
    assert selection.scores is not None
    weighted = lam * selection.scores
    assert selection.order[:, 0].tolist() == weighted.masked_fill(~f.valid(), -math.inf).argmax(1).tolist()


@given(st.integers(0, 2**31), LAMBDAS, st.sampled_from([0.05, 0.1, 0.5]), st.integers(1, 9), st.booleans())
def test_mi_pruner_equals_the_reference(seed: int, lam: float, tau: float, keep: int, single: bool) -> None:
    f = random_features(seed, 2, 9, 5, 6)
    want = traces(f, tau=tau, lam=lam, keep=[keep, keep])
    assume(lam > 0 or keep == 1)  # with 0 the first pick is a tie, and what follows from it is compared elsewhere
    assume(all(t.lead > (1e-4 if single else 1e-10) / tau for t in want))
    if single:
        f = tp.Features(f.visual.float(), f.text.float())
    for optimizer in OPTIMIZERS:
        order = tp.build("mi-pruner", lam=lam, tau=tau, optimizer=optimizer).select(f, keep).order
        assert order.tolist() == [t.order for t in want]


def test_lambda_zero_starts_at_index_zero_and_spreads() -> None:
    f = random_features(3, 1, 12, 4, 5)
    want = reference.mi_pruner(f.visual[0].tolist(), f.text[0].tolist(), tau=0.1, lam=0.0, keep=6)
    order = tp.build("mi-pruner", lam=0).select(f, 6).order[0].tolist()
    assert order[0] == 0
    assert order == want.order


@given(st.integers(0, 2**31), st.permutations(range(8)), LAMBDAS.filter(bool), st.sampled_from(MARGINALS))
def test_permutation_equivariance(seed: int, permutation: list[int], lam: float, marginal: str) -> None:
    f = random_features(seed, 1, 8, 4, 5)
    assume(traces(f, tau=0.1, lam=lam, keep=[8])[0].lead > 1e-6)
    strategy = tp.build("mi-pruner", lam=lam, marginal=marginal)
    moved = strategy.select(f.replace(visual=f.visual[:, permutation]), 4).order[0].tolist()
    if marginal == "uniform":
        assert [permutation[i] for i in moved] == strategy.select(f, 4).order[0].tolist()
    else:
        assert {permutation[i] for i in moved} == set(strategy.select(f, 4).row(0)) or _near_tie(strategy, f)


def _near_tie(strategy: tp.Strategy, f: tp.Features) -> bool:
    """Whether the smallest lead of any pick is within rounding."""
    assert isinstance(strategy.selector, Greedy)
    objective = strategy.selector.objective
    assert strategy.scorer is not None
    state = objective.start(f, strategy.scorer.score(f))
    open_ = list(range(f.n_visual))
    lead = math.inf
    for pick in strategy.select(f, 4).order[0].tolist():
        gains = objective.gains(state)[0].tolist()
        lead = min([lead, *(gains[pick] - gains[i] for i in open_ if i != pick)])
        open_.remove(pick)
        state = objective.take(state, torch.tensor([pick]))
    return lead < 1e-4


@given(st.integers(0, 2**31), LAMBDAS.filter(bool))
def test_scale_of_the_tokens_does_not_change_the_kept_set(seed: int, lam: float) -> None:
    f = random_features(seed, 1, 10, 4, 5)
    assume(traces(f, tau=0.1, lam=lam, keep=[4])[0].lead > 1e-8)
    factor = 10 ** torch.randn(1, 10, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    strategy = tp.build("mi-pruner", lam=lam)
    scaled = tp.Features(f.visual * factor, f.text * 1e30)
    assert strategy.select(scaled, 4).row(0) == strategy.select(f, 4).row(0)


@st.composite
def ragged_features(draw: st.DrawFn, n: int = 6, n_text: int = 3, frames: int = 1) -> tp.Features:
    """Random numbers (so no ties), with masks that leave the first two tokens of each row or frame."""
    batch = draw(st.integers(1, 2))
    masks = []
    for width, part in ((n, n // frames), (n_text, n_text)):
        optional = st.sampled_from([i for i in range(width) if i % part > 1])
        out = [draw(st.sets(optional)) for _ in range(batch)]
        masks.append(torch.tensor([[i not in row for i in range(width)] for row in out]))
    f = random_features(draw(st.integers(0, 2**31)), batch, n, n_text, 4)
    return f.replace(visual_mask=masks[0], text_mask=masks[1])


def alone(f: tp.Features, b: int, part: slice = slice(None)) -> tuple[tp.Features, list[int]]:
    """One row without its padding, or the tokens of it that lie in a slice, and their positions."""
    inside = torch.zeros_like(f.valid()[b])
    inside[part] = True
    place = (f.valid()[b] & inside).nonzero().flatten()
    text = f.text[b] if f.text_mask is None else f.text[b, f.text_mask[b]]
    return tp.Features(f.visual[b, place][None], text[None]), place.tolist()


@given(ragged_features(), LAMBDAS.filter(bool), st.data())
def test_ragged_batches_equal_their_rows(f: tp.Features, lam: float, data: st.DataObject) -> None:
    """Masks anywhere in a row, another budget in each."""
    keep = [data.draw(st.integers(1, c)) for c in f.counts()]
    assume(all(t.lead > 1e-8 for t in traces(f, tau=0.1, lam=lam, keep=keep)))
    strategy = tp.build("mi-pruner", lam=lam)
    together = strategy.select(f, keep)
    assert together.counts.tolist() == keep
    for b, k in enumerate(keep):
        row, place = alone(f, b)
        assert rows(together.order)[b] == [place[i] for i in strategy.select(row, k).order[0].tolist()]


@pytest.mark.parametrize("lam", [0.5, 1])
def test_keeping_all_keeps_all(lam: float) -> None:
    f = random_features(1, 2, 6, 3, 4)
    selection = tp.build("mi-pruner", lam=lam).select(f, 6)
    assert selection.indices.tolist() == [list(range(6))] * 2
    assert torch.equal(selection.gather(f.visual), f.visual)
    assert torch.equal(tp.build("mi-pruner", lam=lam).select(f, 1.0).indices, selection.indices)


def test_a_single_visual_token_is_kept() -> None:
    f = tp.Features(torch.ones(2, 1, 3), torch.eye(3)[None].repeat(2, 1, 1))
    for lam in (0, 0.5, 1):
        assert tp.build("mi-pruner", lam=lam).select(f, 1).indices.tolist() == [[0], [0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_unusual_tensors_are_inputs_like_any(dtype: torch.dtype) -> None:
    """Expanded, transposed, differentiable, of any float dtype: the same picks, and no gradient in the result."""
    f = random_features(2, 1, 16, 4, 8)
    visual, text = f.visual.to(dtype), f.text.to(dtype)
    strategy = tp.build("mi-pruner", optimizer="lazy")
    want = strategy.select(tp.Features(visual.repeat(3, 1, 1), text.repeat(3, 1, 1)), 5)
    inputs = {
        "expanded": (visual.expand(3, 16, 8), text.expand(3, 4, 8)),
        "transposed": (visual.mT.contiguous().mT.repeat(3, 1, 1), text.repeat(3, 1, 1)),
        "differentiable": (visual.repeat(3, 1, 1).requires_grad_(), text.repeat(3, 1, 1).requires_grad_()),
    }
    for name, (v, t) in inputs.items():
        for optimizer in OPTIMIZERS:
            got = tp.build("mi-pruner", optimizer=optimizer).select(tp.Features(v, t), 5)
            assert torch.equal(got.order, want.order), (name, optimizer)
            assert got.scores is not None
            assert not got.scores.requires_grad


def test_scores_that_are_an_input_come_back_without_its_gradient() -> None:
    attention = torch.rand(2, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    selection = tp.build("attention").select(tp.Features(torch.ones(2, 6, 3), received_attention=attention), 2)
    assert selection.scores is not None
    assert not selection.scores.requires_grad


@given(features(n=(2, 8), t=(1, 4), d=3, zero_rows=True))
@pytest.mark.filterwarnings("ignore::tokenprune.core.errors.DegenerateRelevanceWarning")
def test_inputs_are_left_alone(f: tp.Features) -> None:
    before = {name: f[name].clone() for name in f}
    for lam in (0, 0.5, 1):
        tp.build("mi-pruner", lam=lam).select(f, 1.0)
    assert all(torch.equal(f[name], value) for name, value in before.items())


@given(features(n=(2, 8), t=(1, 4), d=3, zero_rows=True), st.floats(0.01, 1))
@pytest.mark.filterwarnings("ignore::tokenprune.core.errors.DegenerateRelevanceWarning")
def test_a_selection_is_consistent(f: tp.Features, ratio: float) -> None:
    s = tp.build("mi-pruner").select(f, ratio)
    assert s.counts.tolist() == [max(1, math.floor(ratio * c + 0.5)) for c in f.counts()]
    assert s.indices.dtype == s.order.dtype == torch.int64
    assert s.indices.shape == s.order.shape == (f.batch, max(s.counts.tolist()))
    for b in range(f.batch):
        assert s.row(b) == sorted(rows(s.order)[b])
        assert s.mask[b].nonzero().flatten().tolist() == s.row(b)
        assert s.indices[b].tolist() == s.row(b) + [-1] * (s.indices.shape[1] - len(s.row(b)))
        assert bool(f.valid()[b, s.row(b)].all())
        assert torch.equal(s.gather(f.visual)[b, : len(s.row(b))], f.visual[b, s.row(b)])


# --- goldens ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_heap_made_before_the_first_pick_would_be_wrong(optimizer: Any) -> None:
    """Stale gains of the empty set are too low: {0, 2}, worth 1.017, instead of {0, 1}, worth 1.608."""
    scores = torch.tensor([[0.777, 0.277, 0.320]], dtype=torch.float64)
    table = torch.zeros(1, 3, 3, dtype=torch.float64)
    table[0, 1, 0], table[0, 2, 0] = -2.939, -1.714
    objective = MaximalMarginalRelevance(0.5, GivenPairs(table))
    assert rows(Greedy(objective, optimizer).select(problem(scores, (2,)))) == [[0, 1]]
    state = objective.take(objective.start(blank_features(1, 3), scores), torch.tensor([0]))
    assert objective.gains(state)[0, 1:].tolist() == pytest.approx([1.608, 1.017], abs=1e-9)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_popping_one_heap_would_keep_exact_duplicates(optimizer: Any) -> None:
    """Read literally ("build the heap, then N_keep retrievals"), the paper keeps the duplicates 0 and 1."""
    visual = torch.tensor([[[1.0, 0], [1, 0], [0, 1], [0.1, 1], [-0.1, 1]]], dtype=torch.float64)
    f = tp.Features(visual, torch.eye(2, dtype=torch.float64)[None])
    strategy = tp.build("mi-pruner", optimizer=optimizer)
    selection = strategy.select(f, 2)
    assert selection.scores is not None
    assert selection.scores[0].tolist() == pytest.approx([0.916, 0.916, 0.511, 0.511, 0.511], abs=1e-3)
    assert selection.order.tolist() == [[0, 4]]
    assert top_k(selection.scores, (2,), f.valid()).tolist() == [[0, 1]]
    objective = strategy.selector.objective  # type: ignore[attr-defined]
    state = objective.take(objective.start(f, selection.scores), torch.tensor([0]))
    gains = objective.gains(state)[0].tolist()
    assert gains[1] == pytest.approx(-1.8e-6, abs=1e-7)
    assert gains[4] == pytest.approx(5.458, abs=1e-3)


def test_row_normalisers_do_not_cancel() -> None:
    """Tokens 1, 2, 3 have the same cosine to the pick, yet the duplicates 2 and 3 count as less redundant with it."""
    f = tp.Features(torch.eye(3, dtype=torch.float64)[[0, 1, 2, 2]][None])
    column = pairwise.SelfPMI(normalizers.Softmax(1)).table(f).column(torch.tensor([0]))[0]
    assert column[1:].tolist() == pytest.approx([-0.357, -0.620, -0.620], abs=1e-3)


# --- the self term ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalizer", [normalizers.Softmax(0.1), normalizers.Softmax(0.5), normalizers.MinMax()])
@given(features(batch=(1, 2), n=(2, 7), t=None, d=3, zero_rows=True, dtype=torch.float64))
def test_uniform_marginal_is_the_papers(normalizer: tp.Normalizer, f: tp.Features) -> None:
    table = pairwise.SelfPMI(normalizer).table(f).dense()
    for b in range(f.batch):
        seen = f.valid()[b]
        tokens = f.visual[b, seen]
        if isinstance(normalizer, normalizers.Softmax):
            want = torch.tensor(reference.self_pmi(tokens.tolist(), normalizer.tau), dtype=torch.float64)
        else:
            cosine = [[reference.cosine(v, w) for w in tokens.tolist()] for v in tokens.tolist()]
            log_p = normalizer(torch.tensor(cosine, dtype=torch.float64))
            want = (log_p + math.log(len(tokens))).clamp_min(math.log(torch.finfo(torch.float64).tiny))
            assume(bool((want > -15).logical_or(want < -600).all()))  # an entry is 0, or well above rounding
        # what is 0 in one may be rounding in the other: below exp(-30) both are 0
        got, want = (t.clamp_min(-30) for t in (table[b, seen][:, seen], want))
        torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-7)


@given(
    features(batch=(1, 2), n=(1, 7), t=None, d=3, zero_rows=True, dtype=torch.float64), st.sampled_from([0.1, 0.5, 2])
)
def test_self_marginals_equal_their_definitions(f: tp.Features, tau: float) -> None:
    tables = {m: pairwise.SelfPMI(normalizers.Softmax(tau), m).table(f).dense() for m in MARGINALS}
    for b in range(f.batch):
        seen = f.valid()[b]
        tokens = f.visual[b, seen].tolist()
        n = len(tokens)
        p = np.exp(reference.conditional(tokens, tokens, tau))
        got = {m: t[b, seen][:, seen].numpy() for m, t in tables.items()}
        # rows average to 1 under a uniform column prior, whatever the row
        np.testing.assert_allclose(np.exp(got["uniform"]).mean(1), 1, atol=1e-9)
        # total: the mean of the rows, so columns average to 1
        np.testing.assert_allclose(got["total"], np.log(p / p.mean(0)), atol=1e-7)
        np.testing.assert_allclose(np.exp(got["total"]).mean(0), 1, atol=1e-9)
        # stationary: the law that the row softmax maps to itself; the table is symmetric
        law = np.exp(np.log(p) - got["stationary"])[0]
        np.testing.assert_allclose(np.exp(np.log(p) - got["stationary"]), np.tile(law, (n, 1)), atol=1e-9)
        np.testing.assert_allclose(law @ p, law, atol=1e-9)
        assert law.sum() == pytest.approx(1)
        np.testing.assert_allclose(got["stationary"], got["stationary"].T, atol=1e-7)
        # sinkhorn: the kernel scaled to uniform marginals; the table is symmetric and averages to 1 both ways
        np.testing.assert_allclose(np.exp(got["sinkhorn"]).mean(0), 1, atol=1e-5)
        np.testing.assert_allclose(np.exp(got["sinkhorn"]).mean(1), 1, atol=1e-5)
        np.testing.assert_allclose(got["sinkhorn"], got["sinkhorn"].T, atol=1e-9)
        scale = got["sinkhorn"] - np.log(p)
        np.testing.assert_allclose(scale - scale[:1], np.tile((scale - scale[:1])[:, :1], (1, n)), atol=1e-6)


@given(
    features(batch=(1, 2), n=(1, 12), t=None, d=3, zero_rows=True, dtype=torch.float64),
    st.sampled_from([2.0, 0.1, 0.02, 0.005, 0.001]),
    st.sampled_from([torch.float64, torch.float32]),
)
def test_the_sinkhorn_marginal_is_uniform_whatever_the_temperature(f: tp.Features, tau: float, dtype: Any) -> None:
    """Within the tolerance it states and few steps: a third of the error is left by each."""
    f = tp.Features(f.visual.to(dtype), visual_mask=f.visual_mask)
    cosine = pairwise.CosineTable(f.visual)
    assert cosine.gram is not None
    # the kernel of these very cosines, evaluated exactly enough to be the judge
    gram, diagonal = cosine.gram.double(), cosine.gram.double().diagonal(dim1=1, dim2=2)
    log_u = pairwise._sinkhorn(cosine, tau, f.valid(), steps=25).double()
    tolerance = max(1e-6, 32 * torch.finfo(dtype).eps)
    for b in range(f.batch):
        seen = f.valid()[b]
        n = int(seen.sum())
        # from the diagonal up, so that what log_u holds of it cancels before it is rounded
        kernel = (gram[b] - diagonal[b].unsqueeze(1) / 2 - diagonal[b] / 2)[seen][:, seen] / tau
        v = log_u[b, seen] + diagonal[b, seen] / (2 * tau)
        rounded = 4 * torch.finfo(dtype).eps * float(log_u[b, seen].abs().max())
        sums = n * (kernel + v.unsqueeze(1) + v).exp().sum(1)
        torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=2 * tolerance + 2 * rounded)
        if dtype == torch.float64:
            exact = torch.as_tensor(theory.self_pmi(gram[b][seen][:, seen].numpy(), tau, "sinkhorn"))
            mine = pairwise.SelfPMI(normalizers.Softmax(tau), "sinkhorn").table(f).dense()[b][seen][:, seen]
            torch.testing.assert_close(mine, exact.clamp_min(math.log(torch.finfo(dtype).tiny)), rtol=1e-9, atol=4e-6)
    assert bool(log_u.isfinite().all())  # padding, too


@given(features(batch=(1, 2), n=(2, 7), t=None, d=3, zero_rows=True, dtype=torch.float64), st.sampled_from([0.1, 2]))
def test_the_picture_read_as_its_own_prompt(f: tp.Features, tau: float) -> None:
    """With the visual tokens for text, the cross term is the self term with the rows' own marginal."""
    softmax = normalizers.Softmax(tau)
    table = pairwise.SelfPMI(softmax, "total").table(f).dense()
    own = tp.Features(f.visual, f.visual, visual_mask=f.visual_mask, text_mask=f.visual_mask)
    log_p = softmax(cosine_similarity(own.visual, own.text), own.text_mask)
    cross = pmi(log_p, log_marginal(log_p, None, own.visual_mask))
    for b in range(f.batch):
        seen = f.valid()[b]
        torch.testing.assert_close(cross[b, seen][:, seen], table[b, seen][:, seen], rtol=0, atol=1e-9)


@given(
    features(batch=(1, 3), n=(2, 7), t=None, d=3, zero_rows=True, dtype=torch.float64),
    st.lists(st.integers(0, 2), min_size=2, max_size=6),
    st.sampled_from([*(pairwise.SelfPMI(normalizers.Softmax(0.1), m) for m in MARGINALS), pairwise.Cosine()]),
)
def test_questions_about_one_picture_share_its_table(f: tp.Features, asked: list[int], pairs: tp.Pairwise) -> None:
    """Rows that show the same picture have the table that each would have by itself, made once."""
    row = [number % f.batch for number in asked]
    mask = None if f.visual_mask is None else f.visual_mask[row]
    table = pairs.table(tp.Features(f.visual[row], visual_mask=mask))
    kept = table.cosine if isinstance(table, pairwise.SelfPMITable) else table
    assert isinstance(kept, pairwise.CosineTable)
    distinct = {(tuple(f.visual[b].flatten().tolist()), tuple(f.valid()[b].tolist())) for b in row}
    assert len(kept.tokens) == len(distinct)
    index = torch.tensor([[b % f.n_visual, 1, 0] for b in range(len(row))])
    blocks = torch.cat([block for _, block in table.blocks()], dim=1)
    for b, number in enumerate(row):
        seen = f.valid()[number]
        alone = pairs.table(
            tp.Features(f.visual[[number]], visual_mask=None if f.visual_mask is None else f.visual_mask[[number]])
        )
        want = alone.dense()[0][seen][:, seen]
        for got in (table.dense()[b], blocks[b]):
            torch.testing.assert_close(got[seen][:, seen], want, rtol=0, atol=1e-12)
        for got, one in zip(table.columns(index)[b], alone.columns(index[[b]])[0], strict=True):
            torch.testing.assert_close(got[seen], one[seen], rtol=0, atol=1e-12)
        torch.testing.assert_close(table.column(index[:, 0])[b][seen], table.columns(index)[b, 0][seen], rtol=0, atol=0)
        near = kept.between(index, index[:, :2])[b]
        torch.testing.assert_close(near, kept.dense()[b][index[b]][:, index[b, :2]], rtol=0, atol=0)


def test_scaling_a_row_does_not_depend_on_other_rows() -> None:
    """One needs more steps than the other."""
    visual = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0)).double()
    pairs = pairwise.SelfPMI(normalizers.Softmax(0.1), "sinkhorn")
    both = pairs.table(tp.Features(visual)).dense()
    for b in range(2):
        torch.testing.assert_close(both[b], pairs.table(tp.Features(visual[b : b + 1])).dense()[0], rtol=0, atol=1e-12)


def test_uniform_marginal_is_not_the_rows_own() -> None:
    f = tp.Features(torch.tensor([[[1.0, 0], [1, 0], [0, 1]]], dtype=torch.float64))
    table = pairwise.SelfPMI(normalizers.Softmax(1)).table(f).dense()[0]
    assert (table.exp().mean(0) / 3).tolist() == pytest.approx([0.352, 0.352, 0.296], abs=1e-3)
    assert [float(table[0, 2]), float(table[2, 0])] == pytest.approx([-0.763, -0.453], abs=1e-3)


@given(features(batch=(1, 2), n=(2, 7), t=None, d=3, dtype=torch.float64), st.sampled_from(MARGINALS))
def test_columns_are_the_tables(f: tp.Features, marginal: Any) -> None:
    table = pairwise.SelfPMI(normalizers.Softmax(0.2), marginal).table(f)
    for j in range(f.n_visual):
        if bool(f.valid()[:, j].all()):
            column = table.column(torch.full((f.batch,), j))
            torch.testing.assert_close(column[f.valid()], table.dense()[:, :, j][f.valid()], rtol=0, atol=1e-9)


@pytest.mark.parametrize("marginal", MARGINALS)
@pytest.mark.parametrize("normalizer", [normalizers.Softmax(0.1), normalizers.MinMax()])
@pytest.mark.parametrize("block", [1, 5, 64])
def test_blockwise_equals_dense(
    monkeypatch: pytest.MonkeyPatch, marginal: Any, normalizer: tp.Normalizer, block: int
) -> None:
    if isinstance(normalizer, normalizers.MinMax) and marginal in ("stationary", "sinkhorn"):
        with pytest.raises(ConfigError, match="softmax"):
            pairwise.SelfPMI(normalizer, marginal)
        return
    mask = torch.ones(2, 23, dtype=torch.bool)
    mask[1, [0, 7, 22]] = False
    f = random_features(5, 2, 23, 3, 6, visual_mask=mask)
    pairs = pairwise.SelfPMI(normalizer, marginal)
    dense = pairs.table(f).dense()
    monkeypatch.setattr(pairwise, "DENSE_LIMIT", 8)
    monkeypatch.setattr(pairwise, "BLOCK", block)
    table = pairs.table(f)
    assert table.cosine.gram is None
    # -inf (an impossible outcome) is clamped to a large negative number; relative there
    for j in (1, 2, 21):
        got, want = table.column(torch.tensor([j, j])), dense[:, :, j]
        torch.testing.assert_close(got[mask], want[mask], rtol=1e-9, atol=1e-9)


class LargestTensor(TorchDispatchMode):
    """Remember the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor):
                self.numel = max(self.numel, value.numel())
        return result


@pytest.mark.parametrize("marginal", MARGINALS)
@pytest.mark.parametrize("optimizer", ["vectorized", "lazy"])
def test_above_the_limit_no_square_table_is_made(
    monkeypatch: pytest.MonkeyPatch, marginal: Any, optimizer: Any
) -> None:
    n, block = 200, 16
    f = random_features(6, 1, n, 5, 8)
    strategy = tp.build("mi-pruner", marginal=marginal, optimizer=optimizer)
    with LargestTensor() as below:
        want = strategy.select(f, 6)
    assert below.numel >= n * n, "the recorder sees nothing"
    monkeypatch.setattr(pairwise, "DENSE_LIMIT", n - 1)
    monkeypatch.setattr(pairwise, "BLOCK", block)
    with LargestTensor() as above:
        got = strategy.select(f, 6)
    assert above.numel <= n * block
    assert got.order.tolist() == want.order.tolist()


# --- compositions -----------------------------------------------------------------------------------------------


def two_stage(scores: Tensor, salience: Tensor, keep: Any, *, fill: Any = None, **options: Any) -> tp.Selection:
    selector = TwoStage(GivenScores(salience), fill or TopK(), **options)
    return tp.Strategy(GivenScores(scores), selector).select(blank_features(*scores.shape), keep)


def test_two_stage_takes_salient_tokens_then_fills() -> None:
    salience = torch.tensor([[5.0, 4, 3, 2, 1, 0]])
    scores = torch.tensor([[9.0, 8, 0, 1, 2, 3]])
    assert two_stage(scores, salience, 4).order.tolist() == [[0, 1, 5, 4]]
    assert two_stage(scores, salience, 3).order.tolist() == [[0, 1, 5]], "int(0.5 * 3) = 1 is salient"
    assert two_stage(scores, salience, 3, share=0).order.tolist() == [[0, 1, 5]]
    assert two_stage(scores, salience, 3, share=1.0).order.tolist() == [[0, 1, 2]]
    assert two_stage(scores, salience, 1).order.tolist() == [[0]]


@given(tied_problems(), st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.booleans(), st.sampled_from(OPTIMIZERS))
def test_two_stage_is_its_rounds(
    case: tuple[Tensor, Tensor, tuple[int, ...], Tensor, Tensor | None], share: float, seed: bool, optimizer: Any
) -> None:
    scores, table, counts, available, _ = case
    salience = scores.flip(1)
    fill = Greedy(MaximalMarginalRelevance(0.5, GivenPairs(table)), optimizer)
    selector = TwoStage(GivenScores(salience), fill, share, seed)
    order = selector.select(problem(scores, counts, available))
    assert order.shape == (len(counts), max(counts))
    for b, count in enumerate(counts):
        first = int(share * count)
        ranked = sorted((i for i in range(scores.shape[1]) if available[b, i]), key=lambda i: (-salience[b, i], i))
        salient = ranked[:first]
        handicap = [
            s if a and i not in salient else -1e6
            for i, (s, a) in enumerate(zip(scores[b].tolist(), available[b].tolist(), strict=True))
        ]
        rest = reference.greedy(handicap, table[b].tolist(), 0.5, count - first, salient if seed else ())
        assert rows(order)[b] == salient + rest.order


def test_two_stage_seeds_redundancy_with_the_first_round() -> None:
    table = torch.zeros(1, 4, 4)
    table[0, 1, 0] = 10.0  # token 1 repeats token 0
    fill = Greedy(MaximalMarginalRelevance(0.5, GivenPairs(table)))
    scores, salience = torch.tensor([[0.0, 2, 1, 0]]), torch.tensor([[9.0, 0, 0, 0]])
    assert two_stage(scores, salience, 2, fill=fill).order.tolist() == [[0, 2]]
    assert two_stage(scores, salience, 2, fill=fill, seed_redundancy=False).order.tolist() == [[0, 1]]


def test_two_stage_holds_salience_to_the_rules_of_scores() -> None:
    class Distance(GivenScores):
        higher_is_better = False

    values = torch.tensor([[3.0, 1.0, 2.0]])
    strategy = tp.Strategy(GivenScores(torch.zeros(1, 3)), TwoStage(Distance(values), TopK(), 1.0))
    assert strategy.select(blank_features(1, 3), 2).order.tolist() == [[1, 2]]
    with pytest.raises(NonFiniteError, match="GivenScores"):
        two_stage(torch.zeros(1, 3), torch.tensor([[0.0, math.nan, 1.0]]), 2)
    with pytest.raises(FeatureError, match=r"shape \(1, 3\)"):
        two_stage(torch.zeros(1, 3), torch.zeros(1, 4), 2)


def test_scores_where_lower_is_better() -> None:
    class Distance(GivenScores):
        higher_is_better = False

    strategy = tp.Strategy(Distance(torch.tensor([[3.0, 1.0, 2.0]])))
    assert strategy.select(blank_features(1, 3), 2).order.tolist() == [[1, 2]]


@given(ragged_features(n=9, frames=3), st.sampled_from([1, 3]), st.sampled_from([0.5, 1.0, 1]), LAMBDAS.filter(bool))
def test_frames_are_units_of_their_own(f: tp.Features, frames: int, keep: float, lam: float) -> None:
    per = 9 // frames
    strategy = tp.build("mi-pruner", lam=lam)
    selection = strategy.select(f.replace(grid=tp.Grid(1, per, frames)), keep, unit="frame")
    assert selection.indices.shape == (f.batch, max(selection.counts.tolist()))
    for b in range(f.batch):
        want = []
        for frame in range(frames):
            part, place = alone(f, b, slice(frame * per, (frame + 1) * per))
            assume(traces(part, tau=0.1, lam=lam, keep=[len(place)])[0].lead > 1e-8)
            want += [place[i] for i in strategy.select(part, keep).row(0)]
        assert selection.row(b) == want


def test_frames_of_signals_and_own_layouts() -> None:
    """Scores that are a strided view of an input; budgets one by one."""
    attention = torch.tensor([[0.0, 1, 2, 3, 4, 5], [5.0, 4, 3, 2, 1, 0]]).mT.contiguous().mT
    f = tp.Features(torch.ones(2, 6, 3), received_attention=attention, grid=tp.Grid(1, 2, frames=3))
    selection = tp.build("attention").select(f, 1, unit="frame")
    assert selection.indices.tolist() == [[1, 3, 5], [0, 2, 4]]
    assert torch.equal(selection.scores, attention)
    uneven = tp.build("attention").select(f, [1, 2, 1, 2, 1, 1], unit="frame")
    assert uneven.indices.tolist() == [[1, 2, 3, 5], [0, 1, 2, 4]]
    assert tp.build("attention").select(f, tp.Budget(5, "frame", clip=True)).counts.tolist() == [6, 6]


def test_minmax_tables_are_finite_and_keep_relevance_in_the_choice() -> None:
    """Every row has an outcome of probability 0; its -inf must not make gains infinite."""
    f = random_features(8, 2, 10, 4, 5)
    table = pairwise.SelfPMI(normalizers.MinMax()).table(f).dense()
    assert bool(table.isfinite().all())
    assert bool((table < -100).any(-1).all())
    strategy = tp.build("mi-pruner", normalizer="minmax")
    for optimizer in OPTIMIZERS:
        other = tp.build("mi-pruner", normalizer="minmax", optimizer=optimizer)
        assert torch.equal(other.select(f, 10).order, strategy.select(f, 10).order)
    for b in range(2):
        scores = strategy.select(f, 2).scores
        assert scores is not None
        first, second = strategy.select(f, 2).order[b].tolist()
        impossible = [i for i in range(10) if float(table[b, i, first]) < -100]
        if impossible:
            assert second == max(impossible, key=lambda i: float(scores[b, i]))


def test_random_is_reproducible_and_differs_between_rows_and_seeds() -> None:
    f = tp.Features(torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0)))
    first = tp.build("random").select(f, 10)
    assert torch.equal(first.order, tp.build("random", seed=0).select(f, 10).order)
    assert first.row(0) != first.row(1)
    assert first.row(0) != tp.build("random", seed=1).select(f, 10).row(0)
    state = torch.random.get_rng_state()
    tp.build("random").select(f, 10)
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator was used"


# --- degenerate relevance ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("lam", [0.5, 1.0])
@pytest.mark.parametrize("normalizer", ["softmax", "minmax"])
@pytest.mark.parametrize("copies", [1, 5])
def test_text_that_says_nothing_warns_once_and_still_ranks(lam: float, normalizer: str, copies: int) -> None:
    f = random_features(9, 2, 60, 1, 24)
    f = tp.Features(f.visual.float(), f.text.float().repeat(1, copies, 1))
    strategy = tp.build("mi-pruner", lam=lam, normalizer=normalizer)
    with pytest.warns(DegenerateRelevanceWarning, match="cosine") as caught:
        selection = strategy.select(f, 8)
    assert len(caught) == 1
    cosine = scorers.TextSimilarity().score(f)
    assert selection.order[:, 0].tolist() == cosine.argmax(1).tolist()
    assert all(selection.row(b) != list(range(8)) for b in range(2))
    if lam == 1:
        assert torch.equal(selection.order, top_k(cosine, (8, 8), f.valid()))


@pytest.mark.parametrize("keep", [6, 9, 16])
def test_text_of_zeros_keeps_tokens_that_lie_evenly(keep: int) -> None:
    n = 60
    f = tp.Features(torch.randn(2, n, 8), torch.zeros(2, 3, 8))
    with pytest.warns(DegenerateRelevanceWarning):
        selection = tp.build("mi-pruner", lam=1).select(f, keep)
    gaps = selection.indices.diff(dim=1)
    assert bool((gaps >= n // keep // 2).all())
    assert bool((gaps <= 2 * -(-n // keep)).all())


def test_a_prior_does_not_hide_degenerate_relevance() -> None:
    f = random_features(9, 1, 12, 1, 6, grid=tp.Grid(3, 4))
    strategy = tp.Strategy(scorers.PMI(prior=priors.Centre()))
    with pytest.warns(DegenerateRelevanceWarning):
        strategy.select(f, 3)


@pytest.mark.parametrize("name", ["mi-pruner", "similarity", "divprune", "cdpruner"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_lowers_no_score(name: str, dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    given = {"visual": torch.randn(2, 96, 64, generator=draw), "text": torch.randn(2, 7, 64, generator=draw)}
    f = tp.Features(**given, encoder=given["visual"])
    strategy = tp.build(name)
    plain = strategy.select(f, 24)
    with torch.autocast("cpu", dtype=dtype):
        lowered = strategy.select(f, 24)
    assert torch.equal(plain.order, lowered.order)
