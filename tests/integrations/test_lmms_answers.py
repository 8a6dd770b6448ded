"""What the harness's model answers is what ``compare`` answers, in any batch, of any family; words and costs too."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests.support.harness import SHORT, asked, chat_about
from tokenprune.core.errors import (
    BudgetError,
    ConfigError,
    OptionTypeError,
    TokenPruneError,
    UnknownNameError,
    UnknownOptionError,
    UnsupportedError,
)
from tokenprune.data.images import picture
from tokenprune.data.items import Item, scene_items
from tokenprune.evaluation.compare import compare
from tokenprune.hf.attach import attach
from tokenprune.integrations.lmms_eval.answering import Answerer, Generation
from tokenprune.integrations.lmms_eval.chats import bare, chat_of, wrapping
from tokenprune.integrations.lmms_eval.options import Options
from tokenprune.integrations.lmms_eval.videos import clip_of
from tokenprune.results.store import read_results
from tokenprune.zoo.tiny import FAMILIES, tiny_inputs, tiny_llava, tiny_model, tiny_processor

SIDE = 6
COSTS = ("tokens", "layer_average_tokens", "flops", "kv_bytes")
SUFFIX = "\nAnswer the question using a single word or phrase."


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any, dict[Any, Any]]:
    """A tiny model, questions, and lines of a comparison by row and question."""
    model, processor, items = tiny_llava(side=SIDE), tiny_processor(side=SIDE), scene_items(None, 9, seed=3)
    out = tmp_path_factory.mktemp("compared")
    names = ["mi-pruner", "fastv", "random:seed=1"]
    compare(model, processor, items, out, {"model": "tiny"}, strategies=names, budgets=(9,), batch_size=4)
    return model, processor, items, {(x["strategy"], x["draw"], x["sample"]): x for x in read_results(out)}


def test_a_file_says_what_prunes_and_by_which_words(compared: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """A strategy of a file is one like any; the words it reads go before the harness's default, not before a choice."""
    model, processor, items, lines = compared
    file = tmp_path / "strategy.yaml"
    whole = {"scorer": "pmi", "selector": {"name": "greedy", "objective": {"name": "mmr", "lam": 0.5}}}
    seen: list[Any] = []

    def watching(*args: Any, text: Any, **options: Any) -> Any:
        seen.append(text)
        return attach(*args, text=text, **options)

    monkeypatch.setattr("tokenprune.integrations.lmms_eval.answering.attach", watching)
    for own, asked_for in ((None, "question"), ("all", "question"), ("all", "prompt")):
        file.write_text(yaml.safe_dump({"label": "tuned", "strategy": {**whole, "text": own}, "tuned": {}}))
        answerer = Answerer(model, processor, Options(strategy=str(file), keep=9, text=asked_for))
        answers = asked(answerer, items[:2], 2)
        if own is None:
            assert [a.text for a in answers] == [lines["mi-pruner", 0, item.id]["prediction"] for item in items[:2]]
    assert seen[1:] == ["all", "prompt"]
    assert [words for question in seen[0] for words in question] == [item.question.text for item in items[:2]]


@pytest.mark.parametrize("size", [1, 2, 9])
@pytest.mark.parametrize("strategy", [None, "mi-pruner", "fastv", "random:seed=1"])
def test_answers_and_costs_are_those_of_a_comparison(compared: Any, strategy: str | None, size: int) -> None:
    model, processor, items, lines = compared
    options = Options(strategy=strategy, keep=None if strategy is None else 9)
    for item, answer in zip(items, asked(Answerer(model, processor, options), items, size), strict=True):
        line = lines[options.label, 0, item.id]
        assert answer.text == line["prediction"]
        for name in COSTS:
            assert getattr(answer, name) == line[name], name


