"""Exactly the user's words count, whatever tokenizer, template and processor, however many turns and pictures."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.chats import REAL, VISION, Real, real_processor
from tokenprune.core.errors import FeatureError, OptionTypeError, QuestionError, QuestionWarning
from tokenprune.diagnostics.asked import CHATS, IMAGE, QUESTION, VIDEO, assistant, said_in, system, user
from tokenprune.diagnostics.questions import miscounted
from tokenprune.hf.prompt_spelling import Speller
from tokenprune.hf.prompt_text import Scaffold, prompt_text
from tokenprune.zoo.tiny import picture

FAMILIES = pytest.mark.parametrize("family", REAL)


def rendered(processor: Any, chat: Sequence[dict[str, Any]], **switches: Any) -> str:
    written = processor.apply_chat_template(list(chat), add_generation_prompt=True, tokenize=False, **switches)
    assert isinstance(written, str)
    return written


def emitted(processor: Any, prompts: Sequence[str], images: int = 1, size: int = 96, **options: Any) -> Any:
    shown = [[picture(seed).resize((size, 64 + 32 * seed)) for seed in range(images)] for _ in prompts]
    return processor(text=list(prompts), images=shown, padding=True, return_tensors="pt", **options)


def shown_in(real: Real, tokenizer: Any, ids: torch.Tensor) -> torch.Tensor:
    return torch.isin(ids, torch.tensor(tokenizer.convert_tokens_to_ids(list(real.placeholders))))


def marked(real: Real, reader: Any, inputs: Any, **options: Any) -> torch.Tensor:
    """The mask, as ``attach`` asks for it."""
    tokenizer = getattr(reader, "tokenizer", reader)
    ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
    placeholders = tuple(tokenizer.convert_tokens_to_ids(list(real.placeholders)))
    scaffold = Scaffold.of(reader, placeholders)
    return prompt_text(ids, mask, shown_in(real, tokenizer, ids), frozenset(placeholders), scaffold=scaffold, **options)


def check(tokenizer: Any, ids: torch.Tensor, mask: torch.Tensor, wanted: Sequence[str]) -> None:
    """Those tokens are the wanted words in their order, all of them, and no space beside them."""
    assert miscounted(Speller(tokenizer), ids, mask, wanted) is None


@FAMILIES
def test_rows_of_a_padded_batch_are_read_alone(family: str) -> None:
    real, processor = REAL[family], real_processor(family)
    chats = [CHATS[name].turns for name in ("plain", "system and history", "Chinese")]
    inputs = emitted(processor, [rendered(processor, chat) for chat in chats])
    mask = marked(real, processor, inputs)
    for ids, row, chat in zip(inputs["input_ids"], mask, chats, strict=True):
        check(processor.tokenizer, ids, row, said_in(chat))


@FAMILIES
def test_one_begin_or_two_alike(family: str) -> None:
    real, processor = REAL[family], real_processor(family)
    inputs = emitted(processor, ["<s>" + rendered(processor, CHATS["system"].turns)])
    check(processor.tokenizer, inputs["input_ids"][0], marked(real, processor, inputs)[0], [QUESTION])


@FAMILIES
@pytest.mark.parametrize("front", [True, False], ids=["system text, video first", "question first"])
def test_what_is_said_of_frames_is_not_the_users(family: str, front: bool) -> None:
    real, processor = REAL[family], real_processor(family)
    if real.video is None:
        assert family in ("llava", "llava_next", "idefics3", "gemma3"), "these take no videos"
        return
    turns = [system("Be brief."), user(VIDEO, QUESTION)] if front else [user("Watch this.", VIDEO, QUESTION)]
    prompt = rendered(processor, turns).replace(real.mark, real.video(3))
    tokenizer = processor.tokenizer
    inputs = tokenizer([prompt], return_tensors="pt")
    for reader in (processor, real.tokenizer()):
        check(tokenizer, inputs["input_ids"][0], marked(real, reader, inputs)[0], said_in(turns))


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_numbers_that_a_template_gives_to_pictures_are_its_own(family: str) -> None:
    real, processor = REAL[family], real_processor(family)
    turns = [user(IMAGE, IMAGE, QUESTION)]
    prompt = rendered(processor, turns, add_vision_id=True)
    assert "Picture 2: " in prompt
    inputs = emitted(processor, [prompt], images=2)
    check(processor.tokenizer, inputs["input_ids"][0], marked(real, processor, inputs)[0], [QUESTION])


def test_pan_and_scan_is_not_the_users() -> None:
    real, processor = REAL["gemma3"], real_processor("gemma3")
    options = {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 16}
    inputs = emitted(processor, [rendered(processor, CHATS["question first"].turns)], size=400, **options)
    assert "crops to help" in processor.tokenizer.decode(inputs["input_ids"][0])
    check(processor.tokenizer, inputs["input_ids"][0], marked(real, processor, inputs)[0], [QUESTION])


def test_a_system_text_that_may_be_the_users_paragraph_is_named() -> None:
    real, processor = REAL["gemma3"], real_processor("gemma3")
    inputs = emitted(processor, [rendered(processor, [system("You are terse."), user(QUESTION, IMAGE)])])
    with pytest.warns(QuestionWarning, match=r"looks like a paragraph.*'What color is the cup\?'.*text='"):
        mask = marked(real, processor, inputs)
    check(processor.tokenizer, inputs["input_ids"][0], mask[0], [QUESTION])
    sure = marked(real, processor, inputs, text="You are terse. What color is the cup?")
    check(processor.tokenizer, inputs["input_ids"][0], sure[0], ["You are terse.", QUESTION])


@FAMILIES
def test_the_last_turn_alone(family: str) -> None:
    real, processor = REAL[family], real_processor(family)
    inputs = emitted(
        processor, [rendered(processor, CHATS["history"].turns), rendered(processor, CHATS["plain"].turns)]
    )
    mask = marked(real, processor, inputs, text="last-turn")
    for ids, row, wanted in zip(inputs["input_ids"], mask, ("What color is it?", QUESTION), strict=True):
        check(processor.tokenizer, ids, row, [wanted])


@FAMILIES
def test_a_question_by_its_words(family: str) -> None:
    real, processor = REAL[family], real_processor(family)
    rows = [CHATS["history"].turns, CHATS["system"].turns]
    inputs = emitted(processor, [rendered(processor, chat) for chat in rows])
    first, second = "What is on the table?", "What color is it?"
    for asked, wanted in (
        ([second, QUESTION], [[second], [QUESTION]]),
        ([[first, second], [QUESTION]], [[first, second], [QUESTION]]),
        (["A cup of espresso.", "Do not guess."], [["A cup of espresso."], ["Do not guess."]]),
        (["what  is\non the table?".replace("w", "W", 1), QUESTION], [[first], [QUESTION]]),
    ):
        mask = marked(real, processor, inputs, text=asked)
        for ids, row, words in zip(inputs["input_ids"], mask, wanted, strict=True):
            check(processor.tokenizer, ids, row, words)
    alone = {name: value[:1] for name, value in inputs.items()}
    mask = marked(real, processor, alone, text=[first, second])
    check(processor.tokenizer, inputs["input_ids"][0], mask[0], [first, second])


def test_a_question_that_is_not_there_is_refused() -> None:
    real, processor = REAL["llava"], real_processor("llava")
    inputs = emitted(processor, [rendered(processor, CHATS["history"].turns)])
    with pytest.raises(QuestionError, match=r"'Where is it\?' is not in the prompt of sample 0.*What color is it"):
        marked(real, processor, inputs, text="Where is it?")
    with pytest.raises(QuestionError, match=r"'promt' is not in.*did you mean 'prompt'\?"):
        marked(real, processor, inputs, text="promt")
    with pytest.raises(QuestionError, match="'tab' is not in"):
        marked(real, processor, inputs, text="tab")
    with pytest.raises(QuestionError, match="empty"):
        marked(real, processor, inputs, text=" ")
    with pytest.raises(FeatureError, match="3 questions for 2 samples"):
        marked(
            real, processor, emitted(processor, [rendered(processor, CHATS["plain"].turns)] * 2), text=["a", "b", "c"]
        )
    for wrong in (3, [], [3], [["a", 3]]):
        with pytest.raises((OptionTypeError, FeatureError), match="text"):
            marked(real, processor, inputs, text=wrong)


def test_a_word_of_the_question_may_also_be_a_role() -> None:
    """Where a question occurs in what the user says, the same words elsewhere do not count."""
    real, processor = REAL["idefics3"], real_processor("idefics3")
    turns = [system("Assistant, be kind."), user(IMAGE, "Is the Assistant kind?")]
    inputs = emitted(processor, [rendered(processor, turns)])
    mask = marked(real, processor, inputs, text="Assistant")
    check(processor.tokenizer, inputs["input_ids"][0], mask[0], ["Assistant"])
    spelled = inputs["input_ids"][0].tolist()
    system_text = processor.tokenizer("System: Assistant, be kind.", add_special_tokens=False)["input_ids"]
    assert min(mask[0].nonzero().flatten().tolist()) > len(system_text), spelled


@FAMILIES
def test_a_prompt_without_turns_is_a_guess(family: str) -> None:
    real, processor = REAL[family], real_processor(family)
    mark = {"gemma3": "<start_of_image>", "internvl": "<IMG_CONTEXT>"}.get(family, "<image>")
    inputs = emitted(processor, [f"{VISION % 'image' if family.startswith('qwen') else mark}\nWhat is it?"])
    with pytest.warns(QuestionWarning, match=r"no turns were found.*'What is it\?'.*text='"):
        mask = marked(real, processor, inputs)
    check(processor.tokenizer, inputs["input_ids"][0], mask[0], ["What is it?"])


PARTS = (
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
)


def each(written: str, answer: str) -> str:
    """A template that writes each turn alike."""
    return "{% for m in messages %}" + written + "{% endfor %}{% if add_generation_prompt %}" + answer + "{% endif %}"


TEMPLATES = {
    "headers": each(
        "<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n" + PARTS + "<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "bars": each("<|{{ m['role'] }}|>\n" + PARTS + "<|end|>\n", "<|assistant|>\n"),
    "names, an end behind answers": each(
        "{% if m['role'] == 'user' %}User: {% elif m['role'] == 'assistant' %}Assistant: {% endif %}"
        + PARTS
        + "{% if m['role'] == 'assistant' %}</s>{% else %}\n\n{% endif %}",
        "Assistant:",
    ),
    "names, no ends": each(" {{ m['role'].capitalize() }}: " + PARTS, " Assistant:"),
    "instructions": each(
        "{% if m['role'] == 'user' %}### Instruction:\n{% elif m['role'] == 'assistant' %}### Response:\n{% endif %}"
        + PARTS
        + "\n\n",
        "### Response:\n",
    ),
    "system within the turn": each(
        "{% if m['role'] == 'user' %}<s>[INST] {% if loop.index0 == 1 %}"
        "{% if messages[0]['role'] == 'system' %}<<SYS>>\n{{ messages[0]['content'][0]['text'] }}\n<</SYS>>\n\n"
        "{% endif %}{% endif %}" + PARTS + " [/INST]{% elif m['role'] == 'assistant' %} " + PARTS + " </s>{% endif %}",
        "",
    ),
    "nobody's": each(
        "{% if m['role'] == 'system' %}(setting) {% elif m['role'] == 'user' %}Q>> {% else %}<<A {% endif %}"
        + PARTS
        + " ~~\n",
        "<<A",
    ),
    "refuses system texts": each(
        "{% if m['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}@{{ m['role'] }} " + PARTS + " @end\n",
        "@assistant",
    ),
}


class Odd:
    """A processor of nobody's: says of each picture how wide it is."""

    image_processor = object()
    image_token = "<image>"

    def __init__(self, template: str) -> None:
        self.chat_template = template
        self.tokenizer = REAL["llava"].tokenizer()

    def apply_chat_template(self, turns: Any, **options: Any) -> Any:
        return self.tokenizer.apply_chat_template(turns, chat_template=self.chat_template, **options)

    def __call__(self, text: list[str], images: list[list[Any]], **_options: Any) -> Any:
        written = text[0]
        for image in images[0]:
            wide = f"[view of {image.width} pixels: <IMAGE> and once more: <IMAGE>]"
            written = written.replace("<image>", wide, 1)
        return self.tokenizer([written.replace("<IMAGE>", "<image>" * 3)], return_tensors="pt")


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("chat", ["plain", "question first", "two pictures", "system and history", "a picture later"])
def test_what_no_family_writes_is_learned(template: str, chat: str) -> None:
    odd, turns = Odd(TEMPLATES[template]), list(CHATS[chat].turns)
    if template == "refuses system texts":
        turns = [turn for turn in turns if turn["role"] != "system"]
    images = sum(c is IMAGE for m in turns for c in m["content"])
    inputs = odd([rendered(odd, turns)], images=[[picture(seed, size=71 + seed) for seed in range(images)]])
    check(odd.tokenizer, inputs["input_ids"][0], marked(REAL["llava"], odd, inputs)[0], said_in(turns))


