"""What strategies keep of a picture, as a figure (MI-Pruner, Figs. 1 and 5)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import fill
from typing import TYPE_CHECKING

from tokenprune.data.items import Question
from tokenprune.evaluation.metrics import graded
from tokenprune.report.figures.canvas import canvas
from tokenprune.report.overlay import dimmed
from tokenprune.report.pruning import RIGHT, WRONG, Look, View

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["kept_grids"]

SIDE = 480
"""Pixels along the longer side of each picture."""


@contextmanager
def kept_grids(looked: Look, question: Question | str, width: float) -> Iterator[Figure]:
    """A column a strategy, a row a budget, the answer under each; the whole picture and its answer first.

    Parameters
    ----------
    looked : Look
    question : Question or str
        With a right answer, answers are marked.
    width : float
        Inches.
    """
    columns, rows = len(looked.views[0]) + 1, len(looked.views)
    each = width / columns
    ratio = looked.picture.height / looked.picture.width
    text = question if isinstance(question, str) else question.text
    expected = "" if isinstance(question, str) else f" ({question.answer})"
    with canvas(width, rows * (each * ratio + 0.2) + 0.42) as figure:
        grid = figure.subplots(rows, columns, squeeze=False)
        for r, row in enumerate(looked.views):
            for c, axes in enumerate(grid[r]):
                axes.grid(False)
                axes.set_xticks([])
                axes.set_yticks([])
                for spine in axes.spines.values():
                    spine.set_visible(False)
                if c == 0 and r:
                    continue
                view = looked.full if c == 0 else row[c - 1]
                _draw(axes, looked, view, question, int(each / 0.062))
                if r == 0:
                    axes.set_title("all tokens" if c == 0 else view.strategy, fontsize=6.5)
                if c == 1:
                    axes.set_ylabel(f"{row[0].keep} tokens", fontsize=6.5)
        figure.suptitle(fill(f"{text}{expected}", int(width / 0.062)), fontsize=7.5)
        yield figure


def _draw(axes: Axes, looked: Look, view: View, question: Question | str, letters: int) -> None:
    from matplotlib.patches import Rectangle

    picture = dimmed(looked.picture, view.kept, looked.panels, SIDE)
    axes.imshow(picture, interpolation="none")
    mark, color = "", "#1c1d21"
    if not isinstance(question, str):
        right = (graded(view.answer, question) or 0) >= 0.5  # a judge has not graded anything here
        mark, color = (" ✓", RIGHT) if right else (" ✗", WRONG)
        x, y = picture.width / looked.size[0], picture.height / looked.size[1]
        for x0, y0, x1, y1 in question.boxes or ():
            box = (x0 * x - 0.5, y0 * y - 0.5), (x1 - x0) * x, (y1 - y0) * y
            for tint, wide in (("white", 1.5), ("#d61f69", 0.7)):
                axes.add_patch(Rectangle(*box, fill=False, edgecolor=tint, linewidth=wide))
    axes.set_xlabel(fill((view.answer or "(nothing)") + mark, max(8, letters)), color=color, fontsize=6.5, labelpad=2)
