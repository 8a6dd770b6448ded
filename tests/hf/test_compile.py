"""``compile`` answers what ``attach`` with ``generate`` answers, program by program, and says what it cannot do."""

from __future__ import annotations

import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
import torch

import tokenprune as tp
from tests.support.compiled import rows_of
from tokenprune.core.errors import (
    BudgetError,
    ConfigError,
    FeatureError,
    NotCompiledWarning,
    OptionTypeError,
    UnsupportedError,
)
from tokenprune.hf.adapters import adapter_for
from tokenprune.hf.encoded import takes_encoded
from tokenprune.hf.sources import refusal
from tokenprune.zoo.tiny import FAMILIES, tiny_inputs, tiny_model

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WINDOWED = {name for name, family in FAMILIES.items() if family.sliding}
CASES = [(name, kind) for name, family in FAMILIES.items() for kind in family.kinds if kind != "text"]


UNCAPTURED = (
    # some families' encoders ask the device how large a picture is
    "the stage 'encode' .* it waits for the device",
    # experts in float32 are multiplied one by one
    "the stage '(prefill|decode)' .* it waits for the device in nn/functional.py",
    # clusters and basis tokens are found with the host's help
    "the stage '(select|prefill)' .* it (waits for the device in layerwise/|cannot be captured)",
    # LLaVA-OneVision's newline behind a video, on older transformers
    "this model adds visual tokens after its encoder has run",
)
"""What may be left uncaptured, or to the plain way."""

ASK_THE_HOST = ("apet",)
"""Strategies that select with the host's help."""


def answered(compiled: tp.Compiled, inputs: Any, new: int) -> Any:
    """Generate; a warning that is not among the known ones is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotCompiledWarning)
        for known in UNCAPTURED:
            warnings.filterwarnings("ignore", known, NotCompiledWarning)
        return compiled.generate(**inputs, max_new_tokens=new)


def both(model: Any, compiled: tp.Compiled, strategy: Any, keep: Any, inputs: Any, **options: Any) -> None:
    """Tokens of both, which must be equal; randomness starts alike."""
    torch.manual_seed(3)
    got = answered(compiled, inputs, 7)
    torch.manual_seed(3)
    with tp.attach(model, strategy, keep, **options):
        want = model.generate(**{k: v.to(DEVICE) for k, v in inputs.items()}, max_new_tokens=7)
    assert torch.equal(got, want)
    if DEVICE == "cuda" and strategy not in ASK_THE_HOST:
        assert all(b.captured for b in compiled.built if b.stage == "select")


def quiet(model: Any, strategy: Any, keep: Any, **options: Any) -> tp.Compiled:
    """Compile; a warning that something is not compiled is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotCompiledWarning)
        return tp.compile(model, strategy, keep, bucket=8, **options)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_tokens_are_those_of_attach(name: str, kind: Any) -> None:
    model = tiny_model(name).to(DEVICE)
    inputs = tiny_inputs(name, kind, 3)
    both(model, quiet(model, "mi-pruner", 0.4), "mi-pruner", 0.4, inputs)


