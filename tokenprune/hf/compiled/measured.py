"""Strategies between layers whose counts follow from what they measure, in fixed shapes.

One program runs up to the last measurement, and the host reads what was found: a few numbers for each unit. All counts
follow from them. A second program goes on from there in rooms that hold the counts of any picture, and is told by a
tensor how many tokens stay after each layer; what is behind them is masked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tokenprune.components.layerwise.attention import AttentionRows
from tokenprune.components.layerwise.recycle import Recycle
from tokenprune.core.features import Features
from tokenprune.core.indexing import as_mask, gather_tokens
from tokenprune.core.kinds import Scorer
from tokenprune.core.layer_kinds import Counted, LayerContext
from tokenprune.core.ranking import TopK, relevance, top_k
from tokenprune.core.schedule import LayerEvent, LayerSchedule, with_extra
from tokenprune.hf.compiled.between import Between, Pass, Stretch, reading
from tokenprune.hf.compiled.plan import round_up
from tokenprune.hf.compiled.stages import Read, Units
from tokenprune.hf.layer_signals import Places
from tokenprune.hf.request import Request
from tokenprune.kernels import usable

if TYPE_CHECKING:  # transformers takes seconds to import
    from tokenprune.hf.compiled.cache import FixedCache

__all__ = ["Begun", "Counting", "Rooms", "measure_prompt", "read_counted", "unknown"]

ROOM = 8
"""Rooms are multiples of this."""

MOST_ROWS = 128
"""Longer texts likewise."""

SPOKEN = "spoken"
"""Under which scores of all places are noted."""

WIDTH = 32
"""Shortened sequences are padded to multiples of this: matrix products of other lengths find slower kernels."""

LONGEST = 2048
"""Longer sequences are shortened by tensor operations: one multiprocessor does all of it."""


def unknown(schedule: LayerSchedule) -> str | None:
    """Why the counts of a schedule cannot be told to a program; None where they can, or follow from budgets alone."""
    if schedule.follows:
        return None
    last = max((number for number, event in enumerate(schedule.events) if event.measures), default=-1)
    told = [event for number, event in enumerate(schedule.events) if number >= last]
    early = schedule.events[: max(last, 0)]
    if not schedule.before_rule.follows or not all(event.rule.follows for event in early):
        return f"strategy {schedule.name!r} keeps as many tokens as what it measures says, before it has measured all"
    for event in told:
        strategy = event.strategy
        plain = type(strategy.selector) is TopK and isinstance(strategy.scorer, Scorer)
        counted = strategy.merger is None or isinstance(strategy.merger, Counted)
        if event.ahead or not plain or not counted or not (event.rule.follows or event.rule.examples(1)):
            return f"strategy {schedule.name!r} keeps as many tokens as what it measures says, in parts not made for it"
    return None


@dataclass(frozen=True)
class Rooms:
    """For how many tokens there is room after each event whose counts are told.

    Attributes
    ----------
    left : tuple of tuple of int
        Tokens of each unit, for each event.
    recycled, added : tuple of int
        Tokens that a merger uses and makes, of no unit more.
    """

    left: tuple[tuple[int, ...], ...]
    recycled: tuple[int, ...]
    added: tuple[int, ...]

    def hold(self, other: Rooms) -> bool:
        """Whether there is room for all of the other's."""
        return self.with_room_for(other) == self

    def with_room_for(self, other: Rooms) -> Rooms:
        """The larger of both everywhere."""
        left = tuple(tuple(map(max, *pair)) for pair in zip(self.left, other.left, strict=True))
        return Rooms(left, tuple(map(max, self.recycled, other.recycled)), tuple(map(max, self.added, other.added)))

    def rounded(self, most: tuple[int, ...]) -> Rooms:
        """Multiples of ``ROOM``, though no more than there are tokens."""
        return Rooms(
            tuple(tuple(map(min, most, (round_up(n, ROOM) for n in row))) for row in self.left),
            tuple(round_up(n, ROOM) for n in self.recycled),
            self.added,
        )


