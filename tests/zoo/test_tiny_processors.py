"""Processors of tiny models return what ``tiny_inputs`` makes up, and models take it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from PIL import Image

from tokenprune.core.errors import ConfigError, UnknownNameError, UnsupportedError
from tokenprune.diagnostics.laws import Way, drop, keep_all
from tokenprune.hf.adapters import adapter_for
from tokenprune.hf.chat import prompt_inputs
from tokenprune.hf.encoded import takes_encoded
from tokenprune.hf.prompt_text import Scaffold, prompt_text
from tokenprune.zoo.tiny import FAMILIES, picture, tiny_inputs, tiny_llava, tiny_model, tiny_processor

QUESTIONS = ("what color is the dog ?", "how many", "is there a cat in the picture ?")
SPLIT, WHOLE = (64, 128), (64, 64)
TALL = (128, 64)
PINPOINTS = ((40, 60), (64, 40), (30, 90))
PATCHES = ((32, 32), (16, 40), (24, 16))
SIZES: dict[str, tuple[tuple[int, int] | None, ...]] = {
    "llava_next": PINPOINTS,
    "llava_onevision": PINPOINTS,
    "qwen2_vl": PATCHES,
    "qwen2_5_vl": PATCHES,
    "qwen3_vl": PATCHES,
    "qwen3_vl_moe": PATCHES,
    "internvl": (SPLIT, WHOLE, TALL),
    # a picture that is not split is made up only: processors scale them up until they are
    "idefics3": (SPLIT, None, TALL),
    "smolvlm": (SPLIT, None, TALL),
}
"""Heights and widths of the images that ``tiny_inputs`` shows to the first samples; any other family has one size."""

families = pytest.mark.parametrize("family", FAMILIES)


@families
def test_a_picture_cannot_be_named_in_a_question(family: str) -> None:
    processor = tiny_processor(family)
    marks = [getattr(processor, name, None) for name in ("image_token", "video_token", "boi_token")]
    assert any(marks)
    for mark in filter(None, marks):
        with pytest.raises(ConfigError, match=re.escape(repr(mark))):
            prompt_inputs(processor, [picture(0)], [f"what is {mark} this"])


@families
def test_the_tokenizer_stays_as_it_was(family: str) -> None:
    processor = tiny_processor(family)
    processor.tokenizer.padding_side = "right"
    both = prompt_inputs(processor, [picture(0), picture(0)], ["is there a cat ?", "how many"])
    assert processor.tokenizer.padding_side == "right"
    assert both["attention_mask"][:, 0].tolist() == [1, 0], "padded on the left all the same"


def processed(family: str, samples: list[int]) -> dict[str, Any]:
    sizes = [SIZES.get(family, (WHOLE, WHOLE, WHOLE))[sample] or WHOLE for sample in samples]
    pictures = [picture(seed).resize((width, height)) for seed, (height, width) in enumerate(sizes)]
    return dict(prompt_inputs(tiny_processor(family), pictures, [QUESTIONS[sample] for sample in samples]))


@families
@pytest.mark.parametrize("samples", [[0], [0, 1, 2]], ids=["one", "three"])
def test_they_return_what_tiny_inputs_makes_up(family: str, samples: list[int]) -> None:
    samples = [sample for sample in samples if SIZES.get(family, (WHOLE,) * 3)[sample]]
    found, expected = processed(family, samples), tiny_inputs(family, "image", 3, only=samples)
    if "pixel_values_images" in found and "pixel_values" in expected:
        # an old name that the processor still uses and the model still takes
        found["pixel_values"] = found.pop("pixel_values_images")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert found[name].shape == value.shape, name
        if not value.is_floating_point() and name != "pixel_attention_mask":
            assert found[name].tolist() == value.tolist(), name


@families
@pytest.mark.parametrize("way", ["attach", "prepare"] if takes_encoded(tiny_llava(side=2)) else ["attach"])
def test_laws_hold_on_what_they_return(family: str, way: Way) -> None:
    model, inputs = tiny_model(family), processed(family, [0, 2])
    assert keep_all(model, inputs, way=way) <= 1e-5
    if not FAMILIES[family].sliding:
        error, prefill = drop(model, inputs, 0.4, way=way)
        assert error <= 1e-4
        assert 0 < sum(prefill.tokens_after) < sum(prefill.tokens_before)


@families
def test_the_question_is_told_from_the_template(family: str) -> None:
    """Neither role words nor what stands around tiles and before their rows counts as text."""
    processor, adapter = tiny_processor(family), adapter_for(tiny_model(family))
    scaffold = Scaffold.of(processor, adapter.image_token_ids)
    inputs = prompt_inputs(processor, [picture()], ["how many <unk> cat"])
    ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
    text = prompt_text(ids, mask, adapter.image_mask(ids), adapter.special_ids, scaffold=scaffold)
    assert processor.tokenizer.decode(ids[text]) == "how many <unk> cat"


@families
def test_further_turns_have_a_template(family: str) -> None:
    processor = tiny_processor(family)
    turns = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "how many"}]},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "is it red ?"},
    ]
    chat = FAMILIES[family].chat
    text = processor.apply_chat_template(turns, add_generation_prompt=True)
    expected = f"{chat.end} {chat.assistant} two {chat.end} {chat.user} is it red ? {chat.end} {chat.assistant}"
    assert text.split()[-len(expected.split()) :] == expected.split()


def test_what_they_cannot_do_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="qwen2_5_vl"):
        tiny_processor("qwen2_5vl")
    with pytest.raises(ConfigError, match="side"):
        tiny_processor("qwen2_5_vl", side=4)
    processor = tiny_processor("qwen2_5_vl")
    with pytest.raises(UnsupportedError, match="tiny_inputs"):
        processor(text=["<|video_pad|>"], videos=[[Image.new("RGB", (32, 32))] * 2])
