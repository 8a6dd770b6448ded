"""``tokenprune new``: a repository for a strategy of one's own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["new"]

EXAMPLE = "tokenprune-example"
"""Name of the distribution, the strategy and (with an underscore) the package in the template."""


def new(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Of the strategy and its distribution: lower case, with hyphens.")
    ],
    out: Annotated[Path | None, typer.Option(help="Folder to make; by default NAME.")] = None,
) -> None:
    """Write a repository with one scorer, one strategy, tests of the laws and CI, ready to install and run."""
    from importlib import resources

    from tokenprune.core.errors import ConfigError
    from tokenprune.core.registry import registry

    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise ConfigError(f"NAME {name!r}: lower-case letters and digits, joined by hyphens, e.g. detail-pruner")
    for kind in ("strategies", "scorers"):
        for entry in registry.entries(kind, name):
            raise ConfigError(f"NAME {name!r}: one of {kind} is called that already, by {entry.origin}")
    folder = out or Path(name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--out {str(folder)!r} exists and is not empty; give the name of a folder to make")
    package = name.replace("-", "_")
    template = Path(str(resources.files("tokenprune.testing") / "template"))
    for source in sorted(template.rglob("*")):
        place = source.relative_to(template)
        if source.is_dir() or "__pycache__" in place.parts:
            continue
        target = folder / str(place).replace(EXAMPLE.replace("-", "_"), package)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = source.read_text(encoding="utf-8").replace(EXAMPLE.replace("-", "_"), package).replace(EXAMPLE, name)
        target.write_text(text, encoding="utf-8")
        typer.echo(target)
    typer.echo(f"\nnext: cd {folder} && pip install -e '.[test]' && pytest")
