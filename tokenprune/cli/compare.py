"""``tokenprune compare``: which pruner keeps the answers, and at which budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokenprune.cli.options import STRATEGIES, numbers, words_or_all

__all__ = ["compare"]


def compare(
    out: Annotated[Path, typer.Option(help="Folder of results; a run that was stopped goes on there.")],
    strategies: Annotated[str, typer.Option(help=STRATEGIES)] = "all",
    budgets: Annotated[str, typer.Option(help="Visual tokens kept, comma-separated.")] = "192,128,64,32",
    families: Annotated[str, typer.Option(help="Question types, comma-separated; 'all' for every one.")] = "all",
    limit: Annotated[int, typer.Option(min=1, help="Questions in all.")] = 238,
    match: Annotated[
        str, typer.Option(help="What a budget fixes: 'kept', what each is asked for, or 'layer-average'.")
    ] = "kept",
    model: Annotated[str | None, typer.Option(help="'embedded', 'tiny', a folder or a hub id.")] = None,
    device: Annotated[str, typer.Option()] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    seed: Annotated[int, typer.Option(min=0, help="Of the questions.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions asked at a time.")] = 16,
    wide: Annotated[bool, typer.Option("--wide", help="Show all columns, however wide the terminal is.")] = False,
    trust_remote_code: Annotated[bool, typer.Option(help="Run code that comes with a checkpoint.")] = False,
) -> None:
    """Ask a model questions about pictures with every strategy at every budget; write results, a table, a report."""
    from rich.console import Console

    from tokenprune.cli.console import print_table, progress
    from tokenprune.core.matching import checked_match
    from tokenprune.data.items import default_model, notes_on, scene_items
    from tokenprune.evaluation.compare import answers_in, environment
    from tokenprune.evaluation.compare import compare as run_comparison
    from tokenprune.evaluation.conditions import conditions
    from tokenprune.evaluation.table import expendable, table
    from tokenprune.report.examples import example_sheets
    from tokenprune.report.report import write_report
    from tokenprune.zoo.loading import load_model

    name = model or default_model()
    matched = checked_match(match)
    keeps = numbers("--budgets", budgets)
    chosen = words_or_all("--strategies", strategies)
    conditions(chosen, keeps)  # misspelt ones are told before a model is loaded
    items = scene_items(words_or_all("--families", families), limit, seed)
    loaded, processor = load_model(name, device, dtype, trust_remote_code=trust_remote_code)
    notes = notes_on(name)
    console = Console()
    for note in notes:
        console.print(note, style="bold yellow", markup=False)
    said = len(notes)
    with progress("loading") as report:
        rows = run_comparison(
            loaded,
            processor,
            items,
            out,
            {"model": name, "dtype": dtype, "seed": seed, "families": families, "limit": limit},
            strategies=chosen,
            budgets=keeps,
            batch_size=batch_size,
            match=matched,
            note=notes.append,
            facts=(facts := environment(name, device, dtype, seed) | {"match": matched}),
            progress=report,
        )
    for note in notes[said:]:
        console.print(note, style="bold yellow", markup=False)
    print_table(table(rows), expendable(rows), wide=wide)
    lines = answers_in(out, {item.id for item in items})
    examples = example_sheets(loaded, processor, items, lines, match=matched)
    write_report(out, rows, facts, notes, examples)
    console.print(f"{out}/summary.json, {out}/results.jsonl, {out}/report.html", markup=False)
