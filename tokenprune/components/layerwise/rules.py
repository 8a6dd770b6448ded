"""How many visual tokens stay after a layer: rules from a budget, and what is known when a rule is asked."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from tokenprune.core.errors import BudgetError, ConfigError
from tokenprune.core.kinds import check_count, check_number
from tokenprune.core.layer_kinds import Appending, KeepRule, LayerContext

__all__ = ["Interpolated", "Logistic", "PivotsAndQuotas", "Pyramid", "Remainder", "Share"]


EXAMPLES = 8
"""Slopes between which those of pictures lie."""


@dataclass(frozen=True)
class Share(KeepRule):
    """A multiple of the budget, rounded down.

    Parameters
    ----------
    share : float
        More than 0.
    """

    share: float

    def __post_init__(self) -> None:
        check_number(self, "share", 0, math.inf, open_low=True)

    def counts(self, context: LayerContext) -> tuple[int, ...]:
        """floor(share * budget)."""
        return tuple(math.floor(self.share * keep) for keep in context.keep)


@dataclass(frozen=True)
class Remainder(KeepRule):
    """What is left of the budget for the last layers, so that the average over all layers is the budget.

    With ``a`` layers done on ``m`` tokens and ``n`` layers in all: (n * budget - a * m) / (n - a), rounded down. For
    the only event of a schedule.
    """

    def counts(self, context: LayerContext) -> tuple[int, ...]:
        """Solve a * present + (n - a) * count = n * budget."""
        done, n = context.layer + 1, context.n_layers
        pairs = zip(context.keep, context.present, strict=True)
        return tuple((n * keep - done * present) // max(1, n - done) for keep, present in pairs)


@dataclass(frozen=True)
class Pyramid(KeepRule):
    """Shares of the tokens that entered, smaller after each event (PyramidDrop).

    By default the shares fall geometrically and the budget is what stays after the last event: with three events
    (K / N)^(1/3), (K / N)^(2/3) and K / N of N tokens, each count rounded down. In models so shallow that the schedule
    acts fewer times, the last shares count.

    Parameters
    ----------
    stages : int, default 3
        Events there are.
    ratios : tuple of float, optional
        Shares of your own, rounded down as ``int(N * ratio)``; the budget then has to be what the last one leaves.
    """

    stages: int = 3
    ratios: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        check_count(self, "stages", 1)
        if self.ratios is None:
            return
        falling = all(0 < b <= a <= 1 for a, b in zip((1, *self.ratios), self.ratios, strict=False))
        if len(self.ratios) != self.stages or not falling:
            raise ConfigError(
                f"Pyramid.ratios must be {self.stages} shares in (0, 1], one for each event, none larger than the one "
                f"before, got {self.ratios!r}"
            )

    def counts(self, context: LayerContext) -> tuple[int, ...]:
        """Share of each unit's tokens."""
        which = context.layers.index(context.layer) - len(context.layers)
        return tuple(self._count(k, n, which) for k, n in zip(context.keep, context.entered, strict=True))

    def _count(self, keep: int, entered: int, which: int) -> int:
        if self.ratios is None:
            exponent = (self.stages + which + 1) / self.stages
            # a hair above: shares that are whole in exact arithmetic stay so
            share: float = (keep / entered) ** exponent
            return math.floor(entered * share + 1e-9)
        left = int(entered * self.ratios[-1])
        if abs(keep - left) > 1:
            raise BudgetError(
                f"Pyramid.ratios {self.ratios} leave {left} of {entered} tokens, and {keep} were asked for: give "
                f"keep={self.ratios[-1]} (a ratio), or leave ratios out, so that they follow from the budget"
            )
        return int(entered * self.ratios[which])


@dataclass(frozen=True)
class PivotsAndQuotas(KeepRule):
    """Pivots plus equal shares: ``pivots + quotas * (budget // quotas)`` (DART, which so keeps more than its budget).

    A budget of all tokens keeps all; otherwise shares shrink until everything fits.

    Parameters
    ----------
    pivots : int, default 4
        Image pivots, kept on top.
    quotas : int, default 8
        Number of shares, one for each image or text pivot.
    """

    pivots: int = 4
    quotas: int = 8

    def __post_init__(self) -> None:
        check_count(self, "pivots", 1)
        check_count(self, "quotas", 1)

    def counts(self, context: LayerContext) -> tuple[int, ...]:
        """Count pivots and quotas."""
        return tuple(self._count(*pair) for pair in zip(context.keep, context.present, strict=True))

    def _count(self, keep: int, present: int) -> int:
        if keep >= present:
            return present
        share = min(keep, max(0, present - self.pivots)) // self.quotas
        return self.pivots + self.quotas * share


@dataclass(frozen=True)
class Interpolated(KeepRule):
    """One of several counts after each layer, from rows published for some budgets and one number of tokens.

    A row gives its counts at the budget and number of tokens that it was published for. Other budgets are
    interpolated linearly between rows, as shares of the tokens; below the smallest row the shares shrink in
    proportion, and a budget of all tokens keeps all. Where a model is so shallow that the schedule acts fewer times
    than a row has entries, the last entries count.

    Parameters
    ----------
    rows : tuple of (int, tuple of int)
        Budget and counts, ascending budgets.
    tokens : int
        Visual tokens that the rows were published for.
    leave_one : bool, default False
        Never keep all that are present.
    """

    rows: tuple[tuple[int, tuple[int, ...]], ...]
    tokens: int
    leave_one: bool = False

    def __post_init__(self) -> None:
        budgets = [budget for budget, _ in self.rows]
        if not budgets or budgets != sorted(set(budgets)) or len({len(counts) for _, counts in self.rows}) > 1:
            raise ConfigError(f"Interpolated.rows must have ascending budgets and equal lengths, got {self.rows!r}")

    def counts(self, context: LayerContext) -> tuple[int, ...]:
        """Interpolate at each unit's share."""
        which = context.layers.index(context.layer) - len(context.layers)
        counts = (self._count(k, n, which) for k, n in zip(context.keep, context.entered, strict=True))
        most = (present - self.leave_one for present in context.present)
        return tuple(min(pair) for pair in zip(counts, most, strict=True))

    def _count(self, keep: int, entered: int, which: int) -> int:
        asked = keep * self.tokens / entered
        points = [(0, 0), *((budget, row[which]) for budget, row in self.rows), (self.tokens, self.tokens)]
        right = max(1, min(bisect_left([p[0] for p in points], asked), len(points) - 1))
        (x0, y0), (x1, y1) = points[right - 1], points[right]
        return math.floor((y0 + (y1 - y0) * (asked - x0) / (x1 - x0)) * entered / self.tokens + 0.5)


