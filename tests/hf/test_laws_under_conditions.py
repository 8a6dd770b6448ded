"""Attach = prepare = compiled = mask out, whatever callers do around it."""

from __future__ import annotations

import contextlib
import copy
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tokenprune as tp
from tokenprune.core.errors import NotCompiledWarning, UnsupportedError
from tokenprune.diagnostics.laws import difference
from tokenprune.diagnostics.mask_out import mask_out
from tokenprune.hf.encoded import takes_encoded
from tokenprune.hf.record import Prefill
from tokenprune.zoo.tiny import picture, tiny_inputs, tiny_model, tiny_processor

KEEP = 0.3
TOKENS = 5


@dataclass(frozen=True)
class Setting:
    """What is called how.

    Attributes
    ----------
    model, inputs
    generate : dict
        Options of ``generate``.
    prune : dict
        Options of ``attach``.
    around : callable
        Context in which everything is called.
    call : callable
        How a function is called.
    rounding : float
        Difference of logits that counts as rounding, as a share of their spread.
    """

    model: Any
    inputs: dict[str, Any]
    generate: dict[str, Any] = field(default_factory=dict)
    prune: dict[str, Any] = field(default_factory=dict)
    around: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    call: Callable[[Callable[[], Any]], Any] = lambda function: function()
    rounding: float = 1e-3

    def answer(self, model: Any, inputs: dict[str, Any], **more: Any) -> Tensor:
        """New tokens."""
        out = self.call(
            lambda: model.generate(**inputs, **self.generate, max_new_tokens=TOKENS, do_sample=False, **more)
        )
        return out[:, -TOKENS:]

    def first(self, model: Any) -> Tensor:
        """Logits of the first new token, one row a prompt."""
        options = {"max_new_tokens": 1, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
        out = self.call(lambda: model.generate(**self.inputs, **self.generate, **options))
        return out.logits[0][:: self.generate.get("num_beams", 1)]


def plain(family: str) -> Setting:
    return Setting(tiny_model(family), dict(tiny_inputs(family, "image", 3)))


def guidance(family: str) -> Setting:
    return replace(plain(family), generate={"guidance_scale": 1.7})


def beams_and_a_mask_of_text(family: str) -> Setting:
    one = plain(family)
    mask = torch.zeros_like(one.inputs["input_ids"], dtype=torch.bool)
    mask[:, -4:] = True
    return replace(one, generate={"num_beams": 3}, prune={"text": mask})


def autocast(family: str) -> Setting:
    return replace(plain(family), around=lambda: torch.autocast("cpu", torch.bfloat16), rounding=0.1)


def deep_copy(family: str) -> Setting:
    one = plain(family)
    with tp.attach(one.model, "mi-pruner", KEEP):
        twin = copy.deepcopy(one.model)
        one.model(**one.inputs)
    return replace(one, model=twin)


def tall_pictures(family: str) -> Setting:
    message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what color is the dog ?"}]}]
    processor = tiny_processor(family)
    text = processor.apply_chat_template(message, add_generation_prompt=True)
    shown = [[picture(seed).resize(size)] for seed, size in enumerate([(20, 200), (64, 64), (200, 30)])]
    inputs = processor(images=shown, text=[text] * 3, padding=True, return_tensors="pt")
    return Setting(tiny_model(family), dict(inputs))


class LowRank(nn.Module):
    """A linear layer and a learned change of rank 2."""

    def __init__(self, inner: nn.Linear, generator: torch.Generator) -> None:
        super().__init__()
        self.inner = inner
        self.down = nn.Parameter(torch.randn(2, inner.in_features, generator=generator) * 0.3)
        self.up = nn.Parameter(torch.randn(inner.out_features, 2, generator=generator) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + x @ self.down.T @ self.up.T


def lora(family: str) -> Setting:
    one = plain(family)
    generator = torch.Generator().manual_seed(3)
    for name, module in list(one.model.named_modules()):
        if name.endswith(("q_proj", "v_proj", "qkv")):
            parent, _, last = name.rpartition(".")
            setattr(one.model.get_submodule(parent), last, LowRank(module, generator))
    return one


def quantised_weights(family: str) -> Setting:
    from optimum.quanto import freeze, qint8, quantize

    one = plain(family)
    quantize(one.model, weights=qint8, exclude="lm_head")
    freeze(one.model)
    return one


def checkpointing(family: str) -> Setting:
    one = plain(family)
    one.model.gradient_checkpointing_enable()
    return one


def beside_other_threads(family: str) -> Setting:
    """Each call runs in a thread of its own, beside others that show other pictures."""
    one = plain(family)
    other = dict(tiny_inputs(family, "image", 2, seed=9))

    def call(function: Callable[[], Any]) -> Any:
        results: list[Any] = []
        errors: list[BaseException] = []

        def run(what: Callable[[], Any]) -> None:
            try:
                results.append((what, what()))
            except BaseException as error:
                errors.append(error)

        rest = [lambda: one.model(**other), lambda: one.model.generate(**other, max_new_tokens=2, do_sample=False)]
        threads = [threading.Thread(target=run, args=(what,)) for what in (rest[0], function, rest[1])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        return next(result for what, result in results if what is function)

    return replace(one, call=call)


def nested_modes(family: str) -> Setting:
    return replace(plain(family), around=torch.inference_mode)


CONDITIONS = (
    plain,
    guidance,
    beams_and_a_mask_of_text,
    autocast,
    deep_copy,
    tall_pictures,
    lora,
    quantised_weights,
    checkpointing,
    beside_other_threads,
    nested_modes,
)

conditions = pytest.mark.parametrize("condition", CONDITIONS, ids=lambda condition: condition.__name__)
FAMILIES = ("llava", "qwen2_5_vl")
EVERYWHERE = [
    # guidance breaks in the plain Qwen models of transformers 5.24
    (condition, "internvl" if condition is guidance and family == "qwen2_5_vl" else family)
    for condition in CONDITIONS
    for family in FAMILIES
]
EVERYWHERE += [
    (condition, family) for condition in (tall_pictures, lora, autocast) for family in ("llava_next", "internvl")
]
everywhere = pytest.mark.parametrize(
    ("condition", "family"), EVERYWHERE, ids=lambda value: value if isinstance(value, str) else value.__name__
)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", NotCompiledWarning)
        yield


@everywhere
def test_keeping_all_is_the_plain_model(condition: Callable[[str], Setting], family: str) -> None:
    setting = condition(family)
    with setting.around():
        want, logits = setting.answer(setting.model, setting.inputs), setting.first(setting.model)
        with tp.attach(setting.model, "mi-pruner", 1.0, **setting.prune):
            assert torch.equal(setting.answer(setting.model, setting.inputs), want)
            assert torch.equal(setting.first(setting.model), logits)


@everywhere
def test_attach_is_prepare_is_compiled(condition: Callable[[str], Setting], family: str) -> None:
    setting = condition(family)
    with setting.around():
        with tp.attach(setting.model, "mi-pruner", KEEP, **setting.prune):
            got = setting.answer(setting.model, setting.inputs)
        if takes_encoded(setting.model):
            shorter = tp.prepare(setting.model, "mi-pruner", KEEP, **setting.prune, **setting.inputs)
            assert torch.equal(setting.answer(setting.model, shorter), got)
        compiled = tp.compile(setting.model, "mi-pruner", keep=KEEP, **setting.prune)
        assert torch.equal(setting.answer(compiled, setting.inputs), got)


def _of_prompts(run: tp.Run, setting: Setting) -> Prefill:
    """What was done to the setting's own prompts, without their beams."""
    beams = setting.generate.get("num_beams", 1)
    (prefill,) = (one for one in run.history if len(one.tokens_before) == beams * len(setting.inputs["input_ids"]))
    plan = replace(prefill.splice, index=prefill.splice.index[::beams], mask=prefill.splice.mask[::beams])
    return replace(prefill, splice=plan, rows=tuple(row // beams for row in prefill.rows))


@pytest.mark.parametrize("strategy", ["mi-pruner", "fastv"])
@everywhere
def test_dropping_is_masking_out(condition: Callable[[str], Setting], family: str, strategy: str) -> None:
    setting = condition(family)
    with setting.around():
        with tp.attach(setting.model, strategy, KEEP, **setting.prune) as run:
            got = setting.first(setting.model)
        prefill = _of_prompts(run, setting)
        assert sum(prefill.tokens_after) < sum(prefill.tokens_before)
        want = mask_out(setting.model, setting.inputs, prefill)
    assert difference(got, want) <= setting.rounding


@pytest.mark.skipif(not takes_encoded(tiny_model("llava")), reason="needs transformers >= 5.18")
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_rows_are_refused_by_every_way(family: str) -> None:
    one = dict(tiny_inputs(family, "image", 1))
    length = one["input_ids"].shape[1]
    packed = {
        name: torch.cat([value, value], 1 if name in ("input_ids", "attention_mask", "mm_token_type_ids") else 0)
        for name, value in one.items()
    }
    places = torch.arange(length).repeat(2)[None]
    packed["position_ids"] = places
    model = tiny_model(family)
    if family != "llava":
        packed["position_ids"] = places.expand(4, -1, -1)
    ways: dict[str, Callable[[], Any]] = {
        "prepare": lambda: tp.prepare(model, "mi-pruner", KEEP, **packed),
        "compile": lambda: tp.compile(model, "mi-pruner", keep=KEEP).generate(**packed, max_new_tokens=2),
    }
    with pytest.raises(UnsupportedError, match="packed"), tp.attach(model, "mi-pruner", KEEP):
        model(**packed, use_cache=False)
    for call in ways.values():
        with pytest.raises(UnsupportedError, match="packed"):
            call()


@pytest.mark.skipif(not takes_encoded(tiny_model("llava")), reason="needs transformers >= 5.18")
@pytest.mark.parametrize("way", ["prepare", "compile"])
def test_masks_of_another_shape_are_refused(way: str) -> None:
    """As attach honours or refuses them."""
    model, inputs = tiny_model("llava"), dict(tiny_inputs("llava", "image", 1))
    length = inputs["input_ids"].shape[1]
    inputs["attention_mask"] = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
    compiled = tp.compile(model, "mi-pruner", keep=KEEP)
    call = (
        partial(tp.prepare, model, "mi-pruner", KEEP)
        if way == "prepare"
        else partial(compiled.generate, max_new_tokens=2)
    )
    with pytest.raises(UnsupportedError, match="shape of input_ids"):
        call(**inputs)
