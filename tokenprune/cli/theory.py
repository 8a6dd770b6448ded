"""``tokenprune theory``: the paper's statements, checked on this machine."""

from __future__ import annotations

import importlib
import json as json_module
import time
from typing import Annotated

import typer

__all__ = ["theory"]


def theory(
    claim: Annotated[
        list[str] | None,
        typer.Option("--claim", help="Show this claim in full, with numbers and derivation; repeatable."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    cases: Annotated[int, typer.Option(min=1, help="Random instances a statement is tried on.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random instances.")] = 0,
) -> None:
    """Check every statement of the paper's theory: what holds, what needs an assumption, what is false.

    Exits with 1 when the evidence does not bear out a declared verdict.
    """
    # the framework does not depend on the theory package: it is looked for when this command runs
    registry = importlib.import_module("tokenprune_theory.registry")
    report = importlib.import_module("tokenprune_theory.report")
    chosen = registry.find_claims(claim or ())
    start = time.perf_counter()
    results = [registry.examine(one, cases, seed) for one in chosen]
    if json:
        typer.echo(json_module.dumps(report.as_json(results, cases, seed), ensure_ascii=False, indent=2))
    elif claim:
        report.print_claims(results)
    else:
        report.print_table(results)
    if not json and not claim:
        typer.echo(f"took {time.perf_counter() - start:.1f} s; one claim in full: tokenprune theory --claim ID")
    if not all(result.agrees for result in results):
        raise typer.Exit(1)
