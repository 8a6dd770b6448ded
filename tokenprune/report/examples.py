"""Questions worth looking at, found in the answers of a comparison, and drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from PIL import Image

from tokenprune.core.errors import TokenPruneError
from tokenprune.core.matching import Match
from tokenprune.core.registry import build
from tokenprune.data.items import Item
from tokenprune.evaluation.conditions import RANDOM, SCALE
from tokenprune.evaluation.runner import question_batch
from tokenprune.report.comparison.about import is_own
from tokenprune.report.comparison.lost import RIGHT, lost_answers
from tokenprune.report.pruning import look, pruning_sheet

__all__ = ["Example", "Loss", "choose_examples", "choose_losses", "example_sheets"]


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


@dataclass(frozen=True)
class Loss:
    """A question that the unpruned model answers and a strategy does not.

    Attributes
    ----------
    sample, strategy : str
    keep : int
        The largest budget at which the strategy loses any.
    n, of : int
        How many it loses there, of how many.
    """

    sample: str
    strategy: str
    keep: int
    n: int
    of: int


def choose_losses(lines: Sequence[Mapping[str, Any]], own: Sequence[str] = (), most: int = 4) -> list[Loss]:
    """Choose a failure of the best strategy, then one of each of somebody's own.

    It is the first that :func:`~tokenprune.report.comparison.lost.lost_answers` shows at the largest budget at which
    there is one: what goes wrong with most tokens left says most.

    Parameters
    ----------
    lines : sequence of mapping
        Rows of results.jsonl.
    own : sequence of str
        Labels of strategies that do not ship.
    most : int, default 4
    """
    lost = [one for one in lost_answers(lines, 1) if one.strategy not in SCALE]
    wanted = dict.fromkeys([*([] if (best := _best(lines)) is None else [best]), *own])
    chosen = []
    for strategy in wanted:
        mine = [one for one in lost if one.strategy == strategy and one.shown]
        if mine:
            one = max(mine, key=lambda one: one.keep)
            chosen.append(Loss(one.shown[0][0], strategy, one.keep, one.n, one.of))
    return chosen[:most]


def _best(lines: Sequence[Mapping[str, Any]]) -> str | None:
    """The strategy that answers most at the smallest budget; of several, the first in the alphabet."""
    keep = min((line["keep"] for line in lines if line["strategy"] not in SCALE), default=0)
    right: Counter[str] = Counter()
    for line in lines:
        if line["keep"] == keep and line["strategy"] not in SCALE:
            right[line["strategy"]] += float(line["correct"]) >= RIGHT
    return min(right, key=lambda name: (-right[name], name), default=None)


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
    """Draw chosen questions: unpruned, the strategy and the first random draw, at every budget.

    Which questions: those of :func:`choose_examples`, then those of :func:`choose_losses`.

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
    own = [label for label in dict.fromkeys(line["strategy"] for line in known) if is_own(label)]
    sheets = []
    wanted: list[Example | Loss] = [*choose_examples(known), *choose_losses(known, own)]
    for example in wanted:
        item = by_id[example.sample]
        budgets = sorted({line["keep"] for line in lines if line["strategy"] == example.strategy}, reverse=True)
        pictures = question_batch(model, processor, [item])
        if pictures.grids is None:
            return []  # nobody knows where tokens of tiles lie
        question = item.question
        pair = [build(made.get(example.strategy, example.strategy)), build(RANDOM)]
        looked = look(model, processor, item.image(), question.text, pair, budgets, match=match, prompt=question.prompt)
        title = f"{question.text} (right answer: {question.answer})"
        sheets.append((_caption(item, example), pruning_sheet(looked, title, question, side)))
    return sheets


def _caption(item: Item, example: Example | Loss) -> str:
    where = f"{item.task}/{item.family}, {example.sample}"
    if isinstance(example, Loss):
        told = (
            f"a failure: {example.strategy} is wrong at {example.keep} tokens and the unpruned model right; it loses "
            f"{example.n} of {example.of} such questions there. Beside it the first random draw."
        )
    else:
        sides = ("right", "wrong") if example.won else ("wrong", "right")
        told = (
            f"at {example.keep} tokens {example.strategy} is {sides[0]} and random, in {example.agreeing} of "
            f"{example.draws} draws, {sides[1]}. Shown is the first draw."
        )
    return f"{where}: {told} Outlined: what the question is about."


@cache
def _buildable(name: str) -> bool:
    """Whether a label is the name of a strategy, and not what somebody once called a row of their own."""
    try:
        build(name)
    except TokenPruneError:
        return False
    return True
