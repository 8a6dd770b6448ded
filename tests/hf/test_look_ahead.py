"""What a layer is asked before it runs is what it then does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import tokenprune as tp
from tests.support.llava import QUESTIONS
from tokenprune.components.layerwise.attention import AttentionRows
from tokenprune.core.errors import BudgetError, ConfigError
from tokenprune.core.schedule import LayerEvent, LayerSchedule
from tokenprune.diagnostics.doctor import diagnose
from tokenprune.zoo.tiny import tiny_llava

SIDE = 5
N = SIDE**2


def scores_of(model: Any, inputs: dict[str, Any], layer: int, *, ahead: bool) -> torch.Tensor:
    """Scores of an event that drops nothing."""
    event = LayerEvent(layer, tp.Strategy(AttentionRows()), ahead=ahead)
    with torch.no_grad(), tp.attach(model, LayerSchedule("asked", (event,)), N) as run:
        model(**inputs)
    scores = run.history[0].stages[0].selection.scores
    assert scores is not None
    return scores


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("layer", [0, 1])
def test_asked_before_it_runs_a_layer_says_what_it_then_pays(prompts: Any, attention: str, layer: int) -> None:
    model, inputs = tiny_llava(side=SIDE, layers=4, attention=attention), prompts(QUESTIONS)
    asked = scores_of(model, inputs, layer, ahead=True)
    torch.testing.assert_close(asked, scores_of(model, inputs, layer + 1, ahead=False))
    assert (asked - scores_of(model, inputs, layer, ahead=False)).abs().max() > 1e-4


def test_looking_ahead_leaves_cache_and_answer_alone(prompts: Any) -> None:
    model, inputs = tiny_llava(side=SIDE, layers=4), prompts(QUESTIONS)
    with torch.no_grad():
        plain = model(**inputs, use_cache=True)
        with tp.attach(model, "pyramiddrop", N):
            same = model(**inputs, use_cache=True)
    assert torch.equal(plain.logits, same.logits)
    lengths = [[out.past_key_values.get_seq_length(i) for i in range(4)] for out in (plain, same)]
    assert lengths[0] == lengths[1]


def test_dropping_is_masking_out_where_positions_are_kept(prompts: Any) -> None:
    model, strategy = tiny_llava(side=SIDE, layers=4), replace(tp.build("pyramiddrop"), positions="keep")
    found = diagnose(model, None, strategy, 7, prompts(QUESTIONS))
    assert found.laws.keys() == {"keep all = plain", "drop = mask out", "hooks gone"}
    assert found.healthy


def test_shares_fall_geometrically_to_the_budget() -> None:
    counts = tp.build("pyramiddrop").tokens_per_layer(576, 32, 72)
    assert counts == (576,) * 8 + (288,) * 8 + (144,) * 8 + (72,) * 8
    given = tp.build("pyramiddrop", layers=(1, 2), ratios=(0.3, 0.1))
    assert given.tokens_per_layer(144, 3, 0.1) == (144, 43, 14)
    with pytest.raises(BudgetError, match="leave 14 of 144 tokens, and 64 were asked for"):
        given.tokens_per_layer(144, 3, 64)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"layers": (0, 2)}, "layers must count from 1"),
        ({"ratios": (0.5, 0.25)}, "must be 3 shares"),
        ({"ratios": (0.5, 0.6, 0.1)}, "none larger than the one before"),
    ],
)
def test_options_that_make_no_pyramid_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        tp.build("pyramiddrop", **options)
