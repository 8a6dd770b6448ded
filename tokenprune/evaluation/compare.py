"""``compare`` as a function: ask, summarise, write the files."""

from __future__ import annotations

import json
import platform
import warnings
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from tokenprune._version import __version__
from tokenprune.core.errors import ConfigError, TokenPruneWarning, UnreachableBudgetError
from tokenprune.core.matching import Match, checked_match, matched_keep
from tokenprune.data.items import Item
from tokenprune.evaluation.batch import QuestionBatch
from tokenprune.evaluation.conditions import Condition, conditions
from tokenprune.evaluation.runner import ask, question_batch
from tokenprune.evaluation.summary import SummaryRow, summarize
from tokenprune.hf.support import refusal
from tokenprune.results.fingerprint import weights_fingerprint
from tokenprune.results.store import ResultFolder, read_results, write_atomically

__all__ = ["answers_in", "compare", "environment"]


def environment(model: str, device: str, dtype: str, seed: int) -> dict[str, Any]:
    """What numbers depend on: versions, machine, model, seed. No keys, no paths, no host names."""
    return {
        "model": model,
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "threads": torch.get_num_threads(),
        "dtype": dtype,
        "seed": seed,
        "processor": platform.machine(),
        "python": platform.python_version(),
        "tokenprune": __version__,
        **{name: metadata.version(name) for name in ("torch", "transformers")},
    }


