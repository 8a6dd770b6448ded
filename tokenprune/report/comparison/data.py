"""The numbers of a comparison as the page's scripts read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tokenprune.evaluation.conditions import SCALE
from tokenprune.evaluation.summary import SummaryRow
from tokenprune.evaluation.table import ordered
from tokenprune.report.comparison.about import is_own
from tokenprune.report.comparison.lost import Lost
from tokenprune.report.looks import styles

__all__ = ["as_data", "parts_of"]

MOST_PARTS: Final = 60
"""Question types and parts of them that the chart offers; a data set of hundreds would make the page large."""

LONGEST: Final = 400
"""Characters of a question or an answer."""


def parts_of(rows: Sequence[SummaryRow]) -> list[tuple[str, str]]:
    """(task, family) of all questions, of each question type, and of parts of these where they are few."""
    tasks = sorted({row.task for row in rows} - {"all"})
    parts = [("all", "all"), *((task, "all") for task in tasks)]
    families = sorted({(row.task, row.family) for row in rows if row.family != "all"})
    return parts + families if len(parts) + len(families) <= MOST_PARTS else parts


def as_data(
    rows: Sequence[SummaryRow],
    lost: Sequence[Lost] = (),
    questions: Mapping[str, Mapping[str, Any]] | None = None,
    times: Mapping[tuple[str, int], float] | None = None,
    timed: str = "",
) -> dict[str, Any]:
    """Everything that the chart, the table and the lists of lost answers show, as JSON can hold it.

    Parameters
    ----------
    rows : sequence of SummaryRow
    lost : sequence of Lost
    questions : mapping of sample to line
        Of the unpruned model, for the lost answers.
    times : mapping of (strategy, keep) to float, optional
        Milliseconds to the first token.
    timed : str
        What those were measured on.
    """
    parts = parts_of(rows)
    at = {(r.strategy, r.keep, r.task, r.family, r.metric): r for r in rows}
    metrics = sorted({row.metric for row in rows}, key=lambda m: (m != "accuracy", m != "relative", m))
    looks = styles([row.strategy for row in rows])
    shown = sorted({sample for one in lost for sample, _ in one.shown})
    index = {sample: i for i, sample in enumerate(shown)}
    return {
        "parts": [_titled(task, family) for task, family in parts],
        "metrics": metrics,
        "looks": {
            name: {"color": s.color, "marker": s.marker, "dash": list(s.dash)}
            | {"scale": name in SCALE, "own": is_own(name)}
            for name, s in looks.items()
        },
        "rows": [
            _costs(at[strategy, keep, "all", "all", "accuracy"], times or {})
            | {"values": [[_number(at.get((strategy, keep, *part, m))) for m in metrics] for part in parts]}
            for strategy, keep in ordered(rows)
        ],
        "timed": timed if times else "",
        "lost": [
            {"strategy": one.strategy, "keep": one.keep, "n": one.n, "of": one.of}
            | {"shown": [[index[sample], said[:LONGEST]] for sample, said in one.shown]}
            for one in lost
        ],
        "questions": [_question((questions or {}).get(sample, {}), sample) for sample in shown],
    }


def _titled(task: str, family: str) -> str:
    if task == "all":
        return "all questions"
    return task if family == "all" else f"{task}: {family or '(none)'}"


def _costs(row: SummaryRow, times: Mapping[tuple[str, int], float]) -> dict[str, Any]:
    ms = times.get((row.strategy, row.keep))
    return {
        "strategy": row.strategy,
        "keep": row.keep,
        "left": _short(row.kept_tokens),
        "layers": _short(row.layer_average_tokens),
        "gflops": _short(row.flops / 1e9),
        "kv": _short(row.kv_bytes / 1024),
        "ms": None if ms is None else _short(ms),
        "pRandom": None if row.p_random is None else _short(row.p_random),
        "pFull": None if row.p_full is None else _short(row.p_full),
        "n": row.n,
    }


def _number(row: SummaryRow | None) -> list[float] | None:
    """Value, low, high, n; the value alone where it has no interval."""
    if row is None:
        return None
    ends = [_short(row.low), _short(row.high)] if row.low < row.high else [_short(row.value)] * 2
    return [_short(row.value), *ends, row.n]


def _short(value: float) -> float:
    """As many digits as anybody reads: the page is sent around."""
    return float(f"{value:.5g}")


def _question(line: Mapping[str, Any], sample: str) -> dict[str, str]:
    answer = line.get("answer", "")
    told = answer if isinstance(answer, str) else " / ".join(dict.fromkeys(map(str, answer)))
    said = {"text": line.get("question", ""), "answer": told, "full": line.get("prediction", "")}
    return {"id": sample, "task": str(line.get("task", ""))} | {
        name: str(text)[:LONGEST] for name, text in said.items()
    }
