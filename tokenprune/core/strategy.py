"""A strategy: how to score, which set to choose, what to do with the rest, and where."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor

from tokenprune.core.adaptive import Adaptive, BudgetRule
from tokenprune.core.budget import Budget, Keep, Unit
from tokenprune.core.encoder_kinds import EncoderStage
from tokenprune.core.errors import (
    BudgetError,
    ConfigError,
    FeatureError,
    MissingSignalError,
    OptionTypeError,
    UnreachableBudgetError,
    UnsupportedError,
)
from tokenprune.core.features import Features, on_host
from tokenprune.core.groups import offset_groups
from tokenprune.core.indexing import gather_tokens, left_aligned
from tokenprune.core.kinds import Merged, Merger, Problem, Scorer, Selector, check_choice
from tokenprune.core.ranking import TopK, relevance
from tokenprune.core.selection import Selection

__all__ = ["AnyStrategy", "Positions", "Strategy", "TextScope"]

Positions = Literal["keep", "compact"]

TextScope = Literal["prompt", "last-turn", "keywords", "all"]
"""Which of a prompt's tokens a strategy reads as its text: what the user says in all turns, in the last one, in all
turns less stop words, or everything."""


class AnyStrategy(ABC):
    """What ``build`` makes and ``attach`` runs, wherever it acts.

    Attributes
    ----------
    name : str
        Shown in reports.
    positions : str
        Whether kept tokens keep the position ids they had ("keep"), or are renumbered without gaps ("compact").
    text : str or None
        Which tokens count as the prompt's text where the caller does not say; None for "prompt".
    """

    name: str
    positions: Positions
    text: TextScope | None = None

    @property
    @abstractmethod
    def requires(self) -> frozenset[str]:
        """Signals that have to be collected before the language model runs."""

    def reads(self, given: Container[str] = ()) -> frozenset[str]:
        """Signals to collect where those in ``given`` are to be had: ``requires``, or what is preferred to it then."""
        return self.requires

    @abstractmethod
    def select(self, features: Features, keep: Keep | Budget, *, unit: Unit | None = None) -> Selection:
        """Choose the tokens to keep, given features of the place where the strategy acts."""

    @property
    def merges(self) -> bool:
        """Whether tokens that go on may be others than those that came; assumed of a class that does not say."""
        return True

    @property
    def neutral(self) -> bool:
        """Whether a budget of all tokens leaves the model as it is: nothing merged, added or moved."""
        return False

    @property
    def own_counts(self) -> bool:
        """Whether how many tokens stay follows from the data too, so that rows keep fewer or more than asked."""
        return False

    @property
    def uses_budget(self) -> bool:
        """False where how many tokens stay follows from the data and the strategy's options alone."""
        return True

    def under(self, budget: Budget) -> tuple[AnyStrategy, Budget]:
        """The strategy that a budget's rule makes of this one, with what is left of the budget.

        Raises
        ------
        UnsupportedError
            The budget has a rule, and what acts here takes fixed budgets only.
        """
        if budget.adaptive is None:
            return self, budget
        raise UnsupportedError(
            f"strategy {self.name!r} acts between layers and takes no Budget(adaptive=...): give a count or a ratio, "
            "or use a strategy that acts in front of the language model"
        )

    def tokens_per_layer(self, n_visual: int, n_layers: int, keep: int | float) -> tuple[int, ...]:
        """Visual tokens that each decoder layer processes, for one unit of ``n_visual`` tokens.

        The budget in every layer, unless the strategy acts between layers. With :attr:`own_counts` it is what is aimed
        at; what ran tells how many there were.

        Raises
        ------
        UnreachableBudgetError
            No budget decides how many tokens stay (:attr:`uses_budget`).
        """
        self._need_budget()
        return Budget(keep).counts([n_visual]) * n_layers

    def _need_budget(self) -> None:
        """Raise where a budget tells nothing about counts."""
        if not self.uses_budget:
            raise UnreachableBudgetError(
                f"how many tokens strategy {self.name!r} keeps follows from the visual input and the strategy's "
                "options, not from a budget: run it, and read the counts from what ran"
            )

    def layer_average(self, n_visual: int, n_layers: int, keep: int | float) -> float:
        """Mean of :meth:`tokens_per_layer`: what makes budgets of different strategies comparable."""
        return sum(self.tokens_per_layer(n_visual, n_layers, keep)) / n_layers


