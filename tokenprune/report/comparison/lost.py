"""What pruning cost: questions that the unpruned model answers and a strategy does not, chosen by rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Lost", "lost_answers"]

RIGHT = 0.5
"""An answer of this share counts as right, where a metric gives shares."""


@dataclass(frozen=True)
class Lost:
    """What one row lost.

    Attributes
    ----------
    strategy : str
    keep : int
    n : int
        Questions lost.
    of : int
        Questions that the unpruned model answers.
    shown : tuple of (str, str)
        Question and what the model then said; some of them.
    """

    strategy: str
    keep: int
    n: int
    of: int
    shown: tuple[tuple[str, str], ...]


def lost_answers(lines: Sequence[Mapping[str, Any]], most: int = 8) -> list[Lost]:
    """Find what rows lost; the same lines give the same questions, whatever their order.

    Shown are, of each row, the first of each question type by id, then the second of each, and so on. Of random pruning
    it is the first draw.

    Parameters
    ----------
    lines : sequence of mapping
        Rows of results.jsonl.
    most : int, default 8
        Questions shown of a row.

    Returns
    -------
    list of Lost
        Of rows with a budget, as they first come in the lines; none where the unpruned model was not asked.
    """
    full = {line["sample"]: line for line in lines if line["strategy"] == "full"}
    answerable = {sample for sample, line in full.items() if line["correct"] >= RIGHT}
    rows: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    asked: dict[tuple[str, int], int] = {}
    for line in lines:
        if line["keep"] and line["draw"] == 0 and line["sample"] in answerable:
            key = line["strategy"], line["keep"]
            asked[key] = asked.get(key, 0) + 1
            missed = rows.setdefault(key, [])
            if line["correct"] < RIGHT:
                missed.append(line)
    return [
        Lost(strategy, keep, len(missed), asked[strategy, keep], tuple(_some(missed, most)))
        for (strategy, keep), missed in rows.items()
    ]


def _some(missed: Sequence[Mapping[str, Any]], most: int) -> list[tuple[str, str]]:
    seen: dict[str, int] = {}
    ranked = []
    for line in sorted(missed, key=lambda line: (line["task"], line["sample"])):
        turn = seen[line["task"]] = seen.get(line["task"], -1) + 1
        ranked.append((turn, line["task"], line["sample"], line["prediction"]))
    return [(sample, said) for _, _, sample, said in sorted(ranked)[:most]]
