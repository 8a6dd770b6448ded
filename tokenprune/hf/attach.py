"""Run a strategy inside a stock transformers model: ``attach`` (hooks) and ``prepare`` (a pure function).

Data flows the same way in both: observe the vision side -> features of each unit -> selection -> splice -> language
model. ``attach`` leaves the prompt's length outside unchanged and undoes everything when its block ends; ``prepare``
returns shorter inputs, with which caches, compilation and further turns need nothing special.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, get_args

from tokenprune.core.budget import Budget, Keep, Unit
from tokenprune.core.errors import (
    ConfigError,
    NestedAttachError,
    NothingPrunedWarning,
    SecondTurnError,
    UnsupportedError,
    closest,
)
from tokenprune.core.schedule import LayerSchedule
from tokenprune.core.strategy import AnyStrategy, Positions
from tokenprune.hf.caches import cache_in
from tokenprune.hf.encoded import Encoded, pixels_in
from tokenprune.hf.hooks import Hooks, Logits, refuse_prepared
from tokenprune.hf.installed import Installed
from tokenprune.hf.patching import arguments_of, replaced
from tokenprune.hf.prompt_text import Text
from tokenprune.hf.record import Run
from tokenprune.hf.request import Request

__all__ = ["attach"]


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
    logits: Logits = "auto",
) -> Iterator[Run]:
    """Prune the visual tokens of every prompt that the model sees inside the ``with`` block.

    Works with ``generate`` (greedy, sampling, beams, with and without cache) and with plain forward passes; with
    ``labels`` the loss is computed as usual. Logits of a plain forward pass have the pruned length unless ``logits``
    says otherwise; ``run.history[-1].splice.index`` maps them back. Prompts without images are left alone.

    Several threads may use the model, and prompts may be continued in any order: what it takes to continue one belongs
    to its cache. A call of ``generate`` that still runs when the block ends stays pruned to its end. A
    ``copy.deepcopy`` of the model is a plain model.

    Parameters
    ----------
    model : PreTrainedModel
        A supported model, unmodified; see ``tokenprune list adapters``.
    strategy : AnyStrategy, str or mapping
        A strategy, or what :func:`tokenprune.build` accepts.
    keep : int, float, sequence or Budget
        Tokens kept for each unit; see :class:`~tokenprune.core.budget.Budget`.
    unit : str, optional
        "image" (default; a video counts as one), "tile", "frame" or "sample" (everything in a prompt shares one
        budget); see :class:`~tokenprune.core.budget.Budget`.
    positions : str, optional
        "keep" or "compact"; the strategy's own choice by default.
    text : Text, default "prompt"
        Which tokens count as the prompt's text: what the user says in all turns ("prompt"), in the last one
        ("last-turn"), the question itself or a list of them, everything ("all"), a bool mask (B, S) or a function of
        the ids; see :func:`~tokenprune.hf.prompt_text.prompt_text`.
    processor : optional
        The model's processor or tokenizer, to tell the user's words from everything else; by default the one that was
        saved with the model, where it lies on this machine. A question as ``text`` needs it.
    encoded : Encoded, optional
        The images of the prompts, encoded by :func:`~tokenprune.hf.encoded.encode` and passed to the model as
        ``mm_encoder_outputs``: signals of the encoder are taken from it.
    logits : str, default "auto"
        Length of a forward pass's logits: "pruned", "full" (what is predicted after a dropped token is what is
        predicted after the last one kept before it: for losses of one's own, label smoothing, log-probabilities), or
        "auto": full while the model is in training mode. With ``labels``, or ``logits_to_keep`` as places or as a
        number above 1, full always.

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
        See :mod:`tokenprune.core.errors`.

    Warns
    -----
    QuestionWarning
        The strategy reads the prompt, and which of its tokens are the user's words is a guess.
    NothingPrunedWarning
        The block ends, and nothing was pruned although pictures were shown.
    """
    if logits not in get_args(Logits):
        raise ConfigError(f"logits: no {logits!r}; {closest(logits, get_args(Logits))}")
    request = Request.of(model, strategy, keep, unit, positions, text, processor)
    adapter = request.adapter
    inner, core = adapter.model, adapter.core
    _refuse_compiled(model, inner)
    if any(_MARK in vars(module) for module in (inner, core)):
        raise NestedAttachError(
            "this model, or another one with the same core, is already attached: leave the outer attach block first, "
            "and join threads whose generate call began in it"
        )
    run = Run()
    hooks = Hooks(request, run, encoded, logits)
    installed = Installed(lambda: _hooked(installed, hooks))
    installed.open()
    try:
        yield run
    finally:
        installed.close()
    if (hooks.shown or hooks.seen.ever) and not run.prompts and not hooks.refused:
        warnings.warn(
            "pictures were shown inside attach and nothing was pruned: the language model was not given their tokens "
            "by way of the model's own forward (embeddings merged elsewhere, the encoder alone, a prompt without "
            "placeholders?)",
            NothingPrunedWarning,
            stacklevel=3,
        )


_MARK = "_tokenprune_run"
"""Attribute of a model, and of its core, that is attached."""


@contextmanager
def _hooked(installed: Installed, hooks: Hooks) -> Iterator[None]:
    """Put on a model, and take off again, what one block needs."""
    request, adapter = hooks.request, hooks.request.adapter
    inner, core, language_model = adapter.model, adapter.core, adapter.language_model
    with ExitStack() as stack:

        def put(module: Any, name: str, value: Any) -> None:
            stack.enter_context(replaced(vars(module), name, value))

        put(inner, "generate", _pruned_generate(installed, hooks))
        put(inner, "forward", _noted_forward(installed, hooks))
        put(core, "forward", _forward_in_turn(installed, core))
        for module in (inner, core, language_model):
            put(module, "__deepcopy__", installed.deepcopy(module))
        for module in {id(inner): inner, id(core): core}.values():
            put(module, _MARK, hooks.run)
        stack.enter_context(adapter.observe(request.signals, hooks.seen, request.stage, installed.turn))
        stack.callback(core.register_forward_pre_hook(hooks.before_core, with_kwargs=True).remove)
        stack.callback(language_model.register_forward_pre_hook(hooks.before_language_model, with_kwargs=True).remove)
        stack.callback(language_model.register_forward_hook(hooks.after_language_model, with_kwargs=True).remove)
        if hooks.inside is not None:
            stack.enter_context(hooks.inside.attached())
        yield


def _check_call(request: Request, given: Mapping[str, Any]) -> None:
    """Raise for what cannot be pruned in a call of ``generate``."""
    inner = request.adapter.model
    _refuse_speculation(inner, given)
    _refuse_chunks(inner, given)
    refuse_prepared(given.get("mm_encoder_outputs") or {})
    if isinstance(request.strategy, LayerSchedule) and request.strategy.decoding is not None:
        _refuse_beams(inner, given, request.strategy.name)
    cache = cache_in(given)
    if cache is not None and int(cache.get_seq_length()) > 0:
        raise SecondTurnError(
            f"generate was given a cache of {int(cache.get_seq_length())} tokens: a further turn cannot be pruned "
            "inside attach, whose prompt is longer than its cache. Use tokenprune.prepare for each turn"
        )


def _pruned_generate(installed: Installed, hooks: Hooks) -> Callable[..., Any]:
    request = hooks.request
    inner = request.adapter.model
    generate = inner.generate

    @functools.wraps(generate)
    def pruned_generate(*args: Any, **kwargs: Any) -> Any:
        with installed.call() as pruned:
            if not pruned:
                return generate(*args, **kwargs)
            with hooks.generation():
                _check_call(request, arguments_of(generate, args, kwargs))
                return generate(*args, **kwargs)

    return pruned_generate


def _noted_forward(installed: Installed, hooks: Hooks) -> Callable[..., Any]:
    """The model's forward, however it is called: some wrappers leave ``__call__`` and its hooks out."""
    inner = hooks.request.adapter.model
    forward = inner.forward

    @functools.wraps(forward)
    def noted(*args: Any, **kwargs: Any) -> Any:
        if not installed.applies():
            return forward(*args, **kwargs)
        with hooks.asked(arguments_of(forward, args, kwargs), inner.training):
            return forward(*args, **kwargs)

    return noted


