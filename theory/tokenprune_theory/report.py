"""Results as a table, as one claim in full, and as JSON."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tokenprune_theory.assumptions import find_assumption
from tokenprune_theory.evidence import Conflict, Counterexample, Evidence, Trial
from tokenprune_theory.instances import written
from tokenprune_theory.registry import Claim, Origin, Result, Verdict

__all__ = [
    "as_json",
    "by_origin",
    "claim_view",
    "counted",
    "counts",
    "kind_of",
    "print_claims",
    "print_table",
    "summary",
    "table",
]

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
    shown = next((e for e in result.evidence if isinstance(e, Counterexample | Conflict)), None)
    if shown is not None:
        weaker = isinstance(shown, Counterexample) and shown.role == "weaker"
        return ("a weaker reading fails: " if weaker else "") + shown.describe()
    trials = [e for e in result.evidence if isinstance(e, Trial)]
    if not trials:
        return "no evidence"
    worst = max(0.0, *(trial.error for trial in trials))
    return f"error ≤ {worst:.1e} over {sum(trial.valid for trial in trials)} instances"


def _verdict(result: Result) -> Text:
    verdict = result.claim.verdict
    text = Text(verdict.value, style=COLOURS[verdict])
    if not result.agrees:
        derived = "nothing" if result.derived is None else result.derived.value
        text.append(f"\nbut evidence says {derived}", style="bold white on red")
    return text


def table(results: Sequence[Result]) -> Table:
    """One section of claims of one origin: id with place, verdict, statement with its evidence and what to rely on."""
    claim = results[0].claim
    title = f"{claim.section}: {claim.origin.value}"
    view = Table(title=title, title_justify="left", title_style="bold cyan", expand=True, pad_edge=False)
    view.add_column("claim", width=24)
    view.add_column("verdict", width=14)
    view.add_column("statement, evidence", ratio=1)
    for result in results:
        claim = result.claim
        text = Text(claim.statement).append(f"\n{summary(result)}", style="dim")
        for left_out in result.unchecked:
            text.append(f"\nnot checked: {left_out.describe()}", style="yellow")
        if claim.verdict is not Verdict.HOLDS and claim.corrected:
            text.append(f"\n→ {claim.corrected}", style="italic")
        place = claim.ref or f"about {claim.about}"
        view.add_row(Text(claim.id, style="bold").append(f"\n{place}", style="dim"), _verdict(result), text)
        view.add_section()
    return view


def counts(claims: Iterable[Claim]) -> dict[Origin, dict[Verdict, int]]:
    """How many claims of each origin have each verdict: what the paper says and what one might think, counted apart."""
    found = {origin: dict.fromkeys(Verdict, 0) for origin in Origin}
    for claim in claims:
        found[claim.origin][claim.verdict] += 1
    return found


def counted(claims: Iterable[Claim]) -> list[str]:
    """A line for each origin."""
    lines = []
    for origin, verdicts in counts(claims).items():
        parts = ", ".join(f"{n} {verdict.value}" for verdict, n in verdicts.items() if n)
        if parts:
            lines.append(f"{origin.value}: {sum(verdicts.values())} statements, {parts}")
    return lines


def totals(results: Sequence[Result]) -> Text:
    """How many claims of each origin and verdict, and how many are not borne out."""
    wrong = [r.claim.id for r in results if not r.agrees]
    left_out = sum(len(r.unchecked) for r in results)
    text = Text("\n".join(counted(r.claim for r in results)))
    text.append(f"\n{len(results)} claims; {sum(r.seconds for r in results):.1f} s. ")
    if left_out:
        text.append(f"{left_out} not checked (see above). ", style="yellow")
    if wrong:
        return text.append(f"Evidence and verdict disagree: {', '.join(wrong)}", style="bold red")
    return text.append("Every verdict is borne out.", style="green")


def claim_view(result: Result) -> Group:
    """One claim in full."""
    claim = result.claim
    lines: list[RenderableType] = [
        Text(f"{claim.id}  ({claim.origin.value}: {claim.place})", style="bold"),
        Padding(Text(claim.statement), (0, 0, 0, 2)),
        Text("verdict  ", style="bold").append_text(_verdict(result)),
    ]
    for label, ids in (("assumes", claim.assumes), ("needs", claim.needs)):
        for id in ids:
            assumption = find_assumption(id)
            where = f" ({assumption.ref})" if assumption.ref else ""
            lines.append(Text(f"{label}  ", style="bold").append(f"{id}{where}: {assumption.statement}", style=""))
    if claim.corrected:
        label = "note" if claim.verdict is Verdict.HOLDS else "rely on"
        lines += [Text(label, style="bold"), Padding(Text(claim.corrected), (0, 0, 0, 2))]
    if claim.derivation:
        lines += [Text("why", style="bold"), Padding(Text(claim.derivation), (0, 0, 0, 2))]
    lines.append(Text("evidence", style="bold"))
    for piece in result.evidence:
        mark = Text("✓ " if piece.passed else "✗ ", style="green" if piece.passed else "bold red")
        line = mark.append(f"{kind_of(piece)}: ", style="dim").append(piece.describe(), style="")
        lines.append(Padding(line, (0, 0, 0, 2)))
    for left_out in result.unchecked:
        lines.append(Padding(Text(f"? not checked: {left_out.describe()}", style="yellow"), (0, 0, 0, 2)))
    for measure in result.measures:
        lines.append(Padding(Text(f"· {measure.describe()}"), (0, 0, 0, 2)))
    return Group(*lines, Text())


def kind_of(piece: Evidence) -> str:
    """What a piece of evidence is, in words."""
    if isinstance(piece, Conflict):
        return "readings differ"
    if isinstance(piece, Counterexample):
        return "counterexample" if piece.role == "statement" else "a weaker reading fails"
    return {"statement": "as stated", "assumption": "assuming", "corrected": "corrected"}[piece.role]


def as_json(results: Sequence[Result], cases: int, seed: int) -> dict[str, Any]:
    """Everything, JSON-able; numbers that are not finite become strings, fractions of an instance "3/4"."""

    def plain(value: Any) -> Any:
        if isinstance(value, bool | str | int):
            return value
        if isinstance(value, Sequence | frozenset):
            return [plain(v) for v in value]
        number = float(value)
        return number if abs(number) < float("inf") else str(number)

    def evidence(piece: Evidence) -> dict[str, Any]:
        entry: dict[str, Any] = {"kind": type(piece).__name__.lower(), "role": piece.role, "label": piece.label}
        if isinstance(piece, Trial):
            entry |= {"error": plain(piece.error), "tolerance": piece.tolerance}
            entry |= {"valid": piece.valid, "drawn": piece.drawn, "outside": piece.outside}
        elif isinstance(piece, Counterexample):
            entry |= {"left": plain(piece.left), "relation": piece.relation, "right": plain(piece.right)}
            entry |= {"on": written(piece.on), "exact": piece.exact, "assumptions": piece.assumptions}
        else:
            entry |= {"first": plain(piece.first), "second": plain(piece.second)}
        return entry | {"passed": piece.passed}

    used = sorted({id for r in results for id in r.claim.assumes + r.claim.needs})
    return {
        "cases": cases,
        "seed": seed,
        "passed": sum(r.agrees for r in results),
        "failed": sum(not r.agrees for r in results),
        "counts": {
            origin.value: {verdict.value: n for verdict, n in verdicts.items()}
            for origin, verdicts in counts(r.claim for r in results).items()
        },
        "assumptions": {id: {"ref": find_assumption(id).ref, "says": find_assumption(id).statement} for id in used},
        "claims": [
            {
                "id": r.claim.id,
                "section": r.claim.section,
                "origin": r.claim.origin.value,
                "ref": r.claim.ref,
                "about": r.claim.about,
                "statement": r.claim.statement,
                "verdict": r.claim.verdict.value,
                "derived": None if r.derived is None else r.derived.value,
                "agrees": r.agrees,
                "assumes": list(r.claim.assumes),
                "needs": list(r.claim.needs),
                "corrected": r.claim.corrected,
                "derivation": r.claim.derivation,
                "evidence": [evidence(e) for e in r.evidence],
                "unchecked": {left_out.label: left_out.why for left_out in r.unchecked},
                "measures": {m.label: plain(m.value) for m in r.measures},
                "seconds": round(r.seconds, 3),
            }
            for r in results
        ],
    }


def by_origin(results: Sequence[Result]) -> list[list[Result]]:
    """Groups to show: section by section, in each what the paper says, what one might think, what is added."""
    groups = []
    for _, section in itertools.groupby(results, key=lambda r: r.claim.section):
        whole = list(section)
        groups += [[r for r in whole if r.claim.origin is origin] for origin in Origin]
    return [group for group in groups if group]


def print_table(results: Sequence[Result], console: Console | None = None) -> None:
    """Print a verdict table for each section and origin, and the totals."""
    out = console or Console()
    for group in by_origin(results):
        out.print(table(group))
    out.print(totals(results))


def print_claims(results: Sequence[Result], console: Console | None = None) -> None:
    """Print claims in full."""
    out = console or Console()
    for result in results:
        out.print(claim_view(result))