def compare(
    model: Any,
    processor: Any,
    items: Sequence[Item],
    out: Path,
    config: Mapping[str, Any],
    *,
    strategies: Sequence[str | Mapping[str, Any]] | None = None,
    budgets: Sequence[int] = (192, 128, 64, 32),
    batch_size: int = 16,
    match: Match = "kept",
    note: Callable[[str], None] = lambda text: warnings.warn(text, TokenPruneWarning, stacklevel=3),
    facts: Mapping[str, Any] | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> list[SummaryRow]:
    """Ask every strategy every question at every budget; write results.jsonl and summary.json.

    Parameters
    ----------
    model, processor
    items : sequence of Item
    out : Path
        Resumed where it stopped if it was begun with the same ``config`` and weights. A strategy that was changed since
        (see :mod:`tokenprune.results.fingerprint`) is asked again.
    config : mapping
        What decides an answer, apart from strategy, budget and weights.
    strategies : sequence of str or mapping, optional
        Names, wildcards, or rows of their own (see :func:`~tokenprune.evaluation.conditions.conditions`); all by
        default.
    budgets : sequence of int, default (192, 128, 64, 32)
    batch_size : int, default 16
    match : str, default "kept"
        What is equal between the rows of one budget: ``kept``, what each strategy is asked for; ``layer-average``, the
        visual tokens that layers process on average, for which each strategy's own budget is solved. Part of the
        configuration.
    note : callable
        Called with what a reader must know: rows that cannot be matched, which are left out, and rows whose counts
        follow from the data and are not the budget. Warns by default.
    facts : mapping, optional
        Environment, for the summary.
    progress : callable

    Returns
    -------
    list of SummaryRow
        Of all rows that the folder now holds, as in summary.json.

    Raises
    ------
    ConfigError
        No questions, or two of one id; the folder is in use, or belongs to another configuration or other weights.
    """
    checked_match(match)
    _check_items(items)
    rows = conditions(strategies, budgets, note)
    first = question_batch(model, processor, items[:1])
    size = max(size for _, size in first.units)
    if large := [keep for keep in budgets if keep > size]:
        note(f"budgets {large}: the first picture has {size} visual tokens; a picture with no more stays whole")
    unmatched = _impossible(rows, first)
    if match == "layer-average":
        unmatched |= _unmatched(rows, size, model.config.get_text_config().num_hidden_layers)
    rows = [row for row in rows if (row.label, row.keep) not in unmatched]
    for (label, keep), reason in unmatched.items():
        note(f"{label} at {keep} is left out: {reason}")
    with ResultFolder(out, {**config, "match": match, "weights": weights_fingerprint(model)}) as folder:
        for label in _describe(folder, rows):
            note(f"{label} is not what it was when {str(out)!r} was filled: it is asked again")
        ask(model, processor, items, rows, folder, batch_size=batch_size, match=match, progress=progress)
        lines = answers_in(out, {item.id for item in items})
        table = summarize(lines)
        missing = [{"strategy": label, "keep": keep, "reason": reason} for (label, keep), reason in unmatched.items()]
        own = _own_counts(rows, table)
        for said in own:
            note("{strategy} at {keep} keeps counts of its own ({budget}): {left:.1f} tokens are left".format(**said))
        document = {
            "environment": {**(facts or {}), "match": match},
            "unmatched": missing,
            "own_counts": own,
            "rows": [row.as_dict() for row in table],
        }
        write_atomically(out / "summary.json", json.dumps(document, indent=1) + "\n")
    return table


def answers_in(out: Path, samples: Container[str]) -> list[dict[str, Any]]:
    """Lines of a comparison's ``results.jsonl`` about some questions, of what each label stands for now.

    What a strategy answered before it was changed stays in the file, and is left out here; so is a row that was stopped
    before all questions were asked and not taken up again.
    """
    described = _described(out)
    lines = [
        line
        for line in read_results(out)
        if line["sample"] in samples and line.get("identity") == described.get(line["strategy"], {}).get("identity")
    ]
    count = Counter((line["strategy"], line["keep"], line["draw"]) for line in lines)
    most = max(count.values(), default=0)
    return [line for line in lines if count[line["strategy"], line["keep"], line["draw"]] == most]


def _described(out: Path) -> dict[str, dict[str, str]]:
    file = out / "strategies.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def _describe(folder: ResultFolder, rows: Sequence[Condition]) -> list[str]:
    """Write what each label stands for into ``strategies.json``; return the labels that stood for something else."""
    before = _described(folder.path)
    now = {
        row.label: {"identity": row.identity, "strategy": row.kind if row.strategy is None else repr(row.strategy)}
        for row in rows
    }
    write_atomically(folder.path / "strategies.json", json.dumps(before | now, indent=1) + "\n")
    return [label for label in now if label in before and before[label]["identity"] != now[label]["identity"]]


def _check_items(items: Sequence[Item]) -> None:
    if not items:
        raise ConfigError("items: there are no questions to ask")
    twice = [name for name, n in Counter(item.id for item in items).items() if n > 1]
    if twice:
        raise ConfigError(f"items: {len(twice)} ids are given to more than one question, {twice[0]!r} among them")


def _impossible(rows: Sequence[Condition], pictures: QuestionBatch) -> dict[tuple[str, int], str]:
    """Rows that this model cannot run, and why."""
    found = {}
    for row in rows:
        why = None if row.strategy is None else refusal(pictures.adapter, row.strategy)
        if row.kind == "oracle" and pictures.grids is None:
            why = "where tokens of pictures cut into tiles lie is not known"
        if why is not None:
            found[row.label, row.keep] = why
    return found


def _own_counts(rows: Sequence[Condition], table: Sequence[SummaryRow]) -> list[dict[str, Any]]:
    """Rows that keep other counts than the budget, because these follow from the data."""
    left = {(row.strategy, row.keep): row.kept_tokens for row in table if (row.task, row.metric) == ("all", "accuracy")}
    found = []
    for row in rows:
        kept = left.get((row.label, row.keep))
        if row.strategy is not None and row.strategy.own_counts and kept is not None and kept != row.keep:
            budget = "aimed at" if row.strategy.uses_budget else "free"
            found.append({"strategy": row.label, "keep": row.keep, "budget": budget, "left": kept})
    return found


def _unmatched(rows: Sequence[Condition], n_visual: int, n_layers: int) -> dict[tuple[str, int], str]:
    """Rows whose strategy cannot process so few tokens on average, and why."""
    found = {}
    for row in rows:
        if row.strategy is not None:
            try:
                matched_keep(row.strategy, min(row.keep, n_visual), n_visual, n_layers)
            except UnreachableBudgetError as error:
                found[row.label, row.keep] = str(error)
    return found
