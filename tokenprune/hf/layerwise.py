"""Prune between decoder layers of a stock transformers model.

A pre-hook on every decoder layer re-slices what the layer is given: hidden states right after an event, and from then
on rotary embeddings, position ids and mask, because the model hands every layer those of its whole input. Attention
rows and keys come from a registered attention function that wraps the model's own and multiplies out only the rows
that an event asked for; nothing else runs differently, and no whole attention map exists.

Each layer's cache simply holds what the layer saw. The stretch of layers between two events is a
:class:`~tokenprune.hf.segments.Segment`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune.core.errors import FeatureError, UnsupportedError
from tokenprune.core.features import Features, is_signal
from tokenprune.core.indexing import to_batch
from tokenprune.core.layer_kinds import LayerContext
from tokenprune.core.schedule import LAYER_SIGNALS, LayerEvent, LayerSchedule, reads_text
from tokenprune.hf.adapters.base import ModelAdapter
from tokenprune.hf.attention_tap import Tap, implementation, tapped
from tokenprune.hf.decoding import Decoding
from tokenprune.hf.layer_signals import CAPTURED, Places, layer_signals
from tokenprune.hf.look_ahead import can_look_ahead, look_ahead
from tokenprune.hf.masks import as_taken, causal_over, narrow_layers
from tokenprune.hf.patching import Hook, cache_in, standing_in
from tokenprune.hf.record import Stage
from tokenprune.hf.segments import Entered, Outcome, Segment, forgotten, parts_of, per_sample, places_in, still_there
from tokenprune.hf.splice import Layout, Splice, rotary_at, splice

__all__ = ["LayerHooks"]


@dataclass
class _Forward:
    """One prompt under way: what changes from layer to layer of a prefill, and what decoding needs of it later."""

    entered: Entered | None
    context: LayerContext
    segments: list[Segment]
    origin: list[Tensor]
    stages: list[Stage] = field(default_factory=list)
    capture: _Capture | None = None
    done: int | None = None
    """Tokens decoded since the prompt; None during the prefill."""
    decoding: Decoding | None = None
    forgotten: Tensor | None = None
    """Tokens that entered and that no layer looks at while decoding, bool (B, M)."""


class LayerHooks:
    """One schedule on one model, for the time of an ``attach`` block.

    Parameters
    ----------
    schedule : LayerSchedule
    adapter : ModelAdapter

    Raises
    ------
    UnsupportedError
        The language model's layers, its attention, or their number do not fit.
    """

    def __init__(self, schedule: LayerSchedule, adapter: ModelAdapter) -> None:
        self.schedule = schedule
        model: Any = adapter.language_model
        self.model = model
        self.layers: list[nn.Module] = list(self.model.layers)
        self.events = schedule.read(len(self.layers))
        self.decode_layer = schedule.decoding_layer(len(self.layers))
        self.forward: _Forward | None = None
        self._check()

    def _check(self) -> None:
        config, name = self.model.config, self.schedule.name
        if kinds := narrow_layers(config):
            raise UnsupportedError(
                f"strategy {name!r} acts between layers, which needs full attention in all of them; this language "
                f"model has {kinds}. Strategies that act before the language model work"
            )
        if implementation(config) == "flex_attention":
            raise UnsupportedError(f"strategy {name!r} needs attention 'sdpa', 'eager' or flash, not 'flex_attention'")
        if any(event.ahead and not can_look_ahead(self.layers[n + 1]) for n, event in self.events.items()):
            raise UnsupportedError(
                f"strategy {name!r} asks a layer what it would attend to, which {type(self.layers[0]).__name__} does "
                "not tell (no input_layernorm or self_attn). Strategies that read layers that have run work"
            )

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Hook the decoder layers and, where an event reads attention or keys, wrap the attention function."""
        with ExitStack() as stack:
            stack.callback(self.rest)
            for number, layer in enumerate(self.layers):
                hook = partial(self._before_layer, number)
                stack.callback(layer.register_forward_pre_hook(Hook(hook), with_kwargs=True).remove)
            if (deepstack := getattr(self.model, "_deepstack_process", None)) is not None:
                mine = partial(self._deepstack, deepstack)
                stack.enter_context(standing_in(self.model, "_deepstack_process", mine))
            asked = {n for n, event in self.events.items() if event.requires & CAPTURED and not event.ahead}
            asked |= set() if self.decode_layer is None else {self.decode_layer - 1}
            if asked:
                taps: dict[nn.Module, Tap] = {self.layers[n].get_submodule("self_attn"): self._capture for n in asked}
                stack.enter_context(tapped(self.model.config, taps))
            yield

    def rest(self) -> None:
        """Prune nothing in the forward passes that follow."""
        self.forward = None

    def begin(self, entered: Entered) -> None:
        """Take up a new prompt; the language model's forward pass follows."""
        sizes = tuple(len(origin) for origin in entered.origin)
        context = self.schedule.begin(entered.keep, sizes, len(self.layers))
        batch, length = entered.layout.mask.shape
        source = torch.arange(length, device=entered.embeds.device).expand(batch, -1)
        base = Segment(0, source, entered.layout, entered.positions)
        self.forward = _Forward(entered, context, [base], list(entered.origin))
        if self.schedule.measures:
            needs = frozenset().union(*(measure.required_signals() for measure in self.schedule.measures))
            features = self._features(needs, entered.embeds, base, self.forward, None)
            self.forward.context = self.schedule.measure(features, context)

    def resume(self, done: int) -> None:
        """Go on decoding; ``done`` tokens follow the prompt in the cache of the first layer."""
        if self.forward is not None:
            self.forward.done = done

    def finish(self) -> Outcome | None:
        """End a prefill; None where there is nothing to end."""
        forward = self.forward
        if forward is None or forward.entered is None:
            return None
        outcome = Outcome(forward.entered, forward.segments[-1], tuple(forward.stages), tuple(forward.origin))
        # decoding needs masks and positions only
        forward.segments = [replace(segment, sliced={}) for segment in forward.segments]
        forward.entered = None
        if self.schedule.forgets:
            forward.forgotten = forgotten(forward.segments[0], forward.segments[-1])
        if self.schedule.decoding is not None and self.decode_layer is not None:
            seen = [s for s in forward.segments if s.first < self.decode_layer][-1]
            forward.decoding = Decoding(self.schedule.decoding.rule, seen.source, seen.layout)
        return outcome

    def _before_layer(
        self, number: int, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        forward = self.forward
        if forward is None:
            return None
        hidden = args[0] if args else kwargs["hidden_states"]
        if forward.done is not None:
            segment = [s for s in forward.segments if s.first <= number][-1]
            hidden_from = self._hidden_from(number, segment, forward, hidden)
            if segment.first == 0 and hidden_from is None:
                return None
            return args, self._continued(segment, hidden, kwargs, forward.done, hidden_from)
        if number == 0:
            _check_cache(cache_in(kwargs), self.schedule.name)
        if number - 1 in self.events:
            self._look_ahead(number, hidden, kwargs, forward)
            hidden = self._act(number - 1, hidden, forward)
        segment = forward.segments[-1]
        event = self.events.get(number)
        if event is not None and not event.ahead and event.requires & CAPTURED:
            forward.capture = _Capture(segment.layout, self.events[number])
        if segment.first == 0:
            return None
        if not segment.sliced:
            segment.sliced.update(self._sliced(segment, hidden, kwargs))
        if args:
            return (hidden, *args[1:]), {**kwargs, **segment.sliced}
        return args, {**kwargs, **segment.sliced, "hidden_states": hidden}

    def _look_ahead(self, number: int, hidden: Tensor, kwargs: dict[str, Any], forward: _Forward) -> None:
        """Take what the event in front of a layer reads of that layer, if it does."""
        event, segment = self.events[number - 1], forward.segments[-1]
        if not event.ahead:
            return
        if segment.first > 0 and not segment.sliced:
            segment.sliced.update(self._sliced(segment, hidden, kwargs))
        ahead = look_ahead(self.model.config, self.layers[number], hidden, {**kwargs, **segment.sliced})
        forward.capture = _Capture(segment.layout, event)
        forward.capture.take(*ahead)

    def _capture(self, query: Tensor, key: Tensor, scaling: float, more: Mapping[str, Any]) -> None:
        forward = self.forward
        if forward is None:
            return
        if forward.done is None and forward.capture is not None:
            forward.capture.take(query, key, scaling, more.get("softcap"))
        elif forward.done is not None and forward.decoding is not None and forward.decoding.waits:
            forward.decoding.look(query, key, scaling, more.get("softcap"))

    def _hidden_from(self, number: int, segment: Segment, forward: _Forward, hidden: Tensor) -> Tensor | None:
        """Places of a segment that a layer does not look at while decoding, bool (B, M); None where it sees all."""
        if forward.forgotten is not None:
            return forward.forgotten.gather(1, segment.source) if segment is not forward.segments[-1] else None
        decoding = forward.decoding
        if decoding is None or self.decode_layer is None:
            return None
        if number == self.decode_layer - 1:
            decoding.begin(hidden.shape[1])
        return decoding.hidden_in(segment.source) if number >= self.decode_layer else None

    def _deepstack(self, process: Callable[..., Tensor], hidden: Tensor, places: Tensor, features: Tensor) -> Tensor:
        """Add image features between layers to those tokens that are still there."""
        forward = self.forward
        if forward is not None and forward.done is None and (segment := forward.segments[-1]).first > 0:
            left = Splice(segment.source, segment.layout.mask, ())
            features = left.scattered(places, features)
            places = left.tokens(places) & left.mask
            features = features[places]
        return process(hidden, places, features)

    def _act(self, layer: int, hidden: Tensor, forward: _Forward) -> Tensor:
        """Let an event choose, and make the segment that follows."""
        event, segment = self.events[layer], forward.segments[-1]
        states = self.model.norm(hidden) if event.normed else hidden
        with torch.no_grad():
            features = self._features(event.requires, states, segment, forward, forward.capture)
            selection, context = event.decide(features, replace(forward.context, layer=layer))
        forward.context, forward.capture = context, None
        kept = [row[row >= 0] for row in selection.sequence]
        plan = splice(segment.layout, kept)
        hidden = plan.tokens(hidden)
        if selection.merged is not None:
            made = selection.merged.tokens.to(hidden.dtype)
            for unit, (span, slots) in enumerate(zip(segment.layout.spans, plan.slots, strict=True)):
                hidden[span.row, slots] = made[unit, : len(slots)]
        after = Segment(
            layer + 1,
            segment.source.gather(1, plan.index),
            plan.layout(segment.layout),
            plan.positions(segment.positions, self.schedule.positions_inside),
        )
        if not segment.same_tokens(after):
            forward.segments.append(after)
        forward.origin = [origin[chosen] for origin, chosen in zip(forward.origin, kept, strict=True)]
        forward.stages.append(
            Stage(layer, replace(selection, merged=None), selection.sequence, per_sample(after.layout))
        )
        return hidden

    def _features(
        self, needs: frozenset[str], states: Tensor, segment: Segment, forward: _Forward, capture: _Capture | None
    ) -> Features:
        """Gather what an event reads, one row for each span."""
        entered, layout = forward.entered, segment.layout
        if entered is None:
            raise UnsupportedError(
                f"strategy {self.schedule.name!r} acts between layers, and a layer of a prompt that has ended is run "
                "again, as older versions of transformers do with gradient checkpointing: switch it off "
                "(model.gradient_checkpointing_disable()), or take a strategy that acts before the language model"
            )
        places = capture.places if capture is not None else places_in(layout)
        given: dict[str, Any] = {}
        extra: dict[str, Tensor] = {}
        if reads_text(needs) or (capture is not None and capture.event.reads_text):
            _need_text(places, self.schedule.name)
            given["text"] = places.of(states, places.text)
        if capture is not None:
            for name, value in capture.found.items():
                (given if is_signal(name) else extra)[name] = value
        ids = segment.positions if segment.positions.ndim == 2 else segment.positions[-1]
        if "visual_positions" in needs:
            extra["visual_positions"] = places.of(ids.unsqueeze(-1), places.visual).squeeze(-1)
        if "text_positions" in needs:
            extra["text_positions"] = places.of(ids.unsqueeze(-1), places.text).squeeze(-1)
        if "rope_frequencies" in needs:
            extra["rope_frequencies"] = self.model.rotary_emb.inv_freq.expand(len(layout.spans), -1)
        if "part" in needs:
            extra["part"] = parts_of(entered, forward.origin, self.schedule.name)
        for name in sorted(name for name in needs - LAYER_SIGNALS.keys() if is_signal(name)):
            given[name] = still_there(entered, name, forward.origin)
        return Features(
            places.of(states, places.visual),
            visual_mask=places.visual >= 0,
            text_mask=places.text >= 0 if "text" in given else None,
            extra=extra,
            **given,
        )

    def _sliced(self, segment: Segment, hidden: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Rotary embeddings, position ids and mask of a segment in the prefill."""
        if self.schedule.positions_inside == "compact" and segment.positions.ndim == 2:
            rotary = self.model.rotary_emb(hidden, position_ids=segment.positions)
        else:
            rotary = tuple(rotary_at(part, segment.source) for part in kwargs["position_embeddings"])
        mask = segment.layout.mask

        return {
            "position_embeddings": rotary,
            "position_ids": segment.positions,
            "attention_mask": self._mask(not segment.full, mask, partial(causal_over, mask), hidden.dtype),
        }

    def _continued(
        self, segment: Segment, hidden: Tensor, kwargs: dict[str, Any], done: int, unseen: Tensor | None
    ) -> dict[str, Any]:
        """Mask of a decoding step, and positions where this segment counts its own."""
        if segment.sliced.get("done") != done:
            segment.sliced.clear()
            segment.sliced.update(done=done)
        name = "whole" if unseen is None else "part"
        if name not in segment.sliced:
            segment.sliced[name] = self._step(segment, hidden, done, unseen)
        return {**kwargs, **segment.sliced[name]}

    def _step(self, segment: Segment, hidden: Tensor, done: int, unseen: Tensor | None) -> dict[str, Any]:
        batch, fresh = hidden.shape[:2]
        mask = to_batch(segment.layout.mask if unseen is None else segment.layout.mask & ~unseen, batch)
        seen = torch.cat([mask, mask.new_ones(batch, done + fresh)], dim=1)
        # without a mask a single new token sees the whole cache, several would not
        hides = fresh > 1 or not segment.full or unseen is not None
        changes: dict[str, Any] = {
            "attention_mask": self._mask(hides, seen, partial(causal_over, seen, new=fresh), hidden.dtype)
        }
        if segment.first > 0 and self.schedule.positions_inside == "compact" and segment.positions.ndim == 2:
            ahead = torch.arange(done, done + fresh, device=mask.device)
            positions = to_batch(segment.next_position, batch).unsqueeze(-1) + ahead
            changes["position_ids"] = positions
            changes["position_embeddings"] = self.model.rotary_emb(hidden, position_ids=positions)
        return changes

    def _mask(self, hides: bool, real: Tensor, seen: Callable[[], Tensor], dtype: torch.dtype) -> Tensor | None:
        """A mask of the kind that the attention implementation takes, or none where it would hide nothing."""
        kind = implementation(self.model.config)
        if not hides and kind != "eager":
            return None
        return real if "flash" in kind else as_taken(self.model.config, seen().unsqueeze(1), dtype)


def _need_text(places: Places, name: str) -> None:
    """Raise where no text follows the visual tokens."""
    silent = (places.text < 0).all(1).nonzero().flatten().tolist()
    if silent:
        raise FeatureError(
            f"strategy {name!r} reads the text after the image, and sample {int(places.rows[silent[0]])} has none "
            "there: put the question behind the image"
        )


class _Capture:
    """Attention rows and keys of one layer, for the event after it."""

    def __init__(self, layout: Layout, event: LayerEvent) -> None:
        self.places, self.mask, self.event = places_in(layout), layout.mask, event
        self.found: dict[str, Tensor] = {}

    def take(self, query: Tensor, key: Tensor, scaling: float, softcap: float | None) -> None:
        """Multiply out what the event reads."""
        self.found = layer_signals(self.places, self.mask, self.event, query, key, scaling, softcap)


def _check_cache(cache: Any, name: str) -> None:
    if getattr(cache, "is_compileable", False):
        raise UnsupportedError(
            f"strategy {name!r} leaves each layer a cache of its own length, which a static cache cannot hold: use "
            "the default dynamic cache"
        )
