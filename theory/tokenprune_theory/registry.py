"""Claims with their evidence: the verdict is derived from what was measured, then compared with the declared one.

A claim is a function that gives evidence to a :class:`Run`. There are five kinds of evidence:

``holds``       the statement as it stands, on random instances: the largest violation stays within a tolerance
``holds_if``    the same under an assumption that the statement needs
``corrected``   the form that is true instead
``refutes``     a counterexample to the statement as it stands: the violation must be there
``depends``     two readings of the statement that give different results

From these follows the verdict: a counterexample makes a claim false, unless an assumption saves it; readings that
differ make it incomplete; otherwise it holds. Evidence that fails (a law that is violated, a counterexample that is
none) supports no verdict at all, and so does a claim without evidence.
"""

from __future__ import annotations

import enum
import math
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from tokenprune.core.errors import UnknownNameError, closest

__all__ = [
    "CLAIMS",
    "Claim",
    "Conflict",
    "Law",
    "Measure",
    "Result",
    "Run",
    "Verdict",
    "Witness",
    "all_claims",
    "check",
    "claim",
    "find_claims",
]


class Verdict(enum.Enum):
    """What became of a statement."""

    HOLDS = "holds"
    ASSUMING = "holds assuming"
    FALSE = "false"
    INCOMPLETE = "incomplete"


Role = Literal["statement", "assumption", "corrected"]


def _number(value: object) -> str:
    """Short decimal form that does not depend on the last bits."""
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int | np.integer):
        return str(int(value))
    if isinstance(value, float | np.floating):
        return f"{float(value):.6g}" if abs(float(value)) > 1e-12 or not math.isfinite(float(value)) else "0"
    if isinstance(value, Sequence | frozenset):
        return "(" + ", ".join(_number(v) for v in value) + ")"
    return str(value)


@dataclass(frozen=True)
class Law:
    """Largest violation over random instances, and the tolerance; NaN fails."""

    label: str
    error: float
    tolerance: float
    cases: int
    role: Role
    portable: bool = True

    @property
    def passed(self) -> bool:
        """Whether the law held everywhere; one that no instance was a case of (-inf) is no evidence."""
        return bool(-math.inf < self.error <= self.tolerance)

    def describe(self, measured: bool = True) -> str:
        """One line; without what was measured (for documents) if asked."""
        what = f"{self.label}: tolerance {self.tolerance:.0e}" if self.tolerance else f"{self.label}: exact"
        times = "1 instance" if self.cases == 1 else f"{self.cases} instances"
        return f"{what}, largest violation {max(0.0, self.error):.1e} over {times}" if measured else what


@dataclass(frozen=True)
class Witness:
    """A counterexample: the statement claims ``left relation right``, and that is not so by more than ``margin``."""

    label: str
    left: Any
    relation: Literal["<=", ">=", "=="]
    right: Any
    margin: float
    portable: bool = True
    role: Literal["statement"] = "statement"

    @property
    def passed(self) -> bool:
        """Whether the statement is violated here."""
        left, right = self.left, self.right
        if self.relation == "<=":
            return bool(left > right + self.margin)
        if self.relation == ">=":
            return bool(left < right - self.margin)
        if isinstance(left, int | float | np.number) and isinstance(right, int | float | np.number):
            # a NaN is equal to nothing, itself included
            return not abs(float(left) - float(right)) <= self.margin
        return bool(left != right)

    def describe(self, measured: bool = True) -> str:
        """One line: what the statement wants, and what is."""
        if not measured and not self.portable:
            return self.label
        sign = {"<=": "≤", ">=": "≥", "==": "="}[self.relation]
        return f"{self.label}: not {_number(self.left)} {sign} {_number(self.right)}"


@dataclass(frozen=True)
class Conflict:
    """Two readings of one statement, and what each gives."""

    label: str
    first: Any
    second: Any
    role: Literal["statement"] = "statement"

    @property
    def passed(self) -> bool:
        """Whether the readings differ."""
        if isinstance(self.first, float) and isinstance(self.second, float):
            return not abs(self.first - self.second) <= 1e-9
        return bool(self.first != self.second)

    def describe(self, measured: bool = True) -> str:
        """One line."""
        return f"{self.label}: {_number(self.first)} or {_number(self.second)}"


@dataclass(frozen=True)
class Measure:
    """A number worth knowing that decides nothing."""

    label: str
    value: float

    def describe(self) -> str:
        """One line."""
        return f"{self.label}: {_number(float(self.value))}"


Evidence = Law | Witness | Conflict