@dataclass(frozen=True)
class Strategy(AnyStrategy):
    """A composition of parts.

    Parameters
    ----------
    scorer : Scorer, optional
        How much each token matters; may be left out where the selector's objective uses no scores.
    selector : Selector, default ``TopK()``
        Which set is best.
    merger : Merger, optional
        What happens to the rest; dropped without one.
    stage : EncoderStage, optional
        Drops patches between layers of the vision encoder, before anything else; parts may read ``survivors``.
    positions : str, default "keep"
        Whether kept tokens keep the position ids they had, or are renumbered without gaps ("compact").
    name : str, default "custom"
        Shown in reports.
    text : str, optional
        Which of a prompt's tokens count as its text where the caller of ``attach`` does not say: "prompt" (what the
        user says in all turns), "last-turn", "keywords" (less English stop words) or "all" (system text and template,
        too). "prompt" without one.

    Examples
    --------
    >>> import torch, tokenprune as tp
    >>> strategy = tp.build("mi-pruner", lam=0.5)
    >>> features = tp.Features(visual=torch.randn(1, 16, 8), text=torch.randn(1, 5, 8))
    >>> strategy.select(features, keep=4).indices.shape
    torch.Size([1, 4])
    """

    scorer: Scorer | None = None
    selector: Selector = TopK()  # noqa: RUF009  (immutable)
    merger: Merger | None = None
    positions: Positions = "keep"
    name: str = "custom"
    stage: EncoderStage | None = None
    text: TextScope | None = None

    def __post_init__(self) -> None:
        kinds: dict[str, type] = {"scorer": Scorer, "selector": Selector, "merger": Merger, "stage": EncoderStage}
        for field, kind in kinds.items():
            value = getattr(self, field)
            if not isinstance(value, kind) and (value is not None or field == "selector"):
                raise OptionTypeError(f"Strategy.{field} must be a {kind.__name__}, got {value!r}")
        check_choice(self, "positions", get_args(Positions))
        if self.text is not None:
            check_choice(self, "text", get_args(TextScope))
        if self.scorer is None and self.selector.uses_scores:
            raise ConfigError(f"Strategy.scorer is missing: {self.selector!r} chooses by scores")
        if self.merger is not None and self.merger.needs_groups and not self.selector.gives_groups:
            raise ConfigError(f"Strategy.merger {self.merger!r} reads groups, and {self.selector!r} hands none on")

    @property
    def requires(self) -> frozenset[str]:
        """Signals that the parts read; nothing else is collected from a model."""
        return self.reads()

    def reads(self, given: Container[str] = ()) -> frozenset[str]:
        """Signals that the parts read where those in ``given`` are to be had; some parts prefer others then."""
        parts = (p for p in (self.scorer, self.selector, self.merger) if p is not None)
        always = {"visual"} if self.stage is None else {"visual", "survivors"}
        return frozenset(always).union(*(part.required_signals(given) for part in parts))

    @property
    def merges(self) -> bool:
        """Whether there is a merger, or a stage in the encoder, behind which patches come out otherwise."""
        return self.merger is not None or self.stage is not None

    @property
    def neutral(self) -> bool:
        """Whether a budget of all tokens leaves the model as it is: no merger, or one that then changes nothing."""
        kept = self.selector.uses_budget and (self.merger is None or self.merger.neutral)
        return kept and self.selector.neutral

    @property
    def own_counts(self) -> bool:
        """As the selector."""
        return self.selector.own_counts

    @property
    def uses_budget(self) -> bool:
        """As the selector."""
        return self.selector.uses_budget

    def _need(self, name: str, features: Features, given: Container[str]) -> None:
        """Raise where a signal is missing, naming it and the part that reads it."""
        try:
            features[name]
        except MissingSignalError as error:
            asked = (part for whole in (self.scorer, self.selector, self.merger) if whole for part in whole.parts())
            reader = next((part for part in asked if name in part.reads(given)), self)
            raise MissingSignalError(f"{error}. {reader!r} reads it") from None

    def under(self, budget: Budget) -> tuple[Strategy, Budget]:
        """With a selector that keeps as many picks as the budget's rule says."""
        if budget.adaptive is None:
            return self, budget
        assert isinstance(budget.adaptive, BudgetRule)
        if self.stage is not None:
            raise UnsupportedError(
                f"strategy {self.name!r} drops patches inside the encoder, before anything is known that "
                "Budget(adaptive=...) could decide by: give a count or a ratio"
            )
        if self.selector.own_counts:
            raise BudgetError(
                f"strategy {self.name!r} decides itself how many tokens it keeps, and Budget(adaptive=...) would do so "
                "again: give a count or a ratio"
            )
        rule = Adaptive(budget.adaptive, self.selector, budget.floor, budget.ceiling, budget.shared, budget.bucket)
        return replace(self, selector=rule), budget.fixed

    def select(self, features: Features, keep: Keep | Budget, *, unit: Unit | None = None) -> Selection:
        """Choose the tokens to keep.

        On an accelerator nothing is read back, so with built-in parts of a fixed budget the host does not wait and the
        call may be captured in a graph (once the same shapes have run before). What is read on the host to find a part
        that returns nonsense is left to :meth:`~tokenprune.core.selection.Selection.verify` there.

        Parameters
        ----------
        features : Features
            One row for each pruning unit. Inside a captured graph make them with ``check=False``.
        keep : int, float, sequence or Budget
            See :class:`~tokenprune.core.budget.Budget`.
        unit : str, optional
            "frame" gives every frame of ``features.grid`` its own budget; otherwise a row is a unit.

        Raises
        ------
        BudgetError, MissingSignalError, NonFiniteError
            The budget does not fit, a signal is missing, or (on the host) a scorer returned NaN or infinity. What keeps
            :attr:`own_counts` may exceed its budget, and does not raise.
        """
        if not isinstance(features, Features):
            raise OptionTypeError(f"features must be a tokenprune.Features, got {type(features).__name__}")
        budget = Budget.of(keep, unit)
        if budget.adaptive is not None:
            strategy, fixed = self.under(budget)
            return strategy.select(features, fixed)
        given = frozenset(features)
        if given not in self._complete:
            for name in sorted(self.reads(given)):
                self._need(name, features, given)
            self._complete.add(given)
        if budget.unit == "frame":
            return self._select_frames(features, budget)
        sizes = tuple(features.counts())
        counts = budget.counts(sizes)
        # autocast would lower similarities to half precision behind the parts' backs, and reorder tokens
        with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
            scores = self.scores(features)
            picks = self.selector.choose(Problem(features, scores, counts, features.valid(), sizes=sizes))
            _check_order(picks.order, counts, features, self.selector)
            merged = None if self.merger is None else self.merger.merge_picks(features, picks)
        known = None if self.scorer is None else scores
        selection = Selection.from_order(picks.order, features.n_visual, known, merged, features.visual_mask)
        return selection if picks.groups is None else replace(selection, groups=picks.groups)

    def assess(self, features: Features, selection: Selection) -> Selection:
        """The selection with its :attr:`~tokenprune.core.selection.Selection.optimality`: how far it is from the best.

        Computed on request, not with every selection: the picks are retraced, and what no picks of as many tokens can
        exceed is bounded by what the objective is known to be. A row is a unit; for frames of their own budgets give
        ``features.frames()`` and a selection of these.

        Parameters
        ----------
        features : Features
            Those that the tokens were selected by.
        selection : Selection

        Raises
        ------
        ConfigError
            The selector maximises nothing of which the best is bounded.
        FeatureError
            The selection is of other features.

        Examples
        --------
        >>> import torch, tokenprune as tp
        >>> strategy = tp.build({"selector": {"name": "greedy", "objective": "pmi-coverage"}})
        >>> features = tp.Features(visual=torch.randn(1, 16, 8), text=torch.randn(1, 5, 8))
        >>> chosen = strategy.assess(features, strategy.select(features, keep=4))
        >>> bool(chosen.optimality.ratio >= 1 - 1 / 2.72)
        True
        """
        if selection.n_visual != features.n_visual or len(selection.order) != features.batch:
            raise FeatureError(
                f"selection is of {len(selection.order)} rows of {selection.n_visual} tokens, features of "
                f"{features.batch} rows of {features.n_visual}: give the features that it was selected by"
            )
        counts = tuple(int(count) for count in selection.counts.tolist())
        with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
            problem = Problem(features, self.scores(features), counts, features.valid(), sizes=tuple(features.counts()))
            return replace(selection, optimality=self.selector.optimality(problem, selection.order))

    @cached_property
    def _complete(self) -> set[frozenset[str]]:
        """Sets of signals that are known to be enough: parts do not change, and asking all of them takes time."""
        return set()

    def scores(self, features: Features) -> Tensor:
        """What the selector is given, (B, N): what the scorer says, zeros without one."""
        if self.scorer is None:
            return torch.zeros(features.batch, features.n_visual, device=features.device)
        return relevance(self.scorer, features)

    def _select_frames(self, features: Features, budget: Budget) -> Selection:
        per_frame = features.frames()
        frames = per_frame.batch // features.batch
        part = self.select(per_frame, Budget(budget.keep, "image", budget.clip))
        offset = torch.arange(frames, device=features.device).repeat(features.batch) * per_frame.n_visual
        order = _joined(part.order, offset, features.batch)
        scores = None if part.scores is None else part.scores.reshape(features.batch, -1)
        merged = None
        if part.merged is not None:
            source = part.merged.source
            place = _places(source, features.batch)
            tokens = part.merged.tokens.reshape(features.batch, -1, part.merged.tokens.shape[-1])
            merged = Merged(gather_tokens(tokens, place), _joined(source, offset, features.batch), part.merged.space)
        whole = Selection.from_order(order, features.n_visual, scores, merged, features.visual_mask)
        if part.groups is None:
            return whole
        return replace(whole, groups=offset_groups(part.groups, per_frame.n_visual, features.batch))


