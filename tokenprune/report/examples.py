"""Questions worth looking at, found in the answers of a comparison, and drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from PIL import Image

from tokenprune.core.errors import TokenPruneError
from tokenprune.core.matching import Match
from tokenprune.core.registry import build
from tokenprune.core.strategy import AnyStrategy
from tokenprune.data.items import Item
from tokenprune.evaluation.conditions import SCALE, Condition
from tokenprune.evaluation.runner import question_batch
from tokenprune.report.pruning import look, pruning_sheet

__all__ = ["Example", "as_drawn", "choose_examples", "example_sheets"]


@dataclass(frozen=True)
class Example:
    """A question that the best strategy and random pruning answer differently.

    Attributes
    ----------
    sample : str
    strategy : str
        The best at this budget.
    keep : int
    won : bool
        Whether the strategy is right and the first random draw wrong, or the other way round.
    agreeing, draws : int
        How many of the random draws answer as the first does, of how many.
    """

    sample: str
    strategy: str
    keep: int
    won: bool
    agreeing: int
    draws: int


def choose_examples(lines: Sequence[Mapping[str, Any]], won: int = 2, lost: int = 1) -> list[Example]:
    """Choose questions at the smallest budget; the same lines give the same questions.

    Questions come first that the unpruned model answers, then those on which more random draws agree with the first,
    then the order of the lines; a new task comes before one that is shown already.

    Parameters
    ----------
    lines : sequence of mapping
        Rows of results.jsonl.
    won, lost : int
        At most so many questions that the best strategy answers and random does not, and of the reverse.
    """
    keep = min((line["keep"] for line in lines if line["strategy"] not in SCALE), default=0)
    here = [line for line in lines if line["keep"] in (0, keep)]
    right: dict[str, dict[str, list[bool]]] = {}
    for line in sorted(here, key=lambda line: line["draw"]):
        right.setdefault(line["strategy"], {}).setdefault(line["sample"], []).append(line["correct"])
    rivals = {name: sum(any(c) for c in answers.values()) for name, answers in right.items() if name not in SCALE}
    if not rivals or "random" not in right:
        return []
    best = min(rivals, key=lambda name: (-rivals[name], name))
    task = {line["sample"]: line["task"] for line in here}

    def pick(wins: bool, most: int) -> list[Example]:
        found = []
        for sample, answers in right[best].items():
            drawn = right["random"].get(sample, [wins])
            if all(correct == wins for correct in answers) and drawn[0] != wins:
                found.append(Example(sample, best, keep, wins, drawn.count(not wins), len(drawn)))
        found.sort(
            key=lambda e: (not all(right.get("full", {}).get(e.sample, [False])), e.agreeing < e.draws, -e.agreeing)
        )
        chosen: list[Example] = []
        while found and len(chosen) < most:
            seen = {task[example.sample] for example in chosen}
            chosen.append(next((example for example in found if task[example.sample] not in seen), found[0]))
            found.remove(chosen[-1])
        return chosen

    return pick(True, won) + pick(False, lost)


def example_sheets(
    model: Any,
    processor: Any,
    items: Sequence[Item],
    lines: Sequence[Mapping[str, Any]],
    strategies: Sequence[str | Mapping[str, Any]] | None = None,
    *,
    match: Match = "kept",
    side: int = 192,
) -> list[tuple[str, Image.Image]]:
    """Draw chosen questions: unpruned, the best strategy and the first random draw, at every budget.

    Parameters
    ----------
    model, processor
    items : sequence of Item
        Of the comparison.
    lines : sequence of mapping
        Rows of results.jsonl.
    strategies : sequence of str or mapping, optional
        As given to the comparison: what labels of rows of their own stand for. A row that nobody can build any more is
        no example.
    match : str, default "kept"
        As in the comparison.
    side : int, default 192
        Pixels along each picture.

    Returns
    -------
    list of (caption, picture)
    """
    by_id = {item.id: item for item in items}
    made = {row["label"]: row["strategy"] for row in strategies or () if not isinstance(row, str)}
    known = [line for line in lines if line["sample"] in by_id]
    known = [line for line in known if line["strategy"] in {*SCALE, *made} or _buildable(line["strategy"])]
    sheets = []
    for example in choose_examples(known):
        item = by_id[example.sample]
        budgets = sorted({line["keep"] for line in lines if line["strategy"] == example.strategy}, reverse=True)
        pictures = question_batch(model, processor, [item])
        if pictures.grids is None:
            return []  # nobody knows where tokens of tiles lie
        random = as_drawn(item.image_id, pictures.units[0][1])
        question = item.question
        pair = [build(made.get(example.strategy, example.strategy)), random]
        looked = look(model, processor, item.image(), question.text, pair, budgets, match=match, prompt=question.prompt)
        title = f"{question.text} (right answer: {question.answer})"
        drawn = pruning_sheet(looked, title, question, side)
        sides = ("right", "wrong") if example.won else ("wrong", "right")
        caption = (
            f"{item.task}/{item.family}, {example.sample}: at {example.keep} tokens {example.strategy} is "
            f"{sides[0]} and random, in {example.agreeing} of {example.draws} draws, {sides[1]}. Shown is the "
            "first draw. Outlined: what the question is about."
        )
        sheets.append((caption, drawn))
    return sheets


@cache
def _buildable(name: str) -> bool:
    """Whether a label is the name of a strategy, and not what somebody once called a row of their own."""
    try:
        build(name)
    except TokenPruneError:
        return False
    return True


def as_drawn(picture: str, n_visual: int) -> AnyStrategy:
    """The first random draw of a comparison for a picture.

    Parameters
    ----------
    picture : str
        Its name.
    n_visual : int
    """
    drawn = Condition("random", "strategy").for_batch([picture], torch.zeros(1, n_visual))
    assert drawn is not None
    return drawn
