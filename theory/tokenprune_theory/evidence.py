"""What speaks for or against a claim, and the exam that collects it.

There are six kinds of evidence:

``holds``       the statement as it stands, on random instances: the largest violation stays within a tolerance
``holds_if``    the same under an assumption that the statement needs and the paper does not make there
``corrected``   the form that is true instead
``refutes``     a counterexample to the statement: it grants every assumption the paper makes there
``weaker``      a counterexample to a weaker reading, which drops an assumption: the statement itself is untouched
``depends``     two readings of the statement that give different results

Evidence that fails (a trial that is violated or had no instance, a counterexample that is none, or that does not meet
the assumptions) supports no verdict at all. What could not be checked is listed, and decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from tokenprune_theory.assumptions import find_assumption
from tokenprune_theory.instances import fractions_in

__all__ = ["Conflict", "Counterexample", "Evidence", "Exam", "Measure", "Trial", "Unchecked"]

Role = Literal["statement", "assumption", "corrected"]
Relation = Literal["<=", ">=", "=="]

DRAWS = 20
"""Times as many instances drawn as wanted, before a trial makes do with the valid ones it has."""


def _number(value: object) -> str:
    """Short decimal form that does not depend on the last bits."""
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int | np.integer | Fraction):
        return str(value)
    if isinstance(value, float | np.floating):
        return f"{float(value):.6g}" if abs(float(value)) > 1e-12 or not math.isfinite(float(value)) else "0"
    if isinstance(value, Sequence | frozenset):
        return "(" + ", ".join(_number(v) for v in value) + ")"
    return str(value)


@dataclass(frozen=True)
class Trial:
    """Largest violation over random instances, and the tolerance; NaN fails.

    Attributes
    ----------
    label : str
    error : float
    tolerance : float
    valid : int
        Instances that were a case of the statement: only these count.
    drawn : int
        Instances drawn, those that were none included.
    role : str
    portable : bool
        Whether the line goes into generated documents.
    outside : int
        Valid instances that miss an assumption under which the statement is tried.
    """

    label: str
    error: float
    tolerance: float
    valid: int
    drawn: int
    role: Role
    portable: bool = True
    outside: int = 0

    @property
    def passed(self) -> bool:
        """Whether it held on every instance, all within the assumptions; without a valid one it is no evidence."""
        return bool(self.valid > 0 and not self.outside and -math.inf < self.error <= self.tolerance)

    def describe(self, measured: bool = True) -> str:
        """One line; without what was measured (for documents) if asked."""
        what = f"{self.label}: tolerance {self.tolerance:.0e}" if self.tolerance else f"{self.label}: exact"
        if not measured:
            return what
        times = "1 instance" if self.valid == 1 else f"{self.valid} instances"
        if self.drawn != self.valid:
            times += f" (of {self.drawn} drawn)"
        if self.outside:
            times += f", {self.outside} of them outside the assumptions"
        if not self.valid:
            return f"{what}: none of {self.drawn} instances was a case of it"
        return f"{what}, largest violation {max(0.0, self.error):.1e} over {times}"


@dataclass(frozen=True)
class Counterexample:
    """The statement claims ``left relation right``, and on this instance that fails by more than ``slack``.

    Attributes
    ----------
    label : str
    on : object
        The instance, exact: see :mod:`~tokenprune_theory.instances`.
    left, relation, right
    slack : float
    portable : bool
        False keeps the numbers out of generated documents (they depend on the processor's rounding).
    role : str
        "weaker" where it refutes a reading that drops an assumption.
    meets : tuple of str
        Assumptions that the instance has to meet.
    misses : tuple of str
        Assumptions that it has to miss: those that save the statement.
    """

    label: str
    on: object
    left: Any
    relation: Relation
    right: Any
    slack: float
    portable: bool = True
    role: Literal["statement", "weaker"] = "statement"
    meets: tuple[str, ...] = ()
    misses: tuple[str, ...] = ()

    @property
    def violated(self) -> bool:
        """Whether what is claimed fails here."""
        left, right = self.left, self.right
        if self.relation == "<=":
            return bool(left > right + self.slack)
        if self.relation == ">=":
            return bool(left < right - self.slack)
        if all(isinstance(side, int | float | Fraction | np.number) for side in (left, right)):
            # a NaN is equal to nothing, itself included
            return not abs(float(left) - float(right)) <= self.slack
        return bool(left != right)

    @property
    def exact(self) -> bool:
        """Whether a reader can check it by hand: all numbers of the instance are fractions of small numbers."""
        return fractions_in(self.on)

    @property
    def assumptions(self) -> dict[str, bool]:
        """Of every assumption that matters here, whether it is met, or missed where it has to be."""
        met = {id: find_assumption(id).met(self.on) for id in self.meets}
        return met | {f"not {id}": find_assumption(id).missed(self.on) for id in self.misses}

    @property
    def passed(self) -> bool:
        """Whether it is a counterexample, exact, and fair: some assumption is named and all are as they have to be."""
        return self.violated and self.exact and bool(self.meets) and all(self.assumptions.values())

    def describe(self, measured: bool = True) -> str:
        """One line: what the statement wants, and what is."""
        wrong = [name for name, fine in self.assumptions.items() if not fine]
        trouble = "" if not wrong else f" (not so: {', '.join(wrong)})"
        if not self.meets:
            trouble += " (no assumption is named)"
        if not self.exact:
            trouble += " (not exact)"
        if not measured and not self.portable:
            return self.label
        sign = {"<=": "≤", ">=": "≥", "==": "="}[self.relation]
        return f"{self.label}: not {_number(self.left)} {sign} {_number(self.right)}{trouble}"


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


@dataclass(frozen=True)
class Unchecked:
    """What could not be tried, and why: it is said, and decides nothing."""

    label: str
    why: str

    def describe(self) -> str:
        """One line."""
        return f"{self.label}: {self.why}"


Evidence = Trial | Counterexample | Conflict


class Exam:
    """Collects the evidence of one claim.

    Parameters
    ----------
    rng : numpy.random.Generator
    cases : int
        Valid random instances a statement is tried on, unless a share of them is enough.
    assumes : tuple of str
        Assumptions that the paper makes there: instances of every trial and counterexample have to meet them.
    needs : tuple of str
        Assumptions that the statement needs besides: instances of ``holds_if`` meet them, counterexamples miss them.
    """

    def __init__(
        self, rng: np.random.Generator, cases: int, assumes: tuple[str, ...] = (), needs: tuple[str, ...] = ()
    ) -> None:
        self.rng = rng
        self.cases = cases
        self.assumes = assumes
        self.needs = needs
        self.evidence: list[Evidence] = []
        self.measures: list[Measure] = []
        self.unchecked: list[Unchecked] = []

    def _outside(self, instance: object, assumptions: tuple[str, ...]) -> bool:
        """Whether an instance misses one of the assumptions that speak about it."""
        known = [find_assumption(id) for id in assumptions]
        return any(a.parts(instance) and not a.met(instance) for a in known)

    def _trial(
        self,
        role: Role,
        label: str,
        violation: Callable[..., Any],
        draw: Any,
        tolerance: float,
        share: float,
        portable: bool = True,
    ) -> None:
        """``draw`` makes an instance from the generator, or is a list of instances; the worst one counts.

        A violation of -inf says that the instance was no case of the statement. Others are drawn in its place.
        """
        random = callable(draw)
        wanted = max(1, round(self.cases * share)) if random else len(draw)
        source = (draw(self.rng) for _ in range(DRAWS * wanted)) if random else iter(draw)
        assumptions = {"statement": self.assumes, "assumption": self.assumes + self.needs, "corrected": ()}[role]
        errors: list[float] = []
        drawn = outside = 0
        for instance in source:
            drawn += 1
            error = float(np.max(violation(*instance) if isinstance(instance, tuple) else violation(instance)))
            if error == -math.inf:
                continue
            errors.append(error)
            outside += self._outside(instance, assumptions)
            if random and len(errors) == wanted:
                break
        worst = float(np.max(errors)) if errors else math.nan
        self.evidence.append(Trial(label, worst, tolerance, len(errors), drawn, role, portable, outside))

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
        self._trial("statement", label, violation, draw, tolerance, share, portable)

    def holds_if(
        self, label: str, violation: Callable[..., Any], draw: Any, tolerance: float = 1e-12, share: float = 1.0
    ) -> None:
        """Try it on instances that satisfy the assumption that it needs."""
        self._trial("assumption", label, violation, draw, tolerance, share)

    def corrected(
        self, label: str, violation: Callable[..., Any], draw: Any, tolerance: float = 1e-12, share: float = 1.0
    ) -> None:
        """Try what is true instead."""
        self._trial("corrected", label, violation, draw, tolerance, share)

    def fails(self, label: str) -> None:
        """Note that something could not even be tried that should have worked."""
        self.evidence.append(Trial(label, math.nan, 0, 0, 1, "statement", portable=False))

    def refutes(
        self,
        label: str,
        on: object,
        left: Any,
        relation: Relation,
        right: Any,
        slack: float = 1e-9,
        portable: bool = True,
    ) -> None:
        """Show that ``left relation right``, which the statement claims, fails on an instance by more than the slack.

        The instance meets what the paper assumes, and misses what the statement would need besides.
        ``portable=False`` keeps the numbers out of generated documents (they depend on the processor's rounding).
        """
        self.evidence.append(
            Counterexample(label, on, left, relation, right, slack, portable, meets=self.assumes, misses=self.needs)
        )

    def weaker(
        self,
        label: str,
        on: object,
        left: Any,
        relation: Relation,
        right: Any,
        *,
        without: str,
        under: tuple[str, ...] = (),
        slack: float = 1e-9,
    ) -> None:
        """Show that a weaker reading fails: it drops the assumption ``without`` for ``under``."""
        meets = tuple(id for id in self.assumes if id != without) + under
        self.evidence.append(
            Counterexample(label, on, left, relation, right, slack, role="weaker", meets=meets, misses=(without,))
        )

    def depends(self, label: str, first: Any, second: Any) -> None:
        """Show that two readings give different results."""
        self.evidence.append(Conflict(label, first, second))

    def measure(self, label: str, value: float) -> None:
        """Note a number."""
        self.measures.append(Measure(label, float(value)))

    def leaves_out(self, label: str, why: str) -> None:
        """Say what could not be checked."""
        self.unchecked.append(Unchecked(label, why))
