"""Golden laws of the LLaVA adapter: keep-all equals the plain model, dropping equals masking out."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from transformers import AttentionInterface, DynamicCache, GenerationConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward

import tokenprune as tp
from tests.support.llava import MODES, QUESTIONS, SIDE, N, generate
from tokenprune.core.errors import (
    BudgetError,
    FeatureError,
    MissingSignalError,
    NestedAttachError,
    SecondTurnError,
    UnsupportedError,
)
from tokenprune.hf.encoded import takes_encoded
from tokenprune.zoo.tiny import tiny_inputs, tiny_llava, tiny_model

STRATEGIES = ("random", "similarity", "attention", "mi-pruner", "mi-attention")


def masked_reference(model: Any, inputs: dict[str, Any], selection: tp.Selection) -> torch.Tensor:
    """Logits of the last token of the full prompt with the dropped tokens masked out; positions as they were."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"].clone()
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    placed = (ids == model.config.image_token_id).nonzero().view(len(selection.counts), -1, 2)
    for places, kept in zip(placed, selection.mask, strict=True):
        dropped = places[~kept]
        mask[dropped[:, 0], dropped[:, 1]] = 0
    with torch.no_grad():
        return model(**{**inputs, "attention_mask": mask, "position_ids": positions}).logits[:, -1]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("questions", [QUESTIONS[:1], QUESTIONS], ids=["B=1", "B=3"])
def test_keep_all_is_the_plain_model(model: Any, processor: Any, prompts: Any, questions: Any, mode: str) -> None:
    inputs = prompts(questions)
    plain = generate(model, inputs, mode)
    with tp.attach(model, "mi-pruner", keep=N, processor=processor):
        assert torch.equal(generate(model, inputs, mode), plain)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_keep_all_changes_no_bit_of_the_logits(model: Any, prompts: Any, strategy: str) -> None:
    inputs = prompts(QUESTIONS, images=2)
    with torch.no_grad():
        plain = model(**inputs).logits
        with tp.attach(model, strategy, keep=N):
            assert torch.equal(model(**inputs).logits, plain)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("keep", [7, [3, 11, 1], 0.3])
def test_dropping_is_masking_out(processor: Any, prompts: Any, strategy: str, keep: Any, attention: str) -> None:
    model = tiny_llava(side=5, attention=attention)
    inputs = prompts(QUESTIONS)
    positions = (inputs["attention_mask"].cumsum(1) - 1).clamp_min(0)
    with torch.no_grad(), tp.attach(model, strategy, keep, processor=processor) as run:
        pruned = model(**inputs, position_ids=positions).logits[:, -1]
    (selection,) = run.selections
    assert selection.counts.tolist() == list(tp.Budget(keep).counts([N] * 3))
    assert run.tokens_before == 3 * N
    assert run.tokens_after == int(selection.counts.sum())
    torch.testing.assert_close(pruned, masked_reference(model, inputs, selection), rtol=0, atol=1e-5)


def test_no_cache_decides_once_and_agrees_with_the_cache(model: Any, processor: Any, prompts: Any) -> None:
    inputs = prompts(QUESTIONS, images=2)
    for unit in ("image", "sample"):
        with tp.attach(model, "mi-pruner", 6, unit=unit, processor=processor) as run:
            cached = generate(model, inputs)
            assert torch.equal(generate(model, inputs, "no cache"), cached)
        assert len(run.history) == 2
        assert run.tokens_after == (36 if unit == "image" else 18)


def test_pruning_changes_the_answer_and_records_it(model: Any, prompts: Any) -> None:
    inputs = prompts()
    with torch.no_grad():
        plain = model(**inputs).logits[:, -1]
        with tp.attach(model, "mi-pruner", keep=4) as run:
            pruned = model(**inputs).logits[:, -1]
    assert (pruned - plain).abs().max() > 1e-3
    assert (run.tokens_before, run.tokens_after) == (N, 4)
    prefill = run.history[0]
    assert prefill.sequence_before - prefill.sequence_after == N - 4
    assert prefill.rows == (0,)


def test_images_share_a_budget_per_sample(model: Any, processor: Any, prompts: Any) -> None:
    inputs = prompts(QUESTIONS, images=2)
    with torch.no_grad(), tp.attach(model, "mi-pruner", 9, unit="sample", processor=processor) as run:
        model(**inputs)
    assert run.selections[0].n_visual == 2 * N


def test_a_hand_written_decoding_loop_agrees_with_generate(model: Any, processor: Any, prompts: Any) -> None:
    inputs = prompts()
    with torch.no_grad(), tp.attach(model, "mi-pruner", 5, processor=processor):
        expected = generate(model, inputs)
        cache = DynamicCache(config=model.config.get_text_config())
        out = model(**inputs, past_key_values=cache)
        tokens = []
        for _ in range(5):
            token = out.logits[:, -1:].argmax(-1)
            tokens.append(token)
            out = model(input_ids=token, past_key_values=cache)
    assert torch.equal(torch.cat(tokens, 1), expected)


