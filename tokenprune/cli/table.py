"""``tokenprune table``: a table of the paper, measured here, beside the published numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tokenprune.cli.data import Asked, questions
from tokenprune.cli.options import words_or_all

if TYPE_CHECKING:
    from tokenprune.evaluation.paper_tables import PaperTable
    from tokenprune.evaluation.summary import SummaryRow

__all__ = ["table"]

_PAINTED = ("embedded", "embedded-qwen", "tiny")
"""Models that are asked about painted scenes."""

_JUDGED = ("mmvet",)
"""Benchmarks that are graded by another model, which this command has none of."""


def table(
    number: Annotated[str, typer.Argument(metavar="N", help="Of the table: 1, 2, 6, 8, 9; a part as 2-8b; 'all'.")],
    out: Annotated[Path, typer.Option(help="Folder of results; a run that was stopped goes on there.")],
    model: Annotated[
        str | None, typer.Option(help="'embedded', 'embedded-qwen', folder or hub id; default the paper's.")
    ] = None,
    strategies: Annotated[str, typer.Option(help="Only these rows, comma-separated.")] = "all",
    data: Annotated[str, typer.Option(help="Only these benchmarks, comma-separated.")] = "all",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Questions of each benchmark; by default all, of painted scenes 238.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be asked.")] = False,
    device: Annotated[str, typer.Option()] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    seed: Annotated[int, typer.Option(min=0, help="Of painted questions.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions asked at a time.")] = 16,
) -> None:
    """Measure a table of the paper; print ours beside theirs and write table.md and table.tex."""
    from rich.console import Console

    from tokenprune.data.items import notes_on
    from tokenprune.evaluation.compare import compare, environment
    from tokenprune.evaluation.conditions import RANDOM_DRAWS
    from tokenprune.evaluation.paper_tables import paper_tables
    from tokenprune.report.paper_tables import latex, markdown, terminal
    from tokenprune.results.store import write_atomically
    from tokenprune.zoo.loading import load_model

    console = Console(width=None if Console().is_terminal else 200)
    for one in paper_tables(number):
        name = model or one.model
        painted = name.partition(":")[0] in _PAINTED
        rows = _only("--strategies", words_or_all("--strategies", strategies), one.strategies)
        wanted = _only("--data", words_or_all("--data", data), one.data)
        judged = [benchmark for benchmark in wanted if benchmark in _JUDGED]
        parts = _parts(one, [b for b in wanted if b not in _JUDGED], painted, limit, seed)
        each = 2 + len(one.budgets) * (1 + RANDOM_DRAWS + len(rows))
        for benchmark, asked in parts.items():
            console.print(f"{one.name}: {benchmark}: {len(asked.items)} questions x {each} rows", markup=False)
        console.print(
            f"{one.name}: {sum(len(asked.items) for asked in parts.values()) * each} answers of {name}", markup=False
        )
        for benchmark in judged:
            console.print(f"{one.name}: {benchmark} is left out: it needs a judge", style="bold yellow", markup=False)
        if dry_run:
            continue
        for note in notes_on(name):
            console.print(note, style="bold yellow", markup=False)
        loaded, processor = load_model(name, device, dtype)
        counts = one.counts(_tokens(loaded, processor, parts) if painted else None)
        measured: dict[str, list[SummaryRow]] = {}
        for benchmark, asked in parts.items():
            found = compare(
                loaded,
                processor,
                asked.items,
                out / one.name / benchmark,
                {"model": name, "dtype": dtype, **asked.config},
                strategies=rows,
                budgets=list(counts.values()),
                batch_size=batch_size,
                max_new_tokens=asked.max_new_tokens,
                note=lambda text, b=benchmark: console.print(f"{b}: {text}", style="bold yellow", markup=False),
                facts=environment(name, device, dtype, seed),
            )
            measured |= dict.fromkeys(one.data, found) if painted else {benchmark: found}
        cells = one.filled(measured, counts, painted)
        console.print(terminal(one, cells))
        if painted:
            console.print("asked about painted scenes: the paper's numbers are about other questions and not shown")
        write_atomically(out / one.name / "table.md", markdown(one, cells))
        write_atomically(out / one.name / "table.tex", latex(one, cells))
        console.print(f"{out / one.name}/table.md, table.tex", markup=False)


def _only(option: str, chosen: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    """Those of the known that were chosen."""
    from tokenprune.core.errors import UnknownNameError, closest

    for name in chosen or ():
        if name not in known:
            raise UnknownNameError(f"{option}: the table has no {name!r}; {closest(name, known)}")
    return [name for name in known if chosen is None or name in chosen]


def _parts(one: PaperTable, benchmarks: Sequence[str], painted: bool, limit: int | None, seed: int) -> dict[str, Asked]:
    """Questions of each benchmark; of painted scenes all in one."""
    from tokenprune.data.scenes import FAMILIES

    if painted:
        families = [family for family in FAMILIES if family in benchmarks]
        return {"scenes": questions(None, families=families, limit=limit, seed=seed)}
    return {name: questions(name, families=None, limit=limit, seed=seed) for name in benchmarks}


def _tokens(model: object, processor: object, parts: dict[str, Asked]) -> int:
    """Visual tokens of a painted scene: all are of one size."""
    from tokenprune.evaluation.runner import question_batch

    return question_batch(model, processor, parts["scenes"].items[:1]).units[0][1]