def _places(picks: Tensor, rows: int) -> Tensor:
    """Where the real entries of rows of frames (B F, K) stand in a unit's (B, F K), -1 as padding."""
    real = (picks >= 0).view(rows, -1)
    place = torch.arange(real.shape[1], device=picks.device).expand_as(real).masked_fill(~real, -1)
    return left_aligned(place)[:, : int(real.sum(1).max())]


def _joined(picks: Tensor, offset: Tensor, rows: int) -> Tensor:
    """Positions in frames (B F, K) as positions in whole units, frame after frame, -1 padding last."""
    moved = picks.where(picks < 0, picks + offset.unsqueeze(-1)).view(rows, -1)
    return left_aligned(moved)[:, : int((moved >= 0).sum(1).max())]


def _check_order(order: object, counts: tuple[int, ...], features: Features, selector: Selector) -> None:
    shape = (len(counts), max(counts))
    if selector.own_counts and isinstance(order, Tensor) and order.ndim == 2:
        shape = (len(counts), max(1, order.shape[1]))
    if not isinstance(order, Tensor) or order.dtype != torch.int64 or tuple(order.shape) != shape:
        got = f"{order.dtype} {tuple(order.shape)}" if isinstance(order, Tensor) else f"{type(order).__name__}"
        raise FeatureError(f"{selector!r} must return picks as an int64 tensor of shape {shape}, got {got}")
    if not on_host(order):
        return
    padding = [set()] * len(counts) if features.visual_mask is None else _positions(~features.visual_mask)
    for row, (picks, count, absent) in enumerate(zip(order.tolist(), counts, padding, strict=True)):
        wrong = next((i for i in picks if not -1 <= i < features.n_visual or i in absent), None)
        if wrong is not None:
            what = "padding" if wrong in absent else f"positions are 0..{features.n_visual - 1}"
            raise FeatureError(f"{selector!r} picked token {wrong} in row {row}: {what}")
        chosen = [i for i in picks if i >= 0]
        kept = len(chosen)
        if selector.own_counts and not kept:
            raise FeatureError(f"{selector!r} picked no token in row {row}")
        if not selector.own_counts and (kept > count or (kept < count and selector.fills_budget)):
            raise FeatureError(f"{selector!r} picked {kept} tokens in row {row}, asked for {count}")
        if selector.distinct and len(set(chosen)) < kept:
            twice = next(i for n, i in enumerate(chosen) if i in chosen[:n])
            raise FeatureError(f"{selector!r} picked token {twice} twice in row {row}: picks must differ")


def _positions(mask: Tensor) -> list[set[int]]:
    return [{i for i, marked in enumerate(row) if marked} for row in mask.tolist()]
