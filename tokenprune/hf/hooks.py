"""The hooks of one ``attach`` block, and what they remember between forward passes."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tokenprune.core.errors import NestedAttachError, SecondTurnError, TokenPruneError, UnsupportedError
from tokenprune.core.features import Features
from tokenprune.core.indexing import to_batch
from tokenprune.core.schedule import LayerSchedule
from tokenprune.hf.adapters.base import MODALITIES, Block, Observation
from tokenprune.hf.batch import Batch, read_batch
from tokenprune.hf.caches import cache_in
from tokenprune.hf.collect import collect
from tokenprune.hf.decision import Decision, decide
from tokenprune.hf.encoded import Encoded, is_shortened, pixels_in
from tokenprune.hf.layerwise import Entered, LayerHooks, Under
from tokenprune.hf.masks import check_one_sample_a_row, real_tokens
from tokenprune.hf.record import Prefill, Run
from tokenprune.hf.request import Request
from tokenprune.hf.splice import Layout, Splice, next_position, splice

__all__ = ["Hooks", "Logits", "refuse_prepared"]

Logits = Literal["auto", "full", "pruned"]
"""Length of a plain forward pass's logits: the prompt's, the pruned prompt's, or the former while training."""

_HELD = "_tokenprune_prompt"
"""Attribute of a cache: what it takes to continue the pruned prompt that it holds."""


@dataclass(frozen=True)
class _Pruned:
    """A prompt that a cache holds, less what was pruned. It belongs to that cache, and is copied along with it.

    Attributes
    ----------
    plan : Splice
    length : int
        Length S of the prompt outside.
    next_outside, next_inside : int64 Tensor, (B,)
        Position id of the first new token: as the caller counts, and as the pruned sequence does.
    between : Under, optional
        What the layers saw, where the strategy acts between them.
    """

    plan: Splice
    length: int
    next_outside: Tensor
    next_inside: Tensor
    between: Under | None = None

    @property
    def held(self) -> int:
        """Tokens of the prompt that the cache holds."""
        return self.plan.mask.shape[1]


@dataclass(frozen=True)
class _Decided:
    """What was decided for a prompt, in case it is fed again.

    Attributes
    ----------
    seen : Observation
        The visual inputs it was decided for.
    features : Features
    decision : Decision
    ids : int64 Tensor, (B, S)
        The prompt; what follows it when it is fed again was generated.
    """

    seen: Observation
    features: Features
    decision: Decision
    ids: Tensor

    @property
    def length(self) -> int:
        """Length of the prompt."""
        return self.ids.shape[1]

    def begins(self, ids: Tensor) -> bool:
        """Whether these are the prompt again, copied for beams or not, with or without more behind."""
        rows, length = self.ids.shape
        if ids.shape[1] < length or len(ids) % rows:
            return False
        return torch.equal(to_batch(self.ids, len(ids)), ids[:, :length])


class _Call(threading.local):
    """What one thread's forward pass has come to know on its way."""

    def __init__(self) -> None:
        self.ids: Tensor | None = None
        self.has_visual = False
        self.whole = True
        """Whether hidden states are to have the prompt's full length: for a loss, or at places counted outside; also
        where somebody calls the core past the model's forward, since nobody knows what for."""
        self.real: Tensor | None = None
        """The core's attention mask (B, S), if it was given one: families differ in what they make of it."""
        self.pruned: _Pruned | None = None
        """The prompt that this pass shortens."""
        self.recording = False
        """Whether the last entry of the history still lacks what happens between layers."""
        self.generating = False
        self.decided: _Decided | None = None
        """The prompt of the current ``generate`` call."""


class _Seen(Observation):
    """What each thread saw of the vision side."""

    def __init__(self) -> None:
        self._own = threading.local()
        self.ever = False

    @property
    def blocks(self) -> dict[str, list[Block]]:
        """Of this thread."""
        if not hasattr(self._own, "blocks"):
            self._own.blocks = _Noted(self)
        found: dict[str, list[Block]] = self._own.blocks
        return found

    @blocks.setter
    def blocks(self, value: dict[str, list[Block]]) -> None:
        self._own.blocks = value


class _Noted(dict[str, "list[Block]"]):
    """Blocks by modality; tells that a picture was seen."""

    def __init__(self, seen: _Seen) -> None:
        super().__init__()
        self._seen = seen

    def setdefault(self, key: str, default: Any = None) -> Any:
        """As ever."""
        self._seen.ever = True
        return super().setdefault(key, default)


