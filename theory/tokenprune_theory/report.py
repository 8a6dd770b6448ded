"""Results as a table, as one claim in full, and as JSON."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tokenprune_theory.registry import Conflict, Law, Result, Verdict, Witness

__all__ = ["as_json", "claim_view", "print_claims", "print_table", "summary", "table"]

COLOURS = {
    Verdict.HOLDS: "green",
    Verdict.ASSUMING: "yellow",
    Verdict.FALSE: "red",
    Verdict.INCOMPLETE: "magenta",
}


def summary(result: Result) -> str:
    """Evidence in one line: what refutes the statement, or how far it was from failing."""
    if result.failures:
        return "FAILS: " + result.failures[0].describe()
    shown = next((e for e in result.evidence if isinstance(e, Witness | Conflict)), None)
    if shown is not None:
        return shown.describe()
    laws = [e for e in result.evidence if isinstance(e, Law)]
    if not laws:
        return "no evidence"
    cases = sum(law.cases for law in laws)
    return f"error ≤ {max(0.0, *(law.error for law in laws)):.1e} over {cases} instances"


def _verdict(result: Result) -> Text:
    verdict = result.claim.verdict
    text = Text(verdict.value, style=COLOURS[verdict])
    if not result.agrees:
        derived = "nothing" if result.derived is None else result.derived.value
        text.append(f"\nbut evidence says {derived}", style="bold white on red")
    return text


def table(results: Sequence[Result]) -> Table:
    """One section of claims: id with reference, verdict, statement with its evidence and what to rely on instead."""
    view = Table(
        title=results[0].claim.section, title_justify="left", title_style="bold cyan", expand=True, pad_edge=False
    )
    view.add_column("claim", width=24)
    view.add_column("verdict", width=14)
    view.add_column("statement, evidence", ratio=1)
    for result in results:
        claim = result.claim
        text = Text(claim.statement).append(f"\n{summary(result)}", style="dim")
        if claim.verdict is not Verdict.HOLDS and claim.corrected:
            text.append(f"\n→ {claim.corrected}", style="italic")
        view.add_row(Text(claim.id, style="bold").append(f"\n{claim.ref}", style="dim"), _verdict(result), text)
        view.add_section()
    return view


def totals(results: Sequence[Result]) -> Text:
    """How many claims of each verdict, and how many are not borne out."""
    parts = [f"{sum(r.claim.verdict is v for r in results)} {v.value}" for v in Verdict]
    wrong = [r.claim.id for r in results if not r.agrees]
    seconds = sum(r.seconds for r in results)
    text = Text(f"{len(results)} claims: {', '.join(parts)}; {seconds:.1f} s. ")
    if wrong:
        return text.append(f"Evidence and verdict disagree: {', '.join(wrong)}", style="bold red")
    return text.append("Every verdict is borne out.", style="green")


def claim_view(result: Result) -> Group:
    """One claim in full."""
    claim = result.claim
    lines: list[RenderableType] = [
        Text(f"{claim.id}  ({claim.ref})", style="bold"),
        Padding(Text(claim.statement), (0, 0, 0, 2)),
        Text("verdict  ", style="bold").append_text(_verdict(result)),
    ]
    if claim.corrected:
        label = "note" if claim.verdict is Verdict.HOLDS else "rely on"
        lines += [Text(label, style="bold"), Padding(Text(claim.corrected), (0, 0, 0, 2))]
    if claim.derivation:
        lines += [Text("why", style="bold"), Padding(Text(claim.derivation), (0, 0, 0, 2))]
    lines.append(Text("evidence", style="bold"))
    names = {"statement": "as stated", "assumption": "assuming", "corrected": "corrected"}
    for piece in result.evidence:
        mark = Text("✓ " if piece.passed else "✗ ", style="green" if piece.passed else "bold red")
        kind = {Witness: "counterexample", Conflict: "readings differ"}.get(type(piece), names[piece.role])
        lines.append(Padding(mark.append(f"{kind}: ", style="dim").append(piece.describe(), style=""), (0, 0, 0, 2)))
    for measure in result.measures:
        lines.append(Padding(Text(f"· {measure.describe()}"), (0, 0, 0, 2)))
    return Group(*lines, Text())


def as_json(results: Sequence[Result], cases: int, seed: int) -> dict[str, Any]:
    """Everything, JSON-able; numbers that are not finite become strings."""

    def plain(value: Any) -> Any:
        if isinstance(value, bool | str | int):
            return value
        if isinstance(value, Sequence | frozenset):
            return [plain(v) for v in value]
        number = float(value)
        return number if abs(number) < float("inf") else str(number)

    def evidence(piece: Law | Witness | Conflict) -> dict[str, Any]:
        entry: dict[str, Any] = {"kind": type(piece).__name__.lower(), "role": piece.role, "label": piece.label}
        if isinstance(piece, Law):
            entry |= {"error": plain(piece.error), "tolerance": piece.tolerance, "cases": piece.cases}
        elif isinstance(piece, Witness):
            entry |= {"left": plain(piece.left), "relation": piece.relation, "right": plain(piece.right)}
        else:
            entry |= {"first": plain(piece.first), "second": plain(piece.second)}
        return entry | {"passed": piece.passed}

    return {
        "cases": cases,
        "seed": seed,
        "passed": sum(r.agrees for r in results),
        "failed": sum(not r.agrees for r in results),
        "claims": [
            {
                "id": r.claim.id,
                "section": r.claim.section,
                "ref": r.claim.ref,
                "statement": r.claim.statement,
                "verdict": r.claim.verdict.value,
                "derived": None if r.derived is None else r.derived.value,
                "agrees": r.agrees,
                "corrected": r.claim.corrected,
                "derivation": r.claim.derivation,
                "evidence": [evidence(e) for e in r.evidence],
                "measures": {m.label: plain(m.value) for m in r.measures},
                "seconds": round(r.seconds, 3),
            }
            for r in results
        ],
    }


def print_table(results: Sequence[Result], console: Console | None = None) -> None:
    """Print a verdict table for each section, and the totals."""
    out = console or Console()
    for _, section in itertools.groupby(results, key=lambda r: r.claim.section):
        out.print(table(list(section)))
    out.print(totals(results))


def print_claims(results: Sequence[Result], console: Console | None = None) -> None:
    """Print claims in full."""
    out = console or Console()
    for result in results:
        out.print(claim_view(result))
