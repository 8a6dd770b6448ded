"""``compare`` as a function: ask, summarise, write the files."""

from __future__ import annotations

import json
import platform
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from tokenprune._version import __version__
from tokenprune.core.errors import (
    ConfigError,
    StoppedError,
    TokenPruneWarning,
    UnknownNameError,
    UnreachableBudgetError,
    closest,
)
from tokenprune.core.matching import Match, checked_match, matched_keep
from tokenprune.data.items import SCENES, Item
from tokenprune.evaluation.answered import answered, answers_in, config_of, described
from tokenprune.evaluation.batch import QuestionBatch
from tokenprune.evaluation.conditions import Condition, conditions
from tokenprune.evaluation.failures import Failure, write_failures
from tokenprune.evaluation.growth import grow
from tokenprune.evaluation.judge import Judge
from tokenprune.evaluation.judged import WAY_OUT, judge_answers, judge_facts
from tokenprune.evaluation.kept import kept_by_task
from tokenprune.evaluation.runner import ask, question_batch
from tokenprune.evaluation.summary import SummaryRow, summarize
from tokenprune.evaluation.table import cannot_run
from tokenprune.hf.chat import check_questions
from tokenprune.hf.patching import turn_of
from tokenprune.hf.sources import refusal
from tokenprune.results.fingerprint import providers
from tokenprune.results.lines import ANSWERS
from tokenprune.results.provenance import provenance, short
from tokenprune.results.schema import check_schema
from tokenprune.results.store import segment, write_atomically
from tokenprune.results.team import Team, TeamFolder

_SHOWN = 5
"""Reasons why there is no verdict that are told."""

__all__ = ["Comparison", "answers_in", "compare", "comparison", "environment", "summary_of"]


@dataclass(frozen=True)
class Comparison:
    """What a comparison came to.

    Attributes
    ----------
    folder : Path
        Where its files are: the folder asked for, or a segment of it.
    rows : list of SummaryRow
        The table.
    summary : dict
        As in summary.json.
    failed : list of Failure
        Rows whose strategy raised.
    """

    folder: Path
    rows: list[SummaryRow]
    summary: dict[str, Any]
    failed: list[Failure]


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
    model: Any, processor: Any, items: Sequence[Item], out: Path, config: Mapping[str, Any], **options: Any
) -> list[SummaryRow]:
    """The table of :func:`comparison`, which takes the same arguments."""
    return comparison(model, processor, items, out, config, **options).rows