@dataclass(frozen=True)
class Logistic(KeepRule):
    """Shares that fall over the layers along a logistic curve, scaled to an average budget (AutoPrune, Sec. 3).

    Of the tokens left after the first layer, a share ``scale * height / (1 + exp(k (l - midpoint - k)))`` stays after
    layer l. The slope k = max(slope - gain * information, 0) falls with the mutual information between image and
    prompt: simple samples are pruned early, complex ones late. ``scale`` is found by bisection so that the counts
    after each layer, merged tokens included, average to the budget.

    The midpoint is a layer number, the same for 32 and 40 layers as published; it is not scaled for other models,
    because the bisection meets the budget anyway.

    Parameters
    ----------
    first : KeepRule
        What stays after the first layer.
    merger : Appending
        Tells how many tokens come back after the others.
    information : str
        Name of the measured mutual information, (B,); where it was not measured it counts as 0.
    slope, gain, midpoint, height : float, defaults 0.4, 0.2, 14.9, 0.75
    published : bool, default False
        Do as published code: stop at a scale of 20, which cannot reach budgets near all tokens, and round the product
        of share and tokens in float32. By default the range of scales is doubled until it reaches the budget, and a
        budget of all tokens keeps all.
    """

    first: KeepRule
    merger: Appending
    information: str = "information"
    slope: float = 0.4
    gain: float = 0.2
    midpoint: float = 14.9
    height: float = 0.75
    published: bool = False
    follows = False

    def examples(self, units: int) -> tuple[Mapping[str, Tensor], ...]:
        """Slopes from the largest to none."""
        most = self.slope / self.gain if self.gain > 0 else 0.0
        steps = sorted({most * step / EXAMPLES for step in range(EXAMPLES + 1)})
        return tuple({self.information: torch.full((units,), information)} for information in steps)

    def steepness(self, information: float) -> float:
        """Slope k of a sample."""
        return max(self.slope - self.gain * information, 0.0)

    def shares(self, information: float, start: int, keep: int, n_layers: int) -> tuple[float, ...]:
        """Shares after layers 1 .. n_layers - 1 of ``start`` tokens, for an average of ``keep``."""
        return _logistic_shares(self, information, start, keep, n_layers)

    def total(self, shares: Sequence[float], start: int) -> int:
        """Sum over layers of the tokens left after each, ``start`` after the first."""
        total = left = start
        added, most = _added(self.merger, start), start - 1
        for share in shares:
            wanted = math.ceil(most * share) if share < 1 else most
            kept = wanted if wanted < left else left
            left = kept + added[left - kept]
            total += left
        return total

    def counts(self, context: LayerContext) -> tuple[int, ...]:
        """ceil(share * (start - 1)), with the share of this layer."""
        known = context.measured.get(self.information)
        informations = [0.0] * len(context.keep) if known is None else known.tolist()
        starts = (min(max(1, c), n) for c, n in zip(self.first.counts(context), context.entered, strict=True))
        counts = []
        for row, (information, start) in enumerate(zip(informations, starts, strict=True)):
            keep = context.keep[row]
            if not self.published and keep >= context.entered[row]:
                counts.append(context.present[row])
            else:
                share = self.shares(information, start, keep, context.n_layers)[context.layer - 1]
                kept = (start - 1) * share
                counts.append(math.ceil(float(torch.tensor(kept, dtype=torch.float32)) if self.published else kept))
        return tuple(counts)


@lru_cache(maxsize=64)
def _added(merger: Appending, most: int) -> tuple[int, ...]:
    """What a merger adds for each number of dropped tokens: a bisection asks thousands of times."""
    return tuple(merger.added(dropped) for dropped in range(most + 1))


@lru_cache(maxsize=256)
def _logistic_shares(rule: Logistic, information: float, start: int, keep: int, n_layers: int) -> tuple[float, ...]:
    # remembered because every layer of a forward asks for the same schedule
    k = rule.steepness(information)
    raw = [rule.height / (1 + math.exp(k * (layer - (rule.midpoint + k)))) for layer in range(1, n_layers)]
    target = n_layers * keep
    if abs(rule.total(raw, start) - target) < 1:
        return tuple(raw)
    low, high, best, miss = 0.0, 20.0, raw, math.inf
    while not rule.published and high < 1e9 and rule.total([high * share for share in raw], start) < target:
        high *= 2
    for _ in range(200):
        scale = (low + high) / 2
        scaled = [scale * share for share in raw]
        off = rule.total(scaled, start) - target
        if abs(off) < miss:
            best, miss = scaled, abs(off)
        if abs(off) < 0.01 or scale in (low, high):  # there is no number between the two
            break
        low, high = (scale, high) if off < 0 else (low, scale)
    return tuple(best)
