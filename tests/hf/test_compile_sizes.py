"""Pictures of many sizes through one ``Compiled``: what it keeps is bounded, and answers stay those of ``attach``."""

from __future__ import annotations

import gc
import random
from typing import Any

import pytest
import torch

import tokenprune as tp
from tokenprune.data.images import picture
from tokenprune.hf.chat import prompt_inputs
from tokenprune.hf.compiled import pipeline
from tokenprune.zoo.tiny import tiny_model, tiny_processor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
STAGES = ("encode", "select", "prefill", "decode")
PROGRAMS = 6


def sizes(count: int) -> list[tuple[int, int]]:
    """Widths and heights."""
    draw = random.Random(2)
    return [(draw.randint(30, 240), draw.randint(30, 240)) for _ in range(count)]


def asked(processor: Any, number: int, size: tuple[int, int]) -> Any:
    """A picture of that size, and a question whose length varies."""
    question = "what is it " + "there " * (number % 9) + "?"
    return prompt_inputs(processor, [picture(number, 64).resize(size)], [question])


def tensors() -> list[torch.Tensor]:
    """All of this process; what has no memory of its own (traced) is left out."""
    gc.collect()
    found = [one for one in gc.get_objects() if type(one) in (torch.Tensor, torch.nn.Parameter)]
    return [one for one in found if one.device.type != "meta" and one.layout == torch.strided]


def memory(found: list[torch.Tensor]) -> dict[int, int]:
    """Where tensors lie, each memory once, and its bytes."""
    storages = [one.untyped_storage() for one in found]
    return {storage.data_ptr(): storage.nbytes() for storage in storages}


@pytest.mark.parametrize("family", ["qwen2_5_vl", pytest.param("llava_next", marks=pytest.mark.slow)])
def test_sixty_sizes(family: str) -> None:
    model, processor = tiny_model(family).to(DEVICE), tiny_processor(family)
    pictures = list(enumerate(sizes(60)))
    alive: list[int] = []
    others = tensors()  # of other tests: held, so that nothing of ours comes to lie where they did
    for part in (pictures, pictures[25:]):
        compiled = tp.compile(model, "mi-pruner", 0.4, bucket=128, programs=PROGRAMS)
        for number, size in part:
            inputs = asked(processor, number, size)
            got = compiled.generate(**inputs, max_new_tokens=3)
            if not alive:
                with tp.attach(model, "mi-pruner", 0.4):
                    assert torch.equal(got, model.generate(**inputs.to(DEVICE), max_new_tokens=3))
            assert all(len(compiled._shelf.of(stage)) <= PROGRAMS for stage in STAGES)
            assert len(compiled._decoders) <= pipeline.CACHES
            del inputs, got
        alive.append(sum(memory(tensors()).values()) - sum(memory(others).values()))
        assert [built.stage for built in compiled.built].count("encode") > 2 * PROGRAMS
        del compiled
    # whoever saw all of them holds not a byte more than whoever saw the last ones
    assert alive[0] == alive[1]
