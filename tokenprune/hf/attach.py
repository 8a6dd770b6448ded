"""Run a strategy inside a stock transformers model: ``attach`` (hooks) and ``prepare`` (a pure function).

Data flows the same way in both: observe the vision side -> features of each unit -> selection -> splice -> language
model. ``attach`` leaves the prompt's length outside unchanged and undoes everything when its block ends; ``prepare``
returns shorter inputs, with which caches, compilation and further turns need nothing special.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from tokenprune.core.budget import Budget, Keep, Unit
from tokenprune.core.errors import NestedAttachError, SecondTurnError, UnsupportedError
from tokenprune.core.schedule import LayerSchedule
from tokenprune.core.strategy import AnyStrategy, Positions
from tokenprune.hf.caches import cache_in
from tokenprune.hf.encoded import (
    Encoded,
)
from tokenprune.hf.hooks import Hooks
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
    """
    request = Request.of(model, strategy, keep, unit, positions, text, processor)
    inner = request.adapter.model
    if "_tokenprune_run" in vars(inner):
        raise NestedAttachError("this model is already attached: leave the outer attach block first")
    run = Run()
    hooks = Hooks(request, run, encoded)
    generate = inner.generate
    # the hooks follow one prompt at a time: generate in other threads waits
    turn = threading.RLock()

    @functools.wraps(generate)
    def pruned_generate(*args: Any, **kwargs: Any) -> Any:
        given = arguments_of(generate, args, kwargs)
        _refuse_speculation(inner, given)
        if isinstance(request.strategy, LayerSchedule) and request.strategy.decoding is not None:
            _refuse_beams(inner, given, request.strategy.name)
        cache = cache_in(given)
        if cache is not None and int(cache.get_seq_length()) > 0:
            raise SecondTurnError(
                f"generate was given a cache of {int(cache.get_seq_length())} tokens: a further turn cannot be pruned "
                "inside attach, whose prompt is longer than its cache. Use tokenprune.prepare for each turn"
            )
        with turn, hooks.generation():
            return generate(*args, **kwargs)

    with ExitStack() as stack:
        stack.enter_context(replaced(vars(inner), "_tokenprune_run", run))
        stack.enter_context(replaced(vars(inner), "generate", pruned_generate))
        adapter = request.adapter
        stack.enter_context(adapter.observe(request.signals, hooks.seen, request.stage))
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
