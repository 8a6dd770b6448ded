"""The abstract kinds of parts that a strategy is made of.

A part is an immutable object whose options are its fields (a frozen dataclass) and whose method is a pure function of
tensors, batch first: visual tokens (B, N, d), text tokens (B, T, d), scores (B, N). To add one, subclass a kind,
implement its abstract methods and list it under the kind's entry-point group, or use ``tokenprune.register``.
"""

from __future__ import annotations

import dataclasses
import inspect
from abc import ABC, abstractmethod
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from tokenprune.core.errors import ConfigError, FeatureError, OptionTypeError, closest
from tokenprune.core.features import Features
from tokenprune.core.groups import Picks
from tokenprune.core.optimality import Optimality, submodular_optimality

__all__ = [
    "BEFORE_THE_PICKS",
    "Aggregator",
    "Component",
    "Merged",
    "Merger",
    "Normalizer",
    "Objective",
    "Oracle",
    "PairTable",
    "Pairwise",
    "Prior",
    "Problem",
    "Scorer",
    "Selector",
    "State",
    "aggregated",
    "check_choice",
    "check_count",
    "check_gains",
    "check_number",
    "entries_of",
    "overridden",
    "picks_by_kernel",
]

State = Any
"""What an objective remembers between picks; each objective has its own type."""


class Component(ABC):
    """Base of every part.

    Attributes
    ----------
    requires : frozenset of str
        Signals that it reads (see :data:`tokenprune.core.features.SIGNALS`).
    prefers : frozenset of str
        Signals that it reads instead where all of them are given; empty where there is no choice.
    """

    kind: ClassVar[str]
    requires: frozenset[str] = frozenset()
    prefers: frozenset[str] = frozenset()

    def parts(self) -> Iterator[Component]:
        """Yield this part and, depth first, the parts among its fields."""
        yield self
        if dataclasses.is_dataclass(self):
            for field in dataclasses.fields(self):
                value = getattr(self, field.name)
                if isinstance(value, Component):
                    yield from value.parts()

    def required_signals(self, given: Container[str] = ()) -> frozenset[str]:
        """Signals that this part and all parts inside it read, where those in ``given`` are to be had."""
        return frozenset().union(*(part.reads(given) for part in self.parts()))

    def reads(self, given: Container[str]) -> frozenset[str]:
        """Signals that this part alone reads, where those in ``given`` are to be had."""
        preferred = bool(self.prefers) and all(name in given for name in self.prefers)
        return self.prefers if preferred else self.requires


