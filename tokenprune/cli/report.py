"""``tokenprune report``: tables of comparisons that were run before, for documents, without asking a model again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from tokenprune.cli.options import words

__all__ = ["report"]

FORMATS = ("markdown", "latex", "csv", "parquet", "html")


def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Folders that compare wrote; several become one table.")
    ],
    out: Annotated[Path | None, typer.Option(help="Folder for the tables; with a single DIR, DIR itself.")] = None,
    formats: Annotated[
        str, typer.Option(help="markdown, latex, csv, parquet, html; comma-separated, or 'all'.")
    ] = "markdown,latex,csv",
    times: Annotated[
        Path | None, typer.Option(help="Folder that bench wrote: its milliseconds stand beside accuracy in the HTML.")
    ] = None,
) -> None:
    """Write tables of results: table.md, table.tex (booktabs), table.csv, table.parquet, table.html."""
    from tokenprune.benchmark.times import read_times
    from tokenprune.core.errors import ConfigError, closest
    from tokenprune.evaluation.answered import answers_in, described
    from tokenprune.evaluation.merged import merged
    from tokenprune.report.comparison import report as page
    from tokenprune.report.comparison.pictures import kept_pictures
    from tokenprune.report.tables import as_tidy_csv, comparison_grid, latex, markdown, write_parquet
    from tokenprune.results.store import write_atomically

    wanted = list(FORMATS) if formats.strip() == "all" else words("--formats", formats)
    if not wanted:
        raise ConfigError(f"--formats names none; {closest('', FORMATS)}")
    for one in wanted:
        if one not in FORMATS:
            raise ConfigError(f"--formats: no {one!r}; {closest(one, FORMATS)}")
    if out is None and len(folders) > 1:
        raise ConfigError("--out is missing: where shall the table of several folders go?")
    clock = None if times is None else read_times(times)
    found = merged(folders)
    target = out or folders[0]
    target.mkdir(parents=True, exist_ok=True)
    grid = comparison_grid(found.rows, found.facts)
    texts: dict[str, tuple[str, Callable[[], str]]] = {
        "markdown": ("table.md", lambda: markdown(grid)),
        "latex": ("table.tex", lambda: latex(grid)),
        "csv": ("table.csv", lambda: as_tidy_csv(found.rows)),
        "html": ("table.html", lambda: page(found.rows, found.facts, missing=found.notes, times=clock, **told())),
    }

    def told() -> dict[str, Any]:
        """What only the page shows, of every folder: answers, each once, and what rows stand for."""
        whole = [folder for folder in folders if (folder / "results.jsonl").exists()]  # a summary alone makes tables
        lines = {folder: answers_in(folder) for folder in whole}
        keys = ("strategy", "keep", "draw", "sample")
        each = {tuple(line[key] for key in keys): line for mine in lines.values() for line in mine}
        stands_for = {label: row for folder in whole for label, row in described(folder).items()}
        drawn = kept_pictures(lines)
        further = {"lines": list(each.values()), "stands_for": stands_for}
        return further | {"examples": drawn.examples, "undrawn": drawn.absent}

    for one in wanted:
        if one == "parquet":
            write_parquet(target / "table.parquet", found.rows, found.facts)
            typer.echo(target / "table.parquet")
        else:
            name, text = texts[one]
            write_atomically(target / name, text())
            typer.echo(target / name)
    for note in found.notes:
        typer.echo(note, err=True)
