"""Callers' own loops, masks, threads and wrappers: right, or refused by a message that names the way out."""

from __future__ import annotations

import asyncio
import pickle
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, pipeline

import tokenprune as tp
from tokenprune.core.errors import NothingPrunedWarning, UnsupportedError
from tokenprune.hf.encoded import takes_encoded
from tokenprune.hf.saved_processor import MAKES_PROCESSOR
from tokenprune.zoo.tiny import picture, tiny_inputs, tiny_model, tiny_processor

KEPT = 9


class Gate(LogitsProcessor):  # type: ignore[misc]
    """Stop at the fourth token until somebody lets it go on."""

    def __init__(self) -> None:
        self.steps, self.reached, self.open = 0, threading.Event(), threading.Event()

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        self.steps += 1
        if self.steps == 4:
            self.reached.set()
            assert self.open.wait(60)
        return scores


@pytest.mark.parametrize(
    ("name", "strategy"),
    [("llava", "visionzip"), ("qwen2_5_vl", "mi-pruner"), ("internvl", "attention"), ("llava", "fastv")],
)
def test_leaving_the_block_while_an_answer_streams(name: str, strategy: str) -> None:
    """The thread's call is served to its end; calls that begin later are plain."""
    model, inputs = tiny_model(name), tiny_inputs(name, "image", 2)
    options: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False}
    plain = model.generate(**inputs, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with tp.attach(model, strategy, 0.3):
            want = model.generate(**inputs, **options)
        gate, got, later = Gate(), [], []
        with tp.attach(model, strategy, 0.3):
            call = {**inputs, **options, "logits_processor": LogitsProcessorList([gate])}
            thread = threading.Thread(target=lambda: got.append(model.generate(**call)))
            thread.start()
            assert gate.reached.wait(60)
    other = threading.Thread(target=lambda: later.append(model.generate(**inputs, **options)))
    other.start()
    gate.open.set()
    thread.join()
    other.join()
    assert torch.equal(got[0], want)
    assert torch.equal(later[0], plain)
    assert torch.equal(model.generate(**inputs, **options), plain)
    assert "generate" not in vars(model)


@torch.no_grad()
def test_packed_rows_are_refused() -> None:
    model = tiny_model("llava")
    one = tiny_inputs("llava", "image", 1, seed=1)
    length = one["input_ids"].shape[1]
    packed = {
        "input_ids": one["input_ids"].repeat(1, 2),
        "position_ids": torch.arange(length).repeat(2)[None],
        "pixel_values": one["pixel_values"].repeat(2, 1, 1, 1),
        "use_cache": False,
    }
    with (
        pytest.raises(UnsupportedError, match="row 0: several samples are packed"),
        tp.attach(model, "similarity", 1.0),
    ):
        model(**packed)


@torch.no_grad()
def test_masks_of_ones_own() -> None:
    model, inputs = tiny_model("llava"), tiny_inputs("llava", "image", 1)
    length = inputs["input_ids"].shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    with tp.attach(model, "similarity", KEPT):
        want = model(**inputs).logits
        got = model(**{**inputs, "attention_mask": causal[None, None]}).logits
        assert torch.allclose(got, want, atol=1e-5)
        hidden = causal.clone()
        hidden[-3:, -8:-5] = False
        with pytest.raises(UnsupportedError, match="pass a mask"):
            model(**{**inputs, "attention_mask": hidden[None, None]})


@torch.no_grad()
def test_logits_at_places() -> None:
    model, inputs = tiny_model("llava"), tiny_inputs("llava", "image", 1)
    length = inputs["input_ids"].shape[1]
    places = torch.tensor([length - 30, length - 28])
    with tp.attach(model, "similarity", KEPT):
        whole = model(**inputs, labels=inputs["input_ids"]).logits
        assert torch.allclose(model(**inputs, logits_to_keep=places).logits, whole[:, places], atol=1e-5)
        assert torch.allclose(model(**inputs, logits_to_keep=30).logits, whole[:, -30:], atol=1e-5)
    with tp.attach(model, "similarity", KEPT, full_length=True):
        assert torch.allclose(model(**inputs).logits, whole, atol=1e-5)


@torch.no_grad()
def test_labels_where_forward_is_called_as_it_is() -> None:
    model, inputs = tiny_model("llava"), tiny_inputs("llava", "image", 2)
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == model.config.image_token_id, -100)
    early = model.forward  # bound before the block
    with tp.attach(model, "similarity", KEPT):
        want = model(**inputs, labels=labels).loss
        assert torch.allclose(model.forward(**inputs, labels=labels).loss, want)
        assert torch.allclose(early(**inputs, labels=labels).loss, want)


