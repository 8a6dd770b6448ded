"""Set functions on {0, ..., n-1}: properties with witnesses, greedy algorithms, and what they guarantee."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tokenprune_theory.discrete import Array

__all__ = [
    "SetFunction",
    "TableFunction",
    "Trace",
    "Violation",
    "brute_force_max",
    "conforti_cornuejols_bound",
    "curvature",
    "greedy",
    "lattice_violation",
    "lazy_greedy",
    "modular_violation",
    "monotone_violation",
    "nemhauser_bound",
    "path_violation",
    "random_greedy",
    "sieve_streaming",
    "submodular_violation",
    "submodularity_ratio",
    "tabulate",
]

SetFunction = Callable[[frozenset[int]], float]


@dataclass(frozen=True, eq=False)
class TableFunction:
    """A set function by its values: entry ``sum(1 << i for i in S)`` is f(S)."""

    values: Array

    @property
    def n(self) -> int:
        """Size of the ground set."""
        return len(self.values).bit_length() - 1

    def __call__(self, s: Iterable[int]) -> float:
        """f(S)."""
        return float(self.values[sum(1 << i for i in s)])


def _subsets(n: int) -> list[frozenset[int]]:
    return [frozenset(i for i in range(n) if mask >> i & 1) for mask in range(2**n)]


def tabulate(f: SetFunction, n: int) -> TableFunction:
    """Evaluate f on all 2^n subsets."""
    return TableFunction(np.array([f(s) for s in _subsets(n)]))


@dataclass(frozen=True)
class Violation:
    """How far a property is from holding, and where it is worst; true where it fails by more than ``tolerance``.

    Attributes
    ----------
    size : float
        Largest violation over all places where the property applies; not positive where it holds strictly.
    witness : tuple
        Where: see the check.
    tolerance : float
    """

    size: float
    witness: tuple[object, ...]
    tolerance: float = 1e-10

    def __bool__(self) -> bool:
        return not self.size <= self.tolerance


def _members(mask: int) -> tuple[int, ...]:
    return tuple(i for i in range(mask.bit_length()) if mask >> i & 1)


def _worst(found: Iterable[tuple[float, tuple[object, ...]]], tolerance: float) -> Violation:
    """The largest of (size, witness) pairs, NaN counting as the largest."""
    size, witness = -math.inf, tuple[object, ...]()
    for one, where in found:
        if not one <= size:
            size, witness = one, where
            if math.isnan(one):
                break
    return Violation(size, witness, tolerance)


def _second_differences(f: TableFunction) -> Iterable[tuple[float, tuple[object, ...]]]:
    """f(i | S + j) - f(i | S) for all S and i < j outside: ``(S, i, j)``."""
    masks = np.arange(len(f.values))
    v = f.values
    for i, j in itertools.combinations(range(f.n), 2):
        both = 1 << i | 1 << j
        s = masks[masks & both == 0]
        rise = v[s | both] - v[s | 1 << j] - v[s | 1 << i] + v[s]
        k = int(np.argmax(np.where(np.isnan(rise), math.inf, rise)))
        yield float(rise[k]), (_members(int(s[k])), i, j)


def submodular_violation(f: TableFunction, tolerance: float = 1e-10) -> Violation:
    """Largest rise of a gain, f(i | S + j) - f(i | S); witness (S, i, j). One step more is enough (Def. 3, Eqn 9)."""
    return _worst(_second_differences(f), tolerance)


def lattice_violation(f: TableFunction, tolerance: float = 1e-10) -> Violation:
    """Largest f(A | B) + f(A & B) - f(A) - f(B) over all pairs of sets; witness (A, B) (Def. 7, Eqn 29)."""
    masks, v = np.arange(len(f.values)), f.values
    a, b = masks[:, None], masks[None, :]
    excess = v[a | b] + v[a & b] - v[a] - v[b]
    i, j = divmod(int(np.argmax(excess)), len(masks))
    return Violation(float(excess[i, j]), (_members(i), _members(j)), tolerance)


def monotone_violation(f: TableFunction, tolerance: float = 1e-10) -> Violation:
    """Largest loss f(S) - f(S + i); witness (S, i)."""
    masks, v = np.arange(len(f.values)), f.values

    def losses() -> Iterable[tuple[float, tuple[object, ...]]]:
        for i in range(f.n):
            s = masks[masks >> i & 1 == 0]
            loss = v[s] - v[s | 1 << i]
            k = int(np.argmax(loss))
            yield float(loss[k]), (_members(int(s[k])), i)

    return _worst(losses(), tolerance)


def modular_violation(f: TableFunction, tolerance: float = 1e-10) -> Violation:
    """Largest change of a gain, |f(i | S + j) - f(i | S)|; witness (S, i, j)."""
    up = submodular_violation(f, tolerance)
    down = submodular_violation(TableFunction(-f.values), tolerance)
    return max(up, down, key=lambda v: v.size)


def path_violation(gain: Callable[[int, tuple[int, ...]], float], n: int, tolerance: float = 1e-10) -> Violation:
    """How much the total of a sequence of gains depends on the order; witness (S, i, j).

    ``gain(i, picks)`` is the score of candidate i after some picks. Gains come from a set function exactly when,
    after any picks S, "i then j" adds up to "j then i", and the order within S does not matter either.
    """

    def swaps() -> Iterable[tuple[float, tuple[object, ...]]]:
        for size in range(n):
            for picks in itertools.permutations(range(n), size):
                for i, j in itertools.combinations([k for k in range(n) if k not in picks], 2):
                    one = gain(i, picks) + gain(j, (*picks, i))
                    other = gain(j, picks) + gain(i, (*picks, j))
                    yield abs(one - other), (picks, i, j)
                if picks == tuple(sorted(picks)) and size > 1:
                    for i in (k for k in range(n) if k not in picks):
                        turned = [gain(i, order) for order in itertools.permutations(picks)]
                        yield max(turned) - min(turned), (picks, i)

    return _worst(swaps(), tolerance)


@dataclass(frozen=True)
class Trace:
    """What a greedy algorithm did.

    Attributes
    ----------
    order : tuple of int
        Picks, first to last.
    gains : tuple of float
        Gain of each pick when it was made.
    evaluations : int
        Gains evaluated.
    """

    order: tuple[int, ...]
    gains: tuple[float, ...]
    evaluations: int

    @property
    def value(self) -> float:
        """Sum of the gains."""
        return math.fsum(self.gains)


def greedy(f: TableFunction, k: int) -> Trace:
    """Add the element of largest gain k times, ties to the lowest index (Eqn 13)."""
    picks: list[int] = []
    gains: list[float] = []
    evaluations = 0
    for _ in range(k):
        base = f(picks)
        left = [i for i in range(f.n) if i not in picks]
        value = {i: f([*picks, i]) - base for i in left}
        evaluations += len(left)
        best = max(left, key=lambda i: (value[i], -i))
        picks.append(best)
        gains.append(value[best])
    return Trace(tuple(picks), tuple(gains), evaluations)


def lazy_greedy(f: TableFunction, k: int) -> Trace:
    """The same picks with stale gains in a heap, evaluated again only at the top (Minoux 1978); f submodular."""
    picks: list[int] = []
    gains: list[float] = []
    heap = [(-(f([i]) - f([])), i, 0) for i in range(f.n)]
    evaluations = len(heap)
    heapq.heapify(heap)
    while len(picks) < k:
        negative, i, seen = heapq.heappop(heap)
        if seen == len(picks):
            picks.append(i)
            gains.append(-negative)
        else:
            heapq.heappush(heap, (-(f([*picks, i]) - f(picks)), i, len(picks)))
            evaluations += 1
    return Trace(tuple(picks), tuple(gains), evaluations)


def random_greedy(f: TableFunction, k: int, rng: np.random.Generator) -> Trace:
    """Pick uniformly among the k largest gains, or nothing in place of a negative one (Buchbinder et al. 2014).

    In expectation at least 1/e of the best value of a non-negative submodular function that need not be monotone.
    """
    picks: list[int] = []
    gains: list[float] = []
    evaluations = 0
    for _ in range(k):
        base = f(picks)
        value = {i: f([*picks, i]) - base for i in range(f.n) if i not in picks}
        evaluations += len(value)
        top = sorted(value, key=lambda i: (-value[i], i))[:k]
        draw = int(rng.integers(k))
        if draw < len(top) and value[top[draw]] > 0:
            picks.append(top[draw])
            gains.append(value[top[draw]])
    return Trace(tuple(picks), tuple(gains), evaluations)


def sieve_streaming(f: TableFunction, k: int, epsilon: float, stream: Sequence[int] | None = None) -> Trace:
    """One pass, one threshold for each guess of the optimum (Badanidiyuru et al. 2014).

    At least (1/2 - epsilon) of the best value of a monotone submodular function, whatever the order of the stream.
    """
    largest = 0.0
    sieves: dict[int, list[int]] = {}
    evaluations = 0
    for i in range(f.n) if stream is None else stream:
        largest = max(largest, f([i]) - f([]))
        if largest <= 0:
            continue
        low = math.ceil(math.log(largest) / math.log1p(epsilon) - 1e-12)
        high = math.floor(math.log(2 * k * largest) / math.log1p(epsilon) + 1e-12)
        sieves = {level: sieves.get(level, []) for level in range(low, high + 1)}
        for level, kept in sieves.items():
            if len(kept) < k:
                evaluations += 1
                gain = f([*kept, i]) - f(kept)
                if gain >= ((1 + epsilon) ** level / 2 - (f(kept) - f([]))) / (k - len(kept)):
                    kept.append(i)
    best = max(sieves.values(), key=lambda s: f(s), default=[])
    gains = [f(best[: i + 1]) - f(best[:i]) for i in range(len(best))]
    return Trace(tuple(best), tuple(gains), evaluations)


def brute_force_max(f: TableFunction, k: int) -> tuple[float, tuple[int, ...]]:
    """Largest f(S) over sets of at most k elements, and the first such set."""
    sets = itertools.chain.from_iterable(itertools.combinations(range(f.n), r) for r in range(k + 1))
    best = max(sets, key=lambda s: f(s))
    return f(best), best


def nemhauser_bound(k: int) -> float:
    """1 - (1 - 1/k)^k, at least 1 - 1/e: greedy over optimum for monotone submodular f with f(empty) = 0."""
    return float(1 - (1 - 1 / k) ** k)


def curvature(f: TableFunction) -> float:
    """1 - min_i f(i | all others) / f(i), in [0, 1] for monotone submodular f; 0 is modular."""
    everything = range(f.n)
    ratios = [
        (f(everything) - f([j for j in everything if j != i])) / (f([i]) - f([]))
        for i in everything
        if f([i]) - f([]) > 1e-12
    ]
    return 1 - min(ratios, default=1.0)


def conforti_cornuejols_bound(c: float) -> float:
    """(1 - e^-c) / c: greedy over optimum for a monotone submodular f of curvature c (1984)."""
    return 1.0 if c <= 1e-12 else -math.expm1(-c) / c


def submodularity_ratio(f: TableFunction, prefixes: Iterable[Sequence[int]], k: int) -> float:
    """Smallest sum of single gains over joint gain, of sets of at most k elements after each prefix (Das and Kempe).

    1 where f is submodular. Greedy is within 1 - e^-gamma of the optimum for monotone f, with the greedy prefixes.
    """
    ratio = 1.0
    for prefix in prefixes:
        base = f(prefix)
        left = [i for i in range(f.n) if i not in prefix]
        for size in range(1, k + 1):
            for group in itertools.combinations(left, size):
                together = f([*prefix, *group]) - base
                if together > 1e-12:
                    ratio = min(ratio, sum(f([*prefix, i]) - base for i in group) / together)
    return ratio
