"""``tokenprune verify``: whether a folder's table is what its answers give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["verify"]


def verify(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that compare wrote.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Derive summary.json from results.jsonl once more; check schema, keys and provenance; exit 1 on any difference."""
    from tokenprune.evaluation.verify import verify as run_verify

    found = run_verify(directory)
    if as_json:
        typer.echo(json.dumps([verdict.as_dict() for verdict in found], indent=1))
    else:
        for verdict in found:
            state = "differs" if verdict.faults else "holds"
            typer.echo(
                f"{verdict.folder}: run {verdict.run or 'unknown'}, {verdict.answers} answers, {verdict.numbers} "
                f"numbers derived again: {state}"
            )
            for fault in verdict.faults:
                typer.echo(f"  {fault}")
    if any(verdict.faults for verdict in found):
        raise typer.Exit(1)