@dataclass(frozen=True)
class Counting:
    """What the host does between both programs.

    Attributes
    ----------
    between : Between
    measured_at : int
        The layer after which everything has been measured.
    context : LayerContext
        Right after that layer, less what was measured.
    """

    between: Between
    measured_at: int
    context: LayerContext

    @classmethod
    def of(cls, between: Between) -> Counting | None:
        """None where counts follow from budgets alone."""
        if between.schedule.follows:
            return None
        events = between.events
        last = max((layer for layer, event in events.items() if event.measures), default=-1)
        context = between.context
        for layer, event in events.items():
            if layer >= last:
                break
            context = context.at(layer)
            context = event.passed(event.counts(context), context)
        return cls(between, last, context)

    @property
    def told(self) -> dict[int, LayerEvent]:
        """Layers and events whose counts are told."""
        return {layer: event for layer, event in self.between.events.items() if layer >= self.measured_at}

    @property
    def firsts(self) -> tuple[int, ...]:
        """First layers of stretches that may see other tokens than the one before."""
        known = (
            {0} if self.measured_at <= 0 else {first for first in self.between.stretches if first <= self.measured_at}
        )
        return tuple(sorted(known | {layer + 1 for layer in self.told}))

    def counts(self, measured: Mapping[str, Tensor]) -> tuple[Tensor, Rooms]:
        """What follows from measurements.

        Parameters
        ----------
        measured : mapping of str to Tensor
            On the host.

        Returns
        -------
        counts : int64 Tensor, (3, E, U)
            Tokens that each event keeps of each unit, those dropped that a merger uses, and those that it makes.
        rooms : Rooms
            What they need.
        """
        context = replace(self.context, measured=measured)
        kept, used, made, lefts = [], [], [], []
        for layer, event in self.told.items():
            context = context.at(layer)
            counts, merger = event.counts(context), event.strategy.merger
            dropped = [present - count for count, present in zip(counts, context.present, strict=True)]
            told = merger if isinstance(merger, Counted) else None
            used.append([0 if told is None else told.recycled(n) for n in dropped])
            made.append([0 if told is None else told.added(n) for n in dropped])
            kept.append(list(counts))
            context = event.passed(counts, context)
            lefts.append(context.present)
        rooms = Rooms(tuple(lefts), tuple(map(max, used)), tuple(map(max, made)))
        return torch.tensor([kept, used, made]), rooms

    def rooms(self) -> Rooms:
        """Rooms for any measurements, as far as rules tell by examples."""
        rules = dict.fromkeys(event.rule for event in self.told.values())
        examples = [example for rule in rules for example in rule.examples(len(self.context.keep))]
        found = [self.counts(measured)[1] for measured in examples or [{}]]
        rooms = found[0]
        for other in found[1:]:
            rooms = rooms.with_room_for(other)
        return rooms


class _Enough(Exception):
    """Everything has been measured: no further layer is needed."""


