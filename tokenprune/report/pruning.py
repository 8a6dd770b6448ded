"""What strategies leave of a picture, and what the model then answers (MI-Pruner, Figs. 1 and 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image, ImageDraw

from tokenprune.core.matching import Match, asked_keep
from tokenprune.core.registry import build
from tokenprune.core.strategy import AnyStrategy, Strategy
from tokenprune.data.items import Question
from tokenprune.evaluation.metrics import graded
from tokenprune.hf.attach import attach
from tokenprune.hf.cost import layer_average
from tokenprune.report.overlay import Cell, dimmed, sheet
from tokenprune.report.seen import Panel, Seen, see_picture

__all__ = ["Look", "View", "look", "pruning_sheet"]

RIGHT, WRONG, BOX = "#1a7f37", "#c0392b", "#d61f69"


@dataclass(frozen=True)
class View:
    """What one strategy left at one budget.

    Attributes
    ----------
    strategy : str
        "full" where nothing is pruned.
    keep : int
        Budget asked for; 0 where nothing is pruned.
    answer : str
    kept : tuple of int
        Raster positions that are left after the strategy's last event; a token made of several counts as the one
        whose place it takes.
    layer_average : float
        Visual tokens that a decoder layer processed on average.
    stages : tuple of (int, tuple of int)
        Where the strategy acts between layers: the layer after which it did, and which of the tokens that were there
        went on, in their new order.
    """

    strategy: str
    keep: int
    answer: str
    kept: tuple[int, ...]
    layer_average: float
    stages: tuple[tuple[int, tuple[int, ...]], ...] = ()


@dataclass(frozen=True)
class Look:
    """A picture under several strategies and budgets.

    Attributes
    ----------
    picture : Image
        What the model saw: resized and cropped by its processor.
    size : (width, height)
        Of the picture that was given.
    panels : tuple of Panel
        Where its tokens lie, stretch after stretch: each over all of it (a thumbnail, then the picture), or each over a
        tile or a frame.
    full : View
    views : tuple of tuple of View
        A row a budget, a column a strategy.
    n_layers : int
        Decoder layers.
    measure : str
        What budgets count.
    """

    picture: Image.Image
    size: tuple[int, int]
    panels: tuple[Panel, ...]
    full: View
    views: tuple[tuple[View, ...], ...]
    n_layers: int
    measure: str = "tokens"


@torch.no_grad()
def look(
    model: Any,
    processor: Any,
    image: Image.Image,
    question: str,
    strategies: Sequence[str | Mapping[str, Any] | AnyStrategy],
    budgets: Sequence[int],
    max_new_tokens: int = 8,
    match: Match = "kept",
    prompt: str | None = None,
    seen: Seen | None = None,
) -> Look:
    """Ask one question about a picture, unpruned and with every strategy at every budget.

    Parameters
    ----------
    model, processor
        As :func:`tokenprune.zoo.loading.load_model` returns them.
    image : Image
    question : str
    strategies : sequence
        What :func:`tokenprune.build` accepts.
    budgets : sequence of int
        Visual tokens kept.
    max_new_tokens : int, default 8
    match : str, default "kept"
        What a budget is; see :data:`tokenprune.core.matching.Match`.
    prompt : str, optional
        What is shown to the model, where that is more than the question.
    seen : Seen, optional
        The picture or video as it is shown, where that was made already; ``image`` is not looked at then.

    Raises
    ------
    UnsupportedError
        Where the picture's tokens lie is not known.
    BudgetError
        A budget is larger than the number of visual tokens.
    """
    built = [build(strategy) for strategy in strategies]
    seen = seen or see_picture(model, processor, image, prompt or question, built)
    n = seen.n
    n_layers = model.config.get_text_config().num_hidden_layers

    text = "prompt" if prompt in (None, question) else [question]

    def view(strategy: AnyStrategy | None, keep: int) -> View:
        pruning: Any = nullcontext()
        inputs, encoded = seen.inputs, seen.encoded
        if strategy is not None:
            asked_for = keep if match == "kept" else asked_keep(match, strategy, keep, n, n_layers)
            if isinstance(strategy, Strategy) and strategy.stage is not None:
                inputs, encoded = seen.pixels, None
            unit: Any = {} if seen.unit is None else {"unit": seen.unit}
            pruning = attach(
                model, strategy, asked_for, text=strategy.text or text, processor=processor, encoded=encoded, **unit
            )
        with pruning as run:
            out = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        said = processor.decode(out[0, seen.inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        answer = " ".join(said.split())
        if strategy is None:
            return View("full", 0, answer, tuple(range(n)), float(n))
        prefill = run.history[-1]
        left, average = prefill.selection.row(0), layer_average(prefill.layer_tokens[0])
        stages = tuple(
            (stage.layer, tuple(int(i) for i in stage.sequence[0].tolist() if i >= 0)) for stage in prefill.stages
        )
        return View(strategy.name, keep, answer, tuple(left), average, stages)

    views = tuple(tuple(view(strategy, keep) for strategy in built) for keep in budgets)
    measure = "% of tokens" if match == "share" else "tokens"
    return Look(seen.picture, seen.size, seen.panels, view(None, 0), views, n_layers, measure)


def pruning_sheet(looked: Look, title: str = "", question: Question | None = None, side: int = 240) -> Image.Image:
    """Draw a look: the whole picture first, then one column a strategy and one row a budget.

    Parameters
    ----------
    looked : Look
    title : str
    question : Question, optional
        One whose answer is known: answers are green or red (black where a judge would grade), and what it is about is
        outlined.
    side : int, default 240
        Pixels along the longer side of each picture.
    """

    def cell(view: View) -> Cell:
        picture = dimmed(looked.picture, view.kept, looked.panels, side)
        color = "black"
        if question is not None:
            _outline(picture, question.boxes or (), looked.size)
            grade = graded(view.answer, question)
            color = "black" if grade is None else RIGHT if float(grade) >= 0.5 else WRONG
        note = f"{len(view.kept)} left, {view.layer_average:.4g} a layer"
        return Cell(picture, view.answer or "(nothing)", note, color)

    columns = ["full", *(view.strategy for view in looked.views[0])]
    rows = [f"{row[0].keep} {looked.measure}" for row in looked.views]
    cells = [[cell(looked.full) if r == 0 else None, *map(cell, row)] for r, row in enumerate(looked.views)]
    return sheet(cells, columns, rows, title)


def _outline(picture: Image.Image, boxes: Sequence[tuple[int, int, int, int]], size: tuple[int, int]) -> None:
    """Outline boxes that are given in pixels of a picture of another size."""
    draw = ImageDraw.Draw(picture)
    x, y = picture.width / size[0], picture.height / size[1]
    for x0, y0, x1, y1 in boxes:
        draw.rectangle((x0 * x, y0 * y, x1 * x - 1, y1 * y - 1), outline=BOX, width=2)