def _forward_in_turn(installed: Installed, core: Any) -> Callable[..., Any]:
    """The core's forward; passes in other threads wait for each other."""
    forward = core.forward

    @functools.wraps(forward)
    def in_turn(*args: Any, **kwargs: Any) -> Any:
        if not installed.applies():
            return forward(*args, **kwargs)
        with installed.turn:
            return forward(*args, **kwargs)

    return in_turn


def _refuse_compiled(model: Any, inner: Any) -> None:
    """Raise for a model that ``torch.compile`` has traced without hooks, or would trace with them."""
    traced = any(getattr(m, "_compiled_call_impl", None) is not None for m in inner.modules())
    if traced or any(hasattr(m, "_orig_mod") for m in (model, inner)):
        raise UnsupportedError(
            "this model was handed to torch.compile, whose programs run past the hooks of attach: load "
            "it anew, use tokenprune.compile for speed, or "
            "tokenprune.prepare, whose shorter inputs a compiled model takes"
        )


def _refuse_chunks(model: Any, given: Mapping[str, Any]) -> None:
    """Raise where a prompt with pictures would be fed in pieces."""
    config = given.get("generation_config") or model.generation_config
    size = given.get("prefill_chunk_size") or getattr(config, "prefill_chunk_size", None)
    if size and (pixels_in(given) or given.get("mm_encoder_outputs")):
        raise UnsupportedError(
            f"prefill_chunk_size={size} feeds a prompt in pieces, and attach has to see all pictures and text at "
            "once: leave it out (a pruned prompt is short), or use tokenprune.prepare"
        )


def _refuse_beams(model: Any, given: Mapping[str, Any], strategy: str) -> None:
    """Raise where rows of a batch would change places while what they attended to is remembered by row."""
    config = given.get("generation_config") or model.generation_config
    beams = given.get("num_beams") or getattr(config, "num_beams", None) or 1
    if beams > 1:
        raise UnsupportedError(
            f"strategy {strategy!r} remembers what each row attended to from one new token to the next, and beams "
            "change rows: use greedy decoding or sampling, or a form of the strategy that does not act while decoding"
        )


def _refuse_speculation(model: Any, given: Mapping[str, Any]) -> None:
    """Raise for decoding modes that cut the cache back to a length counted outside."""
    config = given.get("generation_config") or model.generation_config
    lookup = given.get("prompt_lookup_num_tokens") or getattr(config, "prompt_lookup_num_tokens", None)
    if given.get("assistant_model") is not None or lookup:
        raise UnsupportedError(
            "assisted and prompt-lookup decoding cut the cache back to the unpruned prompt's length, which is wrong "
            "inside attach: use tokenprune.prepare, or plain decoding"
        )
