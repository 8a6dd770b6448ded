"""Comparisons and overlays on every model family: answers are those of ``generate``, whatever is shared on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import tokenprune as tp
from tokenprune.data.items import Item, scene_items
from tokenprune.evaluation.batch import QuestionBatch
from tokenprune.evaluation.compare import compare
from tokenprune.evaluation.conditions import RANDOM_DRAWS
from tokenprune.evaluation.runner import question_batch
from tokenprune.hf.adapters import adapter_for
from tokenprune.hf.chat import prompt_inputs
from tokenprune.hf.sources import refusal
from tokenprune.report.pruning import look, pruning_sheet
from tokenprune.results.store import read_results
from tokenprune.zoo.tiny import FAMILIES, picture, tiny_model, tiny_processor

pytestmark = pytest.mark.filterwarnings("ignore::tokenprune.core.errors.SubstituteWarning")

STRATEGIES = ("mi-pruner", "fastv")
KEEP = 5
TILED = {"internvl", "idefics3", "smolvlm"}
"""Processors cut a scene into tiles."""

families = pytest.mark.parametrize("family", FAMILIES)


def directly(model: Any, processor: Any, item: Item, strategy: str | None) -> str:
    """One answer by ``generate`` alone."""
    inputs = prompt_inputs(processor, [item.image()], [item.question.text])
    if strategy is None:
        out = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    else:
        with tp.attach(model, strategy, KEEP, processor=processor):
            out = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    return str(processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)).strip()


@families
def test_answers_are_those_of_generate(family: str, tmp_path: Path) -> None:
    model, processor = tiny_model(family), tiny_processor(family)
    items, notes = scene_items(["gqa", "pope"], 5, seed=1), []
    compare(
        model, processor, items, tmp_path, {}, strategies=STRATEGIES, budgets=(KEEP,), batch_size=3, note=notes.append
    )
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    said = {(line["strategy"], line["draw"], line["sample"]): line["prediction"] for line in lines}
    refused = [s for s in STRATEGIES if refusal(adapter_for(model), tp.build(s))]
    rows = {strategy for strategy, _, _ in said}
    usual = {"full", "wrong image", "random", "oracle", *STRATEGIES}
    assert rows == usual - set(refused) - ({"oracle"} if family in TILED else set())
    assert len(notes) == len(usual - rows)
    assert len(said) == len(items) * (len(rows) + 2)
    for item in items:
        for strategy in {None, *STRATEGIES} - set(refused):
            assert said[strategy or "full", 0, item.id] == directly(model, processor, item, strategy)
        for draw in range(RANDOM_DRAWS):
            assert said["random", draw, item.id] == directly(model, processor, item, f"random:seed={draw}")
    left = {line["strategy"]: line["tokens"] for line in lines}
    assert left["mi-pruner"] == left["random"] < left["full"]


@families
def test_units_are_those_that_strategies_choose_from(family: str) -> None:
    model, processor = tiny_model(family), tiny_processor(family)
    items = scene_items(["gqa"], 4, seed=2)
    pictures = question_batch(model, processor, items)
    with torch.no_grad(), tp.attach(model, "random", 1.0, processor=processor) as run:
        model(**prompt_inputs(processor, [i.image() for i in items], [i.question.text for i in items]))
    (prefill,) = run.history
    assert list(pictures.units) == [len(places) for places in prefill.places]
    overlap = pictures.overlap([item.question.boxes for item in items])
    assert overlap.shape == (len(pictures.units), max(pictures.units))
    assert (pictures.grids is None) == (family in TILED)
    if pictures.grids is not None:
        assert [sum(grid.size for grid in grids) for grids in pictures.grids] == list(pictures.units)
        # each stretch of tokens is laid over the whole picture once
        whole = pictures.overlap([[(0, 0, *item.image().size)] for item in items])
        for row, grids in zip(whole, pictures.grids, strict=True):
            area = items[0].image().width * items[0].image().height
            assert float(row.sum()) == pytest.approx(len(grids) * area)


def test_pictures_of_different_sizes_are_exchanged() -> None:
    """The wrong image brings its own number of tokens."""
    model, processor = tiny_model("qwen2_5_vl"), tiny_processor("qwen2_5_vl")
    wide, tall = picture(0).resize((64, 32)), picture(1).resize((24, 64))
    pictures = QuestionBatch(model, processor, [wide, tall], ["wide", "tall"], ["how many ?", "is it red ?"])
    own, other = pictures.shown(0), pictures.shown(1)
    assert own.prunable == other.prunable[::-1]
    assert own.prunable[0] != own.prunable[1]
    assert own.staying == other.staying
    alone = model(**prompt_inputs(processor, [tall], ["how many ?"])).logits[0, -1]
    torch.testing.assert_close(model(**other.inputs).logits[0, -1], alone, rtol=0, atol=1e-4)


@families
def test_what_always_stays_is_counted_in_every_row(family: str, tmp_path: Path) -> None:
    """Keeping all that can be pruned costs what the unpruned model costs, newlines and [CLS] included."""
    model, processor = tiny_model(family), tiny_processor(family)
    items = scene_items(["gqa"], 3, seed=2)
    size = max(question_batch(model, processor, items).units)
    options: dict[str, Any] = {"strategies": ["random"], "budgets": (size,), "batch_size": 2, "note": lambda text: None}
    compare(model, processor, items, tmp_path, {}, **options)
    cost: dict[str, set[tuple[float, ...]]] = {}
    for line in read_results(tmp_path):
        numbers = tuple(line[name] for name in ("tokens", "layer_average_tokens", "flops", "kv_bytes"))
        cost.setdefault(line["sample"], set()).add(numbers)
    assert len(cost) == len(items)
    assert all(len(numbers) == 1 for numbers in cost.values())


@families
def test_overlays(family: str) -> None:
    model, processor = tiny_model(family), tiny_processor(family)
    asked = (model, processor, picture().resize((96, 64)), "how many ?", ["mi-pruner"], [KEEP], 2)
    looked = look(*asked)
    [[view]] = looked.views
    areas = [panel.area for panel in looked.panels]
    assert (len(set(areas)) > 1) == (family in TILED)  # each tile as what it is
    assert len(view.kept) == KEEP
    assert len(looked.full.kept) == sum(panel.grid.size for panel in looked.panels)
    assert pruning_sheet(looked, side=60).width > 0
