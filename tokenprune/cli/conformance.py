"""``tokenprune conformance``: replay golden vectors of reference implementations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["conformance"]


def conformance(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with <method>/cases.json and safetensors.")],
    method: Annotated[list[str] | None, typer.Option(help="Only this method; may be repeated.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Replay a folder of golden vectors; exit 1 on any mismatch."""
    from tokenprune.testing.conformance import replay_folder

    report = replay_folder(directory, method)
    if as_json:
        typer.echo(json.dumps(report.as_dict(), indent=1))
    else:
        for case in report.cases:
            typer.echo(f"{case.status:8}{case.method}/{case.name}{': ' if case.detail else ''}{case.detail}")
        typer.echo(", ".join(f"{report.count(status)} {status}" for status in ("passed", "failed", "skipped")))
    if not report.ok:
        raise typer.Exit(1)