@pytest.mark.parametrize("family", ["idefics3", "smolvlm"])
@pytest.mark.parametrize("most", [1, 3])
def test_pictures_cut_into_tiles_are_answered_as_in_a_comparison(family: str, most: int, tmp_path: Path) -> None:
    """One picture a question, and up to three: words and costs are those of ``compare``, alone and in one batch."""
    model, processor = tiny_model(family), tiny_processor(family)
    shown = [picture(seed, 48) for seed in range(6)]

    def several(number: int, item: Item) -> Item:
        pictures = tuple(shown[number : number + 1 + number % most])
        return replace(item, image_id=str(number), image=lambda: pictures if most > 1 else pictures[0])

    items = [several(i, item) for i, item in enumerate(scene_items(["gqa", "pope"], 4, seed=3))]
    names = ["mi-pruner", "random:seed=1"]
    compare(model, processor, items, tmp_path, {}, strategies=names, budgets=(3,), batch_size=4, note=lambda text: None)
    lines = {(x["strategy"], x["draw"], x["sample"]): x for x in read_results(tmp_path)}
    for strategy in (None, *names):
        options = Options(strategy=strategy, keep=None if strategy is None else 3)
        for size in (1, 4):
            for item, answer in zip(items, asked(Answerer(model, processor, options), items, size), strict=True):
                line = lines[options.label, 0, item.id]
                told = {"prediction": answer.text, **{name: getattr(answer, name) for name in COSTS}}
                assert told == {name: line[name] for name in told}


def test_what_a_task_writes_around_its_questions_is_not_read(compared: Any) -> None:
    """Kept tokens are those of the bare question with ``question``, others with ``prompt``: cost aside, ids differ."""
    model, processor, items, _ = compared
    kept: dict[str, list[Any]] = {}
    for text in ("question", "prompt", "all"):
        for around in (("", ""), ("", SUFFIX)):
            answerer = Answerer(model, processor, Options(strategy="mi-pruner", keep=9, text=text))  # type: ignore[arg-type]
            chats = [chat_about(item, around) for item in items]
            assert [chat.question for chat in chats] == [(item.question.text.strip(),) for item in items]
            kept[f"{text}{around[1]}"] = [selected(answerer, chat) for chat in chats]
    assert kept["question"] == kept[f"question{SUFFIX}"] == kept["prompt"]
    assert kept[f"prompt{SUFFIX}"] != kept["prompt"]
    assert kept["all"] != kept["prompt"]


def selected(answerer: Answerer, chat: Any) -> Any:
    """Tokens that stay of a prompt."""
    import tokenprune.integrations.lmms_eval.answering as room

    seen: list[Any] = []
    plain = room.attach

    def watched(*args: Any, **kwargs: Any) -> Any:
        block = plain(*args, **kwargs)
        seen.append(block)
        return block

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "attach", watched)
        runs: list[Any] = []
        patch.setattr(answerer, "_pruned", lambda run, rows: (runs.append(run), run.history[0].layer_tokens)[1])
        answerer.answers([chat], SHORT)
    return runs[0].history[0].selection.indices.tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_answers_mixed_prompts(family: str) -> None:
    """One picture, two pictures, none: each in any batch with its like, pruned where something is shown."""
    model, processor = tiny_model(family), tiny_processor(family)
    answerer = Answerer(model, processor, Options(strategy="mi-pruner", keep=0.5))
    plain = Answerer(model, processor, Options())

    def chat(n: int, words: str) -> Any:
        shown = [{"type": "image", "url": picture(seed, 48)} for seed in range(n)]
        return chat_of([{"role": "user", "content": [*shown, {"type": "text", "text": words}]}], ("", ""), 4)

    some = [chat(1, "what is it ?"), chat(2, "what color is the dog ?"), chat(1, "is there a cat ?")]
    pruned, whole = answerer.answers(some, SHORT), plain.answers(some, SHORT)
    for one, other in zip(pruned, whole, strict=True):
        assert 0 < one.tokens < other.tokens
        assert one.flops < other.flops
        assert 0 < one.output_tokens <= 6
        assert one.input_tokens < other.input_tokens
    alone = [answerer.answers([one], SHORT)[0] for one in some]
    assert [one.tokens for one in alone] == [one.tokens for one in pruned]
    [silent] = answerer.answers([chat(0, "what is it ?")], SHORT)
    [same] = plain.answers([chat(0, "what is it ?")], SHORT)
    assert silent == same
    assert silent.tokens == 0