def comparison(
    model: Any,
    processor: Any,
    items: Sequence[Item],
    out: Path,
    config: Mapping[str, Any],
    *,
    strategies: Sequence[str | Mapping[str, Any]] | None = None,
    budgets: Sequence[int] = (192, 128, 64, 32),
    batch_size: int = 16,
    max_new_tokens: int = 6,
    match: Match = "kept",
    again: Sequence[str] = (),
    new_segment: bool = False,
    team: Team | None = None,
    fewer: Callable[[int], Sequence[Item]] | None = None,
    note: Callable[[str], None] = lambda text: warnings.warn(text, TokenPruneWarning, stacklevel=3),
    facts: Mapping[str, Any] | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
    judge: Judge | None = None,
) -> Comparison:
    """Ask every strategy every question at every budget; write results.jsonl and summary.json.

    Parameters
    ----------
    model, processor
    items : sequence of Item
    out : Path
        Resumed where it stopped if all that decides an answer is as it was (see
        :func:`tokenprune.results.provenance.provenance`). A strategy that was changed since (see
        :mod:`tokenprune.results.fingerprint`) is asked again.
    config : mapping
        Options that decide an answer, apart from strategy and budget.
    strategies : sequence of str or mapping, optional
        Names, wildcards, or rows of their own (see :func:`~tokenprune.evaluation.conditions.conditions`); all by
        default.
    budgets : sequence of int, default (192, 128, 64, 32)
    batch_size : int, default 16
    max_new_tokens : int, default 6
        Longest answer; to be part of ``config`` where it may vary.
    match : str, default "kept"
        What is equal between the rows of one budget: ``kept``, what each strategy is asked for; ``layer-average``, the
        visual tokens that layers process on average, for which each strategy's own budget is solved; ``share``, per
        cent of each picture's tokens. Part of the configuration.
    again : sequence of str
        Labels that are asked again though they are what they were.
    new_segment : bool, default False
        Whether a run that differs from what ``out`` holds goes into a folder of its own, ``out/segments/<run>``, and is
        not refused.
    team : Team, optional
        Which of several processes that fill the folder together this one is; alone by default. Where this is not the
        one that leads, the comparison that is returned holds no table.
    fewer : callable, optional
        From a smaller limit to the questions that it chooses: a folder that differs in nothing else then goes on with
        more of them (see :func:`tokenprune.evaluation.growth.grow`).
    note : callable
        Called with what a reader must know: rows that cannot be matched, which are left out, and rows whose counts
        follow from the data and are not the budget. Warns by default.
    facts : mapping, optional
        Environment, for the summary.
    progress : callable
    judge : Judge, optional
        Grades answers whose metric needs one, when all are there; without, they wait for
        :func:`tokenprune.evaluation.judged.judge_folder`.

    Returns
    -------
    Comparison
        With the table of all rows that the folder now holds.

    Raises
    ------
    ConfigError
        No questions, or two of one id; the folder is in use, damaged, or belongs to a run that differs in anything.
    StoppedError
        Ctrl-C; says how far it came.
    """
    checked_match(match)
    if match == "share" and (wrong := [keep for keep in budgets if keep > 100]):
        raise ConfigError(f"budgets {wrong}: with match 'share' they are per cent of a picture's tokens, 100 at most")
    _check_items(items)
    check_questions(processor, (item.question.prompt for item in items))
    failed: list[Failure] = []
    rows = conditions(strategies, budgets, note, _noted(failed, note))
    if strange := set(again) - {row.label for row in rows}:
        name = sorted(strange)[0]
        raise UnknownNameError(f"--again: no row {name!r}; {closest(name, {row.label for row in rows})}")
    with turn_of(model):
        first = question_batch(model, processor, items[:1])
        size = max(first.units)
    if large := [keep for keep in dict.fromkeys(budgets) if keep > size and match != "share"]:
        note(f"budgets {large}: the first picture has {size} visual tokens; a picture with no more stays whole")
    unmatched = _impossible(rows, first, items)
    if match == "layer-average":
        unmatched |= _unmatched(rows, size, model.config.get_text_config().num_hidden_layers)
    rows = [row for row in rows if (row.label, row.keep) not in unmatched]
    for text in cannot_run(unmatched):
        note(text)
    record = provenance({**config, "match": match}, model, processor, items)
    if fewer is not None and not new_segment and (grew := grow(out, record, items, fewer, team)) is not None:
        stayed, gone = grew
        told = f"; {gone} are asked again, or no longer" if gone else ""
        note(f"{str(out)!r} goes on with {len(items)} questions: {stayed} answers stay{told}")
    folder_path = segment(out, record, new_segment)
    way_out = "use another --out, or --new-segment to keep both, apart"
    # a model serves one comparison at a time: they exchange functions of its layers
    with turn_of(model), TeamFolder(folder_path, record, ANSWERS, way_out, team) as folder:
        rows, changed, stands_for = _describe(folder.path, rows, again)
        if folder.team.leads:
            write_atomically(folder.path / "strategies.json", json.dumps(stands_for, indent=1) + "\n")
        for label in changed:
            note(f"{label} is not what it was when {str(folder_path)!r} was filled: it is asked again")
        reached = (0, 0)

        def watch(done: int, total: int, what: str) -> None:
            nonlocal reached
            reached = (done, total)
            progress(done, total, what)

        try:
            failed += ask(
                model,
                processor,
                items,
                rows,
                folder,
                batch_size=batch_size,
                max_new_tokens=max_new_tokens,
                match=match,
                progress=watch,
            )
        except KeyboardInterrupt:
            done, total = reached
            raise StoppedError(f"stopped at {done} of {total} answers; the same command goes on") from None
        if not folder.team.leads:
            return Comparison(folder_path, [], {}, failed)
        failed += _new([Failure(**one) for one in folder.failures()], failed)
        folder.gather()
        _judged(folder_path, judge, note, progress)
        left_out = [{"strategy": label, "keep": keep, "reason": reason} for (label, keep), reason in unmatched.items()]
        about = {**(facts or {}), **_about(record), "match": match, **judge_facts(folder_path)}
        table, document = summary_of(folder_path, about, left_out, [one.as_dict() for one in failed])
        document["own_counts"] = _own_counts(rows, table, answers_in(folder_path))
        for said in document["own_counts"]:
            note("{strategy} at {keep} keeps counts of its own ({budget}): {left:.1f} tokens are left".format(**said))
        write_failures(folder_path, failed)
        write_atomically(folder_path / "summary.json", json.dumps(document, indent=1, allow_nan=False) + "\n")
    return Comparison(folder_path, table, document, failed)


def _judged(
    folder: Path, judge: Judge | None, note: Callable[[str], None], progress: Callable[[int, int, str], None]
) -> None:
    """Have answers graded that need a judge, or say that they wait."""
    if judge is None:
        if waiting := answered(folder).unjudged:
            note(f"{waiting} answers wait for a judge; {WAY_OUT}".replace("DIR", str(folder)))
        return
    for why in list(dict.fromkeys(judge_answers(folder, judge, progress).without))[:_SHOWN]:
        note(f"an answer has no grade: {why}")