def test_losses_of_ones_own_while_training() -> None:
    model, inputs = tiny_model("llava").train(), tiny_inputs("llava", "image", 2)
    labels = inputs["input_ids"]
    with tp.attach(model, "similarity", KEPT):
        logits = model(**inputs).logits
        loss = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), label_smoothing=0.1
        )
        loss.backward()
    assert logits.shape[:2] == labels.shape
    assert any(p.grad is not None and bool(p.grad.any()) for p in model.parameters())


@pytest.mark.parametrize("name", ["gemma3", "llava", "qwen2_vl"])
@torch.no_grad()
def test_loss_with_everything_kept(name: str) -> None:
    model, inputs = tiny_model(name), tiny_inputs(name, "image", 2)
    labels = inputs["input_ids"]
    want = model(**inputs, labels=labels).loss
    with tp.attach(model, "similarity", 1.0):
        assert torch.allclose(model(**inputs, labels=labels).loss, want, atol=1e-5)


def test_what_feeds_prompts_in_pieces_is_refused() -> None:
    model, inputs = tiny_model("llava"), tiny_inputs("llava", "image", 1)
    with pytest.raises(UnsupportedError, match="prefill_chunk_size"), tp.attach(model, "similarity", KEPT):
        model.generate(**inputs, max_new_tokens=2, prefill_chunk_size=8)


def test_models_under_torch_compile_are_refused() -> None:
    model = tiny_model("llava")
    wrapped: Any = torch.compile(model, backend="eager")
    with (
        pytest.raises(UnsupportedError, match=r"_orig_mod.*tokenprune\.compile"),
        tp.attach(wrapped, "similarity", KEPT),
    ):
        pass
    model.compile(backend="eager")
    with pytest.raises(UnsupportedError, match=r"torch\.compile"), tp.attach(model, "similarity", KEPT):
        pass


def test_data_parallel_is_refused_by_name() -> None:
    with (
        pytest.raises(UnsupportedError, match=r"DataParallel .* pass model\.module"),
        tp.attach(torch.nn.DataParallel(tiny_model("llava")), "similarity", KEPT),
    ):
        pass


def test_distributed_data_parallel_prunes_what_runs_through_it(tmp_path: Path) -> None:
    inputs = tiny_inputs("llava", "image", 2)
    alone, wrapped = tiny_model("llava"), tiny_model("llava")
    with tp.attach(alone, "mi-pruner", KEPT):
        want = alone(**inputs, labels=inputs["input_ids"])
    want.loss.backward()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        outer = torch.nn.parallel.DistributedDataParallel(wrapped)
        with pytest.raises(UnsupportedError, match=r"model\.module"), tp.attach(outer, "mi-pruner", KEPT):
            pass
        with tp.attach(outer.module, "mi-pruner", KEPT) as run:
            got = outer(**inputs, labels=inputs["input_ids"])
        got.loss.backward()
    finally:
        torch.distributed.destroy_process_group()
    assert run.tokens_after == 2 * KEPT
    assert torch.equal(got.loss, want.loss)
    for one, other in zip(alone.parameters(), wrapped.parameters(), strict=True):
        assert one.grad is None if other.grad is None else torch.equal(one.grad, other.grad)


@pytest.mark.skipif(not takes_encoded(tiny_model("llava")), reason="needs transformers >= 5.18")
@pytest.mark.parametrize("options", [{"num_beams": 3}, {"do_sample": True, "num_return_sequences": 2}])
def test_masks_of_text_with_several_rows_a_prompt(options: dict[str, Any]) -> None:
    model, inputs = tiny_model("llava"), tiny_inputs("llava", "image", 3)
    mask = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
    mask[:, -4:] = True
    prepared = tp.prepare(model, "mi-pruner", KEPT, text=mask, **inputs)
    torch.manual_seed(0)
    want = model.generate(**prepared, max_new_tokens=3, **options)
    torch.manual_seed(0)
    with tp.attach(model, "mi-pruner", KEPT, text=mask):
        got = model.generate(**inputs, max_new_tokens=3, **options)
    assert torch.equal(got[:, -3:], want[:, -3:])


