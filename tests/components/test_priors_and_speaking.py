"""Priors of composition on any grid, and which words speak."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import tokenprune as tp
from tokenprune.components.normalizers import Softmax
from tokenprune.components.priors import Centre, FittedPrior, GoldenRatio, Salience, Thirds
from tokenprune.components.scorers import PMI, ConditionedRelevance, Random, TextAlignment, TextSimilarity
from tokenprune.components.speaking import Speaking, text_information, text_norms
from tokenprune.core.errors import ConfigError, MissingSignalError, OptionTypeError
from tokenprune.core.features import Grid
from tokenprune.testing import features

PRIORS: list[tp.Prior] = [Centre(), Thirds(), GoldenRatio(0.1), FittedPrior(((1, 2, 3), (4, 5, 6))), Salience()]
grids = st.builds(Grid, st.integers(1, 6), st.integers(1, 6), st.integers(1, 2))


def placed(*rows: Grid) -> tp.Features:
    """Rows of different pictures, padded behind."""
    n = max(grid.size for grid in rows)
    mask = torch.arange(n) < torch.tensor([grid.size for grid in rows]).unsqueeze(1)
    attention = torch.arange(n).remainder(3).float().expand(len(rows), 2, n)  # some patches get none at all
    return tp.Features(torch.ones(len(rows), n, 2), visual_mask=mask, grid=list(rows), cls_attention=attention)


@pytest.mark.parametrize("prior", PRIORS)
@given(rows=st.lists(grids, min_size=1, max_size=3))
def test_priors_are_probabilities_of_each_row_on_its_own_grid(prior: tp.Prior, rows: list[Grid]) -> None:
    f = placed(*rows)
    log_p = prior.log_prior(f)
    assert isinstance(log_p, Tensor)
    assert log_p.exp().sum(1).tolist() == pytest.approx([1.0] * len(rows), abs=1e-5)
    assert bool(log_p[~f.valid()].isneginf().all())
    for row, grid in enumerate(rows):
        alone = prior.log_prior(placed(grid))
        assert isinstance(alone, Tensor)
        torch.testing.assert_close(log_p[row, : grid.size], alone[0])


@pytest.mark.parametrize(("prior", "away"), [(Thirds(0.2), 1 / 3), (GoldenRatio(0.1), (math.sqrt(5) - 1) / 2)])
def test_the_best_places_are_the_power_points(prior: tp.Prior, away: float) -> None:
    grid = Grid(60, 90)
    log_p = prior.log_prior(placed(grid))
    assert isinstance(log_p, Tensor)
    table = log_p[0].view(60, 90)
    torch.testing.assert_close(table, table.flip(0))
    torch.testing.assert_close(table, table.flip(1))
    quarter = table[:30, :45]
    best = divmod(int(quarter.argmax()), 45)
    # a line at a third of the side, or at 1 - 1/phi of it; from the nearer edge
    share = away if away < 0.5 else 1 - away
    assert (best[0] + 0.5) / 60 == pytest.approx(share, abs=0.03)
    assert (best[1] + 0.5) / 90 == pytest.approx(share, abs=0.03)


def test_a_fitted_prior_is_what_it_was_given_on_any_grid() -> None:
    prior = FittedPrior(((1, 2), (3, 4)))
    log_p = prior.log_prior(placed(Grid(2, 2), Grid(4, 6)))
    assert isinstance(log_p, Tensor)
    assert log_p[0, :4].exp().tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    halves = log_p[1].exp().view(4, 6)
    assert [float(halves[a : a + 2, b : b + 3].sum()) for a in (0, 2) for b in (0, 3)] == pytest.approx(
        [0.1, 0.2, 0.3, 0.4]
    )
    assert float(FittedPrior().log_prior(placed(Grid(3, 3))).exp().std()) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("prior", [prior for prior in PRIORS if "places" in prior.requires])
def test_places_that_are_not_known_are_asked_for(prior: tp.Prior) -> None:
    with pytest.raises(MissingSignalError, match="'places' is needed"):
        prior.log_prior(tp.Features(torch.ones(1, 4, 2)))


@pytest.mark.parametrize("weights", [(), ((),), ((1, 2), (3,)), ((0,),), ((-1,),), ((math.inf,),)])
def test_weights_of_no_prior_are_refused(weights: Any) -> None:
    with pytest.raises((ConfigError, OptionTypeError), match="weights"):
        FittedPrior(weights)


# --- which words speak -----------------------------------------------------------------------------------------------


@given(features(n=(2, 8), t=(1, 5)))
def test_information_is_that_of_a_divergence(f: tp.Features) -> None:
    found = text_information(f, Softmax(0.1))
    n = torch.tensor(f.counts()).double()
    assert bool((found >= 0).all())
    assert bool((found.double() <= n.log().unsqueeze(1) + 1e-4).all())
    same = f.replace(visual=f.visual[:, :1].expand_as(f.visual).clone(), visual_mask=None)
    assert float(text_information(same, Softmax(0.1)).max()) <= 1e-4


@pytest.mark.parametrize("inner", [PMI(), TextSimilarity(), TextAlignment(), ConditionedRelevance()])
@given(f=features(n=(2, 6), t=(1, 5)), share=st.floats(0.05, 1), by=st.sampled_from(["information", "norm"]))
@pytest.mark.filterwarnings("ignore::tokenprune.core.errors.DegenerateRelevanceWarning")
def test_silent_words_are_as_if_never_said(inner: tp.Scorer, f: tp.Features, share: float, by: Any) -> None:
    scorer = Speaking(inner, share, by)
    speakers = scorer.speakers(f)
    real = torch.ones_like(speakers) if f.text_mask is None else f.text_mask
    counts = real.sum(1)
    assert not bool((speakers & ~real).any())
    assert speakers.sum(1).tolist() == [max(1, math.ceil(share * int(n) - 1e-9)) for n in counts]
    whole = scorer.score(f)
    for row in range(f.batch):
        said = f.text[row : row + 1, speakers[row]]
        alone = tp.Features(
            f.visual[row : row + 1],
            said,
            visual_mask=None if f.visual_mask is None else f.visual_mask[row : row + 1],
        )
        torch.testing.assert_close(whole[row], inner.score(alone)[0], atol=1e-4, rtol=1e-4)


@given(features(n=(2, 6), t=(1, 5)))
@pytest.mark.filterwarnings("ignore::tokenprune.core.errors.DegenerateRelevanceWarning")
def test_where_all_speak_nothing_changes(f: tp.Features) -> None:
    assert torch.equal(Speaking(share=1).score(f), PMI().score(f))


def test_a_word_that_every_place_calls_for_is_silent_first() -> None:
    visual = torch.eye(4).unsqueeze(0)
    text = torch.stack([torch.ones(4), torch.eye(4)[1], torch.eye(4)[2]]).unsqueeze(0)
    f = tp.Features(visual, text)
    assert Speaking(share=0.6).speakers(f).tolist() == [[False, True, True]]
    sinks = tp.Features(visual, torch.stack([torch.eye(4)[0] * 100, torch.eye(4)[1], torch.eye(4)[2]]).unsqueeze(0))
    assert Speaking(share=0.6, by="norm").speakers(sinks).tolist() == [[False, True, True]]
    assert text_norms(sinks).argmin().tolist() == 0


def test_what_reads_no_text_has_no_words_to_silence() -> None:
    with pytest.raises(OptionTypeError, match="reads the text"):
        Speaking(Random())
    with pytest.raises(ConfigError, match="share"):
        Speaking(share=0)
