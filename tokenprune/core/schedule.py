"""Strategies that act inside the language model, after some of its decoder layers.

One convention: an event acts at the *output* of decoder layer ``after_layer`` (0-based), so the layers up to and
including that one run on all tokens that were present, and later layers on what the event left. A method described as
pruning "at the input of layer K" acts after layer K - 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

import torch
from torch import Tensor

from tokenprune.core.adaptive import Adaptive
from tokenprune.core.budget import Budget, Keep, Unit
from tokenprune.core.encoder_kinds import EncoderStage
from tokenprune.core.errors import ConfigError, OptionTypeError, UnsupportedError
from tokenprune.core.features import Features, is_signal
from tokenprune.core.indexing import left_aligned
from tokenprune.core.kinds import Merger, Scorer, Selector, check_choice
from tokenprune.core.layer_kinds import Appending, AsAsked, DecodeRule, KeepRule, LayerContext, Measure
from tokenprune.core.ranking import TopK
from tokenprune.core.selection import Selection
from tokenprune.core.strategy import AnyStrategy, Positions, Strategy, TextScope

__all__ = ["LAYER_SIGNALS", "DecodeEvent", "LayerEvent", "LayerSchedule", "Rows", "from_parts"]

Rows = Literal["last", "text"]

LAYER_SIGNALS: Final[Mapping[str, str]] = {
    "visual": "hidden states of the visual tokens still present, b n d",
    "text": "hidden states of the text tokens after them, b t d",
    "attention": "attention rows over those visual tokens, after softmax, b h r n",
    "llm_keys": "their keys in the layer that has just run, after rotary embedding, b n k",
    "text_keys": "the same of the text tokens, b t k",
    "visual_positions": "position ids of the visual tokens, b n",
    "text_positions": "position ids of the text tokens, b t",
    "part": "group that the strategy before the language model put each visual token in, b n",
    "rope_frequencies": "inverse frequencies of the rotary embedding, b f",
}
"""Signals that exist between layers, and what they hold there; the rest comes from before the language model."""


@dataclass(frozen=True)
class LayerEvent:
    """One act of pruning between two decoder layers.

    Parameters
    ----------
    after_layer : int
        Layer (0-based; negative counts from the end) at whose output the event acts.
    strategy : Strategy
        Scores, selects and merges, given features of that place (:data:`LAYER_SIGNALS`).
    rule : KeepRule, default ``AsAsked()``
        How many tokens stay.
    rows : str, default "last"
        Which attention rows ``attention`` holds: the prompt's ``last`` token, or all ``text`` tokens after the image.
    measures : tuple of Measure
        Taken before anything is pruned; the event itself and later ones may read them.
    until : int, optional
        The event acts again after every following layer, up to and including this one (negative counts from the end).
    normed : bool, default False
        ``visual`` and ``text`` hold hidden states after the model's final norm instead of plain ones.
    idle : bool, default False
        Act even where a merger would add as many tokens as are dropped, which only reorders them.
    ahead : bool, default False
        Attention and keys are those that the *next* layer would have if the event dropped nothing, instead of those of
        the layer that has just run.
    """

    after_layer: int
    strategy: Strategy
    rule: KeepRule = AsAsked()  # noqa: RUF009  (immutable)
    rows: Rows = "last"
    measures: tuple[Measure, ...] = ()
    until: int | None = None
    normed: bool = False
    idle: bool = False
    ahead: bool = False

    def __post_init__(self) -> None:
        for name, kind in (("strategy", Strategy), ("rule", KeepRule)):
            if not isinstance(getattr(self, name), kind):
                raise OptionTypeError(f"LayerEvent.{name} must be a {kind.__name__}, got {getattr(self, name)!r}")
        check_choice(self, "rows", get_args(Rows))
        if self.normed and self.strategy.merger is not None:
            raise ConfigError("LayerEvent.normed: merged tokens would be normed, but the next layer reads plain ones")
        if self.strategy.text is not None:
            raise ConfigError(
                f"after layer {self.after_layer} all text behind the picture is read: leave "
                f"text={self.strategy.text!r} out, or let the strategy act in front of the language model"
            )

    @property
    def requires(self) -> frozenset[str]:
        """Signals that the event reads, measured ones among them."""
        return self.strategy.requires.union(*(measure.required_signals() for measure in self.measures))

    @property
    def reads_text(self) -> bool:
        """Whether the event reads the text behind the visual tokens."""
        return reads_text(self.requires) or (self.rows == "text" and "attention" in self.requires)

    def counts(self, context: LayerContext) -> tuple[int, ...]:
        """Tokens of each unit that are kept, before the merger adds any."""
        asked = self.rule.counts(context)
        counts = (min(max(1, count), present) for count, present in zip(asked, context.present, strict=True))
        if self.idle:
            return tuple(counts)
        pairs = zip(counts, context.present, strict=True)
        return tuple(present if self.left(count, present) >= present else count for count, present in pairs)

    def left(self, kept: int, present: int) -> int:
        """Tokens after the event: the kept ones and those that the merger makes of the others."""
        merger = self.strategy.merger
        return kept + (merger.added(present - kept) if isinstance(merger, Appending) else 0)

    def passed(self, counts: tuple[int, ...], context: LayerContext) -> LayerContext:
        """What is known after the event has kept ``counts`` of the tokens that are present in ``context``."""
        left = tuple(self.left(*pair) for pair in zip(counts, context.present, strict=True))
        return context.at(context.layer, left)

    def decide(self, features: Features, context: LayerContext) -> tuple[Selection, LayerContext]:
        """Choose which tokens stay.

        Parameters
        ----------
        features : Features
            One row for each unit; ``visual`` in the order in which the tokens stand in the sequence.
        context : LayerContext
            Of this layer; ``present`` must agree with the features.

        Returns
        -------
        selection : Selection
            ``selection.sequence`` are the positions that go on, in order, and ``selection.merged`` their new values.
        context : LayerContext
            With what was measured, and the tokens that are left.
        """
        selection, context = self.choose(features, context)
        left = tuple(int(count) for count in (selection.sequence >= 0).sum(1).tolist())
        return selection, replace(context, present=left)

    def choose(self, features: Features, context: LayerContext) -> tuple[Selection, LayerContext]:
        """As :meth:`decide`, but what is left follows from counts alone: nothing is read back from an accelerator."""
        measured = dict(context.measured)
        features = with_extra(features, measured)
        for measure in self.measures:
            measured[measure.name] = measure.measure(features)
            features = with_extra(features, {measure.name: measured[measure.name]})
        context = replace(context, present=tuple(features.counts()), measured=measured)
        counts = self.counts(context)
        # where nothing is dropped there is nothing to merge
        strategy = replace(self.strategy, merger=None) if counts == context.present else self.strategy
        selection = strategy.select(features, Budget(counts))
        return selection, self.passed(counts, context)


@dataclass(frozen=True)
class DecodeEvent:
    """What a layer and those after it look at while decoding.

    The prompt's forward pass is not touched and no cache shrinks: at every new token the attention that it pays in the
    layer before decides which visual tokens are hidden from the rest.

    Parameters
    ----------
    layer : int
        First layer (0-based, at least 1) that looks at less; negative counts from the end.
    rule : DecodeRule
        Says which tokens.
    """

    layer: int
    rule: DecodeRule

    def __post_init__(self) -> None:
        if not isinstance(self.rule, DecodeRule):
            raise OptionTypeError(f"DecodeEvent.rule must be a DecodeRule, got {self.rule!r}")
        if isinstance(self.layer, bool) or not isinstance(self.layer, int) or self.layer == 0:
            raise ConfigError(f"DecodeEvent.layer must be an int of at least 1, or count from the end: {self.layer!r}")


@dataclass(frozen=True)
class LayerSchedule(AnyStrategy):
    """A strategy that acts after one or several layers of the language model.

    Parameters
    ----------
    name : str
        Shown in reports.
    events : tuple of LayerEvent
        In the order of their layers; may be empty where ``decoding`` is given.
    before : Strategy, optional
        Acts before the language model.
    before_rule : KeepRule, default ``AsAsked()``
        How many tokens that one keeps; more than there are means all.
    measures : tuple of Measure
        Taken on the embeddings that enter the language model, for the events.
    positions : str, default "keep"
        Whether tokens keep their position ids after an event, or are renumbered ("compact"); where mergers add tokens
        behind the kept ones, position ids that are kept do not ascend.
    reference_layers : int, optional
        Layer numbers are those of a model with so many decoder layers. In a model with n layers an event acts after
        the same share of them, ``round((after_layer + 1) * n / reference_layers) - 1``; events move apart where they
        would fall together, and the first ones are left out where there is no room before the last layer.
        Without it, layer numbers mean what they say.
    decoding : DecodeEvent, optional
        What layers look at while decoding.
    inside : str, optional
        Position ids after events, where these differ from ``positions``, which then is about ``before`` alone.
    forgets : bool, default False
        While decoding no layer looks at tokens that an event dropped, those before the event included, as though their
        caches had been cut, too. Not together with ``decoding``.

    Raises
    ------
    ConfigError
        No event, or an event reads what nothing measures or hands on.
    """

    name: str
    events: tuple[LayerEvent, ...]
    before: Strategy | None = None
    before_rule: KeepRule = AsAsked()  # noqa: RUF009  (immutable)
    measures: tuple[Measure, ...] = ()
    positions: Positions = "keep"
    reference_layers: int | None = None
    decoding: DecodeEvent | None = None
    inside: Positions | None = None
    forgets: bool = False

    def __post_init__(self) -> None:
        check_choice(self, "positions", get_args(Positions))
        if self.inside is not None:
            check_choice(self, "inside", get_args(Positions))
        if self.forgets and self.decoding is not None:
            raise ConfigError("LayerSchedule.forgets cannot be combined with decoding, whose layer sees all it has")
        if not self.events and self.decoding is None:
            raise ConfigError("LayerSchedule.events is empty: use a Strategy")
        known = {*LAYER_SIGNALS, *(measure.name for measure in self.measures)}
        for event in self.events:
            known |= {measure.name for measure in event.measures}
            if unknown := {name for name in event.requires - known if not is_signal(name)}:
                raise ConfigError(f"{event!r} reads {sorted(unknown)}, which no earlier event measures")
            if "part" in event.requires and (self.before is None or not self.before.selector.gives_groups):
                raise ConfigError(f"{event!r} reads 'part', which needs a strategy before that hands groups on")

    @property
    def text(self) -> TextScope | None:  # type: ignore[override]
        """Of what acts before the language model; events read all text behind the picture."""
        return None if self.before is None else self.before.text

    @property
    def positions_inside(self) -> Positions:
        """Position ids after events: kept or renumbered."""
        return self.positions if self.inside is None else self.inside

    @property
    def requires(self) -> frozenset[str]:
        """Signals from before the language model; what exists between its layers is not among them."""
        before = frozenset() if self.before is None else self.before.requires
        return before | self.carried

    @property
    def carried(self) -> frozenset[str]:
        """Those of them that events read, and that have to be kept until then."""
        measured = {measure.name for measure in self._all_measures()}
        inside = frozenset().union(*(event.requires for event in self.events))
        return inside - LAYER_SIGNALS.keys() - measured

    @property
    def reads_text(self) -> bool:
        """Whether anything reads the text behind the visual tokens."""
        measured = any(reads_text(measure.required_signals()) for measure in self.measures)
        return measured or any(event.reads_text for event in self.events)

    @property
    def follows(self) -> bool:
        """Whether all counts follow from budgets and sizes alone (:attr:`KeepRule.follows`)."""
        return all(rule.follows for rule in (self.before_rule, *(event.rule for event in self.events)))

    @property
    def acts(self) -> tuple[Strategy, ...]:
        """What decides at each place, in the order of the places."""
        inside = tuple(event.strategy for event in self.events)
        return inside if self.before is None else (self.before, *inside)

    @property
    def merges(self) -> bool:
        """Whether there is a merger at any place."""
        return any(act.merges for act in self.acts)

    @property
    def neutral(self) -> bool:
        """Whether a budget of all tokens leaves the model as it is: mergers then change nothing, no event insists."""
        return all(act.neutral for act in self.acts) and not any(event.idle for event in self.events)

    @property
    def own_counts(self) -> bool:
        """Whether counts follow from the data too at any place."""
        return any(act.own_counts for act in self.acts)

    @property
    def uses_budget(self) -> bool:
        """False where any place counts without asking for the budget."""
        return all(act.uses_budget for act in self.acts)

    def _all_measures(self) -> tuple[Measure, ...]:
        return self.measures + tuple(measure for event in self.events for measure in event.measures)

    def placed(self, n_layers: int) -> tuple[tuple[int, LayerEvent], ...]:
        """Layers and the events that act after them in a model with so many decoder layers.

        Raises
        ------
        UnsupportedError
            A layer does not exist, two events meet at one, or the model has too few layers.
        """
        found: list[tuple[int, LayerEvent]] = []
        for event, first in zip(self.events, self._first_layers(n_layers), strict=True):
            if first is None:
                continue
            last = first if event.until is None else _counted(event.until, n_layers)
            found += [(layer, event) for layer in range(first, last + 1)]
        layers = [layer for layer, _ in found]
        if not layers and self.decoding is not None:
            return ()
        if not layers or layers != sorted(set(layers)) or layers[0] < 0 or layers[-1] >= n_layers:
            asked = [event.after_layer for event in self.events]
            raise UnsupportedError(
                f"strategy {self.name!r} acts after layers {asked}, which a language model with {n_layers} layers "
                "does not have, or not in this order"
            )
        return tuple(found)

    def decoding_layer(self, n_layers: int) -> int | None:
        """First layer of a model with so many that looks at less while decoding; None where all see everything.

        Raises
        ------
        UnsupportedError
            There is no such layer with one before it.
        """
        if self.decoding is None:
            return None
        if self.reference_layers is None:
            layer = _counted(self.decoding.layer, n_layers)
        else:
            layer = max(1, min(round(self.decoding.layer * n_layers / self.reference_layers), n_layers - 1))
        if not 1 <= layer < n_layers:
            raise UnsupportedError(
                f"strategy {self.name!r} acts while decoding from layer {self.decoding.layer} on, which a language "
                f"model with {n_layers} layers does not have, or not with a layer before it"
            )
        return layer

    def read(self, n_layers: int) -> dict[int, LayerEvent]:
        """Layer -> event after it; nothing reads what an event after the last layer would leave."""
        return {layer: event for layer, event in self.placed(n_layers) if layer < n_layers - 1}

    def _first_layers(self, n_layers: int) -> list[int | None]:
        if self.reference_layers is None:
            layers = [_counted(event.after_layer, n_layers) for event in self.events]
            lasts = [None if event.until is None else _counted(event.until, n_layers) for event in self.events]
            # an event that would be repeated over no layer (of a shallow model) is left out
            pairs = zip(layers, lasts, strict=True)
            return [None if last is not None and last < first else first for first, last in pairs]
        scaled: list[int | None] = []
        earliest = 0
        for i, event in enumerate(self.events):
            wanted = round((event.after_layer + 1) * n_layers / self.reference_layers) - 1
            latest = n_layers - 2 - (len(self.events) - 1 - i)
            layer = min(max(wanted, earliest), latest)
            scaled.append(layer if layer >= 0 else None)
            earliest = max(layer, -1) + 1
        return scaled

    def begin(self, keep: tuple[int, ...], entered: tuple[int, ...], n_layers: int) -> LayerContext:
        """Return the context of a forward pass.

        Parameters
        ----------
        keep : tuple of int
            Budget of each unit.
        entered : tuple of int
            Visual tokens of each unit that enter the language model.
        n_layers : int
        """
        return LayerContext(keep, entered, entered, n_layers, tuple(layer for layer, _ in self.placed(n_layers)))

    def measure(self, features: Features, context: LayerContext) -> LayerContext:
        """Take the measures of the embeddings that enter the language model."""
        return replace(context, measured={measure.name: measure.measure(features) for measure in self.measures})

    def before_counts(self, keep: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[int, ...]:
        """Tokens of each unit that ``before`` keeps; all of them without it."""
        if self.before is None:
            return sizes
        asked = self.before_rule.counts(LayerContext(keep, sizes, sizes, 0))
        return tuple(min(max(1, count), size) for count, size in zip(asked, sizes, strict=True))

    def enter(self, features: Features, keep: Keep | Budget) -> Selection:
        """Choose the tokens that enter the language model: all, or what ``before`` keeps.

        Parameters
        ----------
        features : Features
            Of the place in front of the language model.
        keep : int, float, sequence or Budget
            The budget of the whole schedule.

        Raises
        ------
        UnsupportedError
            The budget applies to frames: layers see units as they are.
        """
        budget = Budget.of(keep)
        if budget.unit == "frame":
            raise UnsupportedError(f"strategy {self.name!r} does not support unit='frame': use 'image' or 'sample'")
        sizes = tuple(features.counts())
        if self.before is not None:
            return self.before.select(features, Budget(self.before_counts(budget.counts(sizes), sizes)))
        budget.counts(sizes)  # raises where the budget does not fit
        everything = torch.arange(features.n_visual, device=features.device).expand(features.batch, -1)
        return Selection.from_order(left_aligned(everything.masked_fill(~features.valid(), -1)), features.n_visual)

    def tokens_per_layer(self, n_visual: int, n_layers: int, keep: int | float) -> tuple[int, ...]:
        """Visual tokens that each layer processes, for one unit of ``n_visual`` tokens.

        Where a rule depends on what is measured, the count is the one that it gives without a measurement.
        """
        self._need_budget()
        budget = Budget(keep).counts([n_visual])
        entered = self.before_counts(budget, (n_visual,))
        context = self.begin(budget, entered, n_layers)
        acts = dict(self.placed(n_layers))
        counts = []
        for layer in range(n_layers):
            counts.append(context.present[0])
            if layer in acts:
                context = replace(context, layer=layer)
                left = acts[layer].left(acts[layer].counts(context)[0], context.present[0])
                context = replace(context, present=(left,))
        return tuple(counts)

    def select(self, features: Features, keep: Keep | Budget, *, unit: Unit | None = None) -> Selection:
        """Choose as the only event does, given features of its place; or as ``before``, where nothing else acts.

        Raises
        ------
        UnsupportedError
            The schedule acts more than once, so one set of features cannot tell what it does.
        """
        if not self.events and self.before is not None and not self.measures:
            return self.before.select(features, keep, unit=unit)
        if len(self.events) != 1 or self.before is not None or self.measures or self.events[0].until is not None:
            raise UnsupportedError(
                f"strategy {self.name!r} acts at several places of the language model: run it with tokenprune.attach"
            )
        _, budget = self.under(Budget.of(keep, unit))
        sizes = tuple(features.counts())
        event = self.events[0]
        n_layers = self.reference_layers or event.after_layer + 2
        context = self.begin(budget.counts(sizes), sizes, n_layers)
        return event.decide(features, replace(context, layer=context.layers[0]))[0]


def from_parts(
    *,
    scorer: Scorer | None = None,
    selector: Selector = TopK(),  # noqa: B008  (immutable)
    merger: Merger | None = None,
    positions: Positions = "keep",
    name: str = "custom",
    stage: EncoderStage | None = None,
    text: TextScope | None = None,
    after_layer: int | None = None,
) -> Strategy | LayerSchedule:
    """Make a strategy of parts, in front of the language model or after one of its layers.

    Parameters
    ----------
    scorer, selector, merger, positions, name, stage, text
        As of :class:`~tokenprune.core.strategy.Strategy`.
    after_layer : int, optional
        Decoder layer (0-based; negative counts from the end) at whose output the same parts act on hidden states:
        layers up to it see all tokens. In front of the language model without one.

    Raises
    ------
    OptionTypeError
        ``after_layer`` is no whole number.
    ConfigError
        What cannot be had between layers: a rule for the budget, a stage in the encoder, a choice of text.
    """
    made = Strategy(scorer, selector, merger, positions, name, stage, text)
    if after_layer is None:
        return made
    if isinstance(after_layer, bool) or not isinstance(after_layer, int):
        raise OptionTypeError(f"after_layer must be the number of a decoder layer, got {after_layer!r}")
    if stage is not None:
        raise ConfigError(f"after_layer={after_layer}: patches leave in the encoder by 'stage'; give one of the two")
    if isinstance(selector, Adaptive):
        raise ConfigError(
            f"after_layer={after_layer}: between layers budgets are fixed; take another selector than 'adaptive'"
        )
    return LayerSchedule(name, (LayerEvent(after_layer, made),), positions=positions)


def _counted(layer: int, n_layers: int) -> int:
    return layer + n_layers if layer < 0 else layer


def reads_text(signals: frozenset[str]) -> bool:
    """Whether signals between layers say anything about text."""
    return bool(signals & {"text", "text_keys", "text_positions"})


def with_extra(features: Features, extra: Mapping[str, Tensor]) -> Features:
    """Return the features with more signals of one's own."""
    if not extra:
        return features
    own = {name: features[name] for name in features if not is_signal(name)}
    return features.replace(extra={**own, **extra})