@torch.no_grad()
def test_a_budget_that_drops_nothing_says_so() -> None:
    model, inputs = tiny_model("smolvlm"), tiny_inputs("smolvlm", "image", 1)
    with (
        pytest.warns(NothingPrunedWarning, match="keep=16 dropped nothing"),
        tp.attach(model, "similarity", 16, unit="tile"),
    ):
        model(**inputs)
    with tp.attach(model, "similarity", 1.0):
        model(**inputs)
    with tp.attach(model, "similarity", 16):  # one budget for all tiles of a picture
        model(**inputs)


def test_compiled_in_inference_mode_serves_outside_of_it() -> None:
    model, inputs = tiny_model("llava"), tiny_inputs("llava", "image", 1)
    fast = tp.compile(model, "mi-pruner", keep=KEPT)
    with torch.inference_mode():
        first = fast.generate(**inputs, max_new_tokens=3)
    assert torch.equal(fast.generate(**inputs, max_new_tokens=3), first)


@pytest.mark.parametrize("name", ["idefics3", "smolvlm"])
@torch.no_grad()
def test_tiles_of_a_picture_share_its_budget(name: str) -> None:
    """Tiles stand apart in these prompts, each with its row and column before it."""
    model, inputs = tiny_model(name), tiny_inputs(name, "two-images", 1)
    with tp.attach(model, "similarity", 16) as run:
        model(**inputs)
    pictures = [len(places) for places in run.history[-1].places]
    assert run.tokens_after == 16 * len(pictures) == 32
    with tp.attach(model, "similarity", 4, unit="tile") as run:
        model(**inputs)
    assert len(run.history[-1].places) == sum(pictures) // 16


