"""The ``tokenprune`` command: one module a subcommand, each importing what is heavy when it runs."""

from __future__ import annotations

import sys

import typer

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
    help="Visual token pruning for multimodal LLMs: compose, compare and run training-free pruners.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
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
