"""``tokenprune list``: which strategies and components there are, and who provides them."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from tokenprune.cli.progress import console

__all__ = ["listing"]


def listing(
    kind: Annotated[str | None, typer.Argument(help="strategies, scorers, aggregators, ...; all by default.")] = None,
    pattern: Annotated[str, typer.Argument(help="Wildcard on the name, e.g. 'mi*'.")] = "*",
    check: Annotated[bool, typer.Option(help="Import everything and report what is broken; exit 1 if any is.")] = False,
    model: Annotated[
        str | None,
        typer.Option(help="Only strategies whose signals this model can give; with 'signals', those signals."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="With --check: how long one import may take.")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List strategies and components with their origin; imports no plugin unless --check is given."""
    from rich.markup import escape
    from rich.table import Table

    from tokenprune.core.errors import ConfigError
    from tokenprune.core.registry import KINDS, registry
    from tokenprune.diagnostics.imports import checked

    if kind == "signals":
        _signals(pattern, model, as_json)
        return
    if kind is not None and kind not in KINDS and pattern == "*" and any(c in kind for c in "*?["):
        pattern, kinds = kind, list(KINDS)
    else:
        kinds = [kind] if kind else list(KINDS)
    if model is not None and "strategies" not in kinds:
        raise ConfigError(f"--model {model!r}: only strategies and signals can be listed for a model, not {kind!r}")
    entries = [entry for k in kinds for entry in registry.entries(k, pattern)]
    if model is not None:
        from tokenprune.hf.adapters.base import adapter_for
        from tokenprune.hf.support import usable_strategies
        from tokenprune.zoo.loading import load_model

        fits = set(usable_strategies(adapter_for(load_model(model)[0])))
        entries = [entry for entry in entries if entry.kind == "strategies" and entry.name in fits]
    states = checked(entries, seconds) if check else {}
    rows = []
    for entry in entries:
        status = states.get((entry.kind, entry.name), "")
        if entry.clashes:
            status = "clash with " + "; ".join(entry.clashes)
        row = {"kind": entry.kind, "name": entry.name, "origin": entry.origin, "target": entry.target, "status": status}
        rows.append(row)
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
    else:
        table = Table("kind", "name", "origin", "target", *(["status"] if any(r["status"] for r in rows) else []))
        for row in rows:
            table.add_row(*(escape(row[column.header]) for column in table.columns))  # type: ignore[index]
        console(160).print(table)
    for why in registry.broken():
        typer.echo(why, err=True)
    if check and (registry.broken() or any(row["status"] != "ok" for row in rows)):
        raise typer.Exit(1)


def _signals(pattern: str, model: str | None, as_json: bool) -> None:
    """What strategies may read of a model before its language model runs."""
    from fnmatch import fnmatchcase

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from tokenprune.hf.adapters.base import adapter_for
    from tokenprune.hf.sources import offers
    from tokenprune.zoo.loading import load_model

    adapter = None if model is None else adapter_for(load_model(model)[0])
    rows = [
        {
            "name": offer.signal.name,
            "shape": offer.signal.shape,
            "layers": offer.layers,
            "origin": offer.origin,
            "meaning": offer.signal.meaning,
        }
        for offer in offers(adapter)
        if fnmatchcase(offer.signal.name, pattern)
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    table = Table("name", "shape", "layers", "origin", "meaning")
    for row in rows:
        table.add_row(*map(escape, row.values()))
    console = Console(width=None if Console().is_terminal else 160)
    console.print(table)
    console.print("A signal with layers is named at one as keys@-1, keys@8, or keys@9/24: the 9th of 24, to scale.")
