"""Documents made from the registry: ``theory/README.md`` and ``docs/theory.md``.

Only what does not depend on the machine goes in: counterexamples with their numbers, statements with their tolerances.
``python -m tokenprune_theory.document`` writes both (from a checkout); a test fails when they are stale.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenprune_theory.assumptions import ASSUMPTIONS
from tokenprune_theory.evidence import Trial
from tokenprune_theory.registry import Claim, Origin, Result, Verdict, all_claims, examine
from tokenprune_theory.report import by_origin, counts, kind_of

__all__ = ["PATHS", "render", "write"]

PATHS = ("theory/README.md", "docs/theory.md")
"""Where the documents lie in a checkout."""

MARKS = {
    Verdict.HOLDS: "holds",
    Verdict.ASSUMING: "holds assuming",
    Verdict.FALSE: "**false**",
    Verdict.INCOMPLETE: "*incomplete*",
}

INTRODUCTION = """\
MI-Pruner rests its token selection on mutual information and submodularity. This package states the claims of that
theory as code, and gives evidence for a verdict on your machine. Three kinds of statement are kept and counted apart:

- **the paper says**: a statement of the paper, with the place and the equation where it makes it;
- **one might think**: a statement that the paper does not make, and that a reader may take from it or bring along.
  That such a statement is false is no fault of the paper's;
- **we add**: what is shown here besides.

The verdicts:

- **holds**: as stated, under the assumptions that the paper makes there. A weaker reading, which drops one of them,
  may fail; that is said as such;
- **holds assuming**: needs an assumption that the paper does not make there;
- **false**: there is a counterexample that grants the paper all that it assumes there; the corrected form is checked,
  too;
- *incomplete*: two readings of it give different results, so a convention has to be chosen.

A counterexample counts only if it satisfies the assumptions listed with the claim (a check runs on it), and only if it
is exact: integers and fractions, to be checked by hand. The verdict is derived from the evidence, then compared with
the one declared; the command fails when they differ.
"""

USE = """\
```bash
tokenprune theory                        # every verdict, in under a minute
tokenprune theory --claim max-below-sum  # one claim with its numbers, assumptions and derivation
tokenprune theory --json --cases 1000 --seed 7  # the same for programs, with every instance as fractions
```
"""

NOTATION = """\
Tokens: N visual tokens v_i, T text tokens t_j; k are kept. p(t_j|v_i) is the softmax of cosines over τ, q_j its mean
over i. C_ij = log p(t_j|v_i) − log q_j is the crossmodal PMI table; D_ij = log p(v_j|v_i) + log N the one among visual
tokens; Z_i the normaliser of its row. Relevance is c_i = max_j C_ij; the score of Algorithm 1 after picks S is
λ c_i − (1−λ) max_{j∈S} D_ij. KL_i = KL(p(·|v_i) ‖ q). D_α is the Rényi divergence of order α. Natural logarithms
unless bits are named; e1, e2, … are unit vectors.

Two models are kept apart. Section 3.3 of the paper is about tokens as *random variables*: f(S) = MI(V_S;T) is a set
function, and submodularity lives there. Everything that is computed (4.2, A.4) is about tokens as *outcomes* of one
index variable. No statement carries a guarantee from the first to the second.
"""

LAYOUT = """\
| module | what is in it |
|---|---|
| `discrete` | exact entropy, conditional entropy, MI, CMI, PMI, Rényi divergence of small joint distributions |
| `models` | naive Bayes, parity, coverage, linear codes over GF(2), random instances |
| `setfn` | set functions: properties with witnesses; greedy and its variants, brute force, guarantees |
| `pmi` | PMI tables, marginals, limits in τ, LSE bounds, certificates |
| `sequence` | Algorithm 1 in plain Python, the oracle for everything faster |
| `violations` | statements as functions that return by how much an instance violates them |
| `instances`, `assumptions` | what counterexamples are made of, and what they have to satisfy |
| `optimum` | exact optima of small instances by integer programming |
| `conformity` | holds any registered objective, a plugin's too, to the properties that it declares |
| `claims` | the claims, one module a topic |
| `evidence`, `registry` | exams and what they find; claims and verdicts |
| `report`, `document` | the command's output, these documents |