class Hooks:
    """Hooks in the order in which a forward pass meets them: model, core, language model, and back.

    What a pass comes to know belongs to its thread; what it takes to continue a prompt belongs to the prompt's cache.
    """

    def __init__(self, request: Request, run: Run, encoded: Encoded | None = None, logits: Logits = "auto") -> None:
        self.request, self.run, self.encoded, self.logits = request, run, encoded, logits
        self.seen = _Seen()
        self.call = _Call()
        self.shown = False
        """Whether a prompt showed anything."""
        self.refused = False
        """Whether the caller was told already that something cannot be pruned."""
        self.inside: LayerHooks | None = None
        """What prunes between layers, where the strategy is a schedule."""
        if isinstance(request.strategy, LayerSchedule):
            self.inside = LayerHooks(replace(request.strategy, positions=request.positions), request.adapter)

    @contextmanager
    def generation(self) -> Iterator[None]:
        """One call of ``generate``: its prompt is decided on once, even if it is fed again at every step."""
        call = self.call
        before = call.generating, call.decided
        call.generating, call.decided = True, None
        self.seen.clear()
        try:
            yield
        except TokenPruneError:
            self.refused = True
            raise
        finally:
            call.generating, call.decided = before
            call.ids = call.real = call.pruned = None
            self.seen.clear()

    @contextmanager
    def asked(self, given: Mapping[str, Any], training: bool) -> Iterator[None]:
        """One call of the model's ``forward``: note whether hidden states have to have the prompt's full length."""
        call = self.call
        before, places = call.whole, given.get("logits_to_keep")
        counted = isinstance(places, Tensor) or (isinstance(places, int) and places > 1)
        wanted = self.logits == "full" or (self.logits == "auto" and training)
        call.whole = wanted or counted or given.get("labels") is not None
        try:
            yield
        except TokenPruneError:
            self.refused = True
            raise
        finally:
            call.whole = before

    def before_core(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep the token ids: the language model sees embeddings only."""
        call = self.call
        call.pruned = None
        call.ids = kwargs.get("input_ids", args[0] if args else None)
        given = kwargs.get("attention_mask")
        call.real = given if isinstance(given, Tensor) and given.ndim == 2 else None
        has_pixels = bool(pixels_in(kwargs))
        if has_pixels:
            self.seen.clear()  # these are encoded next; what was seen before belongs to another call
        before = kwargs.get("mm_encoder_outputs") or {}
        refuse_prepared(before)
        call.has_visual = has_pixels or any(before.get(modality) is not None for modality in MODALITIES)
        self.shown |= call.has_visual
        if call.ids is None and (call.has_visual or self.seen):
            raise UnsupportedError(
                "attach needs input_ids to find images and text, and inputs_embeds were given with images: "
                "pass input_ids and pixel_values, prune before you merge (tokenprune.prepare), or shorten the "
                "embeddings yourself with Strategy.select"
            )

    def before_language_model(
        self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Shorten a prompt; while decoding, keep mask and positions right."""
        call = self.call
        cache = cache_in(kwargs)
        n_past = int(cache.get_seq_length()) if cache is not None else 0
        pruned: _Pruned | None = getattr(cache, _HELD, None)
        call.pruned = None
        if self.inside is not None:
            self.inside.rest()
        if n_past == 0:
            if pruned is not None:
                delattr(cache, _HELD)  # emptied, to be used again
            return (args, self._shorten(kwargs)) if call.has_visual else None
        # a placeholder that the model sampled itself comes without features, and is a token like any other
        if call.has_visual and call.ids is not None and bool(self.request.adapter.image_mask(call.ids).any()):
            raise SecondTurnError(
                "image placeholders arrived while the cache already holds tokens: a further turn, or a prompt fed in "
                "chunks, cannot be pruned inside attach. Use tokenprune.prepare for each turn"
            )
        if pruned is None:
            self._check_length(n_past, kwargs["inputs_embeds"].shape[1])
            return None
        if n_past < pruned.held:
            raise _shortened_cache(n_past, pruned.held)
        return args, self._continue(kwargs, pruned, n_past)

    def _check_length(self, n_past: int, fresh: int) -> None:
        """Raise where the caller counts another number of tokens than a cache that nothing is known of holds."""
        real = self.call.real
        if real is not None and self.run.history and real.shape[1] != n_past + fresh:
            raise UnsupportedError(
                f"the cache holds {n_past} tokens and attention_mask counts {real.shape[1] - fresh}: it is not the "
                "cache that a prompt was pruned into (made anew from its tensors?). Pass on the cache that the model "
                "returned, or a copy.deepcopy of it"
            )

    def after_language_model(self, _module: nn.Module, _args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        """Leave with the cache what it takes to continue; spread hidden states over the full length where asked."""
        call = self.call
        pruned = call.pruned
        if pruned is None:
            return output
        plan = pruned.plan
        if self.inside is not None and (outcome := self.inside.finish()) is not None:
            plan = outcome.splice(plan)
            if call.recording:
                self.run.history[-1], call.recording = outcome.complete(self.run.history[-1]), False
            pruned = replace(pruned, between=self.inside.forward)
        cache = cache_in(kwargs) or cache_in(output)
        if cache is not None:
            if (held := int(cache.get_seq_length())) < pruned.held:
                raise _shortened_cache(held, pruned.held)
            setattr(cache, _HELD, pruned)
        if call.whole:
            hidden = output.last_hidden_state
            places = plan.last_place(pruned.length)
            output.last_hidden_state = hidden.gather(1, places.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
        return output

    def _shorten(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        call = self.call
        ids, embeds = call.ids, kwargs["inputs_embeds"]
        assert ids is not None
        self._refuse_checkpoints()
        mask = real_tokens(ids, kwargs.get("attention_mask")) if call.real is None else call.real.bool()
        if mask.shape != ids.shape:
            raise UnsupportedError(
                f"attention_mask has shape {tuple(mask.shape)} and input_ids {tuple(ids.shape)}: they must agree where "
                "a prompt begins"
            )
        check_one_sample_a_row(kwargs, mask)
        repeated = call.decided if call.generating and call.decided is not None and call.decided.begins(ids) else None
        seen = self.encoded.seen if self.encoded is not None and not self.seen else self.seen
        seen = repeated.seen if repeated and not seen else seen.copy()
        # what was generated since the prompt is neither image nor text, and tells copies of a prompt apart
        length = ids.shape[1] if repeated is None else repeated.length
        batch = read_batch(self.request, ids[:, :length], mask[:, :length], seen).followed_by(mask[:, length:])
        self.seen.clear()
        if not batch.layout.spans:
            return kwargs
        if repeated is not None:
            self._refuse_without_cache()
            known = repeated
        else:
            features = collect(self.request, embeds, batch, seen)
            known = _Decided(seen, features, decide(self.request, features), ids)
            if call.generating and call.decided is None:
                call.decided = known
        everywhere = known.decision.spread(batch.owner)
        plan = splice(batch.layout, everywhere.kept)
        if repeated is None:
            layers = self.request.adapter.model.config.get_text_config().num_hidden_layers
            self.run.add(_record(batch, everywhere, plan, layers))
        new = everywhere.embeddings(plan, embeds, batch.layout)
        outside = kwargs.get("position_ids")
        if outside is None:
            outside = torch.arange(ids.shape[1], device=ids.device).unsqueeze(0)
        outside = outside.expand(*outside.shape[:-2], ids.shape[0], -1)
        inside = plan.positions(outside, self.request.positions)
        call.pruned = _Pruned(plan, ids.shape[1], next_position(outside, mask), next_position(inside, plan.mask))
        if self.inside is not None:
            call.recording = repeated is None
            self.inside.begin(self._entered(batch, known, plan, new, inside))
        return {
            **kwargs,
            "inputs_embeds": new,
            "position_ids": inside,
            "attention_mask": _mask(kwargs, plan, plan.mask),
            **self.request.adapter.shorten(kwargs, plan),
        }

    def _refuse_without_cache(self) -> None:
        """Raise where a prompt is fed again at every step, so that nothing is ever decoded from a cache."""
        strategy = self.request.strategy
        if isinstance(strategy, LayerSchedule) and strategy.decoding is not None:
            raise UnsupportedError(
                f"strategy {strategy.name!r} acts while decoding from a cache, and generate runs without one: leave "
                "out use_cache=False, or use a form of the strategy that does not act while decoding"
            )

    def _refuse_checkpoints(self) -> None:
        """Raise where layers would run a second time for their gradients, when the prompt is not there any more."""
        model: Any = self.request.adapter.language_model
        if self.inside is not None and model.training and getattr(model, "gradient_checkpointing", False):
            raise UnsupportedError(
                f"strategy {self.request.strategy.name!r} acts between layers, which gradient checkpointing runs a "
                "second time: turn it off (gradient_checkpointing_disable), or use a strategy that acts before the "
                "language model"
            )

    def _entered(self, batch: Batch, known: _Decided, plan: Splice, embeds: Tensor, positions: Tensor) -> Entered:
        """What the schedule starts from; what was generated since the prompt does not count as text."""
        mask = batch.layout.mask
        assert self.call.ids is not None
        visual = self.request.adapter.image_mask(self.call.ids)
        prompt = torch.arange(mask.shape[1], device=mask.device) < known.length
        whole = Layout(mask, mask & ~visual & prompt, batch.layout.spans)
        budgets = self.request.budget.counts(known.features.counts())
        return Entered(
            layout=plan.layout(whole),
            embeds=embeds,
            positions=positions,
            keep=tuple(budgets[d] for d in batch.owner),
            signals=known.features,
            owner=batch.owner,
            distinct=batch.distinct,
            origin=tuple(known.decision.kept[d] for d in batch.owner),
            groups=known.decision.selection.groups,
        )

    def _continue(self, kwargs: dict[str, Any], pruned: _Pruned, n_past: int) -> dict[str, Any]:
        batch, fresh = kwargs["inputs_embeds"].shape[:2]
        mask = to_batch(pruned.plan.mask, batch)
        done = n_past - mask.shape[1]
        if self.inside is not None and pruned.between is not None:
            self.inside.resume(pruned.between, done)
        given = kwargs.get("position_ids")
        if given is not None and given.ndim == 2:
            expected = to_batch(pruned.next_outside, batch) + done
            if not bool((given[:, 0] == expected).all()):
                raise SecondTurnError(
                    f"position ids do not continue the pruned prompt: expected {expected.tolist()}, got "
                    f"{given[:, 0].tolist()}. A further turn with this cache is not possible inside attach: use "
                    "tokenprune.prepare. In a decoding loop of your own leave position_ids out"
                )
        ahead = torch.arange(done, done + fresh, device=mask.device)
        positions = to_batch(pruned.next_inside, batch).unsqueeze(-1) + ahead
        if given is not None and given.ndim == 3:
            positions = positions.expand(given.shape[0], -1, -1)
        whole = torch.cat([mask, mask.new_ones(batch, done + fresh)], dim=1)
        return {**kwargs, "attention_mask": _mask(kwargs, pruned.plan, whole), "position_ids": positions}


def refuse_prepared(outputs: Mapping[str, Any]) -> None:
    """Raise where inputs were shortened by ``prepare`` already."""
    if any(is_shortened(output) for output in outputs.values()):
        raise NestedAttachError(
            "these inputs were shortened by tokenprune.prepare, and inside attach they would be pruned a second time: "
            "use them outside of the block, or give attach what the processor returned"
        )


def _shortened_cache(held: int, expected: int) -> UnsupportedError:
    return UnsupportedError(
        f"the cache holds {held} tokens of a pruned prompt of {expected}: something cuts it or drops from it (a cache "
        "compressor such as kvpress, crop?), so that masks and positions cannot be right. Use one or the other, or "
        "tokenprune.prepare, whose shorter prompts a compressor may compress further"
    )


def _mask(kwargs: Mapping[str, Any], plan: Splice, real: Tensor) -> Tensor | None:
    """A mask of real tokens, (B, M); none where nothing is padded and the plain model would have had none.

    Without a cache there always is one: gaps in position ids would be taken for packed sequences.
    """
    unmasked = kwargs.get("attention_mask") is None and cache_in(kwargs) is not None
    return None if unmasked and plan.full else real.to(torch.long)


def _record(batch: Batch, everywhere: Decision, plan: Splice, layers: int) -> Prefill:
    rows = batch.layout.mask.shape[0]
    before, after = [0] * rows, [0] * rows
    for span, kept in zip(batch.layout.spans, everywhere.kept, strict=True):
        before[span.row] += len(span.positions)
        after[span.row] += len(kept)
    return Prefill(
        selection=everywhere.selection,
        rows=tuple(batch.layout.spans[i].row for i in batch.distinct),
        places=tuple(batch.layout.spans[i].positions for i in batch.distinct),
        tokens_before=tuple(before),
        tokens_after=tuple(after),
        sequence_before=batch.layout.length,
        sequence_after=plan.index.shape[1],
        layer_tokens=tuple((n,) * layers for n in after),
        splice=plan,
        text=batch.layout.text,
    )