@pytest.mark.parametrize("strategy", ["random", "divprune", "visionzip", "vispruner", "trimtokenator", "cdpruner"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_strategies(strategy: str, attention: str) -> None:
    model = tiny_model("llava", attention).to(DEVICE)
    compiled = quiet(model, strategy, 9)
    for seed in range(2):
        both(model, compiled, strategy, 9, tiny_inputs("llava", ["image", "text", "two-images"], seed=seed))


BETWEEN = ["fastv", "dart", "pyramiddrop", "sparsevlm", "sparsevlm:version=v2", "apet", "autoprune"]


@pytest.mark.filterwarnings("ignore::tokenprune.core.errors.SubstituteWarning")  # encoders without [CLS]
@pytest.mark.parametrize(
    ("name", "kind"),
    [case for case in CASES if case[0] not in WINDOWED and case[1] in ("two-images", "image-and-video")],
)
def test_strategies_between_layers(name: str, kind: Any) -> None:
    model = tiny_model(name).to(DEVICE)
    inputs = tiny_inputs(name, kind, 2)
    for strategy in BETWEEN:
        if refusal(adapter_for(model), tp.build(strategy)) is None:
            compiled = quiet(model, strategy, 0.4)
            both(model, compiled, strategy, 0.4, inputs)
            both(model, compiled, strategy, 0.4, inputs)


@pytest.mark.parametrize("strategy", BETWEEN)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("keep", [7, 1.0])
def test_units_of_other_numbers_between_layers(strategy: str, attention: str, keep: Any) -> None:
    model = tiny_model("llava", attention).to(DEVICE)
    compiled = quiet(model, strategy, keep)
    for seed in range(2):
        both(model, compiled, strategy, keep, tiny_inputs("llava", ["image", "text", "two-images"], seed=seed))


@pytest.mark.parametrize("options", [{"positions": "compact"}, {"positions": "keep"}, {"unit": "sample"}])
def test_options_between_layers(options: dict[str, Any]) -> None:
    model = tiny_model("llava").to(DEVICE)
    inputs = tiny_inputs("llava", "two-images", 2)
    for strategy in ("fastv", "sparsevlm"):
        both(model, quiet(model, strategy, 8, **options), strategy, 8, inputs, **options)


def test_text_behind_the_picture_is_needed_between_layers() -> None:
    model = tiny_model("llava").to(DEVICE)
    inputs = tiny_inputs("llava", "image", 1)
    ends = int((inputs["input_ids"][0] == model.config.image_token_id).nonzero()[-1]) + 1
    short = {**inputs, "input_ids": inputs["input_ids"][:, :ends], "attention_mask": inputs["attention_mask"][:, :ends]}
    with pytest.raises(FeatureError, match="reads the text after the image"):
        quiet(model, "sparsevlm", 8).generate(**short)


@pytest.mark.parametrize("options", [{"unit": "sample"}, {"positions": "compact"}, {"text": "all"}])
def test_options(options: dict[str, Any]) -> None:
    model = tiny_model("llava").to(DEVICE)
    both(
        model, quiet(model, "mi-pruner", 8, **options), "mi-pruner", 8, tiny_inputs("llava", "two-images", 2), **options
    )


def test_frames_have_budgets_of_their_own() -> None:
    model = tiny_model("qwen2_5_vl").to(DEVICE)
    inputs = tiny_inputs("qwen2_5_vl", "video", 2)
    both(model, quiet(model, "mi-pruner", 0.5, unit="frame"), "mi-pruner", 0.5, inputs, unit="frame")


@pytest.mark.parametrize("family", ["idefics3", "smolvlm"])
def test_tiles_of_padding_have_programs_of_their_own(family: str) -> None:
    """Same shapes, other tiles that are padding: known before pixels move, so that the encoder can be captured."""
    model = tiny_model(family).to(DEVICE)
    compiled = quiet(model, "mi-pruner", 0.4)
    inputs = tiny_inputs(family, "image", 3)
    inputs.pop("pixel_attention_mask")  # which would tell
    turned = {name: value.roll(1, 0) for name, value in inputs.items()}
    for asked in (inputs, turned, inputs):
        both(model, compiled, "mi-pruner", 0.4, asked)
    encoders = [built for built in compiled.built if built.stage == "encode"]
    assert len(encoders) == 2
    assert all(built.captured for built in encoders) == (DEVICE == "cuda")


def test_everything_kept_is_the_plain_model() -> None:
    model = tiny_model("qwen3_vl").to(DEVICE)
    inputs = tiny_inputs("qwen3_vl", "image", 2)
    want = model.generate(**{k: v.to(DEVICE) for k, v in inputs.items()}, max_new_tokens=5)
    assert torch.equal(answered(quiet(model, "mi-pruner", 1.0), inputs, 5), want)


def test_other_questions_and_images_reuse_programs() -> None:
    model = tiny_model("llava").to(DEVICE)
    compiled = quiet(model, "mi-pruner", 9)
    for seed in range(4):
        compiled.generate(**tiny_inputs("llava", "image", 2, seed=seed), max_new_tokens=3)
    assert [built.stage for built in compiled.built] == ["encode", "select", "prefill", "decode"]
    assert len(compiled.report().splitlines()) == 4
    # a longer prompt needs programs of its own, an answer that fits into the same cache does not
    compiled.generate(**tiny_inputs("llava", "two-images", 2), max_new_tokens=9)
    assert [built.stage for built in compiled.built][4:] == ["encode", "select", "prefill"]


def test_rows_end_where_generate_ends_them() -> None:
    model = tiny_model("llava").to(DEVICE)
    inputs = tiny_inputs("llava", "image", 3)
    compiled = quiet(model, "mi-pruner", 9)
    free = compiled.generate(**inputs, max_new_tokens=20)[:, inputs["input_ids"].shape[1] :]
    model.generation_config.eos_token_id = sorted({int(free[0, 2]), int(free[1, 4]), int(free[2, 11])})
    both(model, compiled, "mi-pruner", 9, inputs)
    ended = compiled.generate(**inputs, max_new_tokens=20)
    with tp.attach(model, "mi-pruner", 9):
        assert torch.equal(ended, model.generate(**{k: v.to(DEVICE) for k, v in inputs.items()}, max_new_tokens=20))


@pytest.mark.slow
@pytest.mark.skipif(DEVICE == "cpu" and shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_inductor() -> None:
    model = tiny_model("llava").to(DEVICE)
    compiled = quiet(model, "mi-pruner", 9, backend="inductor")
    both(model, compiled, "mi-pruner", 9, tiny_inputs("llava", "image", 2))


@pytest.mark.parametrize(
    ("name", "strategy", "words"),
    [("llava", "flowcut", "inside the encoder")],
)
def test_what_cannot_be_compiled_runs_the_plain_way(name: str, strategy: str, words: str) -> None:
    model = tiny_model(name).to(DEVICE)
    with pytest.warns(NotCompiledWarning, match=words):
        compiled = tp.compile(model, strategy, 9)
    both(model, compiled, strategy, 9, tiny_inputs(name, "image", 2))
    assert compiled.built == []


def alike(model: Any, compiled: tp.Compiled, strategy: Any, keep: Any, inputs: Any, **options: Any) -> torch.Tensor:
    """Tokens of both with options of ``generate``: equal, and so is what a further draw gives."""
    options = {"max_new_tokens": 6, "suppress_tokens": list(adapter_for(model).image_token_ids), **options}
    torch.manual_seed(5)
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotCompiledWarning)
        for known in UNCAPTURED:
            warnings.filterwarnings("ignore", known, NotCompiledWarning)
        got = compiled.generate(**inputs, **options)
    drawn = torch.rand(4, device=DEVICE)
    torch.manual_seed(5)
    with tp.attach(model, strategy, keep):
        want = model.generate(**{k: v.to(DEVICE) for k, v in inputs.items()}, **options)
    assert torch.equal(got, want)
    assert torch.equal(drawn, torch.rand(4, device=DEVICE))
    return got


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_drawn_tokens_are_those_of_attach(name: str, kind: Any) -> None:
    model = tiny_model(name).to(DEVICE)
    inputs = tiny_inputs(name, kind, 2)
    compiled = quiet(model, "mi-pruner", 0.4)
    drawn = {"do_sample": True, "temperature": 0.8, "top_p": 0.95, "num_return_sequences": 2}
    answers = alike(model, compiled, "mi-pruner", 0.4, inputs, **rows_of(model, drawn))
    assert len(answers) == (4 if takes_encoded(model) else 2)
    assert not torch.equal(answers[0], answers[1])
    alike(model, compiled, "mi-pruner", 0.4, inputs, **rows_of(model, {"num_beams": 3}))


DRAWN: dict[str, dict[str, Any]] = {
    "top-k": {"do_sample": True, "top_k": 4},
    "other cuts": {"do_sample": True, "min_p": 0.02, "typical_p": 0.9, "top_k": 0},
    "penalties": {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2},
    "drawn beams": {"do_sample": True, "num_beams": 4, "num_return_sequences": 3, "length_penalty": 0.5},
    "one prompt more often": {"do_sample": True, "num_return_sequences": 5},
    "ends": {"do_sample": True, "eos_token_id": list(range(0, 90, 6)), "pad_token_id": 1, "min_new_tokens": 2},
    "max_length": {"max_length": 90, "max_new_tokens": None},
}


@pytest.mark.parametrize("how", DRAWN)
@pytest.mark.parametrize("strategy", ["mi-pruner", "fastv", "pyramiddrop"])
def test_every_way_of_drawing(strategy: str, how: str) -> None:
    """Also where layers hold different tokens: rows of all of them are repeated and reordered alike."""
    model = tiny_model("llava").to(DEVICE)
    compiled = quiet(model, strategy, 9)
    asked = rows_of(model, DRAWN[how])
    for seed in range(2):
        alike(model, compiled, strategy, 9, tiny_inputs("llava", ["image", "two-images"], seed=seed), **asked)
    again = len(compiled.built)
    alike(model, compiled, strategy, 9, tiny_inputs("llava", ["image", "two-images"], seed=7), **asked)
    assert len(compiled.built) == again


def test_a_picture_is_read_once_for_all_its_answers() -> None:
    model = tiny_model("llava").to(DEVICE)
    compiled = quiet(model, "mi-pruner", 9)
    alike(model, compiled, "mi-pruner", 9, tiny_inputs("llava", "image", 2), do_sample=True, num_return_sequences=4)
    shapes = {built.stage: built.shape for built in compiled.built}
    assert shapes["encode"].startswith("pixel_values (2,")
    assert shapes["prefill"].startswith("2 x")
    assert shapes["decode"].startswith("8 rows")


def test_a_generation_config_may_ask_for_it() -> None:
    """As those of many checkpoints do."""
    model = tiny_model("qwen2_5_vl").to(DEVICE)
    config = model.generation_config
    config.do_sample, config.temperature, config.repetition_penalty = True, 0.6, 1.1
    inputs = tiny_inputs("qwen2_5_vl", "image", 2)
    compiled = quiet(model, "mi-pruner", 0.4)
    length, drawn = inputs["input_ids"].shape[1], None
    for seed in (1, 2):
        torch.manual_seed(seed)
        before, drawn = drawn, answered(compiled, inputs, 8)[:, length:]
    assert not torch.equal(before, drawn)
    both(model, compiled, "mi-pruner", 0.4, inputs)
    config.max_new_tokens, config.max_length = None, length + 3
    config.do_sample, config.repetition_penalty = False, None
    assert answered(compiled, inputs, None).shape[1] == length + 3
    config.max_length = length
    with pytest.raises(ConfigError, match="max_new_tokens"):
        compiled.generate(**inputs)


def test_streamers_hear_what_is_drawn() -> None:
    model, inputs = tiny_model("llava").to(DEVICE), tiny_inputs("llava", "image", 1)
    heard = Listening()
    out = alike(model, quiet(model, "mi-pruner", 9), "mi-pruner", 9, inputs, do_sample=True)
    torch.manual_seed(5)
    quiet(model, "mi-pruner", 9).generate(
        **inputs,
        max_new_tokens=6,
        do_sample=True,
        suppress_tokens=list(adapter_for(model).image_token_ids),
        streamer=heard,
    )
    assert heard.ended
    assert torch.equal(torch.cat([heard.heard[0][0], *heard.heard[1:]]), out[0].cpu())


def test_logits_go_through_processors_of_the_caller() -> None:
    model, inputs = tiny_model("llava").to(DEVICE), tiny_inputs("llava", "image", 2)
    shapes = []

    def only_seven(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        shapes.append((tuple(ids.shape), logits.dtype))
        return torch.full_like(logits, -torch.inf).index_fill(1, torch.tensor([7], device=logits.device), 0.0)

    out = quiet(model, "mi-pruner", 9).generate(**inputs, max_new_tokens=3, logits_processor=[only_seven])
    length = inputs["input_ids"].shape[1]
    assert (out[:, length:] == 7).all()
    assert shapes == [((2, length + i), torch.float32) for i in range(3)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"output_scores": False}, "output_scores"),
        ({"use_cache": False}, "use_cache=False"),
        ({"return_dict_in_generate": True}, "return_dict_in_generate=True"),
    ],
)
def test_what_asks_more_of_a_model_than_logits_runs_the_plain_way(options: dict[str, Any], words: str) -> None:
    model = tiny_model("qwen2_vl").to(DEVICE)
    compiled = quiet(model, "mi-pruner", 9)
    inputs = tiny_inputs("qwen2_vl", "image", 1)
    with pytest.warns(NotCompiledWarning, match=words):
        out = compiled.generate(**inputs, max_new_tokens=3, **options)
    out = getattr(out, "sequences", out)
    assert out.shape[1] == inputs["input_ids"].shape[1] + 3
    assert compiled.built == []


