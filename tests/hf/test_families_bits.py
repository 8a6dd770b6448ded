"""With everything kept, and nothing padded, attention functions are called as by the plain model, bit for bit.

On an accelerator a mask that hides nothing would choose another kernel, which rounds otherwise.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune as tp
from tests.support.families import batch_of, families, in_dtype, model_of, ways
from tokenprune.core.errors import UnsupportedError
from tokenprune.diagnostics.laws import Way, attention_calls, forward
from tokenprune.hf.adapters import adapter_for
from tokenprune.zoo.tiny import FAMILIES

MODES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "static cache": {"cache_implementation": "static"},
    "beams": {"num_beams": 2},
    "no cache": {"use_cache": False},
    "quantised cache": {
        "cache_implementation": "quantized",
        "cache_config": {"backend": "quanto", "nbits": 4, "q_group_size": 16},
    },
}

pytestmark = pytest.mark.filterwarnings("ignore::tokenprune.core.errors.SubstituteWarning")

BFLOAT16 = torch.bfloat16


def unpadded(family: str, copies: int = 2) -> dict[str, Tensor]:
    """The same prompt several times, so that nothing is padded."""
    one = in_dtype(batch_of(family, "image", 1), BFLOAT16)
    return {name: torch.cat([value] * copies) for name, value in one.items()}


def generate(model: Any, inputs: dict[str, Any], **mode: Any) -> tuple[Tensor, ...]:
    """Tokens, and the logits of every step."""
    quiet = {"suppress_tokens": list(adapter_for(model).image_token_ids), "do_sample": False}
    asked = {**inputs, **quiet, **mode, "max_new_tokens": 3}
    out = model.generate(**asked, output_logits=True, return_dict_in_generate=True)
    return out.sequences[:, -3:], *out.logits


def placed(model: Any, mode: dict[str, Any]) -> dict[str, Any]:
    """Without a cache, prompts made shorter need positions without gaps."""
    gapless = mode.get("use_cache") is False and not adapter_for(model).multi_axis
    return {**mode, "positions": "compact"} if gapless else {"use_cache": mode.get("use_cache", True)}


def same(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@families
@pytest.mark.parametrize("strategy", ["similarity", "attention", "fastv"])
@pytest.mark.parametrize("masked", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["ones", "no mask"])
def test_a_forward_pass_inside_attach(family: str, strategy: str, masked: bool) -> None:
    model = model_of(family, dtype=BFLOAT16)
    if (family, strategy) == ("gemma3", "fastv"):
        strategy = "mi-pruner"  # windows do not let tokens go between layers
    inputs = unpadded(family)
    if not masked:
        del inputs["attention_mask"]
    with attention_calls() as expected:
        plain = forward(model, inputs)
    with attention_calls() as found, tp.attach(model, strategy, 1.0):
        kept = forward(model, inputs)
    assert len(found) >= len(adapter_for(model).language_model.layers)
    assert found == expected
    assert torch.equal(kept, plain)


@pytest.fixture
def _unpacked_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four bits are taken apart here: quanto would compile a program for that, for two minutes."""
    from optimum.quanto.library.extensions import get_extension

    def unpack(packed: Tensor, bits: int) -> Tensor:
        return torch.cat([packed >> shift & 2**bits - 1 for shift in range(0, 8, bits)])

    monkeypatch.setattr(get_extension("quanto_cpp"), "_lib", SimpleNamespace(unpack=unpack))


@families
@ways
@pytest.mark.usefixtures("_unpacked_by_torch")
@pytest.mark.parametrize("mode", ["greedy", *(pytest.param(mode, marks=pytest.mark.slow) for mode in list(MODES)[1:])])
def test_every_step_of_generation(family: str, way: Way, mode: str) -> None:
    model, inputs, options = model_of(family, dtype=BFLOAT16), unpadded(family), MODES[mode]
    if (family, mode) == ("gemma3", "quantised cache"):
        with pytest.raises(ValueError, match="full attention"):  # nor does it without pruning
            generate(model, inputs, **options)
        return
    with attention_calls() as expected:
        plain = generate(model, inputs, **options)
    if way == "prepare":
        with attention_calls() as encoding:
            shorter = tp.prepare(model, "similarity", 1.0, **placed(model, options), **inputs)
        with attention_calls() as decoding:
            kept = generate(model, shorter, **options)
        found = encoding + decoding
    elif (family, mode) == ("gemma3", "static cache"):
        with pytest.raises(UnsupportedError, match="prepare"), tp.attach(model, "similarity", 1.0):
            generate(model, inputs, **options)
        return
    else:
        with attention_calls() as found, tp.attach(model, "similarity", 1.0):
            kept = generate(model, inputs, **options)
    assert found == expected
    assert same(kept, plain)


@pytest.mark.parametrize("family", [name for name, known in FAMILIES.items() if not known.sliding])
@ways
def test_tokens_that_are_gone_need_no_mask(family: str, way: Way) -> None:
    """Gaps in position ids do not bring a mask: the kernels of a prompt that never had these tokens.

    Not in Gemma 3, where images see themselves both ways: it always takes a mask.
    """
    model, inputs = model_of(family, dtype=BFLOAT16), unpadded(family)
    if way == "prepare":
        shorter = tp.prepare(model, "similarity", 0.5, **inputs)
        with attention_calls() as calls:
            generate(model, shorter)
        length = shorter["input_ids"].shape[1]
    else:
        with attention_calls() as calls, tp.attach(model, "similarity", 0.5) as run:
            generate(model, inputs)
        length = run.history[0].sequence_after
    inside = [(tensors, mask, causal) for tensors, mask, _, causal, _ in calls if tensors[0][0][2] in (length, 1)]
    steps = 3 * len(adapter_for(model).language_model.layers)
    assert [(mask, causal) for _, mask, causal in inside[-steps:]] == [
        (None, number < steps // 3) for number in range(steps)
    ]


@families
def test_the_language_model_gets_no_mask_that_the_plain_one_has_not(family: str) -> None:
    """``generate`` leaves a mask of ones out, and a compiled model cannot look whether a mask hides anything."""
    model, inputs = model_of(family, dtype=BFLOAT16), unpadded(family)
    masks: list[bool] = []

    def note(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        masks.append(kwargs.get("attention_mask") is not None)

    def seen() -> list[bool]:
        masks.clear()
        hook = adapter_for(model).language_model.register_forward_pre_hook(note, with_kwargs=True)
        generate(model, inputs)
        hook.remove()
        return masks.copy()

    plain = seen()
    assert len(plain) == 3
    with tp.attach(model, "similarity", 0.5):
        assert seen() == plain
