"""Strategies between layers, in fixed shapes: with a fixed budget every event leaves as many tokens as its rule says.

The same acts as in :mod:`tokenprune.hf.layerwise`, but nothing is read back from the device: sequences are padded
behind their ends, and where tokens stand is told by tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tokenprune.core.features import Features, is_signal, signal_of
from tokenprune.core.indexing import gather_tokens, left_aligned
from tokenprune.core.layer_kinds import LayerContext
from tokenprune.core.schedule import LayerEvent, LayerSchedule, reads_text
from tokenprune.hf.attention_tap import Tap, tapped
from tokenprune.hf.compiled.plan import NOWHERE
from tokenprune.hf.compiled.stages import Read, Units, positions_left
from tokenprune.hf.layer_signals import CAPTURED, Places, layer_signals
from tokenprune.hf.look_ahead import look_ahead
from tokenprune.hf.masks import as_taken, of_prompt
from tokenprune.hf.patching import cache_argument, replaced
from tokenprune.hf.request import Request
from tokenprune.hf.splice import rotary_at

if TYPE_CHECKING:
    from tokenprune.hf.compiled.cache import FixedCache

__all__ = ["Between", "Pass", "Stretch", "decoding", "read_prompt_between", "reading"]


@dataclass(frozen=True)
class Between:
    """What the host knows of a schedule on prompts of one shape.

    Attributes
    ----------
    schedule : LayerSchedule
    events : dict
        Layer -> event after it.
    context : LayerContext
        Before the first layer.
    text : int
        No unit has more text behind it.
    """

    schedule: LayerSchedule
    events: dict[int, LayerEvent]
    context: LayerContext
    text: int

    @classmethod
    def of(cls, request: Request, keep: tuple[int, ...], entered: tuple[int, ...], text: int) -> Between:
        """Place a request's schedule in its model."""
        assert isinstance(request.strategy, LayerSchedule)
        schedule = replace(request.strategy, positions=request.positions)
        model: Any = request.adapter.language_model
        layers = len(model.layers)
        return cls(schedule, schedule.read(layers), schedule.begin(keep, entered, layers), text)

    @property
    def key(self) -> tuple[Any, ...]:
        """What has to be equal for prompts to run through the same program."""
        return self.context.keep, self.context.entered, self.text

    @property
    def stretches(self) -> tuple[int, ...]:
        """First layers of the stretches that see the same tokens."""
        context, found = self.context, [0]
        for layer, event in self.events.items():
            context = context.at(layer)
            counts = event.counts(context)
            if counts != context.present:
                found.append(layer + 1)
            context = event.passed(counts, context)
        return tuple(found)


@dataclass(frozen=True)
class Stretch:
    """Layers that see the same tokens, which stand in front of padding.

    Attributes
    ----------
    first : int
    mask : bool Tensor, (B, M)
    positions : int64 Tensor, (R, B, M)
    source : int64 Tensor, (B, M)
        Place of each token among those that entered the language model.
    text : bool Tensor, (B, M)
    visual : int64 Tensor, (U, K)
        Places of the units' tokens, -1 as padding.
    origin : int64 Tensor, (U, K)
        Their places among the unit's tokens before any selection.
    """

    first: int
    mask: Tensor
    positions: Tensor
    source: Tensor
    text: Tensor
    visual: Tensor
    origin: Tensor