@pytest.mark.parametrize("family", [name for name, known in FAMILIES.items() if "video" in known.kinds])
@pytest.mark.parametrize("strategy", [None, "mi-pruner"])
def test_videos_are_handed_on_and_counted(family: str, strategy: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stock video processor needs torchvision: what it is given is noted, and what it returns made by the zoo."""
    model, processor = tiny_model(family), tiny_processor(family)
    unit = "sample" if family in ("internvl", "smolvlm") else "image"
    options = Options(strategy=strategy, keep=None if strategy is None else 3, unit=unit)  # type: ignore[arg-type]
    answerer = Answerer(model, processor, options)
    given: list[dict[str, Any]] = []
    made = tiny_inputs(family, "video", 2)

    class Videos(type(processor)):  # type: ignore[misc]
        video_processor = "one of transformers'"

        def __call__(self, **kwargs: Any) -> Any:
            given.append(kwargs)
            return made

    monkeypatch.setattr(processor, "__class__", Videos)
    monkeypatch.setattr(answerer, "_text", lambda chats: "all")
    films = [np.full((6, 32, 32, 3), shade, np.uint8) for shade in (10, 200)]
    said = {"type": "text", "text": "what is it ?"}
    chats = [
        chat_of([{"role": "user", "content": [{"type": "video", "url": film}, said]}], ("", ""), 4) for film in films
    ]
    answers = answerer.answers(chats, SHORT)
    [call] = given
    assert [film.shape for film in call["videos"]] == [(4, 32, 32, 3)] * 2
    assert call["video_metadata"][0]["frames_indices"] == [0, 1, 3, 5]
    assert call["do_sample_frames"] is False
    assert len(call["text"]) == 2
    placed = [int(row.sum()) for row in answerer.adapter.image_mask(made["input_ids"])]
    for answer, places in zip(answers, placed, strict=True):
        assert answer.tokens == 3 if strategy else 0 < answer.tokens <= places


def test_a_family_without_videos_says_so() -> None:
    answerer = Answerer(tiny_model("llava"), tiny_processor("llava"), Options())
    shown = {"type": "video", "url": np.zeros((4, 32, 32, 3), np.uint8)}
    chat = chat_of([{"role": "user", "content": [shown, {"type": "text", "text": "what ?"}]}], ("", ""), 2)
    with pytest.raises(UnsupportedError, match="reads no videos"):
        answerer.answers([chat], SHORT)


def test_a_prompt_that_was_not_pruned_is_no_answer(compared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor, items, _ = compared
    answerer = Answerer(model, processor, Options(strategy="mi-pruner", keep=9))
    from contextlib import contextmanager

    import tokenprune.integrations.lmms_eval.answering as room
    from tokenprune.hf.record import Run

    @contextmanager
    def blind(*_: Any, **__: Any) -> Any:
        yield Run()

    monkeypatch.setattr(room, "attach", blind)
    with pytest.raises(TokenPruneError, match=r"2 of 2 prompts .* were not pruned"):
        answerer.answers([chat_about(item) for item in items[:2]], SHORT)


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ({"strategy": "mi-pruner"}, ConfigError, "without keep="),
        ({"keep": 64}, ConfigError, "without strategy="),
        ({"keeep": 64}, UnknownOptionError, "did you mean 'keep'"),
        ({"strategy": "mi-pruner", "keep": 64.0}, BudgetError, "give the int 64"),
        ({"strategy": "mi-pruner", "keep": 0}, BudgetError, "at least 1"),
        ({"strategy": "mi-pruner", "keep": "some"}, BudgetError, "'some'"),
        ({"text": "questions"}, ConfigError, "did you mean 'question'"),
        ({"unit": "images"}, ConfigError, "did you mean 'image'"),
        ({"batch_size": "auto"}, ConfigError, "how many questions fit"),
        ({"num_frames": 0}, ConfigError, "num_frames"),
        ({"pretrained": 7}, OptionTypeError, "pretrained= must be text"),
    ],
)
def test_wrong_options_are_told(given: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        Options.of(given)


def test_options_are_read_as_the_harness_hands_them_on() -> None:
    options = Options.of(
        {"pretrained": "embedded", "strategy": "mi-pruner:lam=0.7", "keep": 0.25, "batch_size": "8", "device": None}
    )
    assert (options.batch_size, options.keep, options.label) == (8, 0.25, "mi-pruner:lam=0.7")
    assert options.budget is not None
    assert options.budget.clip
    assert Options.of({}).label == "full"
    with pytest.raises(UnknownNameError, match="did you mean 'mi-pruner'"):
        Options.of({"strategy": "mi-prunner", "keep": 3}).built  # noqa: B018


def test_generation_is_what_a_task_says() -> None:
    found = Generation.of({"until": ["\n\n", ""], "temperature": 0, "top_p": 0.9, "image_aspect_ratio": "pad"}, 32)
    assert found.options == {"do_sample": False, "max_new_tokens": 32}
    assert found.ignored == ("image_aspect_ratio",)
    assert found.cut(" yes\n\nand more") == "yes"
    drawn = Generation.of({"max_new_tokens": 4, "temperature": 0.7, "top_p": 0.9, "num_beams": 1}, 32)
    assert drawn.options == {"do_sample": True, "max_new_tokens": 4, "num_beams": 1, "temperature": 0.7, "top_p": 0.9}
    with pytest.raises(ConfigError, match="must be a count"):
        Generation.of({"max_new_tokens": 0.5}, 32)


def test_what_is_around_a_question_is_taken_off_once() -> None:
    class Task:
        lmms_eval_specific_kwargs = {"pre_prompt": "Look. ", "post_prompt": SUFFIX}  # noqa: RUF012

    around = wrapping(Task())
    assert bare(f"Look. Look. What is it?{SUFFIX}{SUFFIX}", around) == f"Look. What is it?{SUFFIX}".strip()
    assert bare(SUFFIX, ("", SUFFIX)) == SUFFIX.strip()
    assert wrapping(None) == wrapping(object()) == ("", "")
    with pytest.raises(ConfigError, match="asks nothing"):
        chat_of([{"role": "user", "content": [{"type": "image", "url": picture(0)}]}], ("", ""), 1)
    with pytest.raises(UnsupportedError, match="audio"):
        chat_of([{"role": "user", "content": [{"type": "audio", "url": "a.wav"}]}], ("", ""), 1)


def test_of_several_turns_the_last_asks() -> None:
    turns = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "image", "url": picture(0)}, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A dog."}]},
        {"role": "user", "content": [{"type": "text", "text": "What color?\nBe brief."}]},
    ]
    chat = chat_of(turns, ("", "\nBe brief."), 1)
    assert chat.question == ("What color?",)
    assert [turn["role"] for turn in chat.turns] == ["system", "user", "assistant", "user"]
    assert chat.shows == (True, False)


def test_a_hash_of_what_is_shown_tells_pictures_apart() -> None:
    def media(image: Image.Image) -> str:
        said = {"type": "text", "text": "?"}
        return chat_of([{"role": "user", "content": [{"type": "image", "url": image}, said]}], ("", ""), 1).media

    one = picture(0, 32)
    other = one.copy()
    other.putpixel((31, 31), (1, 2, 3))
    assert media(one) == media(one.copy()) == media(one.convert("RGBA"))
    assert len({media(one), media(other), media(one.resize((16, 64)))}) == 3


def test_frames_are_spread_evenly() -> None:
    frames = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    clip = clip_of(frames, 4)
    assert clip.frames[:, 0, 0, 0].tolist() == clip.about["frames_indices"] == [0, 3, 6, 9]
    pictures = clip_of([Image.fromarray(frame) for frame in frames], 4)
    assert np.array_equal(pictures.frames, clip.frames)
    # a long one as the harness's own reader takes it, a short one each frame once
    long = np.zeros((100, 4, 4, 3), np.uint8)
    assert clip_of(long, 8).about["frames_indices"] == np.linspace(0, 99, 8, dtype=int).tolist()
    assert clip_of(long[:3], 8).about["frames_indices"] == [0, 1, 2]
    assert clip_of(long[:5], 1).about["frames_indices"] == [0]
    with pytest.raises(ConfigError, match="got dict"):
        clip_of({"array": []}, 4)


def test_the_package_is_found_by_the_harness_and_needs_none_of_it() -> None:
    """The entry point's module is imported by every run of lmms-eval, and never by ours."""
    code = (
        "import sys, tokenprune, tokenprune.cli\n"
        "from importlib.metadata import entry_points\n"
        "[point] = [p for p in entry_points(group='lmms_eval.models') if p.name == 'tokenprune']\n"
        "assert callable(point.load())\n"
        "assert not any(name.partition('.')[0] in ('lmms_eval', 'accelerate') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)


def test_logits_that_are_no_numbers_end_a_run(compared: Any) -> None:
    from tokenprune.core.errors import NonFiniteError

    _, processor, items, _ = compared
    broken = tiny_llava(side=SIDE)
    with torch.no_grad():
        broken.lm_head.weight[:] = torch.nan
    with pytest.raises(NonFiniteError, match="logits"):
        Answerer(broken, processor, Options()).answers([chat_about(items[0])], SHORT)
