"""Tokens chosen here and read by a language model elsewhere: what ``prepare`` gives, in the form that servers take."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tokenprune as tp
from tokenprune.core.errors import UnsupportedError
from tokenprune.data.scenes import scene
from tokenprune.hf.chat import prompt_inputs
from tokenprune.hf.encoded import takes_encoded
from tokenprune.serving import image_embeds
from tokenprune.zoo.embedded import load
from tokenprune.zoo.tiny import picture, tiny_llava, tiny_model, tiny_processor

needs_encoded = pytest.mark.skipif(not takes_encoded(tiny_llava(side=2)), reason="needs transformers >= 5.18")


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    return load()


def read_elsewhere(model: Any, processor: Any, question: str, tokens: torch.Tensor) -> torch.Tensor:
    """Logits as a server computes them: a placeholder an embedding, places without gaps, no pruning anywhere."""
    message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    text = processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    wide = text.replace(processor.image_token, processor.image_token * tokens.shape[1])
    ids = processor.tokenizer(wide, return_tensors="pt")["input_ids"]
    words = model.get_input_embeddings()(ids)
    shown = ids == model.config.image_token_id
    assert int(shown.sum()) == tokens.shape[1]
    words[shown] = tokens[0]
    hidden = model.get_decoder()(inputs_embeds=words).last_hidden_state
    return model.get_output_embeddings()(hidden)


@needs_encoded
@pytest.mark.parametrize(
    ("strategy", "keep", "kept"),
    [("mi-pruner", 64, 64), ("divprune", 0.25, 144), ("visionzip", 32, 32), ("random", 1, 1), ("mi-pruner", 576, 576)],
)
def test_a_language_model_reads_in_them_what_prepare_shows_it(
    loaded: tuple[Any, Any], strategy: str, keep: float, kept: int
) -> None:
    model, processor = loaded
    shown = scene(7, 3)
    question = shown.questions[0].text
    with torch.no_grad():
        given = image_embeds(model, processor, shown.image, question, strategy, keep)
        assert list(given) == ["image"]
        assert given["image"].shape == (1, kept, model.config.get_text_config().hidden_size)
        assert given["image"].dtype == model.dtype
        assert not given["image"].requires_grad
        inputs = prompt_inputs(processor, [shown.image], [question])
        shorter = tp.prepare(model, strategy, keep, positions="compact", processor=processor, **inputs)
        wanted = model(**shorter).logits
        got = read_elsewhere(model, processor, question, given["image"])
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


@needs_encoded
def test_the_question_decides_where_a_strategy_reads_it(loaded: tuple[Any, Any]) -> None:
    model, processor = loaded
    shown = scene(7, 3)
    asked = ["What color is the car?", "How many dogs are there in the image?"]
    guided = [image_embeds(model, processor, shown.image, one, "mi-pruner", 16)["image"] for one in asked]
    blind = [image_embeds(model, processor, shown.image, one, "divprune", 16)["image"] for one in asked]
    assert not torch.equal(*guided)
    assert torch.equal(*blind)


@needs_encoded
def test_dtype_is_that_of_the_model() -> None:
    model, processor = tiny_llava(side=6).to(torch.bfloat16), tiny_processor(side=6)
    assert image_embeds(model, processor, picture(), "what ?", "mi-pruner", 9)["image"].dtype == torch.bfloat16


def test_families_that_count_placeholders_otherwise_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="in a 'qwen2_vl' the number of placeholders"):
        image_embeds(tiny_model("qwen2_vl"), tiny_processor("qwen2_vl"), picture(), "what ?", "mi-pruner", 4)


@needs_encoded
def test_strategies_between_layers_are_refused(loaded: tuple[Any, Any]) -> None:
    with pytest.raises(UnsupportedError, match="acts between"):
        image_embeds(*loaded, picture(), "what ?", "fastv", 64)