class Normalizer(Component):
    """Turn similarities into log conditional probabilities, row by row.

    The work is in two steps so that a table of N columns can be normalised without holding N x N numbers:
    ``statistics`` reduces whole rows, ``log_prob`` is then elementwise.
    """

    kind = "normalizers"

    @abstractmethod
    def statistics(self, similarity: Tensor, mask: Tensor | None = None) -> Tensor:
        """Reduce rows: (..., N, M), mask (..., M) -> (..., N, s), whatever ``log_prob`` needs to know of a row."""

    @abstractmethod
    def log_prob(self, similarity: Tensor, statistics: Tensor) -> Tensor:
        """Log p(x_j | v_i) of some columns: (..., N, m), (..., N, s) -> (..., N, m)."""

    def __call__(self, similarity: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log-probabilities of a whole table: (..., N, M), mask (..., M) -> (..., N, M)."""
        return self.log_prob(similarity, self.statistics(similarity, mask))


class Prior(Component):
    """How probable each visual token is before anything is known of the text."""

    kind = "priors"

    @abstractmethod
    def log_prior(self, features: Features) -> Tensor | None:
        """Log p(v_i), (B, N), normalised over real tokens, -inf at padding; None means uniform."""


class Aggregator(Component):
    """Reduce a table over its columns to one number a row."""

    kind = "aggregators"

    @abstractmethod
    def __call__(self, table: Tensor, log_weights: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(..., N, M) -> (..., N).

        Parameters
        ----------
        table : Tensor, (..., N, M)
            PMI or similarity of visual token i and column j.
        log_weights : Tensor, (..., N, M), optional
            log p(x_j | v_i), where the table comes from a distribution.
        mask : bool Tensor, (..., M), optional
            True at columns that exist.
        """


class Scorer(Component):
    """How much each visual token matters."""

    kind = "scorers"
    higher_is_better: ClassVar[bool] = True

    @abstractmethod
    def score(self, features: Features) -> Tensor:
        """Return scores, (B, N), finite; what stands at padding is ignored."""


class PairTable(ABC):
    """A table over pairs of visual tokens of one batch, read column by column: entry [candidate, selected]."""

    @abstractmethod
    def column(self, index: Tensor) -> Tensor:
        """Entries of all candidates with one token a row: index (B,) -> (B, N)."""

    def columns(self, indices: Tensor) -> Tensor:
        """Entries of all candidates with several tokens a row, the numbers of :meth:`column`: (B, C) -> (B, C, N)."""
        return torch.stack([self.column(index) for index in indices.unbind(1)], dim=1)

    @property
    def long(self) -> bool:
        """Whether the table is too long to be kept and is best read by :meth:`between`."""
        return False

    def between(self, some: Tensor | None, others: Tensor) -> Tensor:
        """Entries of some candidates, all for None, with some tokens: (B, R) and (B, C) positions -> (B, R, C).

        Up to rounding those of :meth:`column`; worth overriding where :attr:`long` is.
        """
        found = self.columns(others).mT
        return found if some is None else found.gather(1, some.unsqueeze(2).expand(-1, -1, others.shape[1]))

    @abstractmethod
    def dense(self) -> Tensor:
        """The whole table, (B, N, N)."""

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield (rows, their entries with all tokens (B, rows, N)); by default all rows at once."""
        table = self.dense()
        yield slice(0, table.shape[1]), table

    def entries(self) -> dict[str, Any] | None:
        """How a program makes this table's entries from a cosine matrix, as options of ``kernels.columns.Columns``."""
        return None

    def extrema(self) -> dict[str, Any] | None:
        """How a program makes them from tokens instead, some at a time, as options of ``kernels.rounds.Extrema``.

        None also where the table is small enough to be kept.
        """
        return None


class Pairwise(Component):
    """How alike two visual tokens are: the redundancy that an objective charges for."""

    kind = "pairwise"

    @abstractmethod
    def table(self, features: Features) -> PairTable:
        """Prepare the table of these features."""


class Objective(Component):
    """What a set of tokens is worth, as the gain of each candidate given the picks so far.

    Class attributes state what is true of every instance; the test-suite holds an objective to them and selectors
    rely on them (lazy evaluation only where gains cannot rise).

    Attributes
    ----------
    modular : bool
        A token's gain does not depend on the picks.
    submodular, monotone : bool
        The gains are those of a set function with that property.
    non_increasing_gains : bool
        From the first pick on, a candidate's gain never rises as picks are added.
    uses_scores : bool
        ``start`` reads the scores.
    """

    kind = "objectives"
    modular: ClassVar[bool] = False
    submodular: ClassVar[bool] = False
    monotone: ClassVar[bool] = False
    non_increasing_gains: ClassVar[bool] = False
    uses_scores: ClassVar[bool] = True

    @abstractmethod
    def start(self, features: Features, scores: Tensor) -> State:
        """Return the state in which nothing has been picked."""

    @abstractmethod
    def gains(self, state: State) -> Tensor:
        """Gain of every token, (B, N); what stands at padding and at picked tokens is ignored.

        On a GPU the built-in objectives are replaced whole by a kernel (:meth:`run`), which does not call this;
        ``TOKENPRUNE_KERNELS=0`` in the environment switches kernels off. A subclass's own gains are always used.
        """

    def gains_of(self, state: State, candidates: Tensor) -> Tensor:
        """Gains of some candidates, (B, m) positions -> (B, m): for objectives whose gains never rise, to be lazy with.

        Those of :meth:`gains`, to the bit. Worth overriding where it costs less than all gains; a class that overrides
        ``gains``, ``take`` or anything they call and not this one is not asked for it.
        """
        return self.gains(state).gather(1, candidates)

    @abstractmethod
    def take(self, state: State, index: Tensor) -> State:
        """Return the state after picking one token a row: index (B,), -1 where a row picks nothing."""

    def resume(self, state: State, picks: Tensor) -> State:
        """Return the state after picking the tokens of an earlier round: (B, K0), -1 as padding."""
        for index in picks.unbind(1):
            state = self.take(state, index)
        return state

    def run(self, state: State, available: Tensor, counts: tuple[int, ...], repeats: bool) -> Tensor | None:
        """All picks from a state by one kernel of :mod:`tokenprune.kernels`, or None where there is none for it.

        A class that overrides ``gains``, ``take`` or anything they call does not inherit its parent's kernel: selectors
        ask through :func:`picks_by_kernel`. ``TOKENPRUNE_KERNELS=0`` in the environment switches kernels off.

        Bool (B, N) and counts -> (B, max count), -1 as padding and throughout a row in which a gain was NaN.
        """
        return None

    def optimality(self, problem: Problem, picks: Tensor) -> Optimality:
        """What picks are worth, and what no picks of as many tokens exceed; by default from what is declared.

        Raises
        ------
        ConfigError
            No bound is known for this objective.
        """
        return submodular_optimality(self, problem, picks)

    def oracle(self, state: State, row: int) -> Oracle:
        """Return one row's gains, a candidate at a time, given the *start* state; the default replays the batch."""
        return _GainsOracle(self, state, row)


class Oracle(ABC):
    """One row's gains, evaluated one candidate at a time; agrees with :meth:`Objective.gains` to the bit."""

    @abstractmethod
    def gain(self, candidate: int) -> float:
        """Gain of one candidate given the picks so far."""

    @abstractmethod
    def take(self, pick: int) -> None:
        """Add a pick."""


class _GainsOracle(Oracle):
    def __init__(self, objective: Objective, state: State, row: int) -> None:
        self.objective, self.state, self.row = objective, state, row
        self.values = self._values()

    def _values(self) -> list[float]:
        return [float(v) for v in self.objective.gains(self.state)[self.row].tolist()]

    def gain(self, candidate: int) -> float:
        return self.values[candidate]

    def take(self, pick: int) -> None:
        gains = self.objective.gains(self.state)
        index = torch.full(gains.shape[:1], -1, dtype=torch.long, device=gains.device)
        index[self.row] = pick
        self.state = self.objective.take(self.state, index)
        self.values = self._values()


@dataclass(frozen=True)
class Problem:
    """What a selector is asked.

    Parameters
    ----------
    features : Features
        What the parts may look at.
    scores : Tensor, (B, N)
        Relevance, finite, higher is better.
    counts : tuple of int
        How many tokens each row keeps, at least 0 and at most the number available.
    available : bool Tensor, (B, N)
        Candidates.
    context : Tensor, (B, K0), optional
        Tokens picked by an earlier round, -1 as padding: objectives count them as selected.
    sizes : tuple of int, optional
        Candidates of each row, where the host knows without reading ``available``.
    """

    features: Features
    scores: Tensor
    counts: tuple[int, ...]
    available: Tensor
    context: Tensor | None = None
    sizes: tuple[int, ...] | None = None

    def size(self) -> tuple[int, ...]:
        """Candidates of each row, read where the host does not know."""
        return tuple(self.available.sum(1).tolist()) if self.sizes is None else self.sizes


class Selector(Component):
    """Which tokens to keep.

    Attributes
    ----------
    uses_scores : bool
        False where a strategy may leave out the scorer.
    fills_budget : bool
        False where rows may keep fewer tokens than asked.
    own_counts : bool
        True where how many tokens stay follows from the data too: rows may keep fewer or more than asked.
    uses_budget : bool
        False where it follows from the data and the selector's options alone.
    neutral : bool
        False where a budget of all tokens may drop some, or counts them otherwise.
    gives_groups : bool
        True where ``choose`` hands :class:`~tokenprune.core.groups.Groups` on.
    distinct : bool
        False where a token may be picked again, as the official code of one method does; elsewhere that is an error.
    nested : bool
        True where a smaller budget's picks are the first of a larger one's, so that one selection serves all budgets.
    """

    kind = "selectors"
    uses_scores: bool = True
    fills_budget: bool = True
    own_counts: bool = False
    uses_budget: bool = True
    neutral: bool = True
    gives_groups: bool = False
    distinct: bool = True
    nested: bool = False

    @abstractmethod
    def select(self, problem: Problem) -> Tensor:
        """Return positions in the order picked, (B, max count) int64, -1 where a row keeps fewer."""

    def choose(self, problem: Problem) -> Picks:
        """Return the picks with what else is known of them; by default those of :meth:`select` and nothing more."""
        return Picks(self.select(problem))

    def optimality(self, problem: Problem, picks: Tensor) -> Optimality:
        """How far picks are from the best, by what they were chosen for: computed on request.

        Raises
        ------
        ConfigError
            They were not chosen to maximise anything of which the best is bounded.
        """
        raise ConfigError(f"{self!r} maximises no objective whose best picks are bounded")


@dataclass(frozen=True)
class Merged:
    """Tokens made from kept and dropped ones.

    Parameters
    ----------
    tokens : Tensor, (B, K, e)
        New values, in the order in which they enter the language model.
    source : Tensor, (B, K)
        The position each stands for, distinct within a row; -1 as padding.
    space : str
        Signal whose space the values live in: "visual", or "encoder" (they then go through the projector).
    """

    tokens: Tensor
    source: Tensor
    space: str = "visual"


class Merger(Component):
    """What happens to the tokens that were not kept.

    Attributes
    ----------
    neutral : bool
        With no token dropped, every token stays what and where it is.
    needs_groups : bool
        True where ``merge_picks`` reads the selector's groups.
    """

    kind = "mergers"
    neutral: bool = False
    needs_groups: bool = False

    @abstractmethod
    def merge(self, features: Features, order: Tensor) -> Merged:
        """Make new tokens from the features and the kept positions in pick order (B, K), -1 as padding."""

    def merge_picks(self, features: Features, picks: Picks) -> Merged:
        """The same, knowing what else the selector found; by default it is not looked at."""
        return self.merge(features, picks.order)


def check_gains(objective: Objective, gains: object, shape: tuple[object, ...]) -> None:
    """Raise ``FeatureError`` unless gains are a tensor (B, N): anything else would broadcast to other rows' picks."""
    if not isinstance(gains, Tensor) or tuple(gains.shape) != shape:
        got = tuple(gains.shape) if isinstance(gains, Tensor) else type(gains).__name__
        wanted = ", ".join(str(size) for size in shape)
        raise FeatureError(f"{objective!r} must return gains of shape ({wanted}), got {got}")


def aggregated(
    aggregator: Aggregator, table: Tensor, log_weights: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """One number a row, (..., N, M) -> (..., N).

    Raises
    ------
    FeatureError
        The aggregator returned something of another shape, which would broadcast.
    """
    reduced = aggregator(table, log_weights, mask)
    if not isinstance(reduced, Tensor) or reduced.shape != table.shape[:-1]:
        got = tuple(reduced.shape) if isinstance(reduced, Tensor) else type(reduced).__name__
        raise FeatureError(f"{aggregator!r} must return one number a row, shape {tuple(table.shape[:-1])}, got {got}")
    return reduced


def overridden(part: object, method: str, apart: Container[str] = ()) -> bool:
    """Whether a subclass changed anything that the author of ``method`` could not know of.

    A kernel stands for the tensor operations of the class that calls it. Where a class below that one overrides a
    method or property of it, those operations are no longer what the kernel computes.

    Parameters
    ----------
    part : object
        An instance.
    method : str
        The method that calls a kernel.
    apart : container of str, optional
        What may be overridden all the same.
    """
    below: list[type] = []
    for owner in type(part).__mro__:
        if method in vars(owner):
            return any(
                hasattr(owner, name) and name not in apart
                for cls in below
                for name, value in vars(cls).items()
                if not name.startswith("__") and (inspect.isroutine(value) or isinstance(value, property))
            )
        below.append(owner)
    raise AttributeError(f"{type(part).__name__} has no method {method!r}")


BEFORE_THE_PICKS = frozenset(
    {"start", "resume", "oracle", "value", "gains_of", "requires", "reads", "parts", "required_signals"}
)
"""What makes the state that a kernel starts from, or plays no part in the picks made from it."""


def picks_by_kernel(
    objective: Objective, state: State, available: Tensor, counts: tuple[int, ...], repeats: bool
) -> Tensor | None:
    """:meth:`Objective.run`, or None where a subclass changed what its kernel stands for."""
    if overridden(objective, "run", BEFORE_THE_PICKS):
        return None
    return objective.run(state, available, counts, repeats)


def entries_of(table: PairTable) -> dict[str, Any] | None:
    """:meth:`PairTable.entries`, or None where a subclass changed what an entry is."""
    return None if overridden(table, "entries") else table.entries()


def extrema_of(table: PairTable) -> dict[str, Any] | None:
    """:meth:`PairTable.extrema`, or None where a subclass changed what an entry is."""
    return None if overridden(table, "extrema") else table.extrema()


def check_number(owner: object, name: str, low: float, high: float, *, open_low: bool = False) -> None:
    """Raise unless the option is a real number in [low, high] (or in (low, high] with ``open_low``)."""
    value = getattr(owner, name)
    label = f"{type(owner).__name__}.{name}"
    accepted = f"a number in {'(' if open_low else '['}{low:g}, {high:g}]"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise OptionTypeError(f"{label} must be {accepted}, got {type(value).__name__} {value!r}")
    if not (low < value if open_low else low <= value) or not value <= high:
        raise ConfigError(f"{label} must be {accepted}, got {value!r}")


def check_count(owner: object, name: str, low: int) -> None:
    """Raise unless the option is an int of at least ``low``."""
    value = getattr(owner, name)
    label = f"{type(owner).__name__}.{name}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise OptionTypeError(f"{label} must be an int of at least {low}, got {type(value).__name__} {value!r}")
    if value < low:
        raise ConfigError(f"{label} must be an int of at least {low}, got {value!r}")


def check_choice(owner: object, name: str, choices: Sequence[str]) -> None:
    """Raise unless the option is one of the choices; names the closest."""
    value = getattr(owner, name)
    if value not in choices:
        raise ConfigError(f"{type(owner).__name__}.{name}: no {value!r}; {closest(str(value), choices)}")
