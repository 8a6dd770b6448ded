"""``tokenprune list``: which strategies and components there are, what they do, and who provides them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tokenprune.core.description import Described
    from tokenprune.core.registry import Entry

__all__ = ["listing"]


def listing(
    kind: Annotated[str | None, typer.Argument(help="strategies, scorers, aggregators, ...; all by default.")] = None,
    pattern: Annotated[
        str, typer.Argument(help="Wildcard on the name, e.g. 'mi*'; a whole name is told in full.")
    ] = "*",
    check: Annotated[
        bool, typer.Option(help="Import and try everything, report what is broken or wrong; exit 1 if any is.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(help="Only strategies whose signals this model can give; with 'signals', those signals."),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="With --check: how long importing and trying one may take.")
    ] = 60.0,
    names: Annotated[bool, typer.Option("--names", help="Names and origins only; imports no plugin.")] = False,
    wide: Annotated[bool, typer.Option("--wide", help="Show all columns, however wide the terminal is.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; imports no plugin unless --check.")] = False,
) -> None:
    """List strategies and components: what each is, its options, the signals it reads, and its origin."""
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
        raise ConfigError(f"--model {model!r}: only strategies can be listed for a model, not {kind!r}")
    entries = [entry for k in kinds for entry in registry.entries(k, pattern)]
    if model is not None:
        from tokenprune.hf.adapters.base import adapter_for
        from tokenprune.hf.sources import usable_strategies
        from tokenprune.zoo.loading import load_model

        fits = set(usable_strategies(adapter_for(load_model(model)[0])))
        entries = [entry for entry in entries if entry.kind == "strategies" and entry.name in fits]
    states = checked(entries, seconds, ("tokenprune.testing.registered", "tried")) if check else {}
    rows = []
    for entry in entries:
        row = {"kind": entry.kind, "name": entry.name, "origin": entry.origin, "target": entry.target, "status": ""}
        if (state := states.get((entry.kind, entry.name))) is not None:
            row |= {"status": "ok" if state.ok else state.said, "tried": state.said if state.ok else ""}
        if entry.clashes:
            row["status"] = "clash with " + "; ".join(entry.clashes)
        rows.append(row)
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
    elif names or check or model is not None:
        _print_origins(rows, wide)
    elif kind in KINDS and not any(c in pattern for c in "*?["):
        for entry in entries:
            _print_whole(entry)
        if not entries:
            registry.load(str(kind), pattern)  # raises, with the closest names
    else:
        _print_described(entries, wide)
    for why in registry.broken():
        typer.echo(why, err=True)
    if check and (registry.broken() or any(row["status"] != "ok" for row in rows)):
        raise typer.Exit(1)


def _print_origins(rows: list[dict[str, str]], wide: bool) -> None:
    from rich.markup import escape
    from rich.table import Table

    from tokenprune.cli.console import print_table

    told = [name for name in ("status", "tried") if any(row.get(name) for row in rows)]
    table = Table("kind", "name", "origin", "target", *told)
    for row in rows:
        table.add_row(*(escape(row[str(column.header)]) for column in table.columns))
    print_table(table, ("target",), wide=wide)


def _described(entry: Entry) -> tuple[Described | None, str]:
    """What an entry is, or why that cannot be told."""
    from tokenprune.core.description import described
    from tokenprune.core.errors import TokenPruneError

    try:
        return described(entry), ""
    except TokenPruneError as error:
        return None, str(error)


def _print_described(entries: list[Entry], wide: bool) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    from tokenprune.cli.console import print_table

    origins = {entry.origin for entry in entries}
    table = Table(box=SIMPLE_HEAD)
    table.add_column("name")
    for title, least, share in (("what it is", 28, 3), ("options", 16, 1), ("reads", 18, 1)):
        table.add_column(title, min_width=least, ratio=share, overflow="fold")
    table.add_column("origin", min_width=24, ratio=1, overflow="fold")
    kind = ""
    for entry in entries:
        if entry.kind != kind:
            kind = entry.kind
            table.add_section()
            table.add_row(f"[bold]{escape(kind)}[/bold]")
        told, trouble = _described(entry)
        cells = [trouble, "", ""]
        if told is not None:
            cells = [told.about, "\n".join(option.name for option in told.options), "\n".join(told.signals)]
        table.add_row(f"  {escape(entry.name)}", *map(escape, [*cells, f"{entry.origin}\n{entry.target}"]))
    print_table(table, ("origin", "reads", "options"), wide=wide)
    if len(origins) == 1:
        typer.echo(f"all of {origins.pop()}")
    typer.echo("tokenprune list KIND NAME tells one in full")


def _print_whole(entry: Entry) -> None:
    told, trouble = _described(entry)
    typer.echo(f"{entry.name} ({entry.kind}), {entry.origin}, {entry.target}\n")
    if told is None:
        typer.echo(trouble)
        return
    typer.echo(told.text)
    facts = {
        "reads": ", ".join(told.signals),
        "says of itself": ", ".join(told.properties),
        "as it is written": ":".join([entry.name, *map(str, told.options)]) if entry.kind == "strategies" else "",
    }
    typer.echo("")
    for name, text in facts.items():
        if text:
            typer.echo(f"{name}: {text}")


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