@pytest.mark.parametrize("strategy", ["mi-pruner", "attention", "fastv"])
def test_threads_that_call_the_model_and_generate_take_turns(strategy: str) -> None:
    model = tiny_model("llava")
    one, other = (tiny_inputs("llava", "image", 2, seed=seed) for seed in (1, 2))

    def answer() -> Tensor:
        return model.generate(**one, max_new_tokens=3, do_sample=False)

    def read() -> Tensor:
        with torch.no_grad():
            return model(**other).logits

    with tp.attach(model, strategy, KEPT):
        want = {call: call() for call in (answer, read)}
        wrong: list[str] = []

        def repeat(call: Any) -> None:
            for _ in range(8):
                try:
                    if not torch.equal(call(), want[call]):
                        wrong.append(f"{call.__name__}: other numbers")
                except Exception as error:  # a thread's own would go unseen
                    wrong.append(f"{call.__name__}: {error!r}")

        threads = [threading.Thread(target=repeat, args=(call,)) for call in (answer, read, read)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


@pytest.mark.parametrize("cached", [True, False])
def test_another_picture_asked_about_from_inside_generate(cached: bool) -> None:
    """The same words about another picture are another prompt."""
    model = tiny_model("llava")
    inputs, other = (tiny_inputs("llava", "image", 1, seed=seed) for seed in (1, 5))
    assert torch.equal(inputs["input_ids"], other["input_ids"])
    found = []

    class Asks(LogitsProcessor):  # type: ignore[misc]
        def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
            found.append(model(**other).logits)
            return scores

    call: dict[str, Any] = {**inputs, "max_new_tokens": 3, "do_sample": False, "use_cache": cached}
    with torch.no_grad(), tp.attach(model, "mi-pruner", KEPT) as run:
        want = model(**other).logits
        answer = model.generate(**call)
        before = len(run.history)
        assert torch.equal(model.generate(**call, logits_processor=LogitsProcessorList([Asks()])), answer)
    assert before == 2
    assert len(found) == 3
    assert all(torch.equal(logits, want) for logits in found)
    assert len(run.history) == before + 1 + len(found)


@pytest.mark.parametrize("strategy", ["mi-pruner", "fastv"])
def test_gradient_checkpointing(strategy: str) -> None:
    inputs = tiny_inputs("llava", "image", 2)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    gradients = []
    for checkpoints in (False, True):
        model = tiny_model("llava").train()
        if checkpoints:
            model.gradient_checkpointing_enable()
        with tp.attach(model, strategy, KEPT):
            model(**inputs, labels=labels, use_cache=False).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert any(bool(g.abs().max() > 0) for g in gradients[0].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_masks_that_count_more_than_the_prompt_are_refused() -> None:
    """As peft's prefix tuning makes them."""
    model, inputs = tiny_model("llava"), dict(tiny_inputs("llava", "image", 1))
    inputs["attention_mask"] = torch.cat([torch.ones(1, 3, dtype=torch.long), inputs["attention_mask"]], 1)
    with pytest.raises(UnsupportedError, match="learned prefix"), tp.attach(model, "similarity", KEPT):
        model(**inputs)


@torch.no_grad()
def test_pictures_merged_into_embeddings_by_hand() -> None:
    """What is seen of them is refused, what is not is said."""
    model, inputs = tiny_model("llava"), dict(tiny_inputs("llava", "image", 1))
    here = inputs["input_ids"] == model.config.image_token_id

    def merged() -> Tensor:
        features = model.get_image_features(inputs["pixel_values"], return_dict=True).pooler_output
        tokens = features if isinstance(features, Tensor) else torch.cat(list(features))
        return model.get_input_embeddings()(inputs["input_ids"]).masked_scatter(here.unsqueeze(-1), tokens)

    embeds, mask = merged(), inputs["attention_mask"]
    with (
        pytest.raises(UnsupportedError, match=r"get_image_features.*Strategy\.select"),
        tp.attach(model, "random", KEPT),
    ):
        model(inputs_embeds=merged(), attention_mask=mask)
    with pytest.warns(NothingPrunedWarning, match="inputs_embeds"), tp.attach(model, "random", KEPT):
        model.generate(inputs_embeds=embeds, attention_mask=mask, max_new_tokens=2)
    with tp.attach(model, "random", KEPT) as run:
        model.generate(**inputs, max_new_tokens=2)
    assert run.tokens_after == KEPT


def test_an_attached_model_is_not_pickled() -> None:
    model = tiny_model("llava")
    vars(model).pop(MAKES_PROCESSOR)
    with pytest.raises(UnsupportedError, match="save_pretrained"), tp.attach(model, "random", KEPT):
        pickle.dumps(model)
    assert isinstance(pickle.loads(pickle.dumps(model)), type(model))


@pytest.mark.parametrize("strategy", ["mi-pruner", "fastv", "visionzip"])
def test_training_after_inference_mode(strategy: str) -> None:
    """What is kept from one call to the next may not be of inference mode."""
    model, inputs = tiny_model("llava"), tiny_inputs("llava", "image", 3)
    with torch.inference_mode(), tp.attach(model, strategy, KEPT):
        model(**inputs)
    with tp.attach(model.train(), strategy, KEPT):
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert any(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "internvl", "gemma3"])
@torch.no_grad()
def test_padding_on_the_right(family: str) -> None:
    model, inputs = tiny_model(family), dict(tiny_inputs(family, "image", 3))
    mask = inputs["attention_mask"].bool()
    order = (~mask).long().argsort(dim=1, stable=True)
    right = {name: value.gather(1, order) if value.shape == mask.shape else value for name, value in inputs.items()}
    with tp.attach(model, "mi-pruner", 0.3):
        want = model(**inputs).logits[:, -1]
        whole = model(**right, labels=right["input_ids"]).logits
    got = whole[torch.arange(3), mask.sum(1) - 1]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_as_a_decorator_and_with_asyncio() -> None:
    model = tiny_model("llava")
    prompts = [tiny_inputs("llava", "image", 2, seed=seed) for seed in (1, 2)]

    @tp.attach(model, "mi-pruner", KEPT)
    def answers() -> list[Tensor]:
        return [model.generate(**inputs, max_new_tokens=3, do_sample=False) for inputs in prompts]

    async def together() -> list[Tensor]:
        calls = (asyncio.to_thread(model.generate, **i, max_new_tokens=3, do_sample=False) for i in prompts)
        return await asyncio.gather(*calls)

    want = answers()
    assert all(torch.equal(a, b) for a, b in zip(answers(), want, strict=True))
    with tp.attach(model, "mi-pruner", KEPT):
        got = asyncio.run(together())
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_a_pipeline_inside() -> None:
    model, processor = tiny_model("llava"), tiny_processor("llava")
    pipe = pipeline("image-text-to-text", model=model, processor=processor)
    content = [{"type": "image", "image": picture()}, {"type": "text", "text": "what color is the dog ?"}]
    with tp.attach(model, "mi-pruner", KEPT, processor=processor) as run:
        pipe(text=[{"role": "user", "content": content}], max_new_tokens=2, do_sample=False)
    assert (run.tokens_before, run.tokens_after) == (36, KEPT)
    assert int(run.history[-1].text.sum()) == len(processor.tokenizer("what color is the dog ?")["input_ids"])
