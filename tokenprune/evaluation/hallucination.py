"""Hallucination over budgets: how often a model says yes, and how often it does so to what is not there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tokenprune.core.errors import ConfigError
from tokenprune.evaluation.metrics import yes_rate
from tokenprune.evaluation.statistics import bootstrap_interval, paired_p_value
from tokenprune.evaluation.summary import in_order

__all__ = ["KINDS", "YesRow", "yes_rows"]

KINDS = ("yes", "false yes", "missed")
"""Share of all answers that say yes; of questions whose answer is no, those answered yes (hallucinations); of questions
whose answer is yes, those not answered yes."""


@dataclass(frozen=True)
class YesRow:
    """One number.

    Attributes
    ----------
    strategy : str
    keep : int
        0 where nothing is pruned.
    kind : str
        One of :data:`KINDS`.
    value, low, high : float
        With its 95 % interval over pictures; equal to the value where there is none.
    n : int
        Questions that the share is of.
    change : float or None
        Above the unpruned model's on the same questions.
    p_full : float or None
        Paired sign-flip test over pictures of "the same as the unpruned model's".
    """

    strategy: str
    keep: int
    kind: str
    value: float
    low: float
    high: float
    n: int
    change: float | None
    p_full: float | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON and CSV."""
        return asdict(self)


Yes = dict[str, float]
"""Sample to the share of draws that said yes."""


def yes_rows(lines: Sequence[Mapping[str, Any]]) -> list[YesRow]:
    """Reduce the lines of a comparison to shares of yes.

    Parameters
    ----------
    lines : sequence of mapping
        Rows of results.jsonl; those of questions that are not answered by yes or no are left out.

    Raises
    ------
    ConfigError
        No question is answered by yes or no.
    """
    asked = [line for line in in_order(lines) if line["binary"]]
    if not asked:
        raise ConfigError(
            "no question is answered by yes or no: ask presence questions, as compare --families pope does"
        )
    images = {line["sample"]: line["image"] for line in asked}
    truth = {line["sample"]: yes_rate([str(_first(line["answer"]))]) for line in asked}
    draws: dict[tuple[str, int], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in asked:
        draws[line["strategy"], line["keep"]][line["sample"]].append(yes_rate([line["prediction"]]))
    said = {key: {s: sum(v) / len(v) for s, v in found.items()} for key, found in draws.items()}
    full = said.get(("full", 0))
    return [row for (name, keep), mine in said.items() for row in _rows(name, keep, mine, full, truth, images)]


def _first(answer: Any) -> Any:
    return answer[0] if isinstance(answer, list) else answer


def _rows(
    strategy: str, keep: int, mine: Yes, full: Yes | None, truth: Mapping[str, float], images: Mapping[str, str]
) -> list[YesRow]:
    rows = []
    for kind in KINDS:
        samples = [s for s in mine if kind == "yes" or truth[s] == (kind == "missed")]
        if not samples:
            continue

        def wanted(said: Yes, samples: list[str] = samples, kind: str = kind) -> list[float]:
            return [1 - said[s] if kind == "missed" else said[s] for s in samples]

        values, clusters = wanted(mine), [images[s] for s in samples]
        share = sum(values) / len(values)
        low, high = bootstrap_interval(values, clusters) or (share, share)
        change = p_full = None
        if full is not None and strategy != "full" and all(s in full for s in samples):
            plain = wanted(full)
            change = share - sum(plain) / len(plain)
            p_full = paired_p_value(values, plain, clusters)
        rows.append(YesRow(strategy, keep, kind, share, low, high, len(samples), change, p_full))
    return rows