To check an objective of your own: register it (entry point `tokenprune.objectives`) and run `tokenprune theory --claim
objectives`, or call `tokenprune_theory.conformity.objective_violations` with features from
`tokenprune.testing.features`.
"""

GENERATED = "<!-- made by python -m tokenprune_theory.document; do not edit -->\n"


def _plain(text: str) -> str:
    """Text as Markdown that shows it unchanged, also inside a table."""
    # code spans come through as they are
    parts = text.split("`")
    for i in range(0, len(parts), 2):
        for character in "\\*_<>|[]":
            parts[i] = parts[i].replace(character, "\\" + character)
    return "`".join(part.replace("|", "\\|") if i % 2 else part for i, part in enumerate(parts))


def _sections(results: Sequence[Result]) -> Iterable[tuple[str, list[list[Result]]]]:
    for section, group in itertools.groupby(results, key=lambda r: r.claim.section):
        yield section, by_origin(list(group))


def _row(claim: Claim) -> str:
    rely = _plain(claim.corrected) if claim.verdict is not Verdict.HOLDS else ""
    cells = (f"`{claim.id}`", _plain(claim.place), MARKS[claim.verdict], _plain(claim.statement), rely)
    return "| " + " | ".join(cells) + " |"


def _verdicts(results: Sequence[Result]) -> str:
    """Origins by verdicts, as a table."""
    claims = [r.claim for r in results]
    lines = ["| | statements | " + " | ".join(v.value for v in Verdict) + " |", "|---|" + "---:|" * (1 + len(Verdict))]
    for origin, verdicts in counts(claims).items():
        numbers = [sum(verdicts.values()), *verdicts.values()]
        lines.append(f"| {origin.value} | " + " | ".join(map(str, numbers)) + " |")
    return "\n".join(lines)


def _assumptions() -> str:
    lines = ["| assumption | the paper makes it in | says |", "|---|---|---|"]
    for each in ASSUMPTIONS.values():
        lines.append(f"| {each.id} | {_plain(each.ref) or 'not made'} | {_plain(each.statement)} |")
    return "\n".join(lines)


def _evidence(result: Result) -> Iterable[str]:
    kinds = {"statement": "checked", "assumption": "checked under the assumption", "corrected": "checked instead"}
    for piece in result.evidence:
        if isinstance(piece, Trial):
            if piece.portable:
                yield f"- {kinds[piece.role]}: {_plain(piece.describe(measured=False))}"
        else:
            yield f"- {kind_of(piece)}: {_plain(piece.describe(measured=False))}"


def _full(result: Result) -> str:
    claim = result.claim
    where = f"{_plain(claim.ref)}" if claim.origin is Origin.PAPER else f"about {_plain(claim.about)}"
    lines = [
        f"### {claim.id}",
        "",
        f"{MARKS[claim.verdict]} · {claim.origin.value} · {where}",
        "",
        _plain(claim.statement),
    ]
    for label, ids in (("Assumed there", claim.assumes), ("Needed besides", claim.needs)):
        if ids:
            lines += ["", f"{label}: " + "; ".join(f"{id} ({_plain(ASSUMPTIONS[id].statement)})" for id in ids) + "."]
    if claim.corrected:
        label = "Note" if claim.verdict is Verdict.HOLDS else "Rely on"
        lines += ["", f"{label}: {_plain(claim.corrected)}"]
    if claim.derivation:
        lines += ["", f"Why: {_plain(claim.derivation)}"]
    return "\n".join([*lines, "", *_evidence(result), ""])


def readme(results: Sequence[Result]) -> str:
    """The table of all verdicts."""
    lines = [
        GENERATED,
        "# tokenprune_theory: the theory as executable claims\n",
        INTRODUCTION,
        USE,
        _verdicts(results),
        "",
    ]
    for section, groups in _sections(results):
        lines += [f"## {section}", ""]
        for group in groups:
            origin = group[0].claim.origin
            place = "paper" if origin is Origin.PAPER else "about"
            lines += [f"{origin.value.capitalize()}:", "", f"| claim | {place} | verdict | statement | rely on |"]
            lines += ["|---|---|---|---|---|", *(_row(r.claim) for r in group), ""]
    lines += ["## Modules", "", LAYOUT]
    return "\n".join(lines)


def page(results: Sequence[Result]) -> str:
    """Every claim in full."""
    lines = [GENERATED, "# Theory\n", INTRODUCTION, USE, _verdicts(results), ""]
    lines += ["## Notation\n", NOTATION, "## Assumptions\n", _assumptions(), ""]
    for section, groups in _sections(results):
        lines += [f"## {section}", "", *(_full(r) for group in groups for r in group)]
    return "\n".join(lines)


def render() -> dict[str, str]:
    """Contents of the documents by path; the evidence that goes in is the same on every machine."""
    results = [examine(claim, cases=1) for claim in all_claims().values()]
    return dict(zip(PATHS, (readme(results), page(results)), strict=True))


def write(root: Path) -> None:
    """Write the documents into a checkout."""
    for path, text in render().items():
        (root / path).write_text(text.rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(__file__).parents[2])
