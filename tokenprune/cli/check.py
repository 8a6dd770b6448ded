"""``tokenprune check``: hold one's own part to what its kind promises and to what it declares."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["check"]


def check(
    part: Annotated[
        str, typer.Argument(metavar="NAME | FILE.py:CLASS", help="A registered name, or a class in a file; runs it.")
    ],
) -> None:
    """Try a part on small instances: shapes, padding, batches, ties, what it declares; exit 1 at the first fault."""
    from tokenprune.core.errors import CheckError
    from tokenprune.testing.check import check as run_check

    faulty = False
    for name, made in _parts(part):
        try:
            report = run_check(made)
        except CheckError as error:
            typer.echo(f"{name}: wrong: {error}")
            faulty = True
            continue
        tried = f"tried on {report.instances} instances, nothing wrong found" if report.instances else "not tried"
        typer.echo(f"{name}: {tried}")
        for why in report.unchecked:
            typer.echo(f"  not checked: {why}")
    if faulty:
        raise typer.Exit(1)


def _parts(given: str) -> list[tuple[str, Any]]:
    """What is meant, made with its defaults: a class of a file, or every kind's part of that name."""
    from tokenprune.core.errors import UnknownNameError, closest
    from tokenprune.core.registry import registry
    from tokenprune.testing.registered import TRIED, made, with_defaults

    file, _, name = given.rpartition(":")
    if file.endswith(".py"):
        return [(name, with_defaults(given, _member(Path(file), name)))]
    entries = [entry for kind in TRIED for entry in registry.entries(kind)]
    found = [entry for entry in entries if entry.name == given]
    if not found:
        raise UnknownNameError(f"check: no part {given!r}; {closest(given, [entry.name for entry in entries])}")
    return [(f"{entry.kind} {given}", made(entry.kind, given)) for entry in found]


def _member(file: Path, name: str) -> Any:
    """Run a file, and take what it calls by a name."""
    import runpy

    from tokenprune.core.errors import ConfigError, UnknownNameError, closest

    if not file.is_file():
        raise ConfigError(f"check: no file {str(file)!r}")
    known = runpy.run_path(str(file))
    if name not in known:
        public = [key for key in known if not key.startswith("_")]
        raise UnknownNameError(f"check: {str(file)!r} has no {name!r}; {closest(name, public)}")
    return known[name]