def test_labels_give_the_loss_of_the_masked_prompt(model: Any, processor: Any, prompts: Any) -> None:
    inputs = prompts()
    ids, image = inputs["input_ids"], model.config.image_token_id
    places = (ids[0] == image).nonzero().flatten()
    # the token after the image is predicted from the token before it, which differs where that one was dropped
    labels = ids.masked_fill(ids == image, -100).index_fill(1, places[-1:] + 1, -100)
    labels[:, :3] = -100
    with torch.no_grad(), tp.attach(model, "mi-pruner", 5, processor=processor) as run:
        loss = model(**inputs, labels=labels).loss
    mask = inputs["attention_mask"].clone()
    mask[0, places[~run.selections[0].mask[0]]] = 0
    inputs |= {"attention_mask": mask, "position_ids": torch.arange(mask.shape[1])[None]}
    with torch.no_grad():
        torch.testing.assert_close(loss, model(**inputs, labels=labels).loss, rtol=0, atol=1e-5)


def test_gradients_reach_embeddings_through_a_ragged_batch(model: Any, processor: Any, prompts: Any) -> None:
    inputs = prompts(QUESTIONS)
    with tp.attach(model, "mi-attention", 4, processor=processor):
        model(**inputs).logits[:, -1].sum().backward()
    gradient = model.get_input_embeddings().weight.grad
    assert gradient is not None
    assert float(gradient.abs().sum()) > 0
    model.zero_grad(set_to_none=True)


def test_after_dropped_tokens_the_last_kept_one_predicts(model: Any, prompts: Any) -> None:
    inputs = prompts()
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == model.config.image_token_id, -100)
    with torch.no_grad(), tp.attach(model, "mi-pruner", 5) as run:
        logits = model(**inputs).logits
        full = model(**inputs, labels=labels).logits
    index = run.history[0].splice.index[0]
    assert torch.equal(full[:, index], logits)
    first_text = int(index[(index > 2).nonzero().flatten()[5]])
    assert torch.equal(full[0, first_text - 1], logits[0, int((index == first_text).nonzero()) - 1])


def test_a_second_turn_raises_in_attach(model: Any, prompts: Any) -> None:
    inputs = prompts()
    with tp.attach(model, "mi-pruner", 5):
        cache = DynamicCache(config=model.config.get_text_config())
        out = model.generate(**inputs, past_key_values=cache, max_new_tokens=3, do_sample=False)
        longer = torch.cat([out, inputs["input_ids"][:, -4:]], 1)
        with pytest.raises(SecondTurnError, match="prepare"):
            model.generate(input_ids=longer, past_key_values=cache, max_new_tokens=2)
        with pytest.raises(SecondTurnError, match="prepare"):
            model(**inputs, past_key_values=cache)


def hooks_of(model: Any) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_nothing_is_left_behind(model: Any, prompts: Any) -> None:
    inputs = prompts()
    before, plain = dict(vars(model)), hooks_of(model)
    with tp.attach(model, "mi-attention", 5):
        assert hooks_of(model) > plain
        with pytest.raises(NestedAttachError), tp.attach(model, "random", 5):
            pass
    assert hooks_of(model) == plain
    with pytest.raises(RuntimeError, match="mine"), tp.attach(model, "mi-attention", 5):  # noqa: PT012
        model.generate(**inputs, max_new_tokens=2)
        raise RuntimeError("mine")
    with pytest.raises(BudgetError), tp.attach(model, "mi-pruner", N + 1):
        model.generate(**inputs, max_new_tokens=2)
    assert hooks_of(model) == plain
    assert dict(vars(model)) == before


def test_functions_of_others_run_meanwhile_and_are_there_again() -> None:
    model, called = tiny_model("llava_next"), []

    def theirs(name: str, original: Any) -> Any:
        @functools.wraps(original)
        def function(*args: Any, **kwargs: Any) -> Any:
            called.append(name)
            return original(*args, **kwargs)

        return function

    with pytest.MonkeyPatch.context() as patch:
        core = model.model
        places = ((model, "generate"), (core, "get_image_features"), (core, "pack_image_features"))
        mine = [theirs(name, getattr(thing, name)) for thing, name in places]
        for (thing, name), function in zip(places, mine, strict=True):
            patch.setitem(vars(thing), name, function)
        with tp.attach(model, "divprune", 4) as run:
            generate(model, tiny_inputs("llava_next", "image", 1))
        assert run.tokens_after == 4
        assert called == ["generate", "get_image_features", "pack_image_features"]
        assert [vars(thing)[name] for thing, name in places] == mine


@pytest.mark.parametrize("strategy", ["mi-attention", "fastv"])
def test_attention_of_the_callers_own(prompts: Any, strategy: str) -> None:
    AttentionInterface.register("theirs", sdpa_attention_forward)
    model, inputs = tiny_llava(side=SIDE), prompts()
    found = []
    for attention in ("sdpa", "theirs"):
        model.set_attn_implementation(attention)
        with tp.attach(model, strategy, 4):
            found.append(generate(model, inputs))
    assert torch.equal(*found)


