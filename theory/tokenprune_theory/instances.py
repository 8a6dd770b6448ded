"""What a claim is tried on, and exact: the counterexamples are integers and fractions that a reader can check by hand.

A joint distribution is a :class:`~tokenprune_theory.discrete.Joint`; the rest is here. Arrays hold floats, but every
one of a counterexample has to be a fraction of small numbers (:func:`fractions_in`), and is shown as one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from tokenprune_theory import pmi
from tokenprune_theory.discrete import Array, Joint

__all__ = ["Channel", "Cosines", "Logits", "Numbers", "Step", "Tokens", "as_fraction", "fractions_in", "written"]

LARGEST_DENOMINATOR = 100_000


@dataclass(frozen=True, eq=False)
class Channel:
    """p(t_j | v_i) of every visual token, (N, T): rows are distributions."""

    rows: Array

    @classmethod
    def of_counts(cls, *counts: tuple[int, ...]) -> Channel:
        """Rows from counts."""
        table = np.array(counts, dtype=np.float64)
        return cls(np.asarray(table / table.sum(1, keepdims=True)))


@dataclass(frozen=True, eq=False)
class Logits:
    """Similarities over temperature, (N, T), in a floating-point format where that matters."""

    table: Array
    dtype: str = "float64"


@dataclass(frozen=True, eq=False)
class Tokens:
    """Embeddings, of which only the directions count, and a temperature.

    Attributes
    ----------
    visual, text : array, (N, d) and (T, d)
    tau : float
    """

    visual: Array
    text: Array
    tau: float

    @property
    def relevance(self) -> Array:
        """c_i, (N,) (Eqn 19)."""
        return np.asarray(pmi.cross_pmi(pmi.cosines(self.visual, self.text) / self.tau).max(1))

    @property
    def pairs(self) -> Array:
        """D_ij, (N, N), with the paper's marginal."""
        return pmi.self_pmi(pmi.cosines(self.visual, self.visual), self.tau)

    @classmethod
    def of(cls, visual: object, text: object, tau: float | Fraction) -> Tokens:
        """From nested sequences of integers or fractions."""
        first, second = (np.array(table, dtype=object).astype(np.float64) for table in (visual, text))
        return cls(first, second, float(tau))


@dataclass(frozen=True, eq=False)
class Cosines:
    """Cosines of all pairs among visual tokens and, behind them, text tokens; and a temperature.

    Attributes
    ----------
    table : array, (N + T, N + T)
    tau : float
    text : int
        How many of them are text tokens.
    """

    table: Array
    tau: float
    text: int = 0

    @property
    def relevance(self) -> Array:
        """c_i, (N,)."""
        n = len(self.table) - self.text
        return np.asarray(pmi.cross_pmi(self.table[:n, n:] / self.tau).max(1))

    @property
    def pairs(self) -> Array:
        """D_ij, (N, N), with the paper's marginal."""
        n = len(self.table) - self.text
        return pmi.self_pmi(self.table[:n, :n], self.tau)


@dataclass(frozen=True, eq=False)
class Step:
    """Tokens at a moment of Algorithm 1: the weight, and what is selected already."""

    tokens: Tokens | Cosines
    lam: float
    picks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Numbers:
    """Named numbers."""

    values: Mapping[str, int | float | Fraction]


def as_fraction(number: object) -> Fraction | None:
    """The fraction of small numbers that a float stands for, None where there is none within rounding."""
    if isinstance(number, int | np.integer | Fraction):
        return Fraction(int(number)) if not isinstance(number, Fraction) else number
    value = float(number)  # type: ignore[arg-type]
    if not np.isfinite(value):
        return None
    near = Fraction(value).limit_denominator(LARGEST_DENOMINATOR)
    return near if abs(value - float(near)) <= 4 * np.finfo(np.float64).eps * abs(value) else None


def fractions_in(instance: object) -> bool:
    """Whether every number of an instance is a fraction of small numbers."""
    if isinstance(instance, str) or instance is None:
        return True
    if isinstance(instance, np.ndarray):
        return all(as_fraction(x) is not None for x in np.unique(instance))
    if isinstance(instance, Mapping):
        return all(fractions_in(x) for x in instance.values())
    if isinstance(instance, tuple | list):
        return all(fractions_in(x) for x in instance)
    if is_dataclass(instance):
        return all(fractions_in(getattr(instance, field.name)) for field in fields(instance))
    return as_fraction(instance) is not None


def _number(value: object) -> str:
    fraction = as_fraction(value)
    return repr(value) if fraction is None else str(fraction)


def written(instance: object) -> Any:
    """An instance as JSON-able text: fractions as "3/4", of a joint distribution the cells that are not empty."""
    if isinstance(instance, Joint):
        cells = {",".join(map(str, cell)): _number(instance.p[tuple(cell)]) for cell in np.argwhere(instance.p > 0)}
        return {"joint of": list(instance.names), "cells": cells}
    if isinstance(instance, str) or instance is None:
        return instance
    if isinstance(instance, np.ndarray):
        return written(instance.tolist())
    if isinstance(instance, Mapping):
        return {str(name): written(value) for name, value in instance.items()}
    if isinstance(instance, tuple | list):
        return [written(x) for x in instance]
    if is_dataclass(instance):
        kind = type(instance).__name__.lower()
        return {"kind": kind} | {field.name: written(getattr(instance, field.name)) for field in fields(instance)}
    return _number(instance)
