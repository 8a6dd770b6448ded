"""The ``tokenprune`` command: one module a subcommand, each importing what is heavy when it runs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from tokenprune._version import __version__
from tokenprune.cli.ablate import ablate
from tokenprune.cli.bench import bench
from tokenprune.cli.compare import compare
from tokenprune.cli.conformance import conformance
from tokenprune.cli.doctor import doctor
from tokenprune.cli.explore import explore
from tokenprune.cli.listing import listing
from tokenprune.cli.new import new
from tokenprune.cli.report import report
from tokenprune.cli.scenes import scenes
from tokenprune.cli.show import show
from tokenprune.cli.theory import theory
from tokenprune.core.errors import TokenPruneError

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tokenprune {__version__}")
        raise typer.Exit


@app.callback()
def _about(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Visual token pruning for multimodal LLMs: compose, compare and run training-free pruners."""


app.command("compare")(compare)
app.command("show")(show)
app.command("explore")(explore)
app.command("ablate")(ablate)
app.command("bench")(bench)
app.command("list")(listing)
app.command("doctor")(doctor)
app.command("report")(report)
app.command("new")(new)
app.command("conformance")(conformance)
app.command("theory")(theory)
app.add_typer(scenes, name="scenes")


def main() -> None:
    """Entry point of the console script: our own errors are messages, not tracebacks."""
    try:
        app()
    except TokenPruneError as error:
        sys.stderr.write(f"Error: {error}\n")
        sys.exit(2)
