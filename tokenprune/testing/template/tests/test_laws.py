"""What any strategy must keep, on random tensors, and a run inside a model."""

from __future__ import annotations

import torch
from hypothesis import given, settings

import tokenprune as tp
from tokenprune.hf.chat import prompt_inputs
from tokenprune.testing import features
from tokenprune.zoo.tiny import picture, tiny_llava, tiny_processor

NAME = "tokenprune-example"


@settings(deadline=None)
@given(features())
def test_as_many_real_tokens_are_kept_as_asked_for(some: tp.Features) -> None:
    for keep in range(1, min(some.counts()) + 1):
        selection = tp.build(NAME).select(some, keep)
        for row, mask in enumerate(some.valid()):
            kept = selection.row(row)
            assert len(set(kept)) == len(kept) == keep
            assert all(mask[i] for i in kept)


@settings(deadline=None)
@given(features(batch=2))
def test_other_rows_of_a_batch_decide_nothing(some: tp.Features) -> None:
    whole = tp.build(NAME).select(some, 1)
    for row in range(2):
        mask = None if some.visual_mask is None else some.visual_mask[row : row + 1]
        alone = tp.Features(some.visual[row : row + 1], visual_mask=mask)
        assert tp.build(NAME).select(alone, 1).row(0) == whole.row(row)


def test_it_scores_detail() -> None:
    visual = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 5.0], [1.0, 0.1]]])
    assert tp.build(NAME).select(tp.Features(visual), 1).row(0) == [2]
    assert tp.build({"scorer": {"name": NAME, "power": 2.0}}).select(tp.Features(visual), 1).row(0) == [2]


def test_it_prunes_inside_a_model() -> None:
    model, processor = tiny_llava(side=6), tiny_processor(side=6)
    inputs = prompt_inputs(processor, [picture()], ["what color is the dog ?"])
    with tp.attach(model, NAME, keep=9, processor=processor) as run:
        model.generate(**inputs, max_new_tokens=2)
    assert (run.tokens_before, run.tokens_after) == (36, 9)