@dataclass(frozen=True)
class Begun:
    """A prefill up to where everything has been measured: what a program leaves to the next one.

    Attributes
    ----------
    measured : dict of str to Tensor
    hidden : Tensor, (B, M, d), or None
        Before the event that measures; None where nothing of the language model has run.
    stretches : tuple of Stretch
    captured : dict of str to Tensor
        What that event reads of the layer before it.
    """

    measured: dict[str, Tensor]
    hidden: Tensor | None = None
    stretches: tuple[Stretch, ...] = ()
    captured: dict[str, Tensor] = field(default_factory=dict)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What the next program reads, by name."""
        if self.hidden is None:
            return {}
        found = {"begun hidden": self.hidden}
        for number, stretch in enumerate(self.stretches):
            found |= {f"begun {number} {name}": getattr(stretch, name) for name in _SEEN}
        return found | {f"captured {name}": value for name, value in self.captured.items()}

    def recalled(self, given: Mapping[str, Tensor]) -> Begun:
        """The same with what a program was given for :attr:`tensors`."""
        if self.hidden is None:
            return self
        stretches = tuple(
            Stretch(stretch.first, *(given[f"begun {number} {name}"] for name in _SEEN))
            for number, stretch in enumerate(self.stretches)
        )
        captured = {name: given[f"captured {name}"] for name in self.captured}
        return Begun(self.measured, given["begun hidden"], stretches, captured)


_SEEN = tuple(f.name for f in fields(Stretch)[1:])
"""Tensors of a stretch; its number of the first layer comes first."""


class _Measuring(Pass):
    """A prefill that ends when everything has been measured."""

    last: int
    begun: Begun

    def act(self, layer: int, hidden: Tensor) -> Tensor:
        """Act as ever, or measure."""
        if layer < self.last:
            return super().act(layer, hidden)
        event = self.between.events[layer]
        features = self.features_of(event, hidden)
        found = dict(self.context.measured)
        for measure in event.measures:
            features = with_extra(features, found)
            found[measure.name] = measure.measure(features)
        self.begun = Begun(found, hidden, tuple(self.stretches), self.captured)
        raise _Enough


class _Told(Pass):
    """A prefill that goes on from there, told how many tokens to keep."""

    first: int
    told: dict[int, LayerEvent]
    counts: Tensor
    rooms: Rooms
    hidden: Tensor | None
    layer: int = -1
    _sequence: tuple[Stretch, Any] | None = None

    def take(self, begun: Begun, present: tuple[int, ...]) -> None:
        """Go on from what another program has done, which left so many tokens of each unit."""
        self.hidden = begun.hidden
        if begun.hidden is not None:
            self.stretches, self.captured = list(begun.stretches), dict(begun.captured)
            self.context = replace(self.context, present=present)

    @property
    def skipped(self) -> int:
        """Layers up to where all was measured."""
        return 0 if self.hidden is None else self.first + 1

    @property
    def sized(self) -> bool:
        """Whether the host knows how many tokens there are."""
        return len(self.stretches) == 1 or self.now.first <= self.first

    def before_layer(
        self, number: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Act, on hidden states of the program before where it has run the layers."""
        self.layer = number
        if self.hidden is not None and number <= self.skipped:
            args = (self.hidden, *args[1:]) if args else args
            kwargs = kwargs if args else {**kwargs, "hidden_states": self.hidden}
            if number < self.skipped:
                return args, kwargs
        return super().before_layer(number, module, args, kwargs) or (args, kwargs)

    def tap(self, event: LayerEvent, query: Tensor, key: Tensor, scaling: float, more: Mapping[str, Any]) -> None:
        """Note what an event reads of the layer before it: no more than scores, where that is all."""
        soft = more.get("softcap") is not None
        if soft or self.layer < self.first or not self._at_once(event, self.layer, query):
            super().tap(event, query, key, scaling, more)
            return
        from tokenprune.kernels.spoken import spoken  # needs Triton

        rows = self.sequence.rows
        if event.rows == "last":
            rows = rows[:, -1:]
        paid = spoken(query, key, rows, self.sequence.behind if event.rows == "text" else rows, scaling)
        self.captured = {SPOKEN: paid}

    def act(self, layer: int, hidden: Tensor) -> Tensor:
        """Act as ever, or by the tensor."""
        if layer < self.first:
            return super().act(layer, hidden)
        number = list(self.told).index(layer)
        event, before = self.told[layer], self.context.present
        if self._at_once(event, layer, hidden):
            return self._shortened_at_once(layer, event, number, hidden)
        features = self.features_of(event, hidden)
        measured = dict(self.context.measured)
        for measure in event.measures:
            if measure.name in event.strategy.requires:
                measured[measure.name] = measure.measure(with_extra(features, measured))
        self.context = replace(self.context, layer=layer, measured=measured, present=self.rooms.left[number])
        self.captured = {}
        sequence, made = self._chosen(with_extra(features, measured), event, number)
        return self.shortened(layer, hidden, sequence, made, before, aligned=True)

    def _at_once(self, event: LayerEvent, layer: int, like: Tensor) -> bool:
        """Whether programs of :mod:`tokenprune.kernels.shortening` do all that an event does."""
        strategy, merger, now = event.strategy, event.strategy.merger, self.now
        heard = strategy.scorer == AttentionRows() and type(strategy.scorer) is AttentionRows and not event.ahead
        plain = merger is None or (type(merger) is Recycle and merger.scorer == strategy.scorer)
        compact = self._how == "compact" and len(now.positions) == 1
        number = list(self.told).index(layer)
        fits = now.mask.shape[1] <= LONGEST and self.rooms.added[number] <= 1 and 0 < self.between.text <= MOST_ROWS
        return heard and plain and compact and fits and self.single and usable(like)

    @property
    def sequence(self) -> Any:
        """Where tokens stand, as those programs have it."""
        now, places = self.now, self._places()
        if self._sequence is None or self._sequence[0] is not now:
            from tokenprune.kernels.shortening import Sequence  # needs Triton

            length = now.mask.shape[1]
            order = torch.arange(now.visual.shape[1], device=now.mask.device).expand(now.visual.shape)
            order = order.where(now.visual >= 0, -1)
            numbers = order.new_full((len(order), length + 1), -1)
            numbers = numbers.scatter(1, now.visual.where(now.visual >= 0, length), order)[:, :length]
            rows = places.text.where(places.text >= 0, places.last)
            own = (now.mask, now.text, now.source, now.positions[0], numbers, now.visual, now.origin)
            self._sequence = now, Sequence(*own, places.text, rows)
        return self._sequence[1]

    def _shortened_at_once(self, layer: int, event: LayerEvent, number: int, hidden: Tensor) -> Tensor:
        from tokenprune.kernels.shortening import shortened  # needs Triton

        assert event.strategy.scorer is not None
        before, now = self.context.present, self.now
        if SPOKEN in self.captured:
            scores = self.captured[SPOKEN]
        else:  # the program before saw the layer
            features = self.features(event.requires, hidden, event.reads_text, bare=True)
            own = relevance(event.strategy.scorer, features).float()
            scores = own.gather(1, self.sequence.number.clamp_min(0))
        self.context = replace(self.context, layer=layer, present=self.rooms.left[number])
        self.captured = {}
        after, hidden = shortened(
            self.sequence,
            hidden,
            scores,
            self.counts[:, number],
            room=max(self.rooms.left[number]),
            width=min(now.mask.shape[1], round_up(now.mask.shape[1] - min(self._dropped(before)), WIDTH)),
            most=self.rooms.recycled[number],
        )
        positions = after.positions.unsqueeze(0)
        self.follow(
            Stretch(layer + 1, after.mask, positions, after.source, after.text, after.visual, after.origin),
        )
        self.stand(Places(self.units.rows, after.visual, after.behind, after.rows[:, -1:], single=True))
        self._sequence = self.now, after
        return hidden

    def _chosen(self, features: Features, event: LayerEvent, number: int) -> tuple[Tensor, Tensor | None]:
        """Places that stay (U, K) in order, -1 as padding, and the tokens there where a merger makes some."""
        count, recycled, added = self.counts[:, number].unsqueeze(-1)
        strategy, merger = event.strategy, event.strategy.merger
        assert strategy.scorer is not None
        room, n = max(self.rooms.left[number]), features.n_visual
        with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
            valid = features.valid()
            place = torch.arange(n, device=valid.device)
            order = _ranked(strategy.scorer, features, valid)
            kept = as_mask(order.masked_fill(place >= count, -1), n)
            stays = place.where(kept, n).sort(1).values
            sequence = stays.where(stays < n, -1)
            used, most = self.rooms.recycled[number], self.rooms.added[number]
            if not isinstance(merger, Counted) or not most:
                return sequence[:, :room], None
            if merger.scorer != strategy.scorer:
                order = _ranked(merger.scorer, features, valid & ~kept)
                count = torch.zeros_like(count)
            number_of = torch.arange(used, device=valid.device)
            best = order.gather(1, (count + number_of).clamp_max(n - 1)).masked_fill(number_of >= recycled, -1)
            means, source = merger.additions(features, best, added.squeeze(-1), most)
            # the means stand right behind what was kept
            sequence = torch.cat([sequence, source.new_full((len(source), most), -1)], 1)
            behind = (count if merger.scorer == strategy.scorer else kept.sum(1, keepdim=True)) + torch.arange(
                most, device=valid.device
            )
            sequence = sequence.scatter(1, behind, source)[:, :room]
            tokens = gather_tokens(features.visual, sequence).to(means.dtype)
            mine = (torch.arange(room, device=valid.device) - behind[:, :1]).unsqueeze(-1)
            made = means.gather(1, mine.clamp(0, most - 1).expand(-1, -1, means.shape[2]))
            return sequence, torch.where((mine >= 0) & (mine < most), made, tokens)


