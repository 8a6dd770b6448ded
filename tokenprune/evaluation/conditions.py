"""Who takes part in a comparison: strategies, and the rows that give their numbers a scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from torch import Tensor

from tokenprune.components.scorers import Random
from tokenprune.core.errors import ConfigError, TokenPruneError
from tokenprune.core.features import Features
from tokenprune.core.kinds import Scorer
from tokenprune.core.registry import build, list_strategies
from tokenprune.core.strategy import AnyStrategy, Strategy
from tokenprune.results.fingerprint import identity
from tokenprune.results.lines import FULL

__all__ = [
    "FULL",
    "ORACLE",
    "RANDOM",
    "RANDOM_DRAWS",
    "SCALE",
    "WRONG_IMAGE",
    "Condition",
    "Wanted",
    "conditions",
    "strategy_names",
]

RANDOM_DRAWS = 3
"""The paper averages three independent draws."""

Kind = Literal["full", "wrong image", "oracle", "strategy"]

WRONG_IMAGE, ORACLE, RANDOM = "wrong image", "oracle", "random"
SCALE = (FULL, WRONG_IMAGE, ORACLE, RANDOM)
"""Rows that give the others a scale; their labels are taken."""


@dataclass(frozen=True)
class Wanted(Scorer):
    """Tokens that lie on what is asked about first; the others, and those that lie on it alike, in a random order.

    A budget larger than the object is then not filled from the top. The order belongs to the picture, as every random
    draw does.

    Parameters
    ----------
    overlap : Tensor, (B, N)
        Of each token with the queried objects, in pixels.
    """

    overlap: Tensor
    requires = Random.requires
    prefers = Random.prefers

    def score(self, features: Features) -> Tensor:
        """Overlap and a small random part, (B, N), float64."""
        return self.overlap.to(features.device) + Random().score(features) * 1e-3


@dataclass(frozen=True)
class Condition:
    """One row of the table at one budget.

    Attributes
    ----------
    label : str
        Row of the table.
    kind : str
        "full" (nothing pruned), "wrong image" (nothing pruned, somebody else's picture: what the question's words
        alone give), "oracle" (tokens on the queried objects first: what a perfect choice gives), or "strategy".
    keep : int
        Budget; 0 where nothing is pruned.
    draw : int
        Which of the random draws.
    strategy : AnyStrategy or None
    attempt : int
        How often the same strategy was to be asked again.
    """

    label: str
    kind: Kind
    keep: int = 0
    draw: int = 0
    strategy: AnyStrategy | None = None
    attempt: int = 0

    @cached_property
    def identity(self) -> str:
        """Hash of what the label stands for, with the attempt; see :func:`tokenprune.results.fingerprint.identity`."""
        made = identity(self.kind if self.strategy is None else self.strategy)
        return f"{made}+{self.attempt}" if self.attempt else made

    @property
    def key(self) -> tuple[str, str, int, int]:
        """What identifies its rows in results.jsonl."""
        return self.label, self.identity, self.keep, self.draw

    def for_batch(self, wanted: Tensor) -> AnyStrategy | None:
        """The strategy for one batch: the oracle knows where to look, a random draw has its number for a seed.

        Parameters
        ----------
        wanted : Tensor, (U, N)
            Overlap of each token with the queried objects.
        """
        if self.kind == "oracle":
            return Strategy(Wanted(wanted), name="oracle")
        # the draws share a label and so an identity; what is the same as the row's own strategy stays that
        return build(RANDOM, seed=self.draw) if self.label == RANDOM and self.draw else self.strategy

    def asks(self, question: Any) -> bool:
        """Whether this row asks a question: the oracle only those of which it is known what they are about."""
        return self.kind != "oracle" or question.boxes is not None


def strategy_names(patterns: Sequence[str] | None) -> list[str]:
    """Names of strategies, wildcards filled in, each once.

    Parameters
    ----------
    patterns : sequence of str, optional
        All that are installed by default. A name without a wildcard is taken as it is.

    Raises
    ------
    ConfigError
        A wildcard matches nothing, or there is no pattern at all.
    """
    if patterns is not None and not patterns:
        raise ConfigError(f"--strategies names none; known: {', '.join(list_strategies())}")
    chosen: list[str] = []
    for pattern in patterns or ["*"]:
        found = list_strategies(pattern) if ":" not in pattern and any(c in pattern for c in "*?[") else [pattern]
        if not found:
            raise ConfigError(f"--strategies {pattern!r} matches no strategy; known: {', '.join(list_strategies())}")
        chosen += [name for name in found if name not in chosen]
    return chosen


def conditions(
    names: Sequence[str | Mapping[str, Any]] | None,
    budgets: Sequence[int],
    note: Callable[[str], None] = lambda text: None,
    refused: Callable[[str, str], None] | None = None,
) -> list[Condition]:
    """All rows: full, wrong image, oracle, random draws, and strategies at each budget.

    Parameters
    ----------
    names : sequence of str or mapping, optional
        Strategies, wildcards allowed; all that are installed by default. ``{"label": ..., "strategy": ...}`` is a row
        of its own name, with what :func:`tokenprune.build` makes of "strategy".
    budgets : sequence of int
    note : callable
        Told of strategies that a wildcard found and that cannot be built; they are left out.
    refused : callable, optional
        Told their names and why instead.

    Raises
    ------
    ConfigError
        A wildcard matches nothing, two rows have one label, or a row has the label of one that is always there
        (:data:`SCALE`), or one that is no printable text.
    TokenPruneError
        A strategy that was asked for by name cannot be built.
    """
    refused = refused or (lambda name, why: note(f"{name} is left out: {why}"))
    built: dict[str, AnyStrategy] = {}
    if names is not None and not names:
        strategy_names(())
    for name in ["*"] if names is None else names:
        if not isinstance(name, str):
            label = _label(name)
            if label in built or label in SCALE:
                raise ConfigError(f"two rows are called {label!r}; {', '.join(SCALE)} are always there")
            built[label] = build(name["strategy"])
            continue
        for found in strategy_names([name]):
            if found == RANDOM or found in built:
                continue
            if found in SCALE:
                why = f"the row of that name is always there ({', '.join(SCALE)} are); give the strategy another name"
                if found == name:
                    raise ConfigError(f"--strategies {found!r}: {why}")
                refused(found, why)
                continue
            try:
                built[found] = build(found)
            except TokenPruneError as error:
                if found == name:
                    raise
                refused(found, str(error))
    rows = [Condition(FULL, "full"), Condition(WRONG_IMAGE, "wrong image")]
    for keep in dict.fromkeys(budgets):
        rows.append(Condition(ORACLE, "oracle", keep))
        rows += [Condition(RANDOM, "strategy", keep, draw, build("random")) for draw in range(RANDOM_DRAWS)]
        rows += [Condition(label, "strategy", keep, 0, strategy) for label, strategy in built.items()]
    return rows


def _label(row: Mapping[str, Any]) -> str:
    """Name of a row that is given as a mapping; control characters would reach a terminal."""
    if set(row) != {"label", "strategy"}:
        raise ConfigError(f"a row is a mapping of 'label' and 'strategy', got {dict(row)!r}")
    label = str(row["label"])
    if not label.strip() or not label.isprintable():
        raise ConfigError(f"a row's label is printable text on one line, got {label!r}")
    return label