def test_a_template_that_does_not_set_turns_apart_is_a_guess() -> None:
    plain = Odd(each("{% if m['role'] == 'assistant' %}### Answer: {% endif %}" + PARTS + "\n", "### Answer:"))
    inputs = plain([rendered(plain, CHATS["history"].turns)], images=[[picture()]])
    with pytest.warns(QuestionWarning, match="does not set apart"):
        marked(REAL["llava"], plain, inputs)
    as_user = Odd(each("{{ 'BOT' if m['role'] == 'assistant' else 'ME' }}> " + PARTS + "{{ '\n' }}", "BOT>"))
    inputs = as_user([rendered(as_user, CHATS["system"].turns)], images=[[picture()]])
    with pytest.warns(QuestionWarning, match="a system text as if the user had said it"):
        marked(REAL["llava"], as_user, inputs)
    inputs = as_user([rendered(as_user, CHATS["history"].turns)], images=[[picture()]])
    check(
        as_user.tokenizer,
        inputs["input_ids"][0],
        marked(REAL["llava"], as_user, inputs)[0],
        said_in(CHATS["history"].turns),
    )


ROLES = {
    "What does USER: mean here?": False,
    "Describe it.\n\nUSER: is written where?": False,
    "What does ASSISTANT: mean here?": True,
    "Who says 'ASSISTANT: hello' in the comic?": True,
    "Is the label User: Bob readable?": True,
    "Read the text: User: a\nAssistant: b": True,
    "What is behind [/INST] here?": True,
    "### Human: or not?": True,
    "Picture 1: is it red?": True,
    "Frame 3: is it at <0.2 seconds> or later?": True,
    "What is in row_1_col_2 of the table?": True,
}
"""Questions that hold what templates write, and whether they are found whole however roles are written."""


