"""Claims: the verdict is derived from the evidence (:mod:`~tokenprune_theory.evidence`), then held to the declared one.

A counterexample makes a claim false, unless an assumption saves it; readings that differ make it incomplete; otherwise
it holds. A claim without evidence, or with evidence that fails, has no verdict.
"""

from __future__ import annotations

import enum
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from tokenprune.core.errors import UnknownNameError, closest
from tokenprune_theory.assumptions import find_assumption
from tokenprune_theory.evidence import Conflict, Counterexample, Evidence, Exam, Measure, Trial, Unchecked

__all__ = [
    "CLAIMS",
    "Claim",
    "Origin",
    "Result",
    "Verdict",
    "all_claims",
    "claim",
    "examine",
    "find_claims",
    "topic",
]


class Verdict(enum.Enum):
    """What became of a statement."""

    HOLDS = "holds"
    ASSUMING = "holds assuming"
    FALSE = "false"
    INCOMPLETE = "incomplete"


class Origin(enum.Enum):
    """Who says it."""

    PAPER = "the paper says"
    GUESS = "one might think"
    OURS = "we add"


@dataclass(frozen=True)
class Claim:
    """A statement and what is known of it.

    Attributes
    ----------
    id : str
    section : str
        Heading under which it is listed.
    origin : Origin
        Whether the paper says it, one might think it, or it is added here.
    ref : str
        Where the paper says it, with the equation; empty for all that it does not say.
    about : str
        For these, what of the paper they are about.
    statement : str
    verdict : Verdict
        What the evidence must bear out.
    corrected : str
        The form to rely on; for what holds, the finer print.
    derivation : str
        Why, in a few lines.
    assumes : tuple of str
        What the paper assumes there, by id of :data:`~tokenprune_theory.assumptions.ASSUMPTIONS`.
    needs : tuple of str
        What the statement needs besides, where it holds only then.
    evidence : callable
    """

    id: str
    section: str
    origin: Origin
    ref: str
    about: str
    statement: str
    verdict: Verdict
    corrected: str
    derivation: str
    assumes: tuple[str, ...]
    needs: tuple[str, ...]
    evidence: Callable[[Exam], None] = field(repr=False)

    @property
    def place(self) -> str:
        """Where the paper says it, or what of it this is about."""
        return self.ref or self.about


CLAIMS: dict[str, Claim] = {}

Register = Callable[..., Callable[[Callable[[Exam], None]], Callable[[Exam], None]]]


def claim(
    id: str,
    *,
    section: str,
    origin: Origin,
    says: str,
    verdict: Verdict,
    ref: str = "",
    about: str = "",
    corrected: str = "",
    why: str = "",
    assumes: tuple[str, ...] = (),
    needs: tuple[str, ...] = (),
) -> Callable[[Callable[[Exam], None]], Callable[[Exam], None]]:
    """Register the decorated function, which is named like the claim, as its evidence."""

    def add(evidence: Callable[[Exam], None]) -> Callable[[Exam], None]:
        if id in CLAIMS:
            raise ValueError(f"two claims have the id {id!r}")
        if bool(ref) != (origin is Origin.PAPER):
            raise ValueError(f"claim {id!r}: ref is where the paper says it, and {origin.value!r} is what this is")
        for assumption in assumes + needs:
            find_assumption(assumption)
        CLAIMS[id] = Claim(
            id, section, origin, ref, about, says, verdict, corrected, " ".join(why.split()), assumes, needs, evidence
        )
        return evidence

    return add


def topic(section: str) -> tuple[Register, Register, Register]:
    """Decorators for the claims of one section: what the paper says, what one might think, what is added here."""
    return tuple(partial(claim, section=section, origin=origin) for origin in Origin)  # type: ignore[return-value]


@dataclass(frozen=True)
class Result:
    """A claim with the evidence of one exam."""

    claim: Claim
    evidence: tuple[Evidence, ...]
    measures: tuple[Measure, ...]
    seconds: float
    unchecked: tuple[Unchecked, ...] = ()

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
        roles = {e.role for e in self.evidence if isinstance(e, Trial)}
        if any(isinstance(e, Counterexample) and e.role == "statement" for e in self.evidence):
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


def examine(claim: Claim, cases: int = 200, seed: int = 0) -> Result:
    """Gather a claim's evidence; the same seed gives the same numbers whichever claims are examined with it."""
    exam = Exam(np.random.default_rng([seed, zlib.crc32(claim.id.encode())]), cases, claim.assumes, claim.needs)
    start = time.perf_counter()
    claim.evidence(exam)
    seconds = time.perf_counter() - start
    return Result(claim, tuple(exam.evidence), tuple(exam.measures), seconds, tuple(exam.unchecked))
