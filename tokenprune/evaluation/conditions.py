"""Who takes part in a comparison: strategies, and the rows that give their numbers a scale."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from tokenprune.core.errors import ConfigError, TokenPruneError
from tokenprune.core.features import Features
from tokenprune.core.kinds import Scorer
from tokenprune.core.registry import build, list_strategies
from tokenprune.core.strategy import AnyStrategy, Strategy
from tokenprune.results.fingerprint import identity

__all__ = ["RANDOM_DRAWS", "Condition", "Given", "conditions", "strategy_names"]

RANDOM_DRAWS = 3
"""The paper averages three independent draws."""

Kind = Literal["full", "wrong image", "oracle", "strategy"]

_SCALE = ("full", "wrong image", "oracle", "random")


@dataclass(frozen=True)
class Given(Scorer):
    """Scores handed in from outside, one row a unit of the batch.

    Parameters
    ----------
    scores : Tensor, (B, N)
    """

    scores: Tensor

    def score(self, features: Features) -> Tensor:
        """Return the scores as they are."""
        return self.scores.to(features.device)


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
    """

    label: str
    kind: Kind
    keep: int = 0
    draw: int = 0
    strategy: AnyStrategy | None = None

    @cached_property
    def identity(self) -> str:
        """Hash of what the label stands for; see :func:`tokenprune.results.fingerprint.identity`."""
        return identity(self.kind if self.strategy is None else self.strategy)

    @property
    def key(self) -> tuple[str, str, int, int]:
        """What identifies its rows in results.jsonl."""
        return self.label, self.identity, self.keep, self.draw

    def for_batch(self, units: Sequence[str], wanted: Tensor) -> AnyStrategy | None:
        """The strategy for one batch: random draws belong to pictures, the oracle knows where to look.

        A draw is the same for all questions about a picture, as are the picks of any strategy that does not read the
        question, and does not depend on how questions are batched.

        Parameters
        ----------
        units : sequence of str
            Name of each picture or tile that tokens are chosen from.
        wanted : Tensor, (U, N)
            Overlap of each token with the queried objects.
        """
        if self.kind == "oracle":
            # a small random part orders the rest, so that a budget larger than the object is not filled from the top
            return Strategy(Given(wanted + _drawn(units, 0, wanted.shape[1]) * 1e-3), name="oracle")
        if self.label == "random":
            return Strategy(Given(_drawn(units, self.draw, wanted.shape[1])), name="random")
        return self.strategy


def _drawn(units: Sequence[str], draw: int, n: int) -> Tensor:
    """Uniform numbers, a row a unit: (U, n), float64."""
    rows = []
    for unit in units:
        seed = hashlib.blake2b(f"{unit}/{draw}".encode(), digest_size=7).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(seed, "big"))
        rows.append(torch.rand(n, generator=generator, dtype=torch.float64))
    return torch.stack(rows)


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

    Raises
    ------
    ConfigError
        A wildcard matches nothing, two rows have one label, or a row has the label of one that is always there.
    TokenPruneError
        A strategy that was asked for by name cannot be built.
    """
    built: dict[str, AnyStrategy] = {}
    if names is not None and not names:
        strategy_names(())
    for name in ["*"] if names is None else names:
        if not isinstance(name, str):
            label = str(name["label"])
            if label in built or label in _SCALE:
                raise ConfigError(f"two rows are called {label!r}; {', '.join(_SCALE)} are always there")
            built[label] = build(name["strategy"])
            continue
        for found in strategy_names([name]):
            if found == "random" or found in built:
                continue
            try:
                built[found] = build(found)
            except TokenPruneError as error:
                if found == name:
                    raise
                note(f"{found} is left out: {error}")
    rows = [Condition("full", "full"), Condition("wrong image", "wrong image")]
    for keep in budgets:
        rows.append(Condition("oracle", "oracle", keep))
        rows += [Condition("random", "strategy", keep, draw, build("random")) for draw in range(RANDOM_DRAWS)]
        rows += [Condition(label, "strategy", keep, 0, strategy) for label, strategy in built.items()]
    return rows
