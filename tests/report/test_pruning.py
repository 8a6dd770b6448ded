"""What strategies leave of a picture, on a model of random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import tokenprune as tp
from tokenprune.core.errors import BudgetError, UnknownNameError
from tokenprune.data.scenes import Question
from tokenprune.hf.chat import prompt_inputs
from tokenprune.report.pruning import RIGHT, WRONG, View, look, pruning_sheet
from tokenprune.report.seen import seen_picture
from tokenprune.zoo.tiny import picture, tiny_llava, tiny_processor

QUESTION = "what color is the dog ?"


@pytest.fixture(scope="module")
def tiny() -> tuple[object, object]:
    return tiny_llava(side=6), tiny_processor(side=6)


def test_views_are_what_attach_does(tiny: tuple[object, object]) -> None:
    model, processor = tiny
    looked = look(model, processor, picture(), QUESTION, ["mi-pruner", "random"], [12, 5], max_new_tokens=3)
    assert looked.full == View("full", 0, looked.full.answer, tuple(range(36)), 36.0)
    assert [[(v.strategy, v.keep, len(v.kept)) for v in row] for row in looked.views] == [
        [("mi-pruner", 12, 12), ("random", 12, 12)],
        [("mi-pruner", 5, 5), ("random", 5, 5)],
    ]
    inputs = prompt_inputs(processor, [picture()], [QUESTION])
    with torch.no_grad(), tp.attach(model, "mi-pruner", 5, processor=processor) as run:
        out = model.generate(**inputs, max_new_tokens=3, do_sample=False)  # type: ignore[attr-defined]
    said = processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)  # type: ignore[attr-defined]
    assert looked.views[1][0].answer == " ".join(said.split())
    assert list(looked.views[1][0].kept) == run.history[-1].selection.row(0)


def test_inside_the_model_the_last_event_counts(tiny: tuple[object, object]) -> None:
    model, processor = tiny
    [[view]] = look(model, processor, picture(), QUESTION, ["fastv"], [9], max_new_tokens=2).views
    assert len(view.kept) == 9
    assert 9 < view.layer_average < 36


def test_the_picture_is_what_the_model_saw(tiny: tuple[object, object]) -> None:
    _, processor = tiny
    wide = Image.new("RGB", (96, 48), "red")
    wide.paste("blue", (24, 0, 72, 48))
    seen = np.asarray(seen_picture(processor, wide)).astype(int)
    assert seen.shape == (48, 48, 3)
    assert np.abs(seen - [0, 0, 255]).max() <= 1  # the middle, which is all that is cropped out


def test_the_picture_is_found_under_any_name_of_its_pixels() -> None:
    wide = Image.new("RGB", (96, 48), "red")
    wide.paste("blue", (24, 0, 72, 48))
    processor = tiny_processor("video_llava")
    seen = seen_picture(processor, wide)
    assert seen.size == (32, 32)  # cropped
    assert np.abs(np.asarray(seen).astype(int)[:, 4:28] - [0, 0, 255]).max() <= 1


def test_answers_are_colored_by_whether_they_are_right(tiny: tuple[object, object]) -> None:
    model, processor = tiny
    looked = look(model, processor, picture(), QUESTION, ["random"], [12], max_new_tokens=2)

    def colors(answer: str) -> set[tuple[int, ...]]:
        drawn = pruning_sheet(looked, QUESTION, Question(QUESTION, answer, "gqa", "color"))
        return {color for _, color in drawn.getcolors(1 << 24)}

    right, wrong = ((int(c[1:3], 16), int(c[3:5], 16), int(c[5:], 16)) for c in (RIGHT, WRONG))
    assert wrong in colors("an answer that nobody gives")
    assert right not in colors("an answer that nobody gives")
    assert right in colors(looked.full.answer)


def test_what_the_question_is_about_is_outlined_at_its_place(tiny: tuple[object, object]) -> None:
    model, processor = tiny
    image = Image.new("RGB", (200, 200), "black")
    looked = look(model, processor, image, QUESTION, ["random"], [12], max_new_tokens=2)
    plain = pruning_sheet(looked, "", Question(QUESTION, "x", "gqa", "color"), side=120)
    boxed = pruning_sheet(looked, "", Question(QUESTION, "x", "gqa", "color", (), ((50, 100, 150, 200),)), side=120)
    rows, columns = np.nonzero((np.asarray(plain) != np.asarray(boxed)).any(-1))
    assert rows.max() - rows.min() + 1 == 60
    first = columns < columns.min() + 100
    assert columns[first].max() - columns.min() + 1 == 60


def test_mistakes_are_refused(tiny: tuple[object, object]) -> None:
    model, processor = tiny
    with pytest.raises(UnknownNameError, match="mi-pruner"):
        look(model, processor, picture(), QUESTION, ["mi-prunner"], [12])
    with pytest.raises(BudgetError, match="37"):
        look(model, processor, picture(), QUESTION, ["mi-pruner"], [37])