def test_prompts_without_images_run_the_plain_way() -> None:
    model = tiny_model("llava").to(DEVICE)
    inputs = tiny_inputs("llava", "text", 2)
    with pytest.warns(NotCompiledWarning, match="show nothing"):
        got = quiet(model, "mi-pruner", 9).generate(**inputs, max_new_tokens=4)
    assert torch.equal(got, model.generate(**{k: v.to(DEVICE) for k, v in inputs.items()}, max_new_tokens=4))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"backend": "graph"}, ConfigError, "graphs"),
        ({"bucket": 0}, ConfigError, "bucket"),
        ({"bucket": 1.5}, OptionTypeError, "bucket"),
        ({"keep": 0}, BudgetError, "keep=0"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        tp.compile(tiny_model("llava"), "mi-pruner", **{"keep": 9, **options})


def test_bad_inputs() -> None:
    model = tiny_model("llava").to(DEVICE)
    compiled = quiet(model, "mi-pruner", 9)
    inputs = tiny_inputs("llava", "image", 2)
    with pytest.raises(UnsupportedError, match="input_ids"):
        compiled.generate(pixel_values=inputs["pixel_values"])
    with pytest.raises(FeatureError, match="placeholders"):
        compiled.generate(**{**inputs, "pixel_values": inputs["pixel_values"][:1]})
    with pytest.raises(ConfigError, match="max_new_tokens"):
        compiled.generate(**inputs, max_new_tokens=0)
    with pytest.raises(BudgetError, match="keep=99"):
        quiet(model, "mi-pruner", 99).generate(**inputs)
    # what failed leaves nothing behind
    assert compiled.generate(**inputs, max_new_tokens=2).shape == (2, inputs["input_ids"].shape[1] + 2)


class Listening:
    """A streamer that keeps what it is given, and may have enough."""

    def __init__(self, enough: int = 100) -> None:
        self.heard: list[torch.Tensor] = []
        self.ended, self.enough = False, enough

    def put(self, value: torch.Tensor) -> None:
        if len(self.heard) > self.enough:
            raise ConnectionError
        self.heard.append(value)

    def end(self) -> None:
        self.ended = True


@pytest.mark.parametrize("strategy", ["mi-pruner", "fastv", "flowcut"])
@pytest.mark.parametrize("batch", [1, 2])
def test_streamers_hear_what_they_hear_of_the_model(strategy: str, batch: int) -> None:
    """Also where nothing is compiled (FlowCut), and up to the end that a row comes to by itself."""
    model, inputs = tiny_model("llava").to(DEVICE), dict(tiny_inputs("llava", "image", batch))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotCompiledWarning)
        compiled = tp.compile(model, strategy, keep=0.5)
        answer = compiled.generate(**inputs, max_new_tokens=9)
    length = inputs["input_ids"].shape[1]
    for ends in (None, int(answer[0, length + 2])):
        model.generation_config.eos_token_id = ends
        model.generation_config.pad_token_id = 0
        compiled_hears, model_is_heard = Listening(), Listening()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotCompiledWarning)
            out = compiled.generate(**inputs, max_new_tokens=9, streamer=compiled_hears)
        with tp.attach(model, strategy, keep=0.5):
            there = {name: value.to(DEVICE) for name, value in inputs.items()}
            wanted = model.generate(**there, max_new_tokens=9, streamer=model_is_heard, do_sample=False)
        assert torch.equal(out, wanted)
        assert compiled_hears.ended
        assert [one.tolist() for one in compiled_hears.heard] == [one.tolist() for one in model_is_heard.heard]
        assert not any(one.is_cuda for one in compiled_hears.heard)


