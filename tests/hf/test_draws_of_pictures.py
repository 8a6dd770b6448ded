"""Random draws belong to pictures: the same in any batch, any call, and whichever way a model is run."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tokenprune as tp
from tests.support.families import model_of
from tokenprune.data.images import picture
from tokenprune.hf.chat import prompt_inputs
from tokenprune.hf.encoded import takes_encoded
from tokenprune.zoo.tiny import FAMILIES, tiny_processor

PICTURES = [picture(1, 60), picture(2, 60).resize((96, 40)), picture(3, 60).resize((40, 96))]
"""Of several shapes, so that pixels are padded where a family cuts pictures into tiles."""


def kept(family: str, pictures: list[Any], seed: int = 0, **options: Any) -> list[list[list[int]]]:
    """Tokens that stay of each prompt, a list a unit, counted within the unit."""
    model, processor = model_of(family), tiny_processor(family)
    inputs = prompt_inputs(processor, pictures, [f"what is {'it ' * i}?" for i, _ in enumerate(pictures, 1)])
    strategy = tp.build("random", seed=seed)
    with torch.no_grad(), tp.attach(model, strategy, 0.3, processor=processor, **options) as run:
        model(**inputs)
    [prefill] = run.history
    found: list[list[list[int]]] = [[] for _ in pictures]
    for row, indices in zip(prefill.rows, prefill.selection.indices.tolist(), strict=True):
        found[row].append([i for i in indices if i >= 0])
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_picture_keeps_the_same_tokens_in_any_batch(family: str) -> None:
    together = kept(family, PICTURES)
    assert together == [kept(family, [one])[0] for one in PICTURES]
    assert together == kept(family, PICTURES[::-1])[::-1]
    assert len({str(one) for one in together}) == len(PICTURES)
    assert kept(family, PICTURES, seed=1) != together
    # two pictures a prompt: some families show each with fewer tiles then
    twice = kept(family, [[PICTURES[0], PICTURES[0].rotate(180)], [PICTURES[0].rotate(180), PICTURES[0]]])
    assert twice[0] == [*twice[1][len(twice[1]) // 2 :], *twice[1][: len(twice[1]) // 2]]


@pytest.mark.skipif(not takes_encoded(model_of("llava")), reason="this transformers takes no encoded pictures")
def test_every_way_of_running_a_model_draws_alike() -> None:
    model, processor = model_of("llava"), tiny_processor("llava")
    inputs = prompt_inputs(processor, [picture(1, 60), picture(2, 60)], ["what is it ?", "what color is the dog ?"])
    with torch.no_grad():
        with tp.attach(model, "random", 5, processor=processor) as run:
            plain = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        shorter = tp.prepare(model, "random", 5, processor=processor, **inputs)
        prepared = model.generate(**shorter, max_new_tokens=4, do_sample=False)
        compiled = tp.compile(model, "random", 5, processor=processor).generate(**inputs, max_new_tokens=4)
        encoded = tp.encode(model, **inputs)
        rest = {name: value for name, value in inputs.items() if name != "pixel_values"}
        with tp.attach(model, "random", 5, processor=processor, encoded=encoded) as again:
            model(**rest, mm_encoder_outputs=encoded.outputs)
    length = inputs["input_ids"].shape[1]
    assert torch.equal(plain[:, length:], prepared[:, shorter["input_ids"].shape[1] :])
    assert torch.equal(plain[:, length:], compiled[:, length:])
    assert torch.equal(run.selections[0].indices, again.selections[0].indices)


@pytest.mark.skipif(not takes_encoded(model_of("llava")), reason="this transformers takes no encoded pictures")
def test_pictures_encoded_elsewhere_are_drawn_from_their_tokens() -> None:
    """Nobody knows their pixels then; the draw is still that of the picture and not of its place in the batch."""
    model, processor = model_of("llava"), tiny_processor("llava")
    inputs = prompt_inputs(processor, [picture(1, 60), picture(2, 60)], ["what is it ?", "what is it ?"])
    outputs = tp.encode(model, **inputs).outputs
    swapped = tp.encode(model, **inputs).pick([1, 0]).outputs
    rest = {name: value for name, value in inputs.items() if name != "pixel_values"}
    found = []
    for given in (outputs, swapped):
        with torch.no_grad(), tp.attach(model, "random", 5, processor=processor) as run:
            model(**rest, mm_encoder_outputs=given)
        found.append(run.selections[0].indices)
    assert torch.equal(found[0], found[1].flip(0))
    assert not torch.equal(found[0][0], found[0][1])