def _ranked(scorer: Scorer, features: Features, available: Tensor) -> Tensor:
    """All tokens, best first, what is not available last: (U, K)."""
    return top_k(relevance(scorer, features), (features.n_visual,) * features.batch, available)


def measure_prompt(
    request: Request, cache: FixedCache, counting: Counting, owners: tuple[int, ...]
) -> Callable[..., Begun]:
    """The prefill up to the last measurement: a function of :attr:`~tokenprune.hf.compiled.stages.Prompt.tensors`."""
    adapter = request.adapter

    def measured(embeds: Tensor, mask: Tensor, positions: Tensor, **more: Tensor) -> Begun:
        run = _Measuring(counting.between, adapter.language_model, Units.recalled(more, owners), mask, positions)
        run.last = counting.measured_at
        run.measure(embeds)
        if counting.measured_at < 0:
            return Begun(dict(run.context.measured))
        with suppress(_Enough):
            reading(run, cache, embeds, mask, positions, more)
        return run.begun

    return measured


def read_counted(
    request: Request, cache: FixedCache, counting: Counting, rooms: Rooms, owners: tuple[int, ...], begun: Begun
) -> Callable[..., Read]:
    """The rest of it: a function of the prompt's tensors, :attr:`Begun.tensors` and ``counts``."""
    adapter = request.adapter
    head: Any = adapter.model.get_output_embeddings()

    def prefill(embeds: Tensor, mask: Tensor, positions: Tensor, counts: Tensor, **more: Tensor) -> Read:
        run = _Told(counting.between, adapter.language_model, Units.recalled(more, owners), mask, positions)
        run.first, run.told = counting.measured_at, counting.told
        run.counts, run.rooms = counts, rooms
        run.measure(embeds)
        run.take(begun.recalled(more), counting.context.present)
        hidden = reading(run, cache, embeds, mask, positions, more)
        return run.read(head, hidden)

    return prefill
