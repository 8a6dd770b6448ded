"""``tokenprune harness``: tasks for lmms-eval, and its samples as results of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["harness"]

harness = typer.Typer(
    no_args_is_help=True, help="lmms-eval: write tasks for it, import its samples (docs/lmms-eval.md)."
)


@harness.command("tasks")
def tasks(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="New or empty folder, for --include_path.")],
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=PATH...",
            help="A local copy of pope, gqa, mme, textvqa, scienceqa or mmvet for the harness's own task; a folder of "
            "msvd-qa, msrvtt-qa or tgif-qa; or any name and what compare --data reads.",
        ),
    ],
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many questions; of videos 1000.")] = None,
    metric: Annotated[
        str | None, typer.Option(help="How answers to your own questions are graded: tokenprune list metrics.")
    ] = None,
    bare: Annotated[
        bool, typer.Option("--bare", help="Let stock tasks write nothing before and behind questions.")
    ] = False,
) -> None:
    """Write a folder of tasks for lmms-eval --include_path."""
    from tokenprune.core.errors import ConfigError
    from tokenprune.integrations.lmms_eval.tasks import write_tasks

    found: dict[str, Path] = {}
    for one in sources:
        name, equals, path = one.partition("=")
        if not equals or not name or not path:
            raise ConfigError(f"{one!r}: write NAME=PATH, e.g. pope=data/pope or scenes=my/scenes")
        if not name.replace("-", "").replace("_", "").isalnum():
            raise ConfigError(f"{one!r}: a task's name is made of letters, digits, - and _")
        if name in found:
            raise ConfigError(f"{one!r}: {name!r} is given twice")
        found[name] = Path(path)
    for written in write_tasks(out, found, limit=limit, metric=metric, bare=bare):
        count = "" if written.questions is None else f" ({written.questions} questions)"
        typer.echo(f"{written.name}{count}")


@harness.command("import", short_help="Bring samples of lmms-eval runs into a folder of results.")
def imported(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="What --output_path named; several become one table.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of results.")],
    metric: Annotated[
        list[str] | None, typer.Option(help="TASK=NAME: by what answers of a task are right. Repeatable.")
    ] = None,
    journal: Annotated[Path | None, typer.Option(help="Where the journal lies, if it was moved.")] = None,
    wide: Annotated[bool, typer.Option("--wide", help="Show all columns, however wide the terminal is.")] = False,
) -> None:
    """Bring samples of lmms-eval runs into a folder of results: a table with paired tests, report and verify."""
    from rich.console import Console

    from tokenprune.cli.console import print_table
    from tokenprune.core.errors import ConfigError
    from tokenprune.evaluation.table import expendable, heading, table
    from tokenprune.integrations.lmms_eval.imported import import_samples

    metrics = dict(one.split("=", 1) for one in metric or () if "=" in one)
    if len(metrics) != len(metric or ()):
        raise ConfigError(f"--metric {metric}: write TASK=NAME, each task once, e.g. pope=pope_accuracy")
    found = import_samples(folders, out, metrics=metrics, journal=journal)
    console = Console(width=None if Console().is_terminal else 200)
    console.print(heading(found.facts), markup=False)
    print_table(table(found.rows), expendable(found.rows), wide=wide)
    for task, name in found.metrics.items():
        console.print(f"{task}: right by {name}", markup=False)
    for note in found.notes:
        console.print(note, style="bold yellow", markup=False)
    console.print(f"{out}/summary.json, {out}/results.jsonl: {found.answers} answers", markup=False)
