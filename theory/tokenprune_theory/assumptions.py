"""What the paper assumes, each with a check: a counterexample counts only if it grants the paper its assumptions.

A check returns by how much an instance misses the assumption: 0 or rounding where it is met.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tokenprune.core.errors import UnknownNameError, closest
from tokenprune_theory import models
from tokenprune_theory.discrete import Array, Joint
from tokenprune_theory.instances import Channel, Cosines, Logits, Numbers, Step, Tokens
from tokenprune_theory.setfn import submodular_violation

__all__ = ["ASSUMPTIONS", "TOLERANCE", "Assumption", "find_assumption"]

TOLERANCE = 1e-12
"""How far rounding may put an instance from an assumption that it meets."""

CLEAR = 1e-6
"""How far an instance has to be from an assumption to count as one that misses it."""


@dataclass(frozen=True)
class Assumption:
    """A condition under which a statement is made.

    Attributes
    ----------
    id : str
    ref : str
        Where the paper makes it; empty for one that it does not make, but that a statement needs.
    statement : str
    of : tuple of type
        Instances on which it can be checked.
    distance : callable
        By how much an instance misses it.
    """

    id: str
    ref: str
    statement: str
    of: tuple[type, ...]
    distance: Callable[[Any], float]

    def parts(self, instance: object) -> list[object]:
        """What of an instance the assumption speaks about: itself, its tokens, or elements of a tuple."""
        if isinstance(instance, self.of):
            return [instance]
        if isinstance(instance, Step):
            return self.parts(instance.tokens)
        if isinstance(instance, tuple):
            return [found for one in instance for found in self.parts(one)]
        return []

    def met(self, instance: object) -> bool:
        """Whether an instance is within the assumption; False where it is of another kind."""
        parts = self.parts(instance)
        return bool(parts) and all(self.distance(part) <= TOLERANCE for part in parts)

    def missed(self, instance: object) -> bool:
        """Whether an instance is clearly outside."""
        return any(self.distance(part) > CLEAR for part in self.parts(instance))


def _joint(joint: Joint) -> float:
    return max(-float(joint.p.min()), abs(float(joint.p.sum()) - 1))


def _tokens_of(joint: Joint) -> list[str]:
    return [name for name in joint.names if name != "t"]


def _independence(joint: Joint) -> float:
    # sum of H(v_i | T) less H(all | T): 0 exactly if the tokens are mutually independent given T
    names = _tokens_of(joint)
    return abs(sum(joint.conditional_entropy(v, "t") for v in names) - joint.conditional_entropy(names, "t"))


def _pairs(joint: Joint) -> float:
    names = _tokens_of(joint)
    return max(abs(joint.mutual_information(a, b, "t")) for a in names for b in names if a < b)


def _diminishing(joint: Joint) -> float:
    return max(0.0, submodular_violation(models.information(joint)).size)


def _rows(channel: Channel) -> float:
    # a softmax of finite logits has no zeros
    positive = 0.0 if float(channel.rows.min()) > 0 else math.inf
    return max(positive, float(np.abs(channel.rows.sum(1) - 1).max()))


def _finite(logits: Logits) -> float:
    return 0.0 if bool(np.isfinite(logits.table).all()) else math.inf


def _softmax(instance: Channel | Logits) -> float:
    return _rows(instance) if isinstance(instance, Channel) else _finite(instance)


def _directions(x: Array) -> bool:
    return bool(np.isfinite(x).all() and x.any(1).all())


def _cosines(instance: Tokens | Cosines) -> float:
    if not instance.tau > 0:
        return math.inf
    if isinstance(instance, Tokens):
        return 0.0 if _directions(instance.visual) and _directions(instance.text) else math.inf
    table = instance.table
    # a table of cosines is symmetric with ones on the diagonal, and has no negative eigenvalue
    lowest = float(np.linalg.eigvalsh(table)[0])
    return float(max(np.abs(table - table.T).max(), np.abs(np.diag(table) - 1).max(), -lowest - 1e-12 * len(table)))


PAPER_NUMBERS = {"N": {576}, "N_keep": {32, 64, 128}, "blocks": {32}, "tokens a text token": {10, 100}}


def _stated(numbers: Numbers) -> float:
    wrong = [name for name, value in numbers.values.items() if value not in PAPER_NUMBERS.get(name, {value})]
    return float(len(wrong))


def _distinct(channel: Channel) -> float:
    return float(len(channel.rows) - len(np.unique(channel.rows, axis=0)))


def _uniform_text(channel: Channel) -> float:
    return float(np.abs(channel.rows.mean(0) - 1 / channel.rows.shape[1]).max())


def _no_ties(tokens: Tokens) -> float:
    ranked = np.sort(tokens.relevance)
    return float((np.diff(ranked) <= 1e-12).any())


def _kept_columns(logits: Logits) -> float:
    # a float32 softmax keeps outcomes down to about 1e-38
    p = np.exp(logits.table - np.logaddexp.reduce(logits.table, axis=1, keepdims=True))
    return float((p.max(0) < 1e-38).any())


ASSUMPTIONS = {
    each.id: each
    for each in (
        Assumption("joint", "Def. 1, (10)", "tokens and text are random variables", (Joint,), _joint),
        Assumption(
            "independence",
            "A.2, (30), (31)",
            "given the text, a candidate is independent of the selected set, whichever they are",
            (Joint,),
            _independence,
        ),
        Assumption(
            "softmax",
            "(15), (16), A.4",
            "each row of p(t|v) is a softmax of finite logits, and the prior of visual tokens is uniform",
            (Channel, Logits),
            _softmax,
        ),
        Assumption(
            "cosines",
            "(14)–(17), Algorithm 1",
            "logits are cosines of embeddings that are not zero, over one positive temperature",
            (Tokens, Cosines),
            _cosines,
        ),
        Assumption(
            "stated numbers", "4.1, 4.3, 5.4", "the numbers are those that the paper names", (Numbers,), _stated
        ),
        # below: assumptions that the paper does not make, and that some statement needs
        Assumption("pairs independent", "", "given the text, every two tokens are independent", (Joint,), _pairs),
        Assumption("diminishing gains", "", "no gain rises as tokens are selected", (Joint,), _diminishing),
        Assumption("distinct", "", "no two visual tokens are equal", (Channel,), _distinct),
        Assumption("uniform text", "", "all text tokens have the same marginal", (Channel,), _uniform_text),
        Assumption("no ties", "", "no two tokens have the same score", (Tokens,), _no_ties),
        Assumption(
            "something picked", "", "something is selected already", (Step,), lambda step: float(not step.picks)
        ),
        Assumption("relevance only", "", "λ = 1", (Step,), lambda step: abs(step.lam - 1)),
        Assumption("equal weights", "", "λ = ½", (Step,), lambda step: abs(step.lam - 0.5)),
        Assumption(
            "columns kept",
            "",
            "every text token keeps a probability in normal range in some row",
            (Logits,),
            _kept_columns,
        ),
    )
}
"""By id."""


def find_assumption(id: str) -> Assumption:
    """The assumption of this id.

    Raises
    ------
    UnknownNameError
        With the closest matches.
    """
    if id not in ASSUMPTIONS:
        raise UnknownNameError(f"no assumption {id!r}; {closest(id, ASSUMPTIONS)}")
    return ASSUMPTIONS[id]
