"""Hold the framework's objectives to what they declare, by replaying every short sequence of picks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenprune.core.features import Features, signal_of
from tokenprune.core.indexing import gather_tokens
from tokenprune.core.kinds import Objective
from tokenprune_theory.setfn import TableFunction, Violation, path_violation

__all__ = ["PROPERTIES", "PathGains", "objective_violations", "random_features"]

ROUNDING = 1e-4
"""How far gains of a set function may be from it: logarithms of nearly 0 variances lose that many digits."""


class PathGains:
    """Gains of one unit of an objective after any sequence of picks.

    Parameters
    ----------
    objective : Objective
    features : Features
        With one row.
    scores : Tensor, (1, N)

    Attributes
    ----------
    candidates : tuple of int
        The real tokens; elsewhere in this class a candidate is its place in this tuple.
    """

    def __init__(self, objective: Objective, features: Features, scores: Tensor) -> None:
        self.objective = objective
        self.candidates = tuple(int(i) for i in features.valid()[0].nonzero().flatten())
        self.start = objective.start(features, scores)
        self._states: dict[tuple[int, ...], Any] = {(): self.start}
        self._gains: dict[tuple[int, ...], list[float]] = {}

    @property
    def n(self) -> int:
        """Number of candidates."""
        return len(self.candidates)

    def gains(self, picks: tuple[int, ...]) -> list[float]:
        """Gain of each candidate after some picks; that of a picked token means nothing."""
        if picks not in self._gains:
            gains = self.objective.gains(self._state(picks))[0].tolist()
            self._gains[picks] = [float(gains[i]) for i in self.candidates]
        return self._gains[picks]

    def _state(self, picks: tuple[int, ...]) -> Any:
        if picks not in self._states:
            index = torch.tensor([self.candidates[picks[-1]]])
            self._states[picks] = self.objective.take(self._state(picks[:-1]), index)
        return self._states[picks]

    def sequences(self, longest: int) -> Iterable[tuple[int, ...]]:
        """All sequences of different picks that leave a candidate."""
        for size in range(min(longest, self.n - 1) + 1):
            yield from itertools.permutations(range(self.n), size)

    def left(self, picks: tuple[int, ...]) -> list[int]:
        """Candidates that are not picked."""
        return [i for i in range(self.n) if i not in picks]

    def set_function(self) -> TableFunction:
        """f(S) as the total of the gains along S in ascending order."""
        values = np.zeros(2**self.n)
        for mask in range(1, 2**self.n):
            members = [i for i in range(self.n) if mask >> i & 1]
            values[mask] = values[mask & ~(1 << members[-1])] + self.gains(tuple(members[:-1]))[members[-1]]
        return TableFunction(values)


def _worst(found: Iterable[tuple[float, tuple[object, ...]]], tolerance: float) -> Violation:
    return max(
        (Violation(size if not math.isnan(size) else math.inf, where, tolerance) for size, where in found),
        key=lambda v: v.size,
        default=Violation(-math.inf, (), tolerance),
    )


def _modular(path: PathGains, depth: int) -> Violation:
    first = path.gains(())
    return _worst(
        ((abs(path.gains(s)[i] - first[i]), (s, i)) for s in path.sequences(depth) for i in path.left(s)), 0.0
    )


def _rises(path: PathGains, depth: int, shortest: int) -> Iterable[tuple[float, tuple[object, ...]]]:
    for picks in path.sequences(depth):
        if len(picks) > shortest:
            before, after = path.gains(picks[:-1]), path.gains(picks)
            yield from ((after[i] - before[i], (picks, i)) for i in path.left(picks))


def _non_increasing(path: PathGains, depth: int) -> Violation:
    # exact: lazy evaluation trusts it to the bit
    return _worst(_rises(path, depth, 1), 0.0)


def _set_function(path: PathGains, depth: int) -> Violation:
    few = min(path.n, depth + 1)
    return path_violation(lambda i, s: path.gains(s)[i], few, ROUNDING)


def _submodular(path: PathGains, depth: int) -> Violation:
    rises = _worst(_rises(path, depth, 0), ROUNDING)
    return max(rises, _set_function(path, depth), key=lambda v: v.size)


def _monotone(path: PathGains, depth: int) -> Violation:
    losses = _worst(((-path.gains(s)[i], (s, i)) for s in path.sequences(depth) for i in path.left(s)), ROUNDING)
    return max(losses, _set_function(path, depth), key=lambda v: v.size)


PROPERTIES: Mapping[str, Callable[[PathGains, int], Violation]] = {
    "modular": _modular,
    "submodular": _submodular,
    "monotone": _monotone,
    "non_increasing_gains": _non_increasing,
}
"""What an objective may declare, and the check that holds it to that."""


def _oracle(path: PathGains, depth: int) -> Violation:
    """One candidate at a time against all at once: the same bits."""

    def differences() -> Iterable[tuple[float, tuple[object, ...]]]:
        for picks in path.sequences(depth):
            oracle = path.objective.oracle(path.start, 0)
            for pick in picks:
                oracle.take(path.candidates[pick])
            for i in path.left(picks):
                yield float(oracle.gain(path.candidates[i]) != path.gains(picks)[i]), (picks, i)

    return _worst(differences(), 0.0)


@dataclass(frozen=True)
class _Row:
    features: Features
    scores: Tensor


def _rows(features: Features, scores: Tensor) -> Iterable[_Row]:
    for b in range(features.batch):
        one = slice(b, b + 1)
        masks = {
            "visual_mask": None if features.visual_mask is None else features.visual_mask[one],
            "text_mask": None if features.text_mask is None else features.text_mask[one],
        }
        signals = {name: features[name][one] for name in features}
        yield _Row(features.replace(**signals, **masks), scores[one])


def objective_violations(
    objective: Objective, features: Features, scores: Tensor, depth: int = 3
) -> dict[str, Violation]:
    """Worst violation of everything an objective declares, over the units of a batch.

    Parameters
    ----------
    objective : Objective
    features : Features
        A handful of real tokens a row: sequences are enumerated. float64 keeps rounding apart from real violations.
    scores : Tensor, (B, N)
    depth : int, default 3
        Longest sequence of picks.

    Returns
    -------
    dict of str to Violation
        Keys: the properties declared (see :data:`PROPERTIES`), "oracle" (one candidate at a time agrees to the bit)
        and, where the objective says that it does not use scores, "uses_scores". True values are violations; the
        witness is (picks, candidate), or as in ``setfn.path_violation``, counting real tokens only.
    """
    found: dict[str, Violation] = {}

    def note(name: str, violation: Violation) -> None:
        if name not in found or violation.size > found[name].size:
            found[name] = violation

    for row in _rows(features, scores):
        path = PathGains(objective, row.features, row.scores)
        for name, check in PROPERTIES.items():
            if getattr(objective, name):
                note(name, check(path, depth))
        note("oracle", _oracle(path, min(depth, 2)))
        if not objective.uses_scores:
            other = PathGains(objective, row.features, row.scores.flip(1) + 1)
            changed = ((abs(a - b), (i,)) for i, (a, b) in enumerate(zip(path.gains(()), other.gains(()), strict=True)))
            note("uses_scores", _worst(changed, 0.0))
    return found


def random_features(rng: np.random.Generator, signals: Iterable[str] = (), batch: int = 1, n: int = 5) -> Features:
    """Random float64 features with a duplicate token, some padding and the signals asked for."""
    sizes = {"b": batch, "n": n, "t": 3, "d": 4, "e": 4, "c": 4, "k": 4, "h": 2, "r": 2, "s": 3, "w": 4}
    given = {}
    for name in sorted({"visual", "text", *signals}):
        value = torch.from_numpy(rng.standard_normal([sizes[letter] for letter in signal_of(name).shape.split()]))
        given[name] = value.softmax(-1) if "attention" in name else value
    copy = torch.arange(n)
    copy[-1] = 0
    for name in given.keys() & {"visual", "encoder", "keys", "joint_visual", "llm_keys"}:
        given[name] = gather_tokens(given[name], copy.expand(batch, n))
    mask = torch.ones(batch, n, dtype=torch.bool)
    if n > 4 and rng.random() < 0.5:
        mask[0, int(rng.integers(1, n - 1))] = False
    visual, text = given.pop("visual"), given.pop("text")
    return Features(visual, text, visual_mask=mask, grid=None, extra=None, check=True, sizes=None, **given)
