"""``tokenprune compare``: which pruner keeps the answers, and at which budget."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from tokenprune.cli.data import DataOptions
from tokenprune.cli.groups import grouped
from tokenprune.cli.judge import JudgeOptions
from tokenprune.cli.options import MODEL, STRATEGIES, check_spelling, command_line, numbers, words, words_or_all
from tokenprune.cli.progress import console, progress

__all__ = ["compare"]


@grouped
def compare(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder of results; a run that was stopped goes on there.")],
    strategies: Annotated[str, typer.Option(help=f"{STRATEGIES} YAML files of rows count as well.")] = "all",
    budgets: Annotated[str, typer.Option(help="Visual tokens kept, comma-separated.")] = "192,128,64,32",
    families: Annotated[str, typer.Option(help="Question types, comma-separated; 'all' for every one.")] = "all",
    limit: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="Questions in all; 238, of --data all.")
    ] = None,
    match: Annotated[
        str,
        typer.Option(help="What a budget fixes: 'kept', what each is asked for; 'layer-average'; 'share', per cent."),
    ] = "kept",
    model: Annotated[str | None, typer.Option(help=MODEL)] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1; 'auto' spreads a big checkpoint over all.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    seed: Annotated[int, typer.Option(min=0, help="Of the questions.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, max=4096, help="Questions asked at a time.")] = 16,
    load: Annotated[
        list[Path] | None, typer.Option(help="A Python file that registers strategies or parts; runs it. Repeatable.")
    ] = None,
    again: Annotated[list[str] | None, typer.Option(help="A row to ask again though nothing changed.")] = None,
    new_segment: Annotated[
        bool, typer.Option("--new-segment", help="Keep a run that differs from what --out holds apart, beside it.")
    ] = False,
    *,
    data: DataOptions,
    judge: JudgeOptions,
    wide: Annotated[bool, typer.Option("--wide", help="Show all columns, however wide the terminal is.")] = False,
    trust_remote_code: Annotated[bool, typer.Option(help="Run code that comes with a checkpoint.")] = False,
) -> None:
    """Ask a model questions about pictures with every strategy at every budget; write results, a table, a report."""
    from tokenprune.cli.console import print_table
    from tokenprune.core.matching import checked_match
    from tokenprune.data.items import default_model, notes_on
    from tokenprune.evaluation.answered import described
    from tokenprune.evaluation.compare import answers_in, comparison, environment
    from tokenprune.evaluation.conditions import conditions
    from tokenprune.evaluation.failures import told
    from tokenprune.evaluation.mixes import chosen_rows, run_files
    from tokenprune.evaluation.table import expendable, heading, left_over, missing, table
    from tokenprune.report.comparison import write_report
    from tokenprune.report.comparison.pictures import keep_pictures
    from tokenprune.report.examples import example_sheets
    from tokenprune.results.team import Team
    from tokenprune.zoo.loading import load_model

    team = Team.from_environment()
    if again:
        team.alone("--again", "run it without the launcher; several would not agree on which attempt they are at")
    name = default_model(model)
    matched = checked_match(match)
    keeps = numbers("--budgets", budgets)
    run_files(load or ())
    check_spelling("--strategies", words("--strategies", strategies))
    chosen = chosen_rows(strategies)
    conditions(chosen, keeps)  # misspelt ones are told before a model is loaded
    grader = judge.grader()
    asked = data.of(name).questions(families=words_or_all("--families", families), limit=limit, seed=seed)
    items = asked.items
    loaded, processor = load_model(name, team.device(device), dtype, trust_remote_code=trust_remote_code)
    notes = notes_on(name) + asked.notes
    to = console(quiet=not team.leads)
    for note in notes:
        to.print(note, style="bold yellow", markup=False)
    said = len(notes)
    with progress(to) if team.leads else nullcontext(lambda *_: None) as report:
        found = comparison(
            loaded,
            processor,
            items,
            out,
            {"model": name, "dtype": dtype, **asked.config},
            strategies=chosen,
            budgets=keeps,
            batch_size=batch_size,
            max_new_tokens=asked.max_new_tokens,
            match=matched,
            again=again or (),
            new_segment=new_segment,
            team=team,
            fewer=asked.fewer,
            note=notes.append,
            facts=environment(name, device, dtype, seed) | {"command": command_line(context)},
            progress=report,
            judge=grader,
        )
    if not team.leads:
        return
    facts = found.summary["environment"]
    lines = answers_in(found.folder)
    sheets = example_sheets(loaded, processor, items, lines, chosen, match=matched)
    examples = keep_pictures(found.folder, sheets, lines)
    absent = missing(found.summary)
    first = [one for one in notes if " left out: " not in one]  # those stand with the rows that have no numbers
    stands_for = described(found.folder)
    write_report(
        found.folder,
        found.rows,
        facts,
        first,
        examples,
        found.summary["own_counts"],
        lines=lines,
        stands_for=stands_for,
        missing=absent,
    )
    for note in notes[said:]:
        to.print(note, style="bold yellow", markup=False)
    to.print(heading(facts), markup=False)
    print_table(table(found.rows), expendable(found.rows), wide=wide)
    for line in left_over(found.summary):
        to.print(line, style="bold yellow", markup=False)
    where = found.folder
    to.print(f"{where}/summary.json, {where}/results.jsonl, {where}/report.html", markup=False)
    for line in told(found.failed, where):
        typer.echo(line, err=True)
    if found.failed:
        raise typer.Exit(1)