def summary_of(
    folder: Path,
    facts: Mapping[str, Any],
    unmatched: Sequence[Mapping[str, Any]] = (),
    failed: Sequence[Mapping[str, Any]] = (),
) -> tuple[list[SummaryRow], dict[str, Any]]:
    """Derive the table and summary.json from a folder's other files.

    Parameters
    ----------
    folder : Path
    facts : mapping
        For a reader.
    unmatched, failed : sequence of mapping
        Rows that were not asked, and rows that broke.

    Raises
    ------
    ConfigError
        A file is damaged.
    """
    found, record = answered(folder), config_of(folder)
    table = summarize(found.lines)
    document = {
        "environment": dict(facts),
        "run": short(record),
        "provenance": record,
        "unmatched": [dict(row) for row in unmatched],
        "failed": [dict(row) for row in failed],
        "incomplete": [row.as_dict() for row in found.incomplete],
        "rows": [row.as_dict() for row in table],
    }
    check_schema("summary", document, f"the summary of {str(folder)!r}")
    return table, document


def _about(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a reader of any table needs first: which questions, how many, of which run."""
    asked = record["asked"]
    return {
        "run": short(record),
        "data": asked.get("data", SCENES),
        "questions": record["questions"]["n"],
        **{name: asked[name] for name in ("limit", "seed") if name in asked},
    }


def _noted(failed: list[Failure], note: Callable[[str], None]) -> Callable[[str, str], None]:
    """What is done with a strategy that cannot be built: it is noted, and the run does not count as whole."""

    def refused(label: str, why: str) -> None:
        note(f"{label} is left out: {why}")
        failed.append(Failure(label, 0, why.splitlines()[0]))

    return refused


def _new(others: Sequence[Failure], mine: Sequence[Failure]) -> list[Failure]:
    """Failures that are not known yet, each row once."""
    known = {(one.strategy, one.keep) for one in mine}
    first = {(one.strategy, one.keep): one for one in reversed(others)}
    return [one for row, one in first.items() if row not in known]


def _describe(
    folder: Path, rows: Sequence[Condition], again: Sequence[str]
) -> tuple[list[Condition], list[str], dict[str, dict[str, Any]]]:
    """What each label stands for.

    Returns
    -------
    rows : list of Condition
        Those given, with the attempt that each is at.
    changed : list of str
        Labels that stood for something else.
    stands_for : dict
        For ``strategies.json``.
    """
    before = described(folder)
    stopped = {row.strategy for row in answered(folder).incomplete} if again else set()
    numbered, changed = [], {}
    for row in rows:
        made, _, attempt = before.get(row.label, {"identity": row.identity})["identity"].partition("+")
        if made != row.identity:
            changed[row.label] = True
            attempt = ""
        # an attempt that was stopped is finished before another begins
        more = row.label in again and row.label in before and row.label not in stopped and row.label not in changed
        numbered.append(replace(row, attempt=int(attempt or 0) + more))
    now = {
        row.label: {
            "identity": row.identity,
            "strategy": row.kind if row.strategy is None else repr(row.strategy),
            "providers": [] if row.strategy is None else providers(row.strategy),
        }
        for row in numbered
    }
    return numbered, list(changed), before | now


def _check_items(items: Sequence[Item]) -> None:
    if not items:
        raise ConfigError("items: there are no questions to ask")
    twice = [name for name, n in Counter(item.id for item in items).items() if n > 1]
    if twice:
        raise ConfigError(f"items: {len(twice)} ids are given to more than one question, {twice[0]!r} among them")


def _impossible(
    rows: Sequence[Condition], pictures: QuestionBatch, items: Sequence[Item]
) -> dict[tuple[str, int], str]:
    """Rows that this model or these questions cannot have, and why."""
    located = any(item.question.boxes is not None for item in items)
    found = {}
    for row in rows:
        why = None if row.strategy is None else refusal(pictures.adapter, row.strategy)
        if row.kind == "oracle" and not located:
            why = "of no question it is known where in the picture its answer lies"
        elif row.kind == "oracle" and pictures.grids is None:
            why = "where tokens of pictures cut into tiles lie is not known"
        if why is not None:
            found[row.label, row.keep] = why
    return found


def _own_counts(
    rows: Sequence[Condition], table: Sequence[SummaryRow], lines: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Rows that keep other counts than the budget, because these follow from the data."""
    left = {(row.strategy, row.keep): row.kept_tokens for row in table if (row.task, row.metric) == ("all", "accuracy")}
    found = []
    for row in rows:
        kept = left.get((row.label, row.keep))
        if row.strategy is not None and row.strategy.own_counts and kept is not None and kept != row.keep:
            budget = "aimed at" if row.strategy.uses_budget else "free"
            mine = [line for line in lines if (line["strategy"], line["keep"]) == (row.label, row.keep)]
            about = {"strategy": row.label, "keep": row.keep, "budget": budget, "left": kept}
            found.append({**about, "by_task": kept_by_task(mine)})
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
