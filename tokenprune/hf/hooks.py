"""The hooks of one ``attach`` block, and what they remember between forward passes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune.core.errors import NestedAttachError, SecondTurnError, UnsupportedError
from tokenprune.core.features import Features
from tokenprune.core.indexing import to_batch
from tokenprune.core.schedule import LayerSchedule
from tokenprune.hf.adapters.base import MODALITIES, PIXELS, Observation
from tokenprune.hf.batch import Batch, read_batch
from tokenprune.hf.collect import collect
from tokenprune.hf.decision import Decision, decide
from tokenprune.hf.encoded import PRUNED, Encoded, pixels_in, tokens_of
from tokenprune.hf.layerwise import LayerHooks
from tokenprune.hf.patching import cache_in
from tokenprune.hf.record import Prefill, Run
from tokenprune.hf.request import Request
from tokenprune.hf.rows import check_causal, check_one_sample_a_row, real_tokens
from tokenprune.hf.segments import Entered
from tokenprune.hf.splice import Layout, Splice, next_position, splice

__all__ = ["Hooks"]


@dataclass(frozen=True)
class _Pruned:
    """The prompt that is being continued.

    Attributes
    ----------
    plan : Splice
    length : int
        Length S of the prompt outside.
    next_outside, next_inside : int64 Tensor, (B,)
        Position id of the first new token: as the caller counts, and as the pruned sequence does.
    """

    plan: Splice
    length: int
    next_outside: Tensor
    next_inside: Tensor


@dataclass(frozen=True)
class _Continued:
    """A pruned prompt in somebody's cache: what decoding needs to know of it, kept with the cache itself.

    Other prompts may be read in between, and copies of the cache go on where it stands.

    Attributes
    ----------
    hooks : Hooks
        Those of the block that filled the cache.
    pruned : _Pruned
    inside : object
        What :class:`~tokenprune.hf.layerwise.LayerHooks` remembers of it.
    """

    hooks: Hooks
    pruned: _Pruned
    inside: Any

    def __deepcopy__(self, memo: dict[int, Any]) -> _Continued:
        inside = copy.copy(self.inside)
        if getattr(inside, "decoding", None) is not None:
            inside.decoding = copy.copy(inside.decoding)
        return replace(self, inside=inside)


STATE = "_tokenprune_prompt"
"""Attribute of a cache under which its prompt is remembered."""


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
    given : tuple of Tensor
        What it shows: pixels, or features encoded before.
    """

    seen: Observation
    features: Features
    decision: Decision
    ids: Tensor
    given: tuple[Tensor, ...]

    @property
    def length(self) -> int:
        """Length of the prompt."""
        return self.ids.shape[1]

    def begins(self, ids: Tensor, given: tuple[Tensor, ...]) -> bool:
        """Whether this is the prompt again, (B, S + t), and not another one that somebody asks in between."""
        same = (*zip(given, self.given, strict=False), (ids[:, : self.length], self.ids))
        return len(given) == len(self.given) and all(a is b or torch.equal(a, b) for a, b in same)


