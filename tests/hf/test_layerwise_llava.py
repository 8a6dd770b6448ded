"""Golden laws of pruning between layers, on a tiny LLaVA with random weights.

Two references are written here from scratch: a full-length eager model in which each layer gets its own mask, and a
loop over the decoder layers, one unpadded sample at a time, that shortens the sequence with plain indexing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

import tokenprune as tp
from tests.support.llava import QUESTIONS, SIDE, N
from tokenprune.core.errors import FeatureError, UnsupportedError
from tokenprune.core.schedule import LayerSchedule
from tokenprune.zoo.tiny import tiny_llava

LAYERS = 6
METHODS: dict[str, Callable[[], tp.AnyStrategy]] = {
    "fastv": lambda: tp.build("fastv", k=2),
    "sparsevlm": lambda: tp.build("sparsevlm"),
    "sparsevlm faithful": lambda: tp.build("sparsevlm", faithful=True),
    "sparsevlm v2": lambda: tp.build("sparsevlm", version="v2"),
    "dart": lambda: tp.build("dart", image_pivots=2, text_pivots=1),
    "dart faithful": lambda: tp.build("dart", image_pivots=1, text_pivots=2, faithful=True),
    "apet": lambda: tp.build("apet", basis=2),
    "apet faithful": lambda: tp.build("apet", basis=2, faithful=True),
    "autoprune": lambda: tp.build("autoprune"),
    "autoprune faithful": lambda: tp.build("autoprune", faithful=True),
}
DROPPING = ("fastv", "sparsevlm v2", "dart", "dart faithful")
"""Those that only drop tokens and keep positions: equal to masking."""
KEEPING_ALL = tuple(name for name in METHODS if "faithful" not in name or "dart" in name)

questions = pytest.mark.parametrize("asked", [QUESTIONS[:1], QUESTIONS], ids=["B=1", "B=3"])
implementations = pytest.mark.parametrize("attention", ["sdpa", "eager"])


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {attention: tiny_llava(side=SIDE, layers=LAYERS, attention=attention) for attention in ("sdpa", "eager")}


def positions_of(inputs: dict[str, Any]) -> Tensor:
    return (inputs["attention_mask"].cumsum(1) - 1).clamp_min(0)


def forward(model: Any, inputs: dict[str, Any]) -> Tensor:
    with torch.no_grad():
        return model(**inputs, position_ids=positions_of(inputs)).logits


def generate(model: Any, inputs: dict[str, Any], **options: Any) -> Tensor:
    """New tokens; the placeholder is suppressed because a model fed without cache would take it for an image."""
    torch.manual_seed(0)
    options = {"max_new_tokens": 6, "do_sample": False, "suppress_tokens": [model.config.image_token_id], **options}
    return model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :]


@implementations
@questions
@pytest.mark.parametrize("name", KEEPING_ALL)
def test_keep_all_is_the_plain_model_to_the_bit(
    models: Any,
    prompts: Any,
    name: str,
    asked: Any,
    attention: str,
) -> None:
    model, inputs = models[attention], prompts(asked)
    plain, words = forward(model, inputs), generate(model, inputs)
    with tp.attach(model, METHODS[name](), keep=N) as run:
        assert torch.equal(forward(model, inputs), plain)
        assert torch.equal(generate(model, inputs), words)
    assert run.history[0].layer_tokens == ((N,) * LAYERS,) * len(asked)
    assert run.selections[0].row(0) == list(range(N))


def masked_by_layer(model: Any, inputs: dict[str, Any], history: tp.Run) -> Tensor:
    """The full sequence, in which layers after an event cannot see what the event dropped."""
    (prefill,) = history.history
    placed = (inputs["input_ids"] == model.config.image_token_id).nonzero()[:, 1].view(len(prefill.rows), -1)
    batch, length = inputs["input_ids"].shape
    seen = inputs["attention_mask"].bool()
    masks: dict[int, Tensor] = {}
    present = [places.clone() for places in placed]
    for stage in prefill.stages:
        seen = seen.clone()
        for unit, row in enumerate(prefill.rows):
            left = present[unit][stage.selection.row(unit)]
            gone = present[unit][~torch.isin(present[unit], left)]
            seen[row, gone] = False
            present[unit] = left
        causal = torch.ones(length, length, dtype=torch.bool).tril() & seen.unsqueeze(1)
        hidden = torch.zeros(batch, 1, length, length).masked_fill(~causal.unsqueeze(1), torch.finfo(torch.float32).min)
        masks.update(dict.fromkeys(range(stage.layer + 1, LAYERS), hidden))
    with ExitStack() as stack:
        for number, layer in enumerate(model.model.language_model.layers):
            if number in masks:

                def hook(_module: Any, args: Any, kwargs: Any, number: int = number) -> Any:
                    return args, {**kwargs, "attention_mask": masks[number]}

                stack.callback(layer.register_forward_pre_hook(hook, with_kwargs=True).remove)
        return forward(model, inputs)


@implementations
@questions
@pytest.mark.parametrize("name", DROPPING)
@pytest.mark.parametrize("keep", [9, 0.5])
def test_dropping_is_masking_out_from_that_layer_on(
    models: Any,
    prompts: Any,
    name: str,
    asked: Any,
    attention: str,
    keep: Any,
) -> None:
    inputs = prompts(asked)
    keep = [5, 17, 10] if keep == 0.5 and len(asked) == 3 else keep
    with tp.attach(models[attention], METHODS[name](), keep) as run:
        pruned = forward(models[attention], inputs)[:, -1]
    assert run.tokens_after < run.tokens_before
    reference = masked_by_layer(models["eager"], inputs, run)[:, -1]
    torch.testing.assert_close(pruned, reference, rtol=0, atol=2e-5)
    plain = forward(models["eager"], inputs)[:, -1]
    assert (pruned - plain).abs().amax(1).min() > 1e-3


def by_hand(
    model: Any, schedule: LayerSchedule, inputs: dict[str, Any], row: int, keep: int
) -> tuple[Tensor, list[int]]:
    """One unpadded sample through the decoder, layer by layer: last logits, and visual tokens a layer processed."""
    real = inputs["attention_mask"][row].bool()
    ids = inputs["input_ids"][row, real]
    lm, image = model.model.language_model, ids == model.config.image_token_id
    pixels = inputs["pixel_values"][row : row + 1]
    tower = model.model.vision_tower(pixels, output_hidden_states=True, output_attentions=True)
    encoder = tower.hidden_states[-2][:, 1:]
    cls = tower.attentions[-2][:, :, 0, 1:]
    visual = model.model.multi_modal_projector(encoder)
    signals = {"encoder": encoder, "cls_attention": cls}
    chosen = schedule.enter(tp.Features(visual, **signals), keep)  # type: ignore[arg-type]
    if chosen.merged is not None:
        visual = model.model.multi_modal_projector(chosen.merged.tokens)
    signals = {"cls_attention": cls[:, :, chosen.sequence[0]]}
    start = int(image.nonzero()[0])
    embeds = model.get_input_embeddings()(ids[~image])[None]
    hidden = torch.cat([embeds[:, :start], visual, embeds[:, start:]], 1)
    n = visual.shape[1]
    context = schedule.begin((keep,), (n,), LAYERS)
    if schedule.measures:
        context = schedule.measure(tp.Features(hidden[:, start : start + n], hidden[:, start + n :]), context)
    positions = torch.arange(hidden.shape[1])[None]
    events = {layer: event for layer, event in schedule.placed(LAYERS) if layer < LAYERS - 1}
    counts = []
    for number, layer in enumerate(lm.layers):
        counts.append(n)
        length = hidden.shape[1]
        cos, sin = lm.rotary_emb(hidden, position_ids=positions)
        mask = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)[None, None]
        caught: list[Tensor] = []
        handle = layer.self_attn.register_forward_hook(lambda _m, _a, out, caught=caught: caught.append(out[1]))
        normed = layer.input_layernorm(hidden)
        hidden = layer(hidden, attention_mask=mask, position_embeddings=(cos, sin), position_ids=positions)
        handle.remove()
        if number not in events:
            continue
        event = events[number]
        keys = layer.self_attn.k_proj(normed).view(1, length, -1, layer.self_attn.head_dim).transpose(1, 2)
        keys = apply_rotary_pos_emb(keys, keys, cos, sin)[1].transpose(1, 2).flatten(2)
        states = lm.norm(hidden) if event.normed else hidden
        span, after = slice(start, start + n), slice(start + n, length)
        features = tp.Features(
            states[:, span],
            states[:, after],
            attention=caught[0][:, :, after if event.rows == "text" else slice(length - 1, length), span],
            llm_keys=keys[:, span],
            **(signals if number == 0 else {}),
            extra={
                "text_keys": keys[:, after],
                "visual_positions": positions[:, span],
                "text_positions": positions[:, after],
                "rope_frequencies": lm.rotary_emb.inv_freq[None],
            },
        )
        selection, context = event.decide(features, replace(context, layer=number))
        order = selection.sequence[0]
        new = hidden[:, span][:, order] if selection.merged is None else selection.merged.tokens
        hidden = torch.cat([hidden[:, :start], new, hidden[:, after]], 1)
        if schedule.positions == "compact":
            positions = torch.arange(hidden.shape[1])[None]
        else:
            positions = torch.cat([positions[:, :start], positions[:, span][:, order], positions[:, after]], 1)
        n = len(order)
    return model.lm_head(lm.norm(hidden))[0, -1], counts


@implementations
@pytest.mark.parametrize("name", METHODS)
def test_attach_agrees_with_a_loop_by_hand(models: Any, prompts: Any, name: str, attention: str) -> None:
    inputs, schedule, keep = prompts(QUESTIONS), METHODS[name](), [11, 7, 4]
    assert isinstance(schedule, LayerSchedule)
    with tp.attach(models[attention], schedule, keep) as run:
        got = forward(models[attention], inputs)[:, -1]
    with torch.no_grad():
        for row, budget in enumerate(keep):
            expected, counts = by_hand(models["eager"], schedule, inputs, row, budget)
            assert run.history[0].layer_tokens[row] == tuple(counts)
            torch.testing.assert_close(got[row], expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize("name", ["fastv", "sparsevlm", "dart", "apet"])
def test_counts_follow_the_plan(models: Any, prompts: Any, name: str) -> None:
    schedule = METHODS[name]()
    assert isinstance(schedule, LayerSchedule)
    with tp.attach(models["sdpa"], schedule, 8) as run:
        forward(models["sdpa"], prompts())
    assert run.history[0].layer_tokens == (schedule.tokens_per_layer(N, LAYERS, 8),)


@pytest.mark.parametrize(
    ("attention", "asked"), [("sdpa", QUESTIONS), ("eager", QUESTIONS[:1])], ids=["sdpa, B=3", "eager, B=1"]
)
@pytest.mark.parametrize("name", METHODS)
def test_decoding_with_a_cache_is_decoding_without(
    models: Any,
    prompts: Any,
    name: str,
    asked: Any,
    attention: str,
) -> None:
    model, inputs = models[attention], prompts(asked)
    with tp.attach(model, METHODS[name](), 7) as run:
        cached = generate(model, inputs)
        assert torch.equal(generate(model, inputs, use_cache=False), cached)
    assert len(run.history) == 2
    assert run.selections[0].indices.tolist() == run.selections[1].indices.tolist()


@pytest.mark.parametrize("name", ["fastv", "sparsevlm", "autoprune"])
@pytest.mark.parametrize(
    "mode", [{"num_beams": 3}, {"do_sample": True, "num_return_sequences": 2}], ids=["beams", "two"]
)
def test_beams_and_several_samples(models: Any, prompts: Any, name: str, mode: Any) -> None:
    model, inputs = models["sdpa"], prompts(QUESTIONS)
    plain = generate(model, inputs, **mode)
    with tp.attach(model, METHODS[name](), N) as run:
        assert torch.equal(generate(model, inputs, **mode), plain)
    with tp.attach(model, METHODS[name](), 6) as run:
        cached = generate(model, inputs, **mode)
        assert torch.equal(generate(model, inputs, **mode, use_cache=False), cached)
    assert len(run.history[0].selection.counts) == 3  # copies of a prompt are no further units


@pytest.mark.parametrize("name", ["fastv", "sparsevlm", "dart", "apet", "autoprune"])
@pytest.mark.parametrize("unit", ["image", "sample"])
def test_several_images(models: Any, prompts: Any, name: str, unit: str) -> None:
    model, inputs = models["sdpa"], prompts(QUESTIONS, images=2)
    plain = forward(model, inputs)
    with tp.attach(model, METHODS[name](), N if unit == "image" else 2 * N, unit=unit):  # type: ignore[arg-type]
        assert torch.equal(forward(model, inputs), plain)
    with tp.attach(model, METHODS[name](), 8, unit=unit) as run:  # type: ignore[arg-type]
        pruned = forward(model, inputs)[:, -1]
    assert len(run.selections[0].counts) == (6 if unit == "image" else 3)
    if name == "fastv":
        assert run.tokens_after == (48 if unit == "image" else 24)
    for row in range(3):  # rows of a batch do not meet
        one = {k: v[row : row + 1] for k, v in inputs.items() if k != "pixel_values"}
        one["pixel_values"] = inputs["pixel_values"][2 * row : 2 * row + 2]
        with tp.attach(model, METHODS[name](), 8, unit=unit):  # type: ignore[arg-type]
            torch.testing.assert_close(forward(model, one)[0, -1], pruned[row], rtol=0, atol=5e-5)


@implementations
def test_captured_attention_and_keys_are_those_of_the_eager_model(
    models: Any,
    prompts: Any,
    attention: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inputs, seen = prompts(QUESTIONS), []
    schedule = METHODS["sparsevlm"]()
    assert isinstance(schedule, LayerSchedule)
    decide = type(schedule.events[0]).decide
    monkeypatch.setattr(type(schedule.events[0]), "decide", lambda self, f, c: (seen.append(f), decide(self, f, c))[1])
    with tp.attach(models[attention], schedule, N):
        forward(models[attention], inputs)
    with torch.no_grad():
        maps = models["eager"](**inputs, position_ids=positions_of(inputs), output_attentions=True).attentions
    image = inputs["input_ids"] == 4
    real = inputs["attention_mask"].bool()
    for features, (layer, _) in zip(seen, schedule.placed(LAYERS), strict=True):
        for row in range(3):
            columns = image[row].nonzero().flatten()
            rows = (real[row] & (torch.arange(len(real[row])) > columns[-1])).nonzero().flatten()
            expected = maps[layer][row][:, rows][:, :, columns]
            torch.testing.assert_close(features["attention"][row, :, : len(rows)], expected, rtol=0, atol=1e-6)


def state(model: Any) -> dict[str, Any]:
    """Names of attributes and hooks of every module (transformers leaves hooks of its own behind)."""
    return {
        name: (set(vars(module)), list(module._forward_pre_hooks), list(module._forward_hooks))
        for name, module in model.named_modules()
    }


@implementations
@pytest.mark.parametrize("where", ["inside", "between"])
def test_everything_is_restored_after_an_exception(
    models: Any,
    prompts: Any,
    attention: str,
    where: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, inputs = models[attention], prompts()
    lm = model.model.language_model
    plain = forward(model, inputs)
    before = state(model)

    class Boom(Exception):
        pass

    def fail(*_args: Any, **_kwargs: Any) -> Any:
        raise Boom

    def run() -> None:
        with monkeypatch.context() as patch, tp.attach(model, "fastv", 5):
            assert lm.config._attn_implementation == f"tokenprune_{attention}"
            if where == "between":
                patch.setattr("tokenprune.components.layerwise.attention.AttentionRows.score", fail)
                forward(model, inputs)
            raise AssertionError if where == "between" else Boom

    with pytest.raises(Boom):
        run()
    assert lm.config._attn_implementation == attention
    assert model.config.vision_config._attn_implementation == attention
    assert state(model) == before
    assert torch.equal(forward(model, inputs), plain)


def test_a_strategy_that_reads_no_attention_leaves_the_attention_function_alone(models: Any, prompts: Any) -> None:
    model = models["sdpa"]
    with tp.attach(model, "apet", 6):
        assert model.config.text_config._attn_implementation == "sdpa"
        forward(model, prompts())


@pytest.mark.parametrize("side", ["left", "right"])
def test_loss_on_full_length_labels(models: Any, prompts: Any, side: str) -> None:
    model, inputs = models["sdpa"], prompts(QUESTIONS)
    if side == "right":
        order = inputs["attention_mask"].argsort(dim=1, descending=True, stable=True)
        inputs = inputs | {name: inputs[name].gather(1, order) for name in ("input_ids", "attention_mask")}
    after = (inputs["input_ids"] == 4).cumsum(1).eq(N) & (inputs["input_ids"] != 4) & inputs["attention_mask"].bool()
    labels = inputs["input_ids"].where(after, -100)
    with torch.no_grad():
        plain = model(**inputs, labels=labels).loss
        with tp.attach(model, "fastv", N):
            assert torch.equal(model(**inputs, labels=labels).loss, plain)
        with tp.attach(model, "fastv", 6):
            assert (model(**inputs, labels=labels).loss - plain).abs() > 1e-4
    with tp.attach(model, "sparsevlm", 6):
        model(**inputs, labels=labels).loss.backward()
    gradients = [p.grad for p in model.model.language_model.layers.parameters()]
    model.zero_grad(set_to_none=True)
    assert all(g is not None and bool(torch.isfinite(g).all()) for g in gradients)


def test_the_record_tells_each_stage(models: Any, prompts: Any) -> None:
    with tp.attach(models["sdpa"], "sparsevlm", 9) as run:
        logits = forward(models["sdpa"], prompts(QUESTIONS))
    (prefill,) = run.history
    assert [stage.layer for stage in prefill.stages] == [0, 1, 2]
    assert logits.shape[1] == prefill.sequence_after == prefill.splice.index.shape[1]
    assert prefill.tokens_after == prefill.stages[-1].tokens_after
    assert prefill.tokens_before == (N,) * 3
    assert prefill.selection.counts.tolist() == list(prefill.tokens_after)
    kept = prefill.splice.index[0, prefill.splice.slots[0]] - int(
        (prompts(QUESTIONS)["input_ids"][0] == 4).nonzero()[0]
    )
    assert sorted(kept.tolist()) == prefill.selection.row(0)


def test_prompts_without_images_are_left_alone(models: Any, processor: Any) -> None:
    model, inputs = models["sdpa"], processor(text=["what color is the dog ?"], return_tensors="pt")
    plain = generate(model, dict(inputs))
    with tp.attach(model, "fastv", 5) as run:
        generate(model, prompts_with_image(processor))
        assert torch.equal(generate(model, dict(inputs)), plain)
    assert len(run.history) == 1


def prompts_with_image(processor: Any) -> dict[str, Any]:
    from tokenprune.zoo.tiny import picture

    return dict(processor(images=[picture()], text=["USER: <image> what is this ? ASSISTANT:"], return_tensors="pt"))


def test_what_cannot_work_is_refused(models: Any, prompts: Any, processor: Any) -> None:
    model, inputs = models["sdpa"], prompts()
    with pytest.raises(UnsupportedError, match="use attach"):
        tp.prepare(model, "fastv", 5, **inputs)
    with pytest.raises(UnsupportedError, match="static cache"), tp.attach(model, "fastv", 5):
        generate(model, inputs, cache_implementation="static")
    with pytest.raises(UnsupportedError, match="7 layers"), tp.attach(tiny_llava(layers=7), tp.build("fastv", k=9), 5):
        pass
    last = prompts_with_image(processor)
    keep = ~((last["input_ids"] == 4).cumsum(1).ge(N) & (last["input_ids"] != 4))[0]
    last = last | {name: last[name][:, keep] for name in ("input_ids", "attention_mask")}
    with pytest.raises(FeatureError, match="put the question behind the image"), tp.attach(model, "sparsevlm", 5):
        forward(model, last)
    sliding = tiny_llava(layers=2)
    sliding.config.text_config.layer_types = ["sliding_attention", "full_attention"]
    with pytest.raises(UnsupportedError, match="sliding_attention"), tp.attach(sliding, "fastv", 5):
        pass
