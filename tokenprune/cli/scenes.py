"""``tokenprune scenes``: the benchmark's pictures and questions, for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokenprune.cli.options import words

__all__ = ["scenes"]

scenes = typer.Typer(help="Procedural pictures with questions.", no_args_is_help=True)


@scenes.callback()
def _scenes() -> None:
    # a callback keeps "export" a subcommand while it is the only one
    pass


@scenes.command("export", short_help="Write pictures and metadata.jsonl, which `datasets` loads.")
def export_scenes(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="New or empty folder.")],
    n: Annotated[
        int,
        typer.Option("--limit", "--n", min=1, max=1_000_000, help="Questions, spread evenly over the sub-families."),
    ] = 238,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the scenes.")] = 0,
    family: Annotated[
        list[str] | None,
        typer.Option("--families", "--family", help="Only these, as gqa or gqa/color; comma-separated, or repeated."),
    ] = None,
    split: Annotated[str, typer.Option(help="test, validation or train.")] = "test",
    style: Annotated[str, typer.Option(help="Set of scenes: plain, or natural, like photographs.")] = "plain",
) -> None:
    """Write pictures and metadata.jsonl: a folder that `datasets` loads as "imagefolder"."""
    from tokenprune.data.scenes import export

    chosen = [name for text in family or () for name in words("--family", text)]
    pictures = export(directory, n, seed, chosen or None, split, style)
    typer.echo(f"{n} questions about {pictures} pictures in {directory}")