class Hooks:
    """Hooks in the order in which a forward pass meets them: model, core, language model, and back."""

    def __init__(
        self, request: Request, run: Run, encoded: Encoded | None = None, *, full_length: bool | None = None
    ) -> None:
        self.request, self.run, self.encoded, self.full_length = request, run, encoded, full_length
        self.seen = Observation()
        self.ids: Tensor | None = None
        self.spread = False
        """Whether hidden states of the prompt's full length are asked for."""
        self.has_visual = False
        self.given: tuple[Tensor, ...] = ()
        """What the prompt shows: pixels, or features encoded before."""
        self.shown = False
        """Whether any prompt showed anything."""
        self.embedded = False
        """Whether any prompt came as embeddings, of which nobody knows what they show."""
        self.real: Tensor | None = None
        """The core's attention mask (B, S), if it was given one: families differ in what they make of it."""
        self.pruned: _Pruned | None = None
        self.left: Splice | None = None
        """What the last layer saw of that prompt."""
        self.generating = False
        self.decided: _Decided | None = None
        """The prompt of the current ``generate`` call."""
        self.inside: LayerHooks | None = None
        """What prunes between layers, where the strategy is a schedule."""
        self.recording = False
        """Whether the last entry of the history still lacks what happens between layers."""
        if isinstance(request.strategy, LayerSchedule):
            self.inside = LayerHooks(replace(request.strategy, positions=request.positions), request.adapter)

    @contextmanager
    def generation(self) -> Iterator[None]:
        """One call of ``generate``: its prompt is decided on once, even if it is fed again at every step."""
        before = self.generating, self.decided
        self.generating, self.decided = True, None
        self.seen.clear()
        try:
            yield
        finally:
            self.generating, self.decided = before
            self.pruned = None
            self.seen.clear()

    def before_model(self, given: Mapping[str, Any]) -> None:
        """Note whether a loss, or logits at places of the whole prompt, are asked for."""
        kept = given.get("logits_to_keep")
        places = isinstance(kept, Tensor) or (isinstance(kept, int) and kept > 1)
        whole = self.request.adapter.model.training if self.full_length is None else self.full_length
        self.spread = given.get("labels") is not None or places or (whole and not self.generating)

    def full(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits of the prompt's full length, where labels have it and they do not."""
        if self.pruned is None or self.left is None or logits.shape[1] == labels.shape[1]:
            return logits
        return self.left.spread(logits, self.pruned.length)

    def before_core(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep the token ids: the language model sees embeddings only."""
        self.ids = kwargs.get("input_ids", args[0] if args else None)
        given = kwargs.get("attention_mask")
        if isinstance(given, Tensor) and given.ndim == 4 and self.ids is not None:
            check_causal(given, self.ids.shape[1])
        self.real = given if isinstance(given, Tensor) and given.ndim == 2 else None
        has_pixels = bool(pixels_in(kwargs))
        if has_pixels:
            self.seen.clear()  # these are encoded next; what was seen before belongs to another call
        before = kwargs.get("mm_encoder_outputs") or {}
        self.has_visual = has_pixels or any(before.get(modality) is not None for modality in MODALITIES)
        if any(getattr(output, PRUNED, False) for output in before.values()):
            raise NestedAttachError(
                "these inputs were made by tokenprune.prepare, and attach would prune them again: run them outside of "
                "the attach block"
            )
        self.shown = self.shown or self.has_visual
        pixels = [kwargs[name] for names in PIXELS.values() for name in names if kwargs.get(name) is not None]
        self.given = (*pixels, *(tokens_of(output) for output in before.values() if output is not None))
        if self.ids is None and self.has_visual:
            raise UnsupportedError(
                "attach needs input_ids to find images and text, and inputs_embeds were given with images: "
                "pass input_ids, or shorten the embeddings yourself with Strategy.select"
            )
        if self.ids is None and self.seen:
            self.seen.clear()
            raise UnsupportedError(
                "pictures were encoded by hand (get_image_features) and inputs_embeds given, and attach cannot see "
                "where in them pictures are: pass input_ids with pixel_values (or with mm_encoder_outputs), or shorten "
                "the embeddings yourself with Strategy.select"
            )

    def before_language_model(
        self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Shorten a prompt; while decoding, keep mask and positions right."""
        cache = cache_in(kwargs)
        self.pruned = None
        if self.inside is not None:
            self.inside.rest()
        if cache is not None and not hasattr(cache, "get_seq_length"):
            if not self.has_visual:
                return None  # several prompts, or their next tokens, in one row: nothing to prune
            raise UnsupportedError(
                f"{type(cache).__name__} holds several prompts in pages (continuous batching), which attach cannot "
                "shorten: use generate, or tokenprune.prepare for each prompt"
            )
        n_past = int(cache.get_seq_length()) if cache is not None else 0
        self.embedded = self.embedded or (n_past == 0 and self.ids is None)
        if n_past == 0:
            if cache is not None:
                vars(cache).pop(STATE, None)
            return (args, self._shorten(kwargs)) if self.has_visual else None
        # a placeholder that the model sampled itself comes without features, and is a token like any other
        if self.has_visual and self.ids is not None and bool(self.request.adapter.image_mask(self.ids).any()):
            raise SecondTurnError(
                "image placeholders arrived while the cache already holds tokens: a further turn, or a prompt fed in "
                "chunks or behind a learned prefix, cannot be pruned inside attach. Use tokenprune.prepare for each "
                "turn"
            )
        known: _Continued | None = vars(cache).get(STATE)
        if known is None:
            self._check_counts(n_past, kwargs["inputs_embeds"].shape[1])
            return None
        if known.hooks is not self:
            raise SecondTurnError(
                "this cache was filled inside another attach block, which knew what it dropped: go on inside that "
                "block, or use tokenprune.prepare, whose caches need nothing"
            )
        entered = known.pruned.plan.mask.shape[1]
        if n_past < entered:
            raise UnsupportedError(
                f"the cache holds {n_past} tokens, and its pruned prompt alone has {entered}: something has shortened "
                "it (a cache compressor such as kvpress, or crop). Inside attach caches must keep what they were "
                "given; use tokenprune.prepare"
            )
        if self.inside is not None:
            self.inside.forward = known.inside
        return args, self._continue(kwargs, known.pruned, n_past)

    def _check_counts(self, n_past: int, fresh: int) -> None:
        """Raise where the caller counts another number of tokens than a cache that nothing is known of holds."""
        if self.real is not None and self.run.history and self.real.shape[1] != n_past + fresh:
            raise UnsupportedError(
                f"the cache holds {n_past} tokens and attention_mask counts {self.real.shape[1] - fresh} before the "
                "new ones: it is not the cache that a prompt was pruned into (made anew from its tensors?). Pass on "
                "the cache that the model returned, or a copy.deepcopy of it"
            )

    def after_language_model(self, _module: nn.Module, _args: Any, kwargs: Any, output: Any) -> Any:
        """Complete the record; where it is asked for, spread hidden states over the prompt's full length again."""
        plan = None if self.pruned is None else self.pruned.plan
        if plan is not None and self.inside is not None and (outcome := self.inside.finish()) is not None:
            plan = outcome.splice(plan)
            if self.recording:
                self.run.history[-1], self.recording = outcome.complete(self.run.history[-1]), False
        self.left = plan
        cache = cache_in(kwargs) or cache_in(vars(output) if not isinstance(output, Mapping) else output)
        if self.pruned is not None and cache is not None:
            vars(cache)[STATE] = _Continued(self, self.pruned, None if self.inside is None else self.inside.forward)
        if self.spread and self.pruned is not None and plan is not None:
            output.last_hidden_state = plan.spread(output.last_hidden_state, self.pruned.length)
        return output

    def _shorten(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        ids, embeds = self.ids, kwargs["inputs_embeds"]
        assert ids is not None
        mask = self._real(ids, kwargs.get("attention_mask"))
        known_before = self.decided if self.generating else None
        repeated = known_before if known_before is not None and known_before.begins(ids, self.given) else None
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
            features = collect(self.request, ids, embeds, batch, seen)
            known = _Decided(seen, features, decide(self.request, features), ids, self.given)
            self.decided = known_before or known
        everywhere = known.decision.spread(batch.owner)
        plan = splice(batch.layout, everywhere.kept)
        if repeated is None:
            layers = self.request.adapter.model.config.get_text_config().num_hidden_layers
            self.run.note(_record(batch, everywhere, plan, layers))
        new = everywhere.embeddings(plan, embeds, batch.layout)
        outside = kwargs.get("position_ids")
        if outside is None:
            outside = torch.arange(ids.shape[1], device=ids.device).unsqueeze(0)
        outside = outside.expand(*outside.shape[:-2], ids.shape[0], -1)
        check_one_sample_a_row(outside, mask)
        inside = plan.positions(outside, self.request.positions)
        self.pruned = _Pruned(plan, ids.shape[1], next_position(outside, mask), next_position(inside, plan.mask))
        if self.inside is not None:
            self.recording = repeated is None
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

    def _real(self, ids: Tensor, given: Any) -> Tensor:
        """Real tokens of the prompt, bool (B, S), from whatever mask there is."""
        if self.real is not None:
            return real_tokens(ids, self.real)
        if isinstance(given, dict):
            given = given.get("full_attention")
        if given is None:
            return torch.ones_like(ids, dtype=torch.bool)
        if isinstance(given, Tensor) and given.ndim == 2:
            return given.bool()
        if isinstance(given, Tensor) and given.ndim == 4 and given.shape[-1] >= ids.shape[1]:
            # made ready for a static cache: the last token sees every real one
            last = given[:, 0, -1, : ids.shape[1]]
            return (last if last.dtype == torch.bool else last == 0).expand(ids.shape[0], -1)
        raise UnsupportedError("attach needs an attention_mask of shape (B, S), or (B, 1, S, L), or none")

    def _entered(self, batch: Batch, known: _Decided, plan: Splice, embeds: Tensor, positions: Tensor) -> Entered:
        """What the schedule starts from; what was generated since the prompt does not count as text."""
        mask = batch.layout.mask
        assert self.ids is not None
        visual = self.request.adapter.image_mask(self.ids)
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
        if self.inside is not None:
            self.inside.resume(done)
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
