"""``tokenprune figure``: figures for papers, as vector PDF and PNG, from results that are there or from a picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from tokenprune.cli.options import STRATEGIES, numbers, words, words_or_all
from tokenprune.cli.subject import subject

__all__ = ["figure"]

figure = typer.Typer(no_args_is_help=True, help="Figures for papers: vector PDF and PNG, for one or two columns.")

Folders = Annotated[
    list[Path], typer.Argument(metavar="DIR...", help="Folders that compare wrote; several become one.")
]
Out = Annotated[Path, typer.Option(help="File to write, without an ending.")]
Columns = Annotated[str, typer.Option(help="How wide: 'one' (3.25 in) or 'two' (6.75 in) columns.")]
Formats = Annotated[str, typer.Option(help="pdf, png; comma-separated.")]
Rows = Annotated[str | None, typer.Option("--strategies", help="Rows of the table, comma-separated.")]
Times = Annotated[Path | None, typer.Option(help="Folder that bench wrote, for --against ms.")]
Against = Annotated[str, typer.Option(help="budget, layers, gflops, kv or ms.")]


def _write(draw: Callable[[], Any], out: Path, formats: str) -> None:
    from tokenprune.report.figures.canvas import write_figure

    for path in write_figure(draw, out, words("--formats", formats)):
        typer.echo(path)


def _milliseconds(times: Path | None) -> Any:
    from tokenprune.benchmark.times import read_times

    return None if times is None else read_times(times).ms


@figure.command(short_help="Accuracy with intervals against cost, a panel a question type.")
def curves(
    folders: Folders,
    out: Out = Path("curves"),
    strategies: Rows = None,
    tasks: Annotated[str, typer.Option(help="Question types, a panel each; 'every' for all of them apart.")] = "all",
    against: Against = "budget",
    times: Times = None,
    columns: Columns = "one",
    formats: Formats = "pdf,png",
) -> None:
    """Accuracy with intervals against what it costs, a panel a question type."""
    from tokenprune.evaluation.merged import merged
    from tokenprune.report.figures.canvas import checked_width
    from tokenprune.report.figures.comparison import chosen
    from tokenprune.report.figures.comparison import curves as draw

    width, rows = checked_width(columns), merged(folders).rows
    names = chosen(rows, None if strategies is None else words("--strategies", strategies))
    panels = sorted({row.task for row in rows} - {"all"}) if tasks == "every" else words("--tasks", tasks)
    ms = _milliseconds(times)
    _write(lambda: draw(rows, panels, names, against, width, ms), out, formats)
    if strategies is None:
        typer.echo(f"drawn: {', '.join(names)} (--strategies chooses others)", err=True)


@figure.command(short_help="Every row against its cost, and what nothing beats.")
def front(
    folders: Folders,
    out: Out = Path("front"),
    strategies: Rows = None,
    task: Annotated[str, typer.Option(help="A question type, or 'all'.")] = "all",
    against: Against = "layers",
    times: Times = None,
    columns: Columns = "one",
    formats: Formats = "pdf,png",
) -> None:
    """Every row against its cost, and the line of those that nothing is as good as for less."""
    from tokenprune.evaluation.merged import merged
    from tokenprune.report.figures.canvas import checked_width
    from tokenprune.report.figures.comparison import chosen
    from tokenprune.report.figures.comparison import front as draw

    width, rows, ms = checked_width(columns), merged(folders).rows, _milliseconds(times)
    names = None if strategies is None else chosen(rows, words("--strategies", strategies))
    _write(lambda: draw(rows, task, names, against, width, ms), out, formats)


@figure.command()
def heatmap(
    folders: Folders,
    out: Out = Path("heatmap"),
    strategies: Rows = None,
    keep: Annotated[int | None, typer.Option(min=1, help="The budget; the smallest by default.")] = None,
    columns: Columns = "two",
    formats: Formats = "pdf,png",
) -> None:
    """Accuracy by strategy and question type at one budget."""
    from tokenprune.evaluation.merged import merged
    from tokenprune.report.figures.canvas import checked_width
    from tokenprune.report.figures.comparison import chosen, heat

    width, rows = checked_width(columns), merged(folders).rows
    names = chosen(rows, None if strategies is None else words("--strategies", strategies), most=len(rows))
    budget = keep or min((row.keep for row in rows if row.keep), default=0)
    _write(lambda: heat(rows, names, budget, width), out, formats)


@figure.command()
def speed(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that bench wrote, or a file of its lines.")],
    out: Out = Path("speed"),
    batch: Annotated[int | None, typer.Option(min=1, help="Prompts at once; the smallest by default.")] = None,
    keep: Annotated[int | None, typer.Option(min=1, help="The budget; the smallest by default.")] = None,
    ways: Annotated[str | None, typer.Option(help="plain, compiled, loop; all that were timed by default.")] = None,
    columns: Columns = "one",
    formats: Formats = "pdf,png",
) -> None:
    """Bars of the time to the first token, by what takes it."""
    from tokenprune.core.errors import ConfigError
    from tokenprune.report.figures.canvas import checked_width
    from tokenprune.report.figures.speed import bars, speed_rows
    from tokenprune.results.lines import read_lines

    width = checked_width(columns)
    file = source / "results.jsonl" if source.is_dir() else source
    if not file.is_file():
        raise ConfigError(f"DIR {str(source)!r}: no such file; give a folder that bench wrote, or a file of its lines")
    rows = speed_rows(read_lines(file), batch, keep, None if ways is None else words("--ways", ways))
    _write(lambda: bars(rows, width), out, formats)


@figure.command(short_help="Which patches each strategy keeps, with the answers.")
def kept(
    image: Annotated[
        str, typer.Argument(metavar="IMAGE", help="A picture file, or a painted scene: scene:SEED/INDEX.")
    ],
    question: Annotated[
        str | None, typer.Argument(metavar="QUESTION", help="About the picture; a scene knows some itself.")
    ] = None,
    strategies: Annotated[str, typer.Option(help=STRATEGIES)] = "mi-pruner,sparsevlm,vispruner",
    budgets: Annotated[str, typer.Option(help="Visual tokens kept, comma-separated.")] = "64,128,256",
    model: Annotated[str | None, typer.Option(help="'embedded', 'tiny', a folder or a hub id.")] = None,
    out: Out = Path("kept"),
    device: Annotated[str, typer.Option()] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 8,
    columns: Columns = "two",
    formats: Formats = "pdf,png",
    trust_remote_code: Annotated[bool, typer.Option(help="Run code that comes with a checkpoint.")] = False,
) -> None:
    """Which patches each strategy keeps at each budget, with the answers."""
    from tokenprune.core.registry import build
    from tokenprune.data.items import default_model, notes_on
    from tokenprune.evaluation.conditions import strategy_names
    from tokenprune.report.figures.canvas import checked_width
    from tokenprune.report.figures.grids import kept_grids
    from tokenprune.report.pruning import look
    from tokenprune.zoo.loading import load_model

    width, keeps = checked_width(columns), numbers("--budgets", budgets)
    built = [build(name) for name in strategy_names(words_or_all("--strategies", strategies))]
    picture, asked, _ = subject(image, question)
    name = default_model(model)
    loaded, processor = load_model(name, device, dtype, trust_remote_code=trust_remote_code)
    for note in notes_on(name):
        typer.echo(note, err=True)
    text = asked if isinstance(asked, str) else asked.text
    looked = look(loaded, processor, picture, text, built, keeps, max_new_tokens)
    _write(lambda: kept_grids(looked, asked, width), out, formats)
