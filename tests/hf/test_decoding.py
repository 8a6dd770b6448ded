"""What layers look at while decoding: off is plain, and on is what a whole attention map says."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune as tp
from tests.support.families import batch_of, model_of
from tokenprune.components.layerwise.attention import AttentionRows
from tokenprune.components.layerwise.decoding import ChangedAttention
from tokenprune.core.errors import ConfigError, UnsupportedError
from tokenprune.core.schedule import DecodeEvent, LayerEvent, LayerSchedule
from tokenprune.hf.adapters import adapter_for

STEPS = 4
families = pytest.mark.parametrize("family", ["video_llava", "llava_onevision", "qwen2_vl", "qwen3_vl", "internvl"])


def hiding(share: float, layer: int = 1, similarity: float = 0.9, **more: Any) -> LayerSchedule:
    rule = ChangedAttention(share, similarity)
    return LayerSchedule("hiding", more.pop("events", ()), decoding=DecodeEvent(layer, rule), **more)


def decoded(model: Any, inputs: Any, strategy: Any, keep: Any = 1.0) -> Tensor:
    """Logits of each new token, (B, steps, vocabulary)."""
    with torch.no_grad(), tp.attach(model, strategy, keep):
        out = model.generate(
            **inputs, max_new_tokens=STEPS, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
    return torch.stack(out.logits, dim=1)


def plain(model: Any, inputs: Any) -> Tensor:
    with torch.no_grad():
        out = model.generate(
            **inputs, max_new_tokens=STEPS, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
    return torch.stack(out.logits, dim=1)


@families
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_off_is_plain(family: str, attention: str) -> None:
    model, inputs = model_of(family, attention), batch_of(family, "video")
    torch.testing.assert_close(decoded(model, inputs, hiding(0.0)), plain(model, inputs), rtol=0, atol=1e-4)
    # nothing counts as changed: everything is looked at
    always = hiding(0.9, similarity=-1.0)
    torch.testing.assert_close(decoded(model, inputs, always), plain(model, inputs), rtol=0, atol=1e-4)


@families
def test_off_is_the_rest_of_the_schedule(family: str) -> None:
    """Layers whose caches differ in length decode as they do without a rule."""
    model, inputs = model_of(family), batch_of(family, "video")
    event = LayerEvent(0, tp.Strategy(AttentionRows()))
    for positions in ("keep", "compact"):
        alone = LayerSchedule("alone", (event,), positions=positions)
        both = hiding(0.0, layer=2, events=(event,), positions=positions)
        torch.testing.assert_close(decoded(model, inputs, both, 7), decoded(model, inputs, alone, 7), rtol=0, atol=1e-4)


def by_hand(model: Any, inputs: Any, layer: int, share: float, similarity: float) -> Tensor:
    """Decode with whole attention maps, and masks over what layers are not to see."""
    adapter = adapter_for(model)
    visual = adapter.image_mask(inputs["input_ids"])
    layers: Any = adapter.language_model.layers
    state: dict[str, Any] = {"before": [None] * len(visual), "hidden": None}

    def note(_module: Any, _args: Any, output: Any) -> None:
        weights = output[1]
        if weights.shape[2] > 1:
            return
        state["hidden"] = torch.zeros(len(visual), weights.shape[3], dtype=torch.bool)
        for row, mine in enumerate(visual):
            places = mine.nonzero().flatten()
            now = weights[row, :, 0, places].mean(0)
            before = state["before"][row]
            alike = 0.0 if before is None else float(torch.cosine_similarity(now, before, dim=0))
            state["before"][row] = now
            if alike < similarity:
                shown = now.argsort(descending=True, stable=True)[: int(len(places) * (1 - share))]
                unseen = torch.ones(len(places), dtype=torch.bool)
                unseen[shown] = False
                state["hidden"][row, places[unseen]] = True

    def hide(number: int, _module: Any, args: Any, kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        if hidden.shape[1] > 1 or state["hidden"] is None:
            return None
        mask = kwargs.get("attention_mask")
        unseen = state["hidden"][:, None, None]
        if mask is None:
            mask = torch.zeros(len(visual), 1, 1, unseen.shape[-1])
        return args, {**kwargs, "attention_mask": mask.masked_fill(unseen, torch.finfo(torch.float32).min)}

    hooks = [layers[layer - 1].self_attn.register_forward_hook(note)]
    hooks += [
        layers[n].register_forward_pre_hook(partial(hide, n), with_kwargs=True) for n in range(layer, len(layers))
    ]
    try:
        return plain(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("family", ["qwen2_vl", "internvl"])
@pytest.mark.parametrize(("layer", "share", "similarity"), [(1, 0.7, 0.9), (2, 0.5, 0.9), (1, 0.8, 1.0)])
def test_on_is_what_whole_attention_maps_say(family: str, layer: int, share: float, similarity: float) -> None:
    model, inputs = model_of(family, "eager"), batch_of(family, "video")
    expected = by_hand(model, inputs, layer, share, similarity)
    strategy = hiding(share, layer, similarity)
    if family == "internvl":
        with torch.no_grad(), tp.attach(model, strategy, 1.0, unit="sample"):
            out = model.generate(
                **inputs, max_new_tokens=STEPS, do_sample=False, output_logits=True, return_dict_in_generate=True
            )
        got = torch.stack(out.logits, dim=1)
    else:
        got = decoded(model, inputs, strategy)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)
    assert float((expected - plain(model, inputs)).abs().max()) > 1e-2
    same = decoded(model_of(family), inputs, strategy) if family != "internvl" else got
    torch.testing.assert_close(same, expected, rtol=0, atol=1e-3)


def test_the_prompt_is_not_touched() -> None:
    model, inputs = model_of("qwen2_vl"), batch_of("qwen2_vl", "video")
    first = decoded(model, inputs, hiding(0.9))[:, 0]
    torch.testing.assert_close(first, plain(model, inputs)[:, 0], rtol=0, atol=1e-5)


def test_what_cannot_be_remembered_is_refused() -> None:
    model, inputs = model_of("qwen2_vl"), batch_of("qwen2_vl", "video")
    with tp.attach(model, "dycoke", 0.5):
        with pytest.raises(UnsupportedError, match="beams change rows"):
            model.generate(**inputs, max_new_tokens=2, num_beams=2)
        with pytest.raises(UnsupportedError, match="decoding from a cache"):
            model.generate(**inputs, max_new_tokens=3, use_cache=False)
        sampled = model.generate(**inputs, max_new_tokens=2, do_sample=True, num_return_sequences=2)
    assert len(sampled) == 2 * len(inputs["input_ids"])


def test_layers_that_do_not_exist_are_refused() -> None:
    for layer in (0, True):
        with pytest.raises(ConfigError, match=r"DecodeEvent\.layer"):
            DecodeEvent(layer, ChangedAttention())
    model = model_of("qwen2_vl")
    for layer in (99, -99):
        with (
            pytest.raises(UnsupportedError, match="acts while decoding from layer"),
            tp.attach(model, hiding(0.5, layer), 1.0),
        ):
            pass
    with pytest.raises(ConfigError, match="events is empty"):
        LayerSchedule("s", ())


@pytest.mark.parametrize("family", ["qwen2_vl", "video_llava"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_what_is_forgotten_might_as_well_not_be_in_the_cache(family: str, attention: str) -> None:
    """Cutting the caches of the layers before the event by hand gives the same next tokens."""
    model, inputs = model_of(family, attention), batch_of(family, "video", 1)
    event = LayerEvent(0, tp.Strategy(AttentionRows()))
    strategy = LayerSchedule("s", (event,), forgets=True)
    with torch.no_grad(), tp.attach(model, strategy, 4) as run:
        out = model.generate(
            **inputs, max_new_tokens=STEPS, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
    expected = torch.stack(out.logits, dim=1)
    with torch.no_grad(), tp.attach(model, LayerSchedule("s", (event,)), 4) as run:
        cache = model(**inputs, use_cache=True).past_key_values
    kept = run.history[0].splice.index[0]
    layers: Any = adapter_for(model).language_model.layers
    cache.layers[0].keys, cache.layers[0].values = (
        x[:, :, kept] for x in (cache.layers[0].keys, cache.layers[0].values)
    )
    assert len({layer.keys.shape[2] for layer in cache.layers}) == 1
    assert len(cache.layers) == len(layers)
    length, token = inputs["input_ids"].shape[1], expected[:, 0].argmax(-1, keepdim=True)
    # the last three rows count time, height and width
    after = adapter_for(model).position_ids(inputs, inputs["attention_mask"].bool())[-3:].amax() + 1
    for step in range(1, STEPS):
        ids = (after + step - 1).view(1, 1)
        if adapter_for(model).multi_axis:
            ids = ids.expand(3, 1, 1)
        with torch.no_grad():
            logits = model(input_ids=token, past_key_values=cache, position_ids=ids, use_cache=True).logits[:, -1]
        torch.testing.assert_close(logits, expected[:, step], rtol=0, atol=1e-3)
        token = expected[:, step].argmax(-1, keepdim=True)
    assert length > len(kept)
    remembered = decoded(model, inputs, LayerSchedule("s", (event,)), 4)
    assert float((remembered[:, 1:] - expected[:, 1:]).abs().max()) > 1e-3


def test_forgetting_and_hiding_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="cannot be combined"):
        hiding(0.5, events=(LayerEvent(0, tp.Strategy(AttentionRows())),), forgets=True)


def test_positions_inside_may_differ_from_those_before() -> None:
    for spec in ("prunevid", {"strategy": "holitom", "inner": 0.5}):
        schedule = tp.build(spec)
        assert isinstance(schedule, LayerSchedule)
        assert (schedule.positions, schedule.positions_inside) == ("compact", "keep")
    event = LayerEvent(0, tp.Strategy(AttentionRows()))
    assert LayerSchedule("s", (event,), positions="compact").positions_inside == "compact"
    with pytest.raises(ConfigError, match="inside"):
        LayerSchedule("s", (event,), inside="move")  # type: ignore[arg-type]