class Run:
    """Collects the evidence of one claim.

    Parameters
    ----------
    rng : numpy.random.Generator
    cases : int
        Random instances a law is tried on, unless it asks for a share of them.
    """

    def __init__(self, rng: np.random.Generator, cases: int) -> None:
        self.rng = rng
        self.cases = cases
        self.evidence: list[Evidence] = []
        self.measures: list[Measure] = []

    def _law(
        self,
        role: Role,
        label: str,
        violation: Callable[..., Any],
        draw: Any,
        tolerance: float,
        share: float,
        portable: bool = True,
    ) -> None:
        """``draw`` makes an instance from the generator, or is a list of instances; the worst one counts."""
        if callable(draw):
            count = max(1, round(self.cases * share))
            instances: Iterable[Any] = (draw(self.rng) for _ in range(count))
        else:
            instances = list(draw)
        errors = []
        for instance in instances:
            error = violation(*instance) if isinstance(instance, tuple) else violation(instance)
            errors.append(float(np.max(error)))
        worst = float(np.max(errors)) if errors else math.nan
        self.evidence.append(Law(label, worst, tolerance, len(errors), role, portable))

    def holds(
        self,
        label: str,
        violation: Callable[..., Any],
        draw: Any,
        tolerance: float = 1e-12,
        share: float = 1.0,
        portable: bool = True,
    ) -> None:
        """Try the statement as it stands: ``violation(*instance)`` must not exceed the tolerance.

        ``portable=False`` keeps the line out of generated documents (it depends on what is installed).
        """
        self._law("statement", label, violation, draw, tolerance, share, portable)

    def holds_if(
        self, label: str, violation: Callable[..., Any], draw: Any, tolerance: float = 1e-12, share: float = 1.0
    ) -> None:
        """Try it on instances that satisfy the assumption."""
        self._law("assumption", label, violation, draw, tolerance, share)

    def corrected(
        self, label: str, violation: Callable[..., Any], draw: Any, tolerance: float = 1e-12, share: float = 1.0
    ) -> None:
        """Try what is true instead."""
        self._law("corrected", label, violation, draw, tolerance, share)

    def refutes(
        self,
        label: str,
        left: Any,
        relation: Literal["<=", ">=", "=="],
        right: Any,
        margin: float = 1e-9,
        portable: bool = True,
    ) -> None:
        """Show that ``left relation right``, which the statement claims, fails by more than the margin.

        ``portable=False`` keeps the numbers out of generated documents (they depend on the processor's rounding).
        """
        self.evidence.append(Witness(label, left, relation, right, margin, portable))

    def depends(self, label: str, first: Any, second: Any) -> None:
        """Show that two readings give different results."""
        self.evidence.append(Conflict(label, first, second))

    def measure(self, label: str, value: float) -> None:
        """Note a number."""
        self.measures.append(Measure(label, float(value)))


@dataclass(frozen=True)
class Claim:
    """A statement and what is known of it.

    Attributes
    ----------
    id : str
    section : str
        Heading under which it is listed.
    ref : str
        Where the paper says it; "beyond" for results that it does not have.
    statement : str
    verdict : Verdict
        What the evidence must bear out.
    corrected : str
        The form to rely on; for what holds, the finer print.
    derivation : str
        Why, in a few lines.
    evidence : callable
    """

    id: str
    section: str
    ref: str
    statement: str
    verdict: Verdict
    corrected: str
    derivation: str
    evidence: Callable[[Run], None] = field(repr=False)


CLAIMS: dict[str, Claim] = {}


def claim(
    id: str, *, section: str, ref: str, says: str, verdict: Verdict, corrected: str = "", why: str = ""
) -> Callable[[Callable[[Run], None]], Callable[[Run], None]]:
    """Register the decorated function as the evidence of a claim."""

    def add(evidence: Callable[[Run], None]) -> Callable[[Run], None]:
        if id in CLAIMS:
            raise ValueError(f"two claims have the id {id!r}")
        CLAIMS[id] = Claim(id, section, ref, says, verdict, corrected, " ".join(why.split()), evidence)
        return evidence

    return add


@dataclass(frozen=True)
class Result:
    """A claim with the evidence of one run."""

    claim: Claim
    evidence: tuple[Evidence, ...]
    measures: tuple[Measure, ...]
    seconds: float

    @property
    def failures(self) -> tuple[Evidence, ...]:
        """Evidence that is none."""
        return tuple(e for e in self.evidence if not e.passed)

    @property
    def derived(self) -> Verdict | None:
        """The verdict that the evidence supports; None where it supports none."""
        if self.failures or not self.evidence:
            return None
        if any(isinstance(e, Conflict) for e in self.evidence):
            return Verdict.INCOMPLETE
        roles = {e.role for e in self.evidence if isinstance(e, Law)}
        if any(isinstance(e, Witness) for e in self.evidence):
            return Verdict.ASSUMING if "assumption" in roles else Verdict.FALSE
        # without a counterexample nothing shows that an assumption is needed
        return Verdict.HOLDS if "statement" in roles and "assumption" not in roles else None

    @property
    def agrees(self) -> bool:
        """Whether the declared verdict is the derived one."""
        return self.derived is self.claim.verdict


def all_claims() -> dict[str, Claim]:
    """Every claim by id: topics in the order of ``tokenprune_theory.claims.TOPICS``, others after them."""
    from tokenprune_theory.claims import TOPICS

    place = {topic.__name__: i for i, topic in enumerate(TOPICS)}
    ordered = sorted(CLAIMS.values(), key=lambda c: place.get(c.evidence.__module__, len(place)))
    return {c.id: c for c in ordered}


def find_claims(ids: Iterable[str] = ()) -> list[Claim]:
    """Claims with these ids (all without any), in listing order.

    Raises
    ------
    UnknownNameError
        With the closest matches.
    """
    known = all_claims()
    wanted = list(ids)
    for id in wanted:
        if id not in known:
            raise UnknownNameError(f"no claim {id!r}; {closest(id, known)}")
    return [c for c in known.values() if not wanted or c.id in wanted]


def check(claim: Claim, cases: int = 200, seed: int = 0) -> Result:
    """Gather a claim's evidence; the same seed gives the same numbers whichever claims are run with it."""
    run = Run(np.random.default_rng([seed, zlib.crc32(claim.id.encode())]), cases)
    start = time.perf_counter()
    claim.evidence(run)
    return Result(claim, tuple(run.evidence), tuple(run.measures), time.perf_counter() - start)