def test_prompts_without_images_are_left_alone(model: Any, processor: Any) -> None:
    inputs = dict(processor.tokenizer(["what color is the sky ?"], return_tensors="pt"))
    inputs = {k: inputs[k] for k in ("input_ids", "attention_mask")}
    plain = generate(model, inputs)
    with tp.attach(model, "mi-pruner", 5) as run:
        assert torch.equal(generate(model, inputs), plain)
    assert run.history == []
    assert (run.tokens_before, run.tokens_after) == (0, 0)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"strategy": "mi-prunner"}, tp.TokenPruneError, "mi-pruner"),
        ({"keep": 0}, BudgetError, "at least 1"),
        ({"keep": 1.5}, BudgetError, r"\(0, 1\]"),
        ({"unit": "pixel"}, BudgetError, "image"),
        ({"text": "promt"}, tp.TokenPruneError, "prompt"),
        ({"text": torch.ones(2, 2)}, FeatureError, "bool mask"),
    ],
)
def test_bad_requests_raise_and_change_nothing(
    model: Any, prompts: Any, change: dict[str, Any], error: type[Exception], words: str
) -> None:
    inputs = prompts()
    plain = generate(model, inputs)
    options = {"strategy": "mi-pruner", "keep": 5, **change}
    with pytest.raises(error, match=words), tp.attach(model, **options):
        generate(model, inputs)
    assert torch.equal(generate(model, inputs), plain)


def test_unsupported_calls_raise_and_name_the_way_out(model: Any, prompts: Any) -> None:
    inputs = prompts()
    with tp.attach(model, "mi-pruner", 5):
        with pytest.raises(UnsupportedError, match="prepare"):
            model.generate(**inputs, prompt_lookup_num_tokens=3, max_new_tokens=2)
        with pytest.raises(UnsupportedError, match="prepare"):
            model.generate(**inputs, generation_config=GenerationConfig(prompt_lookup_num_tokens=3))
        rest = {name: value for name, value in inputs.items() if name != "input_ids"}
        with pytest.raises(UnsupportedError, match="prepare"):
            model.generate(inputs["input_ids"], GenerationConfig(prompt_lookup_num_tokens=3), **rest)
        embeds = model.get_input_embeddings()(inputs["input_ids"])
        with pytest.raises(UnsupportedError, match="input_ids"):
            model(inputs_embeds=embeds, pixel_values=inputs["pixel_values"])


def test_an_unknown_model_type_lists_the_supported_ones(model: Any) -> None:
    with pytest.raises(UnsupportedError, match="llava"), tp.attach(model.model.language_model, "random", 5):
        pass
    with pytest.raises(UnsupportedError, match="transformers"), tp.attach(torch.nn.Linear(2, 2), "random", 5):
        pass


def test_a_missing_signal_is_named_with_strategies_that_work(model: Any) -> None:
    class NeedsJointSpace(tp.Scorer):
        requires = frozenset({"joint_visual"})

        def score(self, features: tp.Features) -> torch.Tensor:
            return features["joint_visual"].sum(-1)

    strategy = tp.Strategy(NeedsJointSpace(), name="joint")
    with pytest.raises(MissingSignalError, match=r"joint_visual.*mi-pruner"), tp.attach(model, strategy, 5):
        pass


@pytest.mark.skipif(not takes_encoded(tiny_llava(side=2)), reason="needs transformers >= 5.18")
def test_features_encoded_elsewhere_have_no_encoder_signals(model: Any, prompts: Any) -> None:
    inputs = prompts()
    encoded = model.model.get_image_features(pixel_values=inputs.pop("pixel_values"), return_dict=True)
    with tp.attach(model, "mi-pruner", 5) as run:
        model(**inputs, mm_encoder_outputs={"image": encoded})
    assert run.tokens_after == 5
    with tp.attach(model, "attention", 5), pytest.raises(UnsupportedError, match="pixel_values"):
        model(**inputs, mm_encoder_outputs={"image": encoded})


def test_an_empty_prompt_needs_a_strategy_that_ignores_it(model: Any, processor: Any, prompts: Any) -> None:
    inputs = prompts(("",))
    with tp.attach(model, "mi-pruner", 5, processor=processor), pytest.raises(FeatureError, match="empty prompt"):
        model(**inputs)
    with tp.attach(model, "attention", 5, processor=processor) as run:
        model(**inputs)
    assert run.tokens_after == 5


def test_half_precision_runs(prompts: Any) -> None:
    model = tiny_llava(side=5).to(torch.bfloat16)
    inputs = prompts(QUESTIONS)
    with tp.attach(model, tp.build("mi-attention", form="visionzip"), 5) as run:
        assert generate(model, inputs).shape == (3, 5)
    assert run.tokens_after == 15


def test_prepare_refuses_transformers_that_cannot_take_its_inputs(
    model: Any, prompts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenprune.hf.prepare.takes_encoded", lambda model: False)
    with pytest.raises(UnsupportedError, match=r"5\.18.*attach"):
        tp.prepare(model, "mi-pruner", 5, **prompts())
