"""Signals of any encoder layer: what eager attention and the layer's own projections say, read only when asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune as tp
from tests.support.llava import QUESTIONS, N
from tokenprune.components.salience import SignalScore
from tokenprune.core.errors import ConfigError, MissingSignalError, UnknownNameError, UnsupportedError
from tokenprune.core.features import signal_of
from tokenprune.core.layer_names import at_layer, layer_index, split_layer
from tokenprune.hf.adapters import Observation, adapter_for
from tokenprune.hf.attention_tap import _HANDLE
from tokenprune.zoo.tiny import tiny_llava

LAYERS = 5


def read(model: Any, inputs: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    """Signals of all pictures, stacked."""
    adapter, seen = adapter_for(model), Observation()
    with torch.no_grad(), adapter.observe(frozenset(names), seen):
        adapter.encode("image", pixel_values=inputs["pixel_values"])
    return {name: torch.stack([block.signals[name] for block in seen.blocks["image"]]) for name in names}


@pytest.mark.parametrize("layer", range(LAYERS))
def test_every_layer_says_what_it_does(prompts: Any, layer: int) -> None:
    model, inputs = tiny_llava(side=5, encoder_layers=LAYERS), prompts(QUESTIONS)
    kinds = sorted(name for name in adapter_for(model).on_demand if signal_of(name).layered)
    found = read(model, inputs, *(f"{kind}@{layer}" for kind in kinds))
    found = {split_layer(name)[0]: value for name, value in found.items()}
    tower = model.model.vision_tower
    tower.set_attn_implementation("eager")
    made: dict[str, Tensor] = {}
    attention = tower.encoder.layers[layer].self_attn
    for name in ("q_proj", "k_proj"):
        getattr(attention, name).register_forward_hook(lambda _m, _a, out, name=name: made.update({name: out}))
    with torch.no_grad():
        out = tower(inputs["pixel_values"], output_attentions=True, output_hidden_states=True)
    rows = out.attentions[layer]
    mean = rows.mean(1)
    queries, keys = (made[name].unflatten(2, (2, -1)).transpose(1, 2) for name in ("q_proj", "k_proj"))
    wide = made["q_proj"][:, :1] @ made["k_proj"].mT / made["k_proj"].shape[-1] ** 0.5
    expected = {
        "cls_attention": rows[:, :, 0, 1:],
        "cls_wide_attention": wide.softmax(-1)[:, 0, 1:],
        "received_attention": mean[:, 1:, 1:].sum(1) - mean[:, 1:, 1:].diagonal(0, 1, 2),
        "mean_attention": mean.mean(1)[:, 1:],
        "hidden": out.hidden_states[layer + 1][:, 1:],
        "keys": keys.mean(1)[:, 1:],
        "queries": queries.mean(1)[:, 1:],
        "head_keys": keys[:, :, 1:],
        "head_queries": queries[:, :, 1:],
        "wide_keys": made["k_proj"][:, 1:],
        "wide_queries": made["q_proj"][:, 1:],
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5, msg=name)


def test_a_layer_has_several_names(prompts: Any) -> None:
    """The layer whose output is projected is the last but one."""
    model, inputs = tiny_llava(side=5, encoder_layers=LAYERS), prompts(QUESTIONS)
    found = read(model, inputs, "keys", "keys@3", "keys@-2", "keys@4/5", "keys@-1", "hidden", "encoder")
    for name in ("keys@3", "keys@-2", "keys@4/5"):
        assert torch.equal(found[name], found["keys"])
    assert not torch.equal(found["keys@-1"], found["keys"])
    assert torch.equal(found["hidden"], found["encoder"])


def test_only_the_layer_that_is_asked_for_is_hooked(prompts: Any) -> None:
    model, inputs = tiny_llava(side=5, encoder_layers=LAYERS), prompts()
    layers = model.model.vision_tower.encoder.layers
    tapped: list[set[int]] = []
    layers[0].register_forward_hook(
        lambda *_: tapped.append({i for i, layer in enumerate(layers) if _HANDLE in vars(layer.self_attn)})
    )
    for names in (("visual",), ("keys@1",), ("keys@1", "mean_attention@-1"), ("hidden@2",)):
        read(model, inputs, *(name for name in names if name != "visual"))
    assert tapped == [set(), {1}, {1, 4}, set()]


@pytest.mark.parametrize(
    ("layer", "depth", "index"),
    [("9/24", 24, 8), ("9/24", 12, 3), ("9/24", 3, 0), ("1/24", 3, 0), ("24/24", 3, 2), ("-1", 7, 6), ("0", 1, 0)],
)
def test_layers_to_scale(layer: str, depth: int, index: int) -> None:
    assert layer_index(layer, depth) == index


def test_layers_that_do_not_exist_are_refused(prompts: Any) -> None:
    for layer in ("3", "-4"):
        with pytest.raises(UnsupportedError, match=r"no layer -?\d in an encoder of 3 layers: give -3\.\.2"):
            layer_index(layer, 3)
    for name in ("keys@", "keys@x", "keys@0/24", "keys@25/24", "keys@1@2"):
        with pytest.raises(UnknownNameError, match="is no layer of the encoder"):
            split_layer(name)
    assert at_layer("keys", None) == "keys"
    assert at_layer("keys", -1) == "keys@-1"
    with pytest.raises(UnknownNameError, match="'visual' exists once, not at layer '1'; layered ones: keys"):
        signal_of("visual@1")
    with pytest.raises(ConfigError, match="'wide_keys@1' is b n w; one number a token is needed"):
        SignalScore("wide_keys@1")
    strategy = tp.Strategy(SignalScore("mean_attention@9"))
    with (
        pytest.raises(MissingSignalError, match=r"needs 'mean_attention@9'.*at any of 3 encoder layers"),
        tp.attach(tiny_llava(side=5), strategy, 4),
    ):
        pass


def test_layer_signals_are_checked_like_any() -> None:
    visual = torch.randn(2, 5, 4)
    features = tp.Features(visual, **{"keys@-1": torch.randn(2, 5, 3), "cls_attention@0": torch.rand(2, 5)})  # type: ignore[arg-type]
    assert features["cls_attention@0"].shape == (2, 1, 5)
    assert features.replace(visual=visual)["keys@-1"].shape == (2, 5, 3)
    with pytest.raises(tp.FeatureError if hasattr(tp, "FeatureError") else Exception, match="'n' is 4 there but 5"):
        tp.Features(visual, **{"keys@-1": torch.randn(2, 4, 3)})  # type: ignore[arg-type]
    assert tp.Features(visual, grid=tp.Grid(1, 5))["places"][0].tolist() == [[0, 0, i] for i in range(5)]
    with pytest.raises(MissingSignalError, match="'places' is needed"):
        tp.Features(visual)["places"]


def test_beside_others_with_budgets_of_their_own(prompts: Any) -> None:
    """A batch of three with three budgets is what its prompts are alone."""
    model, inputs = tiny_llava(side=5, encoder_layers=LAYERS), prompts(QUESTIONS)
    for name in ("hiprune", "prumerge", "prumerge-plus", "scope"):
        with torch.no_grad(), tp.attach(model, name, [3, N, 9]) as run:
            model(**inputs)
        for b, keep in enumerate((3, N, 9)):
            alone = {n: inputs[n][b : b + 1] for n in ("input_ids", "attention_mask", "pixel_values")}
            with torch.no_grad(), tp.attach(model, name, keep) as one:
                model(**alone)
            assert one.selections[0].row(0) == run.selections[0].row(b)
