"""Run a strategy inside a stock transformers model: ``attach`` (hooks) and ``prepare`` (a pure function).

Data flows the same way in both: observe the vision side -> features of each unit -> selection -> splice -> language
model. ``attach`` leaves the prompt's length outside unchanged and undoes everything when its block ends; ``prepare``
returns shorter inputs, with which caches, compilation and further turns need nothing special.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from tokenprune.budget import Budget, Keep, Unit
from tokenprune.encoded import (
    Encoded,
    deepstack_of,
    encode,
    packed,
    pixels_in,
    takes_encoded,
    without_vision,
)
from tokenprune.errors import NestedAttachError, SecondTurnError, UnsupportedError
from tokenprune.hooks import Hooks
from tokenprune.models.caches import cache_in
from tokenprune.patching import arguments_of, replaced
from tokenprune.prompt import Text
from tokenprune.run import Run
from tokenprune.schedule import LayerSchedule
from tokenprune.splice import splice
from tokenprune.strategy import AnyStrategy, Positions
from tokenprune.units import Request, collect, decide, embedded, read_batch

__all__ = ["attach", "prepare"]


@contextmanager
def attach(
    model: Any,
    strategy: AnyStrategy | str | Mapping[str, Any],
    keep: Keep | Budget,
    *,
    unit: Unit | None = None,
    positions: Positions | None = None,
    text: Text = "prompt",
    processor: Any = None,
    encoded: Encoded | None = None,
) -> Iterator[Run]:
    """Prune the visual tokens of every prompt that the model sees inside the ``with`` block.

    Works with ``generate`` (greedy, sampling, beams, with and without cache) and with plain forward passes; with
    ``labels`` the loss is computed as usual. Logits of a plain forward pass have the pruned length;
    ``run.history[-1].splice.index`` maps them back. Prompts without images are left alone.

    Parameters
    ----------
    model : PreTrainedModel
        A supported model, unmodified; see ``tokenprune list adapters``.
    strategy : AnyStrategy, str or mapping
        A strategy, or what :func:`tokenprune.build` accepts.
    keep : int, float, sequence or Budget
        Tokens kept for each unit; see :class:`~tokenprune.budget.Budget`.
    unit : str, optional
        "image" (default; a video counts as one), "tile", "frame" or "sample" (everything in a prompt shares one
        budget); see :class:`~tokenprune.budget.Budget`.
    positions : str, optional
        "keep" or "compact"; the strategy's own choice by default.
    text : Text, default "prompt"
        Which tokens count as the prompt's text: what the user says in all turns ("prompt"), in the last one
        ("last-turn"), the question itself or a list of them, everything ("all"), a bool mask (B, S) or a function of
        the ids; see :func:`~tokenprune.prompt.prompt_text`.
    processor : optional
        The model's processor or tokenizer, to tell the user's words from everything else; by default the one that was
        saved with the model, where it lies on this machine. A question as ``text`` needs it.
    encoded : Encoded, optional
        The images of the prompts, encoded by :func:`~tokenprune.encoded.encode` and passed to the model as
        ``mm_encoder_outputs``: signals of the encoder are taken from it.

    Yields
    ------
    Run
        ``selections``, ``tokens_before``, ``tokens_after``, ``history``.

    Raises
    ------
    UnsupportedError
        The model type has no adapter, or the call cannot be pruned; names what can.
    MissingSignalError
        The model cannot give a signal that the strategy reads; names strategies that work.
    QuestionError
        The question given as ``text`` is not in the prompt, or there is no ``processor`` to look for it with.
    NestedAttachError, SecondTurnError
        See :mod:`tokenprune.errors`.

    Warns
    -----
    QuestionWarning
        The strategy reads the prompt, and which of its tokens are the user's words is a guess.
    """
    request = Request.of(model, strategy, keep, unit, positions, text, processor)
    inner = request.adapter.model
    if "_tokenprune_run" in vars(inner):
        raise NestedAttachError("this model is already attached: leave the outer attach block first")
    run = Run()
    hooks = Hooks(request, run, encoded)
    generate = inner.generate

    @functools.wraps(generate)
    def pruned_generate(*args: Any, **kwargs: Any) -> Any:
        given = arguments_of(generate, args, kwargs)
        _refuse_speculation(inner, given)
        cache = cache_in(given)
        if cache is not None and int(cache.get_seq_length()) > 0:
            raise SecondTurnError(
                f"generate was given a cache of {int(cache.get_seq_length())} tokens: a further turn cannot be pruned "
                "inside attach, whose prompt is longer than its cache. Use tokenprune.prepare for each turn"
            )
        with hooks.generation():
            return generate(*args, **kwargs)

    with ExitStack() as stack:
        stack.enter_context(replaced(vars(inner), "_tokenprune_run", run))
        stack.enter_context(replaced(vars(inner), "generate", pruned_generate))
        adapter = request.adapter
        stack.enter_context(adapter.observe(request.signals, hooks.seen))
        for module, hook in (
            (inner, hooks.before_model),
            (adapter.core, hooks.before_core),
            (adapter.language_model, hooks.before_language_model),
        ):
            stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        after = adapter.language_model.register_forward_hook(hooks.after_language_model, with_kwargs=True)
        stack.callback(after.remove)
        if hooks.inside is not None:
            stack.enter_context(hooks.inside.attached())
        yield run


def _refuse_speculation(model: Any, given: Mapping[str, Any]) -> None:
    """Raise for decoding modes that cut the cache back to a length counted outside."""
    config = given.get("generation_config") or model.generation_config
    lookup = given.get("prompt_lookup_num_tokens") or getattr(config, "prompt_lookup_num_tokens", None)
    if given.get("assistant_model") is not None or lookup:
        raise UnsupportedError(
            "assisted and prompt-lookup decoding cut the cache back to the unpruned prompt's length, which is wrong "
            "inside attach: use tokenprune.prepare, or plain decoding"
        )


def prepare(
    model: Any,
    strategy: AnyStrategy | str | Mapping[str, Any],
    keep: Keep | Budget,
    *,
    unit: Unit | None = None,
    positions: Positions | None = None,
    text: Text = "prompt",
    processor: Any = None,
    encoded: Encoded | None = None,
    **inputs: Any,
) -> dict[str, Any]:
    """Return shorter inputs for ``model(**inputs)`` or ``model.generate(**inputs)``; touches nothing.

    Placeholders of dropped tokens are gone from ``input_ids``, and ``mm_encoder_outputs`` holds the image features
    that were kept, so lengths, caches, compilation and further turns are consistent by construction. ``generate``
    returns sequences that start with the shortened prompt: cut them at ``inputs["input_ids"].shape[1]``.

    Parameters
    ----------
    model, strategy, keep, unit, positions, text, processor, encoded
        As in :func:`attach`.
    **inputs
        What the processor returned: ``input_ids``, ``pixel_values``, ``attention_mask`` ...

    Returns
    -------
    dict
        The inputs, shortened; without ``pixel_values``. Where position ids keep their gaps it holds
        ``use_cache=True``: without a cache ``generate`` would drop the all-ones mask and transformers would take the
        gaps for packed sequences, so ``generate(**inputs, use_cache=False)`` fails loudly instead.

    Raises
    ------
    UnsupportedError
        Besides what :func:`attach` raises: the installed transformers does not take ``mm_encoder_outputs`` (before
        5.18), or inputs are missing.
    """
    request = Request.of(model, strategy, keep, unit, positions, text, processor)
    adapter = request.adapter
    if isinstance(request.strategy, LayerSchedule):
        raise UnsupportedError(
            f"strategy {request.strategy.name!r} acts between the language model's layers, which shorter inputs cannot "
            "express: use attach"
        )
    if not takes_encoded(adapter.model):
        raise UnsupportedError("prepare needs transformers >= 5.18 (forward with mm_encoder_outputs); use attach")
    if request.positions == "keep" and not adapter.multi_axis:
        if inputs.get("use_cache") is False:
            raise UnsupportedError("prepare with use_cache=False needs positions='compact'; or use attach")
        inputs["use_cache"] = True
    ids = inputs.get("input_ids")
    if not isinstance(ids, Tensor) or (not pixels_in(inputs) and encoded is None):
        raise UnsupportedError("prepare needs input_ids and pixel_values (or pixel_values_videos) from the processor")
    if (cache := cache_in(inputs)) is not None and int(cache.get_seq_length()) > 0:
        raise UnsupportedError(
            "prepare shortens one turn: give it the new turn alone and pass the cache to generate yourself"
        )
    if encoded is None:
        encoded = encode(model, request.signals, **inputs)
    with torch.no_grad():
        return {**without_vision(adapter, inputs), **_shortened(request, inputs, ids, encoded)}


def _shortened(request: Request, inputs: Mapping[str, Any], ids: Tensor, encoded: Encoded) -> dict[str, Any]:
    adapter = request.adapter
    given = inputs.get("attention_mask")
    mask = torch.ones_like(ids, dtype=torch.bool) if given is None else given.bool()
    embeds = embedded(adapter, ids, encoded)
    batch = read_batch(request, ids, mask, encoded.seen)
    decision = decide(request, collect(request, embeds, batch, encoded.seen)).spread(batch.owner)
    plan = splice(batch.layout, decision.kept)
    outside = inputs.get("position_ids")
    if outside is None:
        outside = adapter.position_ids(inputs, mask)
    pad = getattr(adapter.model.config.get_text_config(), "pad_token_id", None) or 0
    new_ids = ids.gather(1, plan.index).masked_fill(~plan.mask, pad)
    new_embeds = decision.embeddings(plan, embeds, batch.layout)
    shorter = {}
    for modality, output in encoded.outputs.items():
        here = adapter.image_mask(ids, modality)
        there = adapter.image_mask(new_ids, modality) & plan.mask
        deepstack = [plan.scattered(here, layer)[there] for layer in deepstack_of(output)]
        sizes = [n for n in there.sum(1).tolist() if n]
        shorter[modality] = packed(output, sizes, new_embeds[there], deepstack)
    return {
        # what else runs over the sequence: token types, labels
        **{
            name: plan.tokens(value).masked_fill(~plan.mask, -100 if name == "labels" else 0)
            for name, value in inputs.items()
            if isinstance(value, Tensor) and value.shape == ids.shape and not value.is_floating_point()
        },
        "input_ids": new_ids,
        "attention_mask": plan.mask.to(torch.long),
        "position_ids": plan.positions(outside, request.positions),
        "mm_encoder_outputs": shorter,
    }
