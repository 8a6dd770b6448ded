"""Compositions that say where they act and which words they read."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tokenprune as tp
from tokenprune.core.errors import ConfigError, OptionTypeError, UnknownOptionError, UnsupportedError
from tokenprune.core.schedule import LayerEvent, LayerSchedule
from tokenprune.core.strategy import Strategy

GREEDY = {"name": "greedy", "objective": {"name": "mmr", "lam": 0.4}}


@pytest.mark.parametrize("layer", [0, 2, -2])
def test_the_same_parts_act_after_a_layer(layer: int) -> None:
    parts = {"scorer": "pmi", "selector": GREEDY, "positions": "compact"}
    inside, before = tp.build({**parts, "after_layer": layer}), tp.build(parts)
    assert isinstance(before, Strategy)
    assert inside == LayerSchedule("custom", (LayerEvent(layer, before),), positions="compact")
    features = tp.Features(visual=torch.randn(2, 9, 4), text=torch.randn(2, 3, 4))
    if layer >= 0:
        assert torch.equal(inside.select(features, 4).order, before.select(features, 4).order)


def test_without_a_layer_they_act_in_front_of_the_model() -> None:
    assert tp.build({"scorer": "pmi", "after_layer": None}) == tp.build({"scorer": "pmi"})


@pytest.mark.parametrize(
    ("more", "error", "says"),
    [
        ({"after_layer": "1"}, OptionTypeError, "number of a decoder layer"),
        ({"after_layer": True}, OptionTypeError, "number of a decoder layer"),
        ({"after_layer": 1.0}, OptionTypeError, "number of a decoder layer"),
        ({"after_layr": 1}, UnknownOptionError, "after_layer"),
        ({"after_layer": 1, "stage": "information-flow"}, ConfigError, "one of the two"),
        ({"after_layer": 1, "text": "all"}, ConfigError, "all text behind the picture"),
        ({"after_layer": 1, "selector": {"name": "adaptive", "rule": "captured-mass"}}, ConfigError, "are fixed"),
        ({"text": "al"}, ConfigError, "'all'"),
    ],
)
def test_what_cannot_be_had_is_told(more: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        tp.build({"scorer": "pmi", **more})


def test_a_layer_that_a_model_lacks_is_told() -> None:
    with pytest.raises(UnsupportedError, match="which a language model with 4 layers"):
        tp.build({"scorer": "pmi", "after_layer": 6}).tokens_per_layer(9, 4, 3)


def test_a_schedule_reads_the_words_of_what_acts_before_it() -> None:
    before = tp.build({"scorer": "pmi", "text": "all"})
    assert isinstance(before, Strategy)
    event = LayerEvent(0, Strategy(before.scorer))
    assert LayerSchedule("s", (event,), before=before).text == "all"
    assert LayerSchedule("s", (event,)).text is None
