"""From what was measured to one HTML file. Words from outside reach the page as data and are shown as text only."""

from __future__ import annotations

import base64
import inspect
import io
from collections.abc import Mapping, Sequence
from html import escape
from itertools import accumulate
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from tokenprune.core.schedule import LayerSchedule
from tokenprune.evaluation.metrics import graded
from tokenprune.report.explorer.gather import Exploration, Sweep
from tokenprune.report.explorer.sweep import Frame
from tokenprune.report.pages import asset, script_data
from tokenprune.report.pruning import View
from tokenprune.results.store import write_atomically

__all__ = ["as_data", "explorer_page", "write_explorer"]


def explorer_page(explorations: Sequence[Exploration], facts: Mapping[str, Any], notes: Sequence[str] = ()) -> str:
    """Make the page.

    Parameters
    ----------
    explorations : sequence of Exploration
        A picture each; the page lets its reader choose among them.
    facts : mapping
        What was measured with: model, versions, command line.
    notes : sequence of str
        What a reader must know first.
    """
    data = {
        "pictures": [as_data(one) for one in explorations],
        "facts": [[str(key), str(value)] for key, value in facts.items()],
        "notes": list(notes),
    }
    title = f"tokenprune explore: {explorations[0].name}"
    filled = {
        "title": escape(title),
        "style": asset("theme.css") + _asset("style.css"),
        "data": script_data(data),
        "script": _asset("logic.js") + _asset("view.js"),
    }
    parts = _asset("page.html").split("@@")  # odd places hold names
    return "".join(filled[part] if i % 2 else part for i, part in enumerate(parts))


def write_explorer(
    path: Path, explorations: Sequence[Exploration], facts: Mapping[str, Any], notes: Sequence[str] = ()
) -> Path:
    """Write the page whole or not at all."""
    write_atomically(path, explorer_page(explorations, facts, notes))
    return path


def as_data(one: Exploration) -> dict[str, Any]:
    """One picture for the page, as JSON can hold it."""
    known = None if isinstance(one.question, str) else one.question
    width, height = one.looked.size

    def answer(view: View) -> dict[str, Any]:
        grade = None if known is None else graded(view.answer, known)
        right = None if grade is None else float(grade) >= 0.5
        told = {"keep": view.keep, "answer": view.answer, "right": right, "left": len(view.kept)}
        return told | {"average": round(view.layer_average, 2)}

    starts = accumulate((panel.grid.size for panel in one.panels), initial=0)
    return {
        "name": one.name,
        "question": one.question if known is None else known.text,
        "expected": None if known is None else known.answer,
        "picture": _embedded(one.looked.picture),
        "boxes": [[x0 / width, y0 / height, x1 / width, y1 / height] for x0, y0, x1, y1 in known.boxes or ()]
        if known and one.kind == "picture"
        else [],
        "kind": one.kind,
        "grids": [
            {"height": p.grid.height, "width": p.grid.width, "start": start, "name": p.name}
            | {"area": [round(edge, 6) for edge in p.area]}
            for p, start in zip(one.panels, starts, strict=False)
        ],
        "n": len(one.looked.full.kept),
        "layers": one.n_layers,
        "words": [{"text": word.text, "columns": list(word.columns)} for word in one.words],
        "pmi": _numbers(one.pmi),
        "tokens": one.pmi.shape[1],
        "pmiBy": one.pmi_by,
        "maps": [{"name": name, "values": _numbers(values)} for name, values in one.maps.items()],
        "full": answer(one.looked.full),
        "budgets": [row[0].keep for row in one.looked.views],
        "strategies": [
            _strategy(sweep) | {"answers": [answer(v) | {"certain": sweep.certain.get(v.keep)} for v in sweep.views]}
            for sweep in one.sweeps
        ],
    }


def _strategy(sweep: Sweep) -> dict[str, Any]:
    strategy = sweep.strategy
    scorer = getattr(strategy, "scorer", None)
    return {
        "name": strategy.name,
        "inside": isinstance(strategy, LayerSchedule),
        "merges": strategy.merges,
        "scorer": None if scorer is None else type(scorer).__name__,
        "scorerAbout": "" if scorer is None else (inspect.getdoc(type(scorer)) or "").partition("\n")[0],
        "scores": None if sweep.scores is None else _numbers(sweep.scores),
        "likeness": sweep.likeness,
        "own": sweep.own,
        "order": list(sweep.order),
        "growth": [[number for step, value in row for number in (step, _short(value))] for row in sweep.growth],
        "frames": [_frame(one) for one in sweep.frames],
        "certainBy": sweep.basis,
    }


def _frame(one: Frame) -> dict[str, Any]:
    return {
        "keep": one.keep,
        "order": list(one.order),
        "merged": list(one.merged),
        "nearest": list(one.nearest),
        "nearness": [_short(value) for value in one.nearness],
        "layers": list(one.layers),
    }


def _short(value: float) -> float:
    """Five significant digits: what a reader is shown has fewer."""
    return float(f"{value:.5g}")


def _numbers(values: Tensor) -> str:
    """float32, little endian, row by row, in base 64."""
    return base64.b64encode(values.detach().float().cpu().contiguous().numpy().astype("<f4").tobytes()).decode("ascii")


def _embedded(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="JPEG", quality=92)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _asset(name: str) -> str:
    return asset(name, "explorer/assets")