def test_a_streamer_that_has_enough_ends_the_answer() -> None:
    model, inputs = tiny_model("llava").to(DEVICE), tiny_inputs("llava", "image", 1)
    compiled = tp.compile(model, "mi-pruner", keep=0.5)
    before = compiled.generate(**inputs, max_new_tokens=9)
    with pytest.raises(ConnectionError):
        compiled.generate(**inputs, max_new_tokens=9, streamer=(listening := Listening(enough=3)))
    assert len(listening.heard) == 4
    assert torch.equal(compiled.generate(**inputs, max_new_tokens=9), before)


@pytest.mark.parametrize("way", ["compile", "attach"])
def test_threads_take_turns(way: str) -> None:
    model = tiny_model("llava")
    asked = [tiny_inputs("llava", seed=seed) for seed in range(4)]
    with ExitStack() as stack, ThreadPoolExecutor(4) as threads:
        fast = tp.compile(model, "attention", 4) if way == "compile" else model
        if way == "attach":
            stack.enter_context(tp.attach(model, "attention", 4))
        alone = [fast.generate(**inputs, max_new_tokens=4) for inputs in asked]
        answers = list(threads.map(lambda i: fast.generate(**asked[i % 4], max_new_tokens=4), range(24)))
    for i, answer in enumerate(answers):
        assert torch.equal(answer, alone[i % 4])


def test_programs_used_longest_ago_go() -> None:
    model = tiny_model("qwen2_vl").to(DEVICE)
    compiled = quiet(model, "mi-pruner", 0.4, programs=2)
    sizes = [tiny_inputs("qwen2_vl", kind, batch) for kind, batch in (("image", 1), ("image", 2), ("image", 3))]
    for inputs in (*sizes, *sizes):
        both(model, compiled, "mi-pruner", 0.4, inputs)
    # each size twice, and two others before it comes again
    assert [built.stage for built in compiled.built].count("encode") == 6
    assert [built.stage for built in compiled.built].count("select") == 6
    made = len(compiled.built)
    both(model, compiled, "mi-pruner", 0.4, sizes[-1])
    assert len(compiled.built) == made
