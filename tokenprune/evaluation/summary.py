"""From answers to a table: accuracy with intervals, relative to full, tested against full and random."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import fsum
from typing import Any

from tokenprune.evaluation.metrics import build_metric, f1_of_yes, yes_rate
from tokenprune.evaluation.statistics import bootstrap_interval, paired_p_value, ratio_interval

__all__ = ["SummaryRow", "agreement", "in_order", "paired_test", "summarize"]


@dataclass(frozen=True)
class SummaryRow:
    """One number of the table.

    Attributes
    ----------
    strategy : str
    keep : int
        0 where nothing is pruned.
    task, family : str
        As in results.jsonl: what is asked ("scenes-pope"), and part of it; "all" stands for all of them.
    metric : str
        "accuracy", "relative" (accuracy as a share of full's), "agreement" (answers as full answers), "f1", "yes_rate",
        and what the metric that graded the answers adds ("mme").
    value, low, high : float
        95 % interval over images; equal to the value where there is none (other metrics, a single image).
    n : int
        Questions.
    p_full, p_random : float or None
        Paired test of the accuracy against full, and against random at the same budget.
    kept_tokens, layer_average_tokens, flops, kv_bytes : float
        Means over questions: visual tokens in the last layer, in all layers on average, and what the prefill cost.
    """

    strategy: str
    keep: int
    task: str
    family: str
    metric: str
    value: float
    low: float
    high: float
    n: int
    p_full: float | None
    p_random: float | None
    kept_tokens: float
    layer_average_tokens: float
    flops: float
    kv_bytes: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


Answers = list[Mapping[str, Any]]


def _per_sample(answers: Answers, key: str) -> dict[str, float]:
    """Mean over draws of a number of each sample."""
    values: dict[str, list[float]] = defaultdict(list)
    for answer in answers:
        values[answer["sample"]].append(float(answer[key]))
    return {sample: sum(v) / len(v) for sample, v in values.items()}


def _images(answers: Answers, samples: Iterable[str]) -> list[str]:
    """Image of each sample."""
    image = {answer["sample"]: answer["image"] for answer in answers}
    return [image[sample] for sample in samples]


def agreement(answers: Answers, full: Answers) -> float:
    """Share of answers that are what the unpruned model answered."""
    said = {answer["sample"]: answer["prediction"] for answer in full}
    same: list[bool] = [answer["prediction"] == said.get(answer["sample"]) for answer in answers]
    return sum(same) / len(same)


def paired_test(mine: Answers, theirs: Answers) -> float | None:
    """Two-sided p-value of "both are right equally often", over the questions that both answered; None without any."""
    a, b = _per_sample(mine, "correct"), _per_sample(theirs, "correct")
    shared = [sample for sample in a if sample in b]
    if not shared:
        return None
    return paired_p_value([a[s] for s in shared], [b[s] for s in shared], _images(mine, shared))


def in_order(lines: Iterable[Mapping[str, Any]]) -> list[Any]:
    """Lines in an order of their own, whatever order they were written in: unpruned rows, then by falling budget."""
    names = ("strategy", "draw", "image", "sample")
    return sorted(lines, key=lambda line: (line["keep"] != 0, -line["keep"], *(line[name] for name in names)))


def summarize(lines: Sequence[Mapping[str, Any]]) -> list[SummaryRow]:
    """Reduce results.jsonl.

    Parameters
    ----------
    lines : sequence of mapping
        Rows of results.jsonl; numbers do not depend on their order.

    Returns
    -------
    list of SummaryRow
        For every condition and budget: all questions, each task, each family.
    """
    groups: dict[tuple[str, int], Answers] = defaultdict(list)
    for line in in_order(lines):
        groups[line["strategy"], line["keep"]].append(line)
    tasks = sorted({line["task"] for line in lines})
    parts = [("all", "all"), *((task, "all") for task in tasks)]
    parts += sorted({(line["task"], line["family"]) for line in lines})
    rows: list[SummaryRow] = []
    for (strategy, keep), answers in groups.items():
        for task, family in parts:
            mine = _part(answers, task, family)
            if mine:
                full = _part(groups.get(("full", 0), []), task, family)
                random = _part(groups.get(("random", keep), []), task, family)
                rows += _rows(strategy, keep, task, family, mine, full, random)
    return rows


def _part(answers: Answers, task: str, family: str) -> Answers:
    return [a for a in answers if task in ("all", a["task"]) and family in ("all", a["family"])]


def _rows(
    strategy: str, keep: int, task: str, family: str, mine: Answers, full: Answers, random: Answers
) -> list[SummaryRow]:
    correct = _per_sample(mine, "correct")
    images = _images(mine, correct)
    accuracy = fsum(correct.values()) / len(correct)
    costs = [sum(a[key] for a in mine) / len(mine) for key in ("tokens", "layer_average_tokens", "flops", "kv_bytes")]

    def row(
        metric: str,
        value: float,
        interval: tuple[float, float] | None = None,
        p_full: float | None = None,
        p_random: float | None = None,
    ) -> SummaryRow:
        ends = interval or (value, value)
        return SummaryRow(strategy, keep, task, family, metric, value, *ends, len(correct), p_full, p_random, *costs)

    p_full = None if strategy == "full" else paired_test(mine, full)
    p_random = None if strategy in ("random", "full", "wrong image") else paired_test(mine, random)
    rows = [row("accuracy", accuracy, bootstrap_interval([*correct.values()], images), p_full, p_random)]
    reference = _per_sample(full, "correct")
    base = fsum(reference.values()) / len(reference) if reference else 0.0
    if base > 0:
        # the same images are drawn for both: a strategy that answers as full does is at 1 whatever is drawn
        ends = ratio_interval([*correct.values()], images, [*reference.values()], _images(full, reference))
        rows.append(row("relative", accuracy / base, ends))
    if full:
        rows.append(row("agreement", agreement(mine, full)))
    further: dict[str, float] = {}
    if all(answer["binary"] for answer in mine):
        predictions = [answer["prediction"] for answer in mine]
        further["f1"] = f1_of_yes(predictions, [answer["answer"] for answer in mine])
        further["yes_rate"] = yes_rate(predictions)
    return rows + [row(name, value) for name, value in (further | _totals(mine)).items()]


def _totals(answers: Answers) -> dict[str, float]:
    """What the metric adds that graded all of these answers: the mean over draws."""
    names = {answer.get("metric", "words") for answer in answers}
    if len(names) != 1:
        return {}
    metric = build_metric(names.pop())
    draws: dict[int, Answers] = defaultdict(list)
    for answer in answers:
        draws[answer["draw"]].append(answer)
    found = [metric.totals(mine) for mine in draws.values()]
    shared = [name for name in found[0] if all(name in one for one in found)]
    return {name: sum(one[name] for one in found) / len(found) for name in shared}
