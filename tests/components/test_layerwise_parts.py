"""Parts for methods inside the language model, each against a slow and obvious version of itself."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tokenprune as tp
from tokenprune.components.density import density_peaks
from tokenprune.components.layerwise.attention import (
    AttentionInformation,
    AttentionRows,
    JointAttention,
    Raters,
    rope_weight,
    text_relevance,
)
from tokenprune.components.layerwise.basis import (
    BasisMerge,
    FarthestPoints,
    ReconstructionError,
    WithBasis,
    farthest_points,
    reconstruction_error,
)
from tokenprune.components.layerwise.pivots import KeyNorm, PivotQuota, hash_order
from tokenprune.components.layerwise.recycle import Recycle
from tokenprune.core.ranking import TopK

SEEDS = st.integers(0, 10_000)


def draw(seed: int, *shape: int) -> torch.Tensor:
    """Small integers, so that ties and duplicates happen."""
    return torch.randint(-2, 3, shape, generator=torch.Generator().manual_seed(seed)).float()


def attention(seed: int, *shape: int) -> torch.Tensor:
    return (0.7 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).softmax(-1)


def naive_density_peaks(tokens: torch.Tensor, clusters: int) -> tuple[list[int], list[int]]:
    """Straight from the definition, in exact integers times 1/d."""
    m = len(tokens)
    square = [[float(((a - b) ** 2).sum()) for b in tokens] for a in tokens]
    density = [-sum(sorted(row)[:clusters]) for row in square]
    peak = []
    for i in range(m):
        denser = [square[i][j] for j in range(m) if density[j] > density[i]]
        gap = min(denser) if denser else max(max(row) for row in square)
        log_gap = 0.5 * math.log(gap / tokens.shape[1]) if gap > 0 else -math.inf
        peak.append(density[i] / clusters / tokens.shape[1] + log_gap)
    centres = sorted(range(m), key=lambda i: (-peak[i], i))[:clusters]
    members = [min(range(clusters), key=lambda c: (square[i][centres[c]], c)) for i in range(m)]
    for c, i in enumerate(centres):
        members[i] = c
    return centres, members


@given(SEEDS, st.integers(1, 12), st.data())
def test_density_peaks_follow_their_definition(seed: int, m: int, data: st.DataObject) -> None:
    tokens = torch.randn(m, 3, generator=torch.Generator().manual_seed(seed)).mul(8).round().div(4)
    clusters = data.draw(st.integers(1, m))
    centres, member_of = density_peaks(tokens, clusters)
    slow_centres, _ = naive_density_peaks(tokens.double(), clusters)
    assert len(set(centres.tolist())) == clusters
    assert member_of[centres].tolist() == list(range(clusters))
    distance = torch.cdist(tokens.double(), tokens[centres].double())
    others = torch.ones(m, dtype=torch.bool)
    others[centres] = False
    assert torch.allclose(distance.amin(1)[others], distance.gather(1, member_of.unsqueeze(1)).squeeze(1)[others])
    density = -torch.cdist(tokens.double(), tokens.double()).topk(clusters, largest=False).values.pow(2).mean(1)
    if len(set(density.round(decimals=9).tolist())) == m:  # without equal densities rounding decides nothing
        assert centres[0].item() == slow_centres[0]


def test_mutual_nearest_neighbours_tie_and_the_lower_index_wins() -> None:
    tokens = torch.tensor([[5.0], [0.0], [1.0], [9.0]])
    centres, _ = density_peaks(tokens, 2)
    assert centres[0] == 1
    nudged, _ = density_peaks(tokens, 2, torch.tensor([0.0, 0.0, 0.9, 0.0]))
    assert nudged[0] == 2


def test_densities_do_not_underflow() -> None:
    tokens = torch.tensor([[0.0], [100.0], [130.0], [400.0], [420.0], [425.0], [1000.0]])
    # as numbers all densities are exp(-100) or less, so 0 in float32
    assert density_peaks(tokens, 3)[0].tolist() == [4, 5, 3]


@given(SEEDS, st.integers(3, 40), st.data())
def test_recycling_keeps_tokens_and_averages_the_best_of_the_rest(seed: int, n: int, data: st.DataObject) -> None:
    keep = data.draw(st.integers(1, n))
    features = tp.Features(draw(seed, 1, n, 4), attention=attention(seed, 1, 2, 3, n))
    merger = Recycle(AttentionRows())
    selection = tp.Strategy(AttentionRows(), merger=merger).select(features, keep)
    assert selection.merged is not None
    assert selection.scores is not None
    source, tokens = selection.merged.source[0], selection.merged.tokens[0]
    assert len(source) == keep + merger.added(n - keep)
    assert torch.equal(source[:keep], selection.indices[0])
    assert torch.equal(tokens[:keep], features.visual[0, source[:keep]])
    dropped = ~selection.mask[0]
    best = merger.best_of(selection.scores[0], dropped)
    assert set(source[keep:].tolist()) <= set(best.tolist()) <= set(dropped.nonzero().flatten().tolist())
    if keep < n:
        centres, member_of = density_peaks(features.visual[0, best], len(source) - keep)
        for c, mean in enumerate(tokens[keep:]):
            torch.testing.assert_close(mean, features.visual[0, best[member_of == c]].mean(0))
        assert torch.equal(best[centres], source[keep:])


def test_rows_of_a_batch_are_recycled_apart() -> None:
    visual, weights = draw(3, 2, 30, 4), attention(3, 2, 2, 5, 30)
    mask = torch.arange(30) < torch.tensor([[30], [17]])
    strategy = tp.Strategy(AttentionRows(), merger=Recycle(AttentionRows()))
    both = strategy.select(tp.Features(visual, visual_mask=mask, attention=weights), [9, 4])
    alone = strategy.select(tp.Features(visual[1:, :17], attention=weights[1:, ..., :17]), 4)
    assert both.merged is not None
    assert alone.merged is not None
    width = alone.merged.source.shape[1]
    assert torch.equal(both.merged.source[1, :width], alone.merged.source[0])
    assert (both.merged.source[1, width:] == -1).all()
    torch.testing.assert_close(both.merged.tokens[1, :width], alone.merged.tokens[0])


@given(SEEDS, st.integers(1, 20), st.integers(1, 25), st.integers(0, 30))
def test_farthest_points_follow_their_definition(seed: int, n: int, count: int, start: int) -> None:
    tokens = draw(seed, 1, n, 3)
    valid = torch.ones(1, n, dtype=torch.bool)
    got = farthest_points(tokens, count, valid, torch.tensor([start % n]))[0].tolist()
    picks = [start % n]
    while len(picks) < min(count, n):
        gap = [min(float(((tokens[0, i] - tokens[0, j]) ** 2).sum()) for j in picks) for i in range(n)]
        picks.append(min((i for i in range(n) if i not in picks), key=lambda i: (-gap[i], i)))
    assert got == picks


def test_padding_is_no_basis_and_starts_none() -> None:
    tokens = torch.tensor([[[9.0], [0.0], [1.0], [5.0], [99.0]]])
    mask = torch.tensor([[False, True, True, True, False]])
    features = tp.Features(tokens, visual_mask=mask)
    assert FarthestPoints(4).of(features, "visual").tolist() == [[1, 3, 2, -1]]
    assert FarthestPoints(2, start=2).of(features, "visual").tolist() == [[2, 3]]
    assert FarthestPoints(2, start=4).of(features, "visual").tolist() == [[1, 3]]


@given(SEEDS, st.integers(2, 8))
def test_the_basis_reconstructs_itself_and_least_squares_the_rest(seed: int, n: int) -> None:
    tokens = torch.randn(1, n, 6, generator=torch.Generator().manual_seed(seed))
    basis = tokens[:, : n // 2]
    error = reconstruction_error(tokens, basis, 1e-9)
    assert error[0, : n // 2].max() < 1e-6
    fit = torch.linalg.lstsq(basis[0].mT.double(), tokens[0].mT.double()).solution
    expected = (tokens[0].mT - basis[0].mT.double() @ fit).norm(dim=0)
    torch.testing.assert_close(error[0], expected.float(), rtol=1e-4, atol=1e-5)


@given(SEEDS, st.integers(2, 20), st.data())
def test_dropped_tokens_are_averaged_into_the_most_similar_kept_one(seed: int, n: int, data: st.DataObject) -> None:
    keep = data.draw(st.integers(1, n))
    points = FarthestPoints(data.draw(st.integers(1, 4)))
    tokens = torch.randn(1, n, 4, generator=torch.Generator().manual_seed(seed))
    features = tp.Features(tokens)
    strategy = tp.Strategy(ReconstructionError(points), WithBasis(points), BasisMerge(points))
    selection = strategy.select(features, keep)
    assert selection.merged is not None
    order = selection.order[0].tolist()
    spared = min(points.size, n, keep - 1)
    takers, late = order[: keep - spared], order[keep - spared :]
    assert late == points.of(features, "visual")[0].tolist()[:spared]
    unit = tokens[0] / tokens[0].norm(dim=-1, keepdim=True)
    members = {i: [i] for i in order}
    for i in sorted(set(range(n)) - set(order)):
        members[takers[int((unit[takers] @ unit[i]).argmax())]].append(i)
    assert selection.merged.source[0].tolist() == sorted(order)
    expected = torch.stack([tokens[0, members[i]].mean(0) for i in sorted(order)])
    torch.testing.assert_close(selection.merged.tokens[0], expected, rtol=1e-4, atol=1e-5)


def test_overwriting_puts_basis_content_over_the_last_picks() -> None:
    tokens = torch.randn(1, 12, 4, generator=torch.Generator().manual_seed(1))
    points = FarthestPoints(3)
    basis = points.of(tp.Features(tokens), "visual")[0]
    for how in ("order", "raster"):
        selection = tp.Strategy(ReconstructionError(points), TopK(), BasisMerge(points, how)).select(  # type: ignore[arg-type]
            tp.Features(tokens), 6
        )
        assert selection.merged is not None
        late = selection.order[0, 3:] if how == "order" else selection.order[0, 3:].sort().values
        for place, content in zip(late.tolist(), basis.tolist(), strict=True):
            column = selection.merged.source[0].tolist().index(place)
            assert torch.equal(selection.merged.tokens[0, column], tokens[0, content])


@given(st.lists(st.integers(0, 5000), max_size=12, unique=True))
def test_hash_order_is_that_of_a_python_set(positions: list[int]) -> None:
    assert [positions[i] for i in hash_order(positions)] == list(set(positions))


@given(SEEDS, st.integers(2, 25), st.integers(1, 8), st.sampled_from(["rank", "hash"]), st.data())
def test_pivots_take_what_is_least_like_them(seed: int, n: int, t: int, order: str, data: st.DataObject) -> None:
    keep = data.draw(st.integers(1, n))
    visual, text = draw(seed, 1, n, 4), draw(seed + 1, 1, t, 4)
    keys, text_keys = draw(seed + 2, 1, n, 6), draw(seed + 3, 1, t, 6)
    places = torch.arange(7, 7 + n + t).unsqueeze(0)
    extra = {"text_keys": text_keys, "visual_positions": places[:, :n], "text_positions": places[:, n:]}
    features = tp.Features(visual, text, llm_keys=keys, extra=extra)
    picked = tp.Strategy(KeyNorm(), PivotQuota(3, 2, order)).select(features, keep).order[0].tolist()  # type: ignore[arg-type]

    def top(values: torch.Tensor, count: int) -> list[int]:
        return sorted(range(len(values)), key=lambda i: (-float(values[i]), i))[:count]

    image, spoken = top(keys[0].abs().sum(-1), min(3, keep)), top(text_keys[0].abs().sum(-1), 2)
    pivots = [(7 + i, visual[0, i]) for i in image] + [(7 + n + j, text[0, j]) for j in spoken]
    if order == "hash":
        ranks = {place: r for r, place in enumerate({place for place, _ in pivots})}
        pivots.sort(key=lambda pair: ranks[pair[0]])
    expected, open_ = list(image), [i for i in range(n) if i not in image]
    rest = keep - len(image)
    for number, (_, state) in enumerate(pivots):
        quota = rest // len(pivots) + (number < rest % len(pivots))
        cosine = {i: float(torch.nn.functional.cosine_similarity(visual[0, i], state, dim=0)) for i in open_}
        chosen = sorted(open_, key=lambda i: (round(cosine[i], 5), i))[:quota]
        expected += chosen
        open_ = [i for i in open_ if i not in chosen]
    if len({round(c, 5) for c in _all_cosines(visual, text)}) == n * (n + t):  # no ties that rounding could decide
        assert picked == expected
    assert len(set(picked)) == keep
    assert picked[: len(image)] == image


def _all_cosines(visual: torch.Tensor, text: torch.Tensor) -> list[float]:
    both = torch.cat([visual, text], 1)[0]
    return [float(c) for v in visual[0] for c in torch.nn.functional.cosine_similarity(v.expand_as(both), both)]


def test_pivot_rows_of_a_batch_do_not_meet() -> None:
    visual, text, keys, text_keys = draw(1, 2, 20, 4), draw(2, 2, 6, 4), draw(3, 2, 20, 8), draw(4, 2, 6, 8)
    mask, text_mask = torch.arange(20) < torch.tensor([[20], [11]]), torch.arange(6) < torch.tensor([[6], [1]])
    strategy = tp.Strategy(KeyNorm(), PivotQuota())
    both = strategy.select(
        tp.Features(visual, text, visual_mask=mask, text_mask=text_mask, llm_keys=keys, extra={"text_keys": text_keys}),
        [13, 9],
    )
    alone = strategy.select(
        tp.Features(visual[1:, :11], text[1:, :1], llm_keys=keys[1:, :11], extra={"text_keys": text_keys[1:, :1]}),
        9,
    )
    assert both.order[1, :9].tolist() == alone.order[0].tolist()
    assert both.counts.tolist() == [13, 9]


def test_raters_lie_above_the_mean_and_fall_back_to_all() -> None:
    visual, text = draw(5, 2, 9, 4), draw(6, 2, 7, 4)
    mask = torch.arange(7) < torch.tensor([[7], [4]])
    raters = Raters().measure(tp.Features(visual, text, text_mask=mask))
    weights = text_relevance(visual, text, torch.ones(2, 9, dtype=torch.bool), mask)
    torch.testing.assert_close(weights.sum(1), torch.ones(2))
    for row, t in ((0, 7), (1, 4)):
        slow = torch.stack([(text[row, :t] @ v).softmax(0) for v in visual[row]]).mean(0)
        torch.testing.assert_close(weights[row, :t], slow)
        assert raters[row].tolist() == [j < t and bool(slow[j] > slow.mean()) for j in range(7)]
    assert Raters().measure(tp.Features(visual, text[:, :1])).all()


def test_rotary_weight_is_what_all_one_vectors_get() -> None:
    frequencies = 10000.0 ** -(torch.arange(0, 16, 2) / 16)
    rows, columns = torch.tensor([[30, 31]]), torch.tensor([[0, 7, 30]])

    def rotated(position: int) -> torch.Tensor:
        angle = position * frequencies.repeat(2)
        ones = torch.ones(16)
        half = torch.cat([-ones[8:], ones[:8]])
        return ones * angle.cos() + half * angle.sin()

    weight = rope_weight(rows, columns, frequencies[None])
    for r, p in enumerate(rows[0].tolist()):
        for c, q in enumerate(columns[0].tolist()):
            assert weight[0, r, c] == pytest.approx(float(rotated(p) @ rotated(q)) / 4, rel=1e-4)


def test_far_weights_are_floored_unless_asked_otherwise() -> None:
    frequencies = (10000.0 ** -(torch.arange(0, 128, 2) / 128))[None]
    near = rope_weight(torch.tensor([[700]]), torch.arange(700)[None], frequencies)
    assert near.min() > 0.1 * math.sqrt(128)  # so the floor changes nothing in LLaVA-1.5
    far = rope_weight(torch.tensor([[3000]]), torch.arange(3000)[None], frequencies)
    assert far.min() < 0
    places = {"text_positions": torch.tensor([[3000]]), "visual_positions": torch.arange(0, 3000, 50)[None]}
    features = tp.Features(
        torch.ones(1, 60, 2),
        torch.ones(1, 1, 2),
        attention=attention(0, 1, 2, 1, 60),
        extra={**places, "rope_frequencies": frequencies},
    )
    assert AttentionRows(debias=True).score(features).min() > 0
    assert AttentionRows(debias=True, floor=0.0).score(features).min() < 0


@given(SEEDS, st.integers(1, 5), st.integers(1, 6))
def test_only_the_loudest_heads_and_the_raters_speak(seed: int, heads: int, t: int) -> None:
    weights = attention(seed, 1, 4, t, 30)[..., :9]  # the rest went to other tokens, so heads differ
    raters = torch.rand(1, t, generator=torch.Generator().manual_seed(seed)) < 0.5
    raters[0, 0] = True
    features = tp.Features(torch.ones(1, 9, 2), torch.ones(1, t, 2), attention=weights, extra={"raters": raters})
    got = AttentionRows(raters="raters", heads=heads).score(features)[0]
    heard = weights[0][:, raters[0]]
    loud = heard.sum((1, 2)).argsort(descending=True, stable=True)[:heads]
    torch.testing.assert_close(got, heard[loud].mean((0, 1)))


def test_information_is_zero_without_and_positive_with_dependence() -> None:
    flat = torch.full((1, 2, 4, 8), 1 / 8)
    sharp = torch.eye(8)[None, None, :4].expand(1, 2, -1, -1)
    told = [float(AttentionInformation().measure(tp.Features(torch.ones(1, 8, 2), attention=a))) for a in (flat, sharp)]
    assert told[0] == pytest.approx(0, abs=1e-3)
    # four rows that each name their own token tell 2 bits, in both heads
    assert told[1] == pytest.approx(2 * 2, abs=1e-2)


def test_joint_score_adds_informed_attention_to_salience() -> None:
    weights, cls = attention(7, 2, 3, 5, 10), attention(8, 2, 2, 10)
    mask = torch.arange(5) < torch.tensor([[5], [3]])
    features = tp.Features(
        torch.ones(2, 10, 2), torch.ones(2, 5, 2), text_mask=mask, attention=weights, cls_attention=cls
    )
    got = JointAttention().score(features)
    for row, t in ((0, 5), (1, 3)):
        alone = tp.Features(torch.ones(1, 10, 2), torch.ones(1, t, 2), attention=weights[row : row + 1, :, :t])
        bits = float(AttentionInformation().measure(alone)) / t
        expected = cls[row].mean(0) + 0.3 * bits * weights[row, :, :t].mean((0, 1))
        torch.testing.assert_close(got[row], expected)