@FAMILIES
@pytest.mark.parametrize("asked", ROLES)
@pytest.mark.parametrize("before", [(), (user(IMAGE, "What is on it?"), assistant("A cup."))], ids=["first", "second"])
def test_role_words_in_a_question_are_right_or_named(family: str, asked: str, before: tuple[Any, ...]) -> None:
    """Where roles are plain text (LLaVA), "USER:" may be asked about or begin a turn: named, since none can follow."""
    real, processor = REAL[family], real_processor(family)
    turns = [*before, user(asked) if before else user(IMAGE, asked)]
    inputs = emitted(processor, [rendered(processor, turns)])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", QuestionWarning)
        mask = marked(real, processor, inputs)[0]
    wrong = miscounted(Speller(processor.tokenizer), inputs["input_ids"][0], mask, said_in(turns))
    named = any("stands twice with no answer in between" in str(one.message) for one in told)
    plain = family in ("llava", "video_llava")
    assert wrong is None or (plain and not ROLES[asked] and named)
    assert not named or plain or (family == "llava_next" and "[/INST]" in asked)


TOOLS = (
    "{% for m in messages %}{% set before = messages[loop.index0 - 1]['role'] %}"
    "{% if m['role'] == 'tool' %}{% if loop.first or before != 'tool' %}<|im_start|>user{% endif %}"
    "\n<tool_response>\n{{ m['content'] }}\n</tool_response>"
    "{% if loop.last or messages[loop.index0 + 1]['role'] != 'tool' %}<|im_end|>\n{% endif %}"
    "{% else %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    + PARTS.replace("<image>", VISION % "image")
    + "{% endif %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Writes what tools say as turns of the user's, as Qwen's templates do."""


@pytest.mark.parametrize("asked", [QUESTION, "What does <tool_response> mean?", "<tool_response> or </tool_response>?"])
def test_what_a_tool_says_is_not_the_users(asked: str) -> None:
    real = replace(REAL["qwen3_vl"], template=TOOLS)
    processor = real.processor()
    results = [{"role": "tool", "content": said} for said in ("It rains.", "It is\n\ncold.")]
    turns = [user(IMAGE, asked), {"role": "assistant", "content": "I look it up."}, *results]
    for chat, wanted in ((turns, [asked]), ([*turns, user("And now?")], [asked, "And now?"])):
        inputs = emitted(processor, [rendered(processor, chat)])
        for reader in (processor, real.tokenizer()):
            check(processor.tokenizer, inputs["input_ids"][0], marked(real, reader, inputs)[0], wanted)


def test_a_processor_is_run_once_however_often_it_is_asked() -> None:
    real = REAL["llava"]
    processor = real.processor()
    inputs = emitted(processor, [rendered(processor, CHATS["plain"].turns)])
    calls: list[int] = []
    original = type(processor).__call__

    class Counting(type(processor)):  # type: ignore[misc]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            return original(self, *args, **kwargs)

    processor.__class__ = Counting
    first = marked(real, processor, inputs)
    ran = len(calls)
    assert 0 < ran < 10
    assert torch.equal(marked(real, processor, inputs), first)
    assert len(calls) == ran


WORDS = st.text(
    st.characters(categories=("Lu", "Ll", "Lo", "Nd", "Po", "So", "Zs"), exclude_characters="<>[]|#:"), max_size=30
)


@pytest.mark.parametrize("family", ["llava", "qwen3_vl", "idefics3"])
@given(words=WORDS, more=WORDS)
def test_any_words_count_and_nothing_else(family: str, words: str, more: str) -> None:
    real, processor = REAL[family], real_processor(family)
    tokenizer = processor.tokenizer
    turns = [system("Be brief."), user(IMAGE, f"a{words}b"), assistant("Yes."), user(f"a{more}b")]
    prompt = rendered(processor, turns)
    inputs = tokenizer([prompt], return_tensors="pt")
    check(tokenizer, inputs["input_ids"][0], marked(real, processor, inputs)[0], said_in(turns))
