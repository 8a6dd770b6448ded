"""Which tokens count as the prompt's own text, as ``attach`` and ``prepare`` ask for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoProcessor

import tokenprune as tp
from tests.support.llava import QUESTIONS
from tokenprune.core.errors import ConfigError, FeatureError, QuestionError, QuestionWarning, UnsupportedError
from tokenprune.hf.chat import prompt_inputs, words_of
from tokenprune.hf.prompt_text import Scaffold, prompt_text
from tokenprune.hf.saved_processor import MAKES_PROCESSOR, saved_processor
from tokenprune.zoo.loading import load_model
from tokenprune.zoo.tiny import picture, tiny_llava, tiny_model, tiny_processor

IMAGE = 4


def words(processor: Any, inputs: dict[str, Any], marked: torch.Tensor, row: int) -> str:
    return processor.tokenizer.decode(inputs["input_ids"][row][marked[row]])


def marked(processor: Any, inputs: dict[str, Any], **options: Any) -> torch.Tensor:
    ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
    return prompt_text(ids, mask, ids == IMAGE, frozenset({0, 1, 2, IMAGE}), **options)


def stranger() -> Any:
    """A model that does not come from a place where a processor lies."""
    model = tiny_llava(side=5)
    vars(model).pop(MAKES_PROCESSOR, None)
    return model


@pytest.mark.parametrize("images", [1, 2])
def test_the_chat_template_is_left_out(processor: Any, prompts: Any, images: int) -> None:
    inputs = prompts(QUESTIONS, images=images)
    for reader in (processor, processor.tokenizer):
        text = marked(processor, inputs, scaffold=Scaffold.of(reader, (IMAGE,)))
        assert [words(processor, inputs, text, b) for b in range(3)] == list(QUESTIONS)


def test_without_a_processor_what_follows_the_image_counts_and_is_called_a_guess(processor: Any, prompts: Any) -> None:
    inputs = prompts(QUESTIONS)
    with pytest.warns(QuestionWarning, match=r"no processor.*processor=.*text='<the question>'"):
        text = marked(processor, inputs)
    assert words(processor, inputs, text, 2) == "how many ASSISTANT :"


def test_all_is_everything_but_images_and_padding(processor: Any, prompts: Any) -> None:
    inputs = prompts(QUESTIONS)
    text = marked(processor, inputs, text="all")
    assert words(processor, inputs, text, 2) == "USER : how many ASSISTANT :"
    assert not text[2, 0]


def test_a_question_before_the_image_counts_too(processor: Any) -> None:
    ids = processor.tokenizer(["is it red ? <image> <image>"], return_tensors="pt")
    with pytest.warns(QuestionWarning, match="no processor"):
        text = marked(processor, dict(ids))
    assert words(processor, dict(ids), text, 0) == "is it red ?"


def test_a_mask_or_function_of_the_callers(processor: Any, prompts: Any) -> None:
    inputs = prompts()
    own = inputs["input_ids"] == processor.tokenizer.convert_tokens_to_ids("dog")
    for given in (own, lambda ids: ids == processor.tokenizer.convert_tokens_to_ids("dog")):
        text = marked(processor, inputs, text=given)
        assert words(processor, inputs, text, 0) == "dog"


def test_the_history_holds_what_counted(model: Any, processor: Any, prompts: Any) -> None:
    inputs = prompts(QUESTIONS)
    for options in ({}, {"processor": processor}, {"processor": processor.tokenizer}):
        with torch.no_grad(), tp.attach(model, "similarity", 4, **options) as run:
            model(**inputs)
        text = run.history[-1].text
        assert text.dtype == torch.bool
        assert text.shape == inputs["input_ids"].shape
        assert [words(processor, inputs, text, b) for b in range(3)] == list(QUESTIONS)
    with torch.no_grad(), tp.attach(model, "similarity", 4, text="dog ?", processor=processor) as run:
        model(**prompts())
    assert words(processor, prompts(), run.history[-1].text, 0) == "dog ?"


def test_a_model_from_nowhere_has_no_processor(prompts: Any) -> None:
    model = stranger()
    assert saved_processor(model) is None
    with torch.no_grad(), pytest.warns(QuestionWarning, match="no processor"), tp.attach(model, "similarity", 4):
        model(**prompts())
    with torch.no_grad(), tp.attach(model, "random", 4) as run:
        model(**prompts())
    assert not run.history[-1].text.any(), "nobody asked"


def test_what_was_saved_beside_a_model_is_found(tmp_path: Any, processor: Any, prompts: Any) -> None:
    stranger().save_pretrained(tmp_path)
    model = type(stranger()).from_pretrained(tmp_path)
    assert saved_processor(model) is None
    processor.tokenizer.save_pretrained(tmp_path)
    model = type(model).from_pretrained(tmp_path)
    with torch.no_grad(), tp.attach(model, "similarity", 4) as run:
        model(**prompts(QUESTIONS[2:]))
    assert words(processor, prompts(QUESTIONS[2:]), run.history[-1].text, 0) == "how many"


def test_a_missing_package_is_named_with_the_extra(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(*_args: Any, **_options: Any) -> None:
        raise ImportError("\nQwen2VLVideoProcessor requires the Torchvision library but it was not found.\nSee there.")

    monkeypatch.setattr(AutoProcessor, "from_pretrained", lacking)
    with pytest.raises(
        UnsupportedError, match=r"requires the Torchvision library.*pip install 'tokenprune-vlm\[models\]'"
    ):
        load_model(str(tmp_path))


def test_a_question_needs_a_tokenizer(model: Any) -> None:
    for question in ("how many", ["how many"], [["how", "many"]]):
        with pytest.raises(QuestionError, match="processor="), tp.attach(model, "similarity", 4, text=question):
            pass
    with pytest.raises(tp.TokenPruneError, match="processor"), tp.attach(model, "similarity", 4, processor="llava"):
        pass


def test_a_processor_is_not_run_where_nobody_reads_the_prompt(model: Any, processor: Any, prompts: Any) -> None:
    class Untouched:
        """A processor that must not be run."""

        tokenizer = processor.tokenizer
        chat_template = processor.chat_template

        def __call__(self, **_inputs: Any) -> None:
            raise AssertionError("run")

    for options in ({}, {"text": "all"}, {"text": lambda ids: ids > IMAGE}):
        name = "similarity" if options else "random"
        with torch.no_grad(), tp.attach(model, name, 4, processor=Untouched(), **options) as run:
            model(**prompts())
        assert run.tokens_after == 4


def test_copies_of_prompts_share_masks_and_questions(model: Any, processor: Any, prompts: Any) -> None:
    inputs = prompts(QUESTIONS[:2])
    own = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
    own[:, -3] = True
    for text in (own, list(QUESTIONS[:2])):
        with tp.attach(model, "similarity", 4, text=text, processor=processor) as run:
            model.generate(**inputs, max_new_tokens=2, num_beams=3, pad_token_id=0)
        found = run.history[0].text
        assert len(found) == 6
        assert torch.equal(found[0], found[2])
        if text is own:
            assert torch.equal(found[::3], own)
        else:
            assert [words(processor, inputs, found[::3], b) for b in range(2)] == list(QUESTIONS[:2])


def test_an_empty_question_names_the_ways_out(model: Any, processor: Any, prompts: Any) -> None:
    with (
        torch.no_grad(),
        tp.attach(model, "similarity", 4, processor=processor),
        pytest.raises(FeatureError, match=r"empty prompt.*text='all'"),
    ):
        model(**prompts([""]))


def test_prepare_and_compile_ask_for_the_same(model: Any, processor: Any, prompts: Any) -> None:
    inputs = prompts(QUESTIONS[:1])
    kept = [
        tp.prepare(model, "similarity", 4, processor=processor, text=text, **inputs)["position_ids"].tolist()
        for text in ("prompt", QUESTIONS[0], "last-turn")
    ]
    assert kept[0] == kept[1] == kept[2]
    with pytest.raises(QuestionError, match="'how many' is not in"):
        tp.prepare(model, "similarity", 4, processor=processor, text="how many", **inputs)
    fast = tp.compile(model, "similarity", 4, processor=processor, text="how many", backend="none")
    with pytest.raises(QuestionError, match="'how many' is not in"):
        fast.generate(**inputs, max_new_tokens=1)


@pytest.mark.parametrize("family", ["llava", "idefics3", "gemma3"])
def test_a_prompt_is_shown_in_stretches(family: str) -> None:
    model, processor = tiny_model(family), tiny_processor(family)
    inputs = prompt_inputs(processor, [picture()], ["how many"])
    told = words_of(model, processor, inputs)
    assert [tokens for counts, tokens in told if counts] == [[" how", " many"]]
    assert [counts for counts, _ in told] == [False, True, False]
    assert any("visual tokens>" in token for token in told[0][1])
    assert sum(len(tokens) for _, tokens in told) <= inputs["input_ids"].shape[1]


@pytest.mark.parametrize("family", ["qwen2_5_vl", "internvl", "gemma3"])
def test_an_empty_tokenizer_is_nobodys(family: str, tmp_path: Any) -> None:
    """transformers makes one for a folder of these families that holds weights alone."""
    model = tiny_model(family)
    model.save_pretrained(tmp_path)
    model = type(model).from_pretrained(tmp_path)
    assert saved_processor(model) is None


def test_another_models_processor_is_refused(processor: Any, prompts: Any) -> None:
    model = tiny_model("llava")
    model.config.get_text_config().vocab_size = 32064
    with (
        pytest.raises(ConfigError, match=r"processor is not that of Llava.*knows \d+ tokens, the model 32064"),
        tp.attach(model, "similarity", 4, processor=processor),
    ):
        pass