class Pass:
    """One prefill under way."""

    def __init__(self, between: Between, model: Any, units: Units, mask: Tensor, positions: Tensor) -> None:
        self.between, self.model, self.units = between, model, units
        self.context = between.context
        source = torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)
        self.stretches = [Stretch(0, mask, positions, source, units.text, units.places, units.origin)]
        self.captured: dict[str, Tensor] = {}
        self._sliced: dict[str, Any] = {}
        self._stand: tuple[Stretch, Places] | None = None

    @property
    def skipped(self) -> int:
        """How many of the first layers another program has run."""
        return 0

    @property
    def single(self) -> bool:
        """Whether every sample has one unit, in order."""
        return self.units.owners == tuple(range(self.now.mask.shape[0]))

    @property
    def now(self) -> Stretch:
        """The stretch of the layer that runs next."""
        return self.stretches[-1]

    def measure(self, embeds: Tensor) -> None:
        """Take the schedule's measures of what enters."""
        measures = self.between.schedule.measures
        if measures:
            needs = frozenset().union(*(measure.required_signals() for measure in measures))
            features = self.features(needs, embeds, reads_text(needs))
            self.context = self.between.schedule.measure(features, self.context)

    def before_layer(
        self, number: int, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Act between layers, and give a layer what belongs to the tokens that are left."""
        hidden = args[0] if args else kwargs["hidden_states"]
        if number - 1 in self.between.events:
            self._look_ahead(number, hidden, kwargs)
            hidden = self.act(number - 1, hidden)
        if self.now.first == 0:
            return None
        if not self._sliced:
            self._sliced = self._changes(hidden, kwargs)
        if args:
            return (hidden, *args[1:]), {**kwargs, **self._sliced}
        return args, {**kwargs, **self._sliced, "hidden_states": hidden}

    def _look_ahead(self, number: int, hidden: Tensor, kwargs: dict[str, Any]) -> None:
        """Note what the event in front of a layer reads of that layer, if it does."""
        event = self.between.events[number - 1]
        if not event.ahead:
            return
        if self.now.first > 0 and not self._sliced:
            self._sliced = self._changes(hidden, kwargs)
        layer = self.model.layers[number]
        ahead = look_ahead(self.model.config, layer, hidden, {**kwargs, **self._sliced})
        self.captured = layer_signals(self._places(), self.now.mask, event, *ahead)

    def tap(self, event: LayerEvent, query: Tensor, key: Tensor, scaling: float, more: Mapping[str, Any]) -> None:
        """Note what an event reads of the layer before it."""
        places, mask = self._places(), self.now.mask
        self.captured = layer_signals(places, mask, event, query, key, scaling, more.get("softcap"))

    def deepstack(self, hidden: Tensor, _places: Tensor, features: Tensor) -> Tensor:
        """Add features of earlier encoder layers to the tokens that are left."""
        return hidden + gather_tokens(features, self.now.source).to(hidden.dtype)

    def _places(self) -> Places:
        if self._stand is not None and self._stand[0] is self.now:
            return self._stand[1]
        now, rows = self.now, self.units.rows
        end = now.visual.amax(1, keepdim=True)
        place = torch.arange(now.mask.shape[1], device=now.mask.device)
        behind = now.text[rows] & (place > end)
        text = place.where(behind, NOWHERE).sort(1).values[:, : self.between.text]
        text = text.where(text < NOWHERE, -1)
        last = torch.maximum(end, text.amax(1, keepdim=True))
        return self.stand(Places(rows, now.visual, text, last, self.single))

    def stand(self, places: Places) -> Places:
        """Note where tokens of this stretch stand."""
        self._stand = self.now, places
        return places

    def features(self, needs: frozenset[str], states: Tensor, text: bool, *, bare: bool = False) -> Features:
        """What a strategy or a measure that ``needs`` some signals may look at between layers.

        Parameters
        ----------
        needs : frozenset of str
        states : Tensor, (B, M, d)
        text : bool
            Whether text behind the units is looked at.
        bare : bool, default False
            Tokens that are not among the needs are not looked up; there are as many, of width 1.
        """
        places = self._places()
        bare = bare and not needs & {"visual", "text"}
        given: dict[str, Any] = {}
        extra: dict[str, Tensor] = {}
        for name, value in self.captured.items():
            (given if is_signal(name) else extra)[name] = value
        if text:
            given["text"] = _nothing(states, places.text) if bare else places.of(states, places.text)
        ids = self.now.positions[-1].unsqueeze(-1)
        if "visual_positions" in needs:
            extra["visual_positions"] = places.of(ids, places.visual).squeeze(-1)
        if "text_positions" in needs:
            extra["text_positions"] = places.of(ids, places.text).squeeze(-1)
        if "rope_frequencies" in needs:
            extra["rope_frequencies"] = self.model.rotary_emb.inv_freq.expand(len(places.rows), -1)
        for name in sorted(needs & self.units.signals.keys()):
            letters = signal_of(name).shape.split()
            axis = letters.index("n") if "n" in letters else None
            signal = self.units.signals[name]
            if axis is not None:
                signal = gather_tokens(signal.movedim(axis, 1), self.now.origin).movedim(1, axis)
            given[name] = signal
        sizes = self.context.present if self.sized else None
        return Features(
            _nothing(states, places.visual) if bare else places.of(states, places.visual),
            visual_mask=places.visual >= 0 if sizes is None or len(set(sizes)) > 1 else None,
            text_mask=places.text >= 0 if "text" in given else None,
            extra=extra,
            check=False,
            sizes=sizes,
            **given,
        )

    @property
    def sized(self) -> bool:
        """Whether the host knows how many tokens there are, and not only for how many there is room."""
        return True

    def read(self, head: Any, hidden: Tensor) -> Read:
        """What the last layer's states say, and where tokens stand in the caches."""
        last = (self.now.mask.sum(1) - 1).view(-1, 1, 1).expand(-1, 1, hidden.shape[-1])
        logits = head(hidden.gather(1, last)[:, 0])
        return Read(logits, tuple(s.mask for s in self.stretches), tuple(s.positions for s in self.stretches))

    def act(self, layer: int, hidden: Tensor) -> Tensor:
        """Let the event after a layer choose, and give the next one what is left."""
        event, before = self.between.events[layer], self.context.present
        features = self.features_of(event, hidden)
        self.context = replace(self.context, layer=layer)
        idle = event.counts(self.context) == before
        selection, self.context = event.choose(features, self.context)
        self.captured = {}
        if idle:
            return hidden
        made = None if selection.merged is None else selection.merged.tokens
        return self.shortened(layer, hidden, selection.sequence, made, before)

    def features_of(self, event: LayerEvent, hidden: Tensor) -> Features:
        """What an event reads of hidden states and of the layer that has just run."""
        states = self.model.norm(hidden) if event.normed else hidden
        return self.features(event.requires, states, event.reads_text)

    def shortened(
        self,
        layer: int,
        hidden: Tensor,
        sequence: Tensor,
        made: Tensor | None,
        before: tuple[int, ...],
        *,
        aligned: bool = False,
    ) -> Tensor:
        """The tokens that go on: those of each unit at ``sequence`` (U, K), -1 as padding, and all others.

        ``made`` (U, K, d) stand in their places. ``before`` says for how many of each unit there was room, ``aligned``
        that padding comes last.
        """
        now, rows = self.now, self.units.rows
        batch, length = now.mask.shape
        # kept tokens stand where kept tokens of their unit stood, in the order of the sequence
        if made is not None and not aligned:
            order = (sequence < 0).to(torch.int8).argsort(dim=1, stable=True)
            made = made.gather(1, order.unsqueeze(-1).expand_as(made))
        sequence = sequence if aligned else left_aligned(sequence)
        taken = gather_tokens(now.visual, sequence).masked_fill(sequence < 0, NOWHERE)
        seats = taken.sort(1).values
        place = torch.arange(length, device=hidden.device)
        spare = torch.full((batch, length + 1), NOWHERE, device=hidden.device)  # one place more, for padding
        spare[:, :length] = place.where(now.mask, NOWHERE)
        gone = now.visual.where(now.visual >= 0, length)
        spare = spare.index_put((rows.unsqueeze(1), gone), spare.new_full((), NOWHERE))
        spare = spare.index_put((rows.unsqueeze(1), seats.clamp_max(length)), seats)
        keys = spare[:, :length]
        source = torch.cat([place.expand(batch, -1), keys.new_zeros(batch, 1)], 1)
        source = source.index_put((rows.unsqueeze(1), seats.clamp_max(length)), taken.clamp_max(length - 1))
        width = length - min(self._dropped(before))
        order = keys.argsort(dim=1, stable=True)
        mask = keys.gather(1, order)[:, :width] < NOWHERE
        index = source[:, :length].gather(1, order)[:, :width]
        inverse = torch.cat([order.argsort(dim=1), order.new_full((batch, 1), -1)], 1)
        visual = inverse[rows.unsqueeze(1), seats.clamp_max(length)]
        after = Stretch(
            layer + 1,
            mask,
            positions_left(now.positions.gather(2, index.expand(len(now.positions), -1, -1)), mask, self._how),
            now.source.gather(1, index),
            now.text.gather(1, index) & mask,
            visual,
            gather_tokens(now.origin, sequence).masked_fill(sequence < 0, -1),
        )
        self.follow(after)
        hidden = gather_tokens(hidden, index)
        if made is not None:
            kept = torch.cat([hidden, hidden.new_zeros(batch, 1, hidden.shape[-1])], 1)
            here = visual.where(visual >= 0, width)
            hidden = kept.index_put((rows.unsqueeze(1), here), made.to(hidden.dtype))[:, :width]
        return hidden

    def follow(self, after: Stretch) -> None:
        """Go on with the next stretch."""
        self.stretches.append(after)
        self._sliced = {}

    @property
    def _how(self) -> str:
        return self.between.schedule.positions_inside

    def _dropped(self, before: tuple[int, ...]) -> list[int]:
        """Tokens that each sample loses."""
        lost: dict[int, int] = dict.fromkeys(range(self.now.mask.shape[0]), 0)
        for row, old, new in zip(self.units.owners, before, self.context.present, strict=True):
            lost[row] += old - new
        return list(lost.values())

    def _changes(self, hidden: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Rotary embeddings, position ids and mask of the tokens that are left."""
        now, positions = self.now, self.now.positions
        plain = positions[0] if len(positions) == 1 else positions
        if self.between.schedule.positions == self._how == "compact" and len(positions) == 1:
            # consecutive from the start, so what belongs to them has been made
            place = (positions[0] - self.stretches[0].positions[0, :, :1]).unsqueeze(-1)
            tables = (part.expand(len(place), -1, -1) for part in kwargs["position_embeddings"])
            rotary = tuple(table.gather(1, place.expand(-1, -1, table.shape[-1])) for table in tables)
        elif self._how == "compact" and len(positions) == 1:
            rotary = self.model.rotary_emb(hidden, position_ids=plain)
        else:
            rotary = tuple(rotary_at(part, now.source) for part in kwargs["position_embeddings"])
        return {
            "position_embeddings": rotary,
            "position_ids": plain,
            "attention_mask": of_prompt(self.model.config, now.mask, hidden.dtype),
        }


def _nothing(states: Tensor, places: Tensor) -> Tensor:
    """As many tokens as there are places, of width 1: for what is not looked at."""
    return states.new_zeros(1, 1, 1).expand(*places.shape, 1)


def _passing(hidden_states: Tensor, *_args: Any, **_more: Any) -> Tensor:
    """A layer that another program has run."""
    return hidden_states


def read_prompt_between(
    request: Request, cache: FixedCache, between: Between, owners: tuple[int, ...]
) -> Callable[..., Read]:
    """The prefill: a function of :attr:`Prompt.tensors` that acts between layers and fills the cache.

    Parameters
    ----------
    request : Request
    cache : FixedCache
    between : Between
    owners : tuple of int
        The sample of each unit.
    """
    model: Any = request.adapter.language_model
    head = request.adapter.model.get_output_embeddings()

    def prefill(embeds: Tensor, mask: Tensor, positions: Tensor, **more: Tensor) -> Read:
        run = Pass(between, model, Units.recalled(more, owners), mask, positions)
        run.measure(embeds)
        return run.read(head, reading(run, cache, embeds, mask, positions, more))

    return prefill


def reading(
    run: Pass, cache: FixedCache, embeds: Tensor, mask: Tensor, positions: Tensor, more: Mapping[str, Tensor]
) -> Tensor:
    """Hidden states behind the last layer of prompts (:attr:`Prompt.tensors`) that a pass acts on."""
    model = run.model
    deepstack = [value for key, value in more.items() if key.startswith("deepstack_")]
    extra: dict[str, Any] = {cache_argument(model): cache}
    if (own := of_prompt(model.config, mask, embeds.dtype)) is not None:
        extra["attention_mask"] = own
    if deepstack:
        extra |= {"visual_pos_masks": mask, "deepstack_visual_embeds": deepstack}
    with _acting(run, model):
        hidden: Tensor = model(
            inputs_embeds=embeds,
            position_ids=positions[0] if len(positions) == 1 else positions,
            use_cache=True,
            **extra,
        ).last_hidden_state
    return hidden


@contextmanager
def _acting(run: Pass, model: Any) -> Iterator[None]:
    with ExitStack() as stack:
        for number, layer in enumerate(model.layers):
            hook = layer.register_forward_pre_hook(partial(run.before_layer, number), with_kwargs=True)
            stack.callback(hook.remove)
            if number < run.skipped:
                stack.enter_context(replaced(vars(layer), "forward", _passing))
        if hasattr(model, "_deepstack_process"):
            stack.enter_context(replaced(vars(model), "_deepstack_process", run.deepstack))
        taps: dict[nn.Module, Tap] = {
            model.layers[layer].get_submodule("self_attn"): partial(run.tap, event)
            for layer, event in run.between.events.items()
            if event.requires & CAPTURED and not event.ahead
        }
        stack.enter_context(tapped(model.config, taps))
        yield


def decoding(
    model: Any, firsts: tuple[int, ...], seen: tuple[Tensor, ...], places: tuple[Tensor, ...], *, compact: bool
) -> Callable[[], Any]:
    """Hooks for a decoding step: each stretch looks at its own tokens, and counts its own positions if ``compact``."""

    def hook(
        stretch: int, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        hidden = args[0] if args else kwargs["hidden_states"]
        changes: dict[str, Any] = {"attention_mask": as_taken(model.config, seen[stretch], hidden.dtype)}
        if compact:
            changes["position_ids"] = places[stretch]
            changes["position_embeddings"] = model.rotary_emb(hidden, position_ids=places[stretch])
        return args, {**kwargs, **changes}

    @contextmanager
    def hooked() -> Iterator[None]:
        with ExitStack() as stack:
            for number, layer in enumerate(model.layers):
                stretch = sum(first <= number for first in firsts) - 1
                if stretch:
                    handle = layer.register_forward_pre_hook(partial(hook, stretch), with_kwargs=True)
                    stack.callback(handle.remove)
            yield

    return hooked
