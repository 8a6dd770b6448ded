"""``compare`` as a function: ask, summarise, write the files."""

from __future__ import annotations

import json
import platform
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from tokenprune.errors import TokenPruneWarning, UnreachableBudgetError
from tokenprune.evaluation.contestants import Contestant, contestants
from tokenprune.evaluation.pictures import Pictures
from tokenprune.evaluation.results import ResultFolder, write_atomically
from tokenprune.evaluation.runner import Item, pictures_of, run
from tokenprune.evaluation.summary import SummaryRow, summarize
from tokenprune.matching import Match, checked_match, matched_keep
from tokenprune.support import refusal

__all__ = ["compare", "environment"]


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
        **{name: metadata.version(name) for name in ("tokenprune", "torch", "transformers")},
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
        Resumed where it stopped if it was begun with the same ``config``.
    config : mapping
        What decides an answer, apart from strategy and budget.
    strategies : sequence of str or mapping, optional
        Names, wildcards, or rows of their own (see :func:`~tokenprune.evaluation.contestants.contestants`); all by
        default.
    budgets : sequence of int, default (192, 128, 64, 32)
    batch_size : int, default 16
    match : str, default "kept"
        What is equal between the rows of one budget: ``kept``, what each strategy is asked for; ``layer-average``, the
        visual tokens that layers process on average, for which each strategy's own budget is solved. Part of the
        configuration.
    note : callable
        Called with what a reader must know: rows that cannot be matched, which are left out. Warns by default.
    facts : mapping, optional
        Environment, for the summary.
    progress : callable
    """
    checked_match(match)
    rows = contestants(strategies, budgets)
    first = pictures_of(model, processor, items[:1])
    unmatched = _impossible(rows, first)
    if match == "layer-average":
        n_layers = model.config.get_text_config().num_hidden_layers
        unmatched |= _unmatched(rows, max(size for _, size in first.units), n_layers)
    rows = [row for row in rows if (row.label, row.keep) not in unmatched]
    for (label, keep), reason in unmatched.items():
        note(f"{label} at {keep} is left out: {reason}")
    folder = ResultFolder(out, {**config, "match": match})
    run(model, processor, items, rows, folder, batch_size=batch_size, match=match, progress=progress)
    asked = {(row.label, row.keep) for row in rows}
    samples = {item.id for item in items}
    lines = [r for r in folder.read() if (r["strategy"], r["keep"]) in asked and r["sample"] in samples]
    table = summarize(lines)
    missing = [{"strategy": label, "keep": keep, "reason": reason} for (label, keep), reason in unmatched.items()]
    document = {
        "environment": {**(facts or {}), "match": match},
        "unmatched": missing,
        "rows": [row.as_dict() for row in table],
    }
    write_atomically(out / "summary.json", json.dumps(document, indent=1) + "\n")
    return table


def _impossible(rows: Sequence[Contestant], pictures: Pictures) -> dict[tuple[str, int], str]:
    """Rows that this model cannot run, and why."""
    found = {}
    for row in rows:
        why = None if row.strategy is None else refusal(pictures.adapter, row.strategy)
        if row.kind == "oracle" and pictures.grids is None:
            why = "where tokens of pictures cut into tiles lie is not known"
        if why is not None:
            found[row.label, row.keep] = why
    return found


def _unmatched(rows: Sequence[Contestant], n_visual: int, n_layers: int) -> dict[tuple[str, int], str]:
    """Rows whose strategy cannot process so few tokens on average, and why."""
    found = {}
    for row in rows:
        if row.strategy is not None:
            try:
                matched_keep(row.strategy, row.keep, n_visual, n_layers)
            except UnreachableBudgetError as error:
                found[row.label, row.keep] = str(error)
    return found
