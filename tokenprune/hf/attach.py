"""Run a strategy inside a stock transformers model: ``attach`` (hooks) and ``prepare`` (a pure function).

Data flows the same way in both: observe the vision side -> features of each unit -> selection -> splice -> language
model. ``attach`` leaves the prompt's length outside unchanged and undoes everything when its block ends; ``prepare``
returns shorter inputs, with which caches, compilation and further turns need nothing special.
"""

from __future__ import annotations

import functools
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from tokenprune.core.budget import Budget, Keep, Unit
from tokenprune.core.errors import NestedAttachError, NothingPrunedWarning, SecondTurnError, UnsupportedError
from tokenprune.core.schedule import LayerSchedule
from tokenprune.core.strategy import AnyStrategy, Positions
from tokenprune.hf.encoded import Encoded
from tokenprune.hf.hooks import Hooks
from tokenprune.hf.patching import MARK, Hook, Mark, arguments_of, attached, cache_in, replaced, standing_in
from tokenprune.hf.prompt_text import Text
from tokenprune.hf.record import Run
from tokenprune.hf.request import Request
from tokenprune.hf.sources import Extra

__all__ = ["attach"]


@contextmanager
def attach(
    model: Any,
    strategy: AnyStrategy | str | Mapping[str, Any],
    keep: Keep | Budget,
    *,
    unit: Unit | None = None,
    positions: Positions | None = None,
    text: Text | None = None,
    processor: Any = None,
    encoded: Encoded | None = None,
    extra: Extra | None = None,
    full_length: bool | None = None,
) -> Iterator[Run]:
    """Prune the visual tokens of every prompt that the model sees inside the ``with`` block.

    Works with ``generate`` (greedy, sampling, beams, with and without cache) and with plain forward passes; with
    ``labels`` the loss is computed as usual. Logits of a plain forward pass have the pruned length;
    ``run.history[-1].splice.index`` maps them back. Prompts without images are left alone.

    What is known of a prompt stays with its cache: other prompts may be read in between (guidance, several
    conversations in turns). A ``generate`` that runs in another thread when the block ends is served to its end.

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
    text : Text, optional
        Which tokens count as the prompt's text: what the user says in all turns ("prompt"), in the last one
        ("last-turn"), in all turns less English stop words ("keywords"), the question itself or a list of them,
        everything ("all"), a bool mask (B, S) or a function of the ids; see
        :func:`~tokenprune.hf.prompt_text.prompt_text`. By default the strategy's own choice, or "prompt".
    processor : optional
        The model's processor or tokenizer, to tell the user's words from everything else; by default the one that was
        saved with the model, where it lies on this machine. A question as ``text`` needs it.
    encoded : Encoded, optional
        The images of the prompts, encoded by :func:`~tokenprune.hf.encoded.encode` and passed to the model as
        ``mm_encoder_outputs``: signals of the encoder are taken from it.
    extra : mapping of str to Tensor or Collector, optional
        Signals handed in, by name: tensors with a row for each unit of every batch, in the order of the prompts, or
        :class:`~tokenprune.hf.collectors.Collector` objects that make them. They go before what the model has.
    full_length : bool, optional
        Whether logits of a plain forward pass have the prompt's full length, as with ``labels``: behind a dropped
        token stands what is predicted after the last kept one before it. For losses of one's own (label smoothing,
        log-probabilities of answers). By default while the model is in training mode.

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
        The block ends, and nothing was pruned of what was shown.
    """
    request = Request.of(model, strategy, keep, unit, positions, text, processor, extra)
    adapter = request.adapter
    inner = adapter.model
    if attached(adapter):
        raise NestedAttachError(
            "this model, or another head over the same core, is already attached: leave the outer attach block first"
        )
    _refuse_compiled(model, request)
    run = Run()
    hooks = Hooks(request, run, encoded, full_length=full_length)
    block = _Block(inner, hooks)
    with ExitStack() as stack:
        for owner in (inner, adapter.core):
            stack.enter_context(replaced(vars(owner), MARK, Mark()))
        stack.enter_context(standing_in(inner, "generate", block.generating(inner.generate)))
        stack.enter_context(standing_in(inner, "forward", block.reading(inner.forward)))
        if hasattr(inner, "loss_function"):
            # forward itself may be called, without any hook of the model's
            stack.enter_context(replaced(vars(inner), "_loss_function", _Loss(hooks, inner.loss_function)))
        stack.enter_context(adapter.observe(request.signals, hooks.seen, request.stage))
        for module, hook in ((adapter.core, hooks.before_core), (adapter.language_model, hooks.before_language_model)):
            stack.callback(module.register_forward_pre_hook(Hook(hook), with_kwargs=True).remove)
        after = adapter.language_model.register_forward_hook(Hook(hooks.after_language_model), with_kwargs=True)
        stack.callback(after.remove)
        if hooks.inside is not None:
            stack.enter_context(hooks.inside.attached())
        # a call that runs in another thread keeps its hooks: the last one to end takes them away
        block.undo = stack.pop_all()
    try:
        yield run
    finally:
        block.leave()
    _warn_of_nothing(request, hooks)


class _Block:
    """One ``attach`` block: whose turn it is to call the model, and who undoes what was done."""

    def __init__(self, model: Any, hooks: Hooks) -> None:
        self.model, self.hooks = model, hooks
        self.undo = ExitStack()
        # the hooks follow one prompt at a time: other threads wait
        self._turn = threading.RLock()
        self._gate = threading.Condition()
        self._left = False
        self._running: Counter[int] = Counter()
        """Calls under way that began inside the block, by thread."""

    @contextmanager
    def _call(self) -> Iterator[bool]:
        """One call of the model; yields whether it is pruned. Others wait until the last pruned one has ended."""
        me = threading.get_ident()
        with self._gate:
            pruned = not self._left or me in self._running
            if pruned:
                self._running[me] += 1
            else:
                self._gate.wait_for(lambda: not self._running)
        if not pruned:
            yield False
            return
        try:
            with self._turn:
                yield True
        finally:
            with self._gate:
                self._running[me] -= 1
                if not self._running[me]:
                    del self._running[me]
                self._end()

    def generating(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        """``generate``, inside the block."""

        @functools.wraps(generate)
        def pruned(*args: Any, **kwargs: Any) -> Any:
            with self._call() as inside:
                if not inside:
                    return generate(*args, **kwargs)
                self._check(arguments_of(generate, args, kwargs))
                with self.hooks.generation():
                    return generate(*args, **kwargs)

        return pruned

    def reading(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """``forward``, its arguments noted: also where it is called as it is, without the module's hooks."""

        @functools.wraps(forward)
        def noted(*args: Any, **kwargs: Any) -> Any:
            with self._call() as inside:
                if inside:
                    self.hooks.before_model(arguments_of(forward, args, kwargs) if args else kwargs)
                return forward(*args, **kwargs)

        return noted

    def leave(self) -> None:
        """End the block; what it did is undone now, or by the last call that still runs."""
        with self._gate:
            self._left = True
            self._end()

    def _end(self) -> None:
        if self._left and not self._running:
            self.undo.close()
            self._gate.notify_all()

    def _check(self, given: Mapping[str, Any]) -> None:
        _refuse_speculation(self.model, given)
        strategy = self.hooks.request.strategy
        if isinstance(strategy, LayerSchedule) and strategy.decoding is not None:
            _refuse_beams(self.model, given, strategy.name)
        cache = cache_in(given)
        if cache is not None and int(cache.get_seq_length()) > 0:
            raise SecondTurnError(
                f"generate was given a cache of {int(cache.get_seq_length())} tokens: a further turn cannot be pruned "
                "inside attach, whose prompt is longer than its cache. Use tokenprune.prepare for each turn"
            )


class _Loss:
    """The model's loss, over logits of the prompt's full length."""

    def __init__(self, hooks: Hooks, loss: Callable[..., Any]) -> None:
        self._hooks, self._loss = hooks, loss

    def __call__(self, logits: Any, labels: Any, *args: Any, **kwargs: Any) -> Any:
        """Compute it."""
        return self._loss(self._hooks.full(logits, labels), labels, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., Any]:
        """The loss as it was."""
        return self._loss


def _warn_of_nothing(request: Request, hooks: Hooks) -> None:
    """Say so where a block ends and nothing was pruned."""
    history, strategy = hooks.run.history, request.strategy
    if hooks.embedded and not history:
        warnings.warn(
            f"prompts came as inputs_embeds inside this attach block, and {strategy.name!r} pruned nothing: where "
            "pictures are in embeddings cannot be seen. Pass input_ids and pixel_values, or shorten the embeddings "
            "yourself with Strategy.select",
            NothingPrunedWarning,
            stacklevel=4,
        )
    if hooks.shown and not history:
        warnings.warn(
            f"a picture was shown inside this attach block, and {strategy.name!r} pruned nothing: the model was run in "
            "a way that its hooks do not see",
            NothingPrunedWarning,
            stacklevel=4,
        )
    dropped = any(prefill.tokens_after != prefill.tokens_before for prefill in history)
    if history and not dropped and request.budget.keep != 1.0 and strategy.uses_budget and not strategy.merges:
        if strategy.own_counts:
            why = f"strategy {strategy.name!r} keeps counts of its own, and here they come to all: a whole frame, say"
        else:
            why = (
                f"each {request.budget.unit} has no more tokens than that ({hooks.run.tokens_before} tokens in the "
                "last batch). Give a smaller budget, or unit='sample' for one budget a prompt"
            )
        warnings.warn(
            f"keep={request.budget.keep!r} dropped nothing: {why}",
            NothingPrunedWarning,
            stacklevel=4,
        )


def _refuse_compiled(model: Any, request: Request) -> None:
    """Raise where ``torch.compile`` has made code of modules that are to be hooked: it would not see the hooks."""
    adapter = request.adapter
    layers = list(adapter.language_model.get_submodule("layers").children())
    hooked = [adapter.model, adapter.core, adapter.language_model]
    hooked += layers if isinstance(request.strategy, LayerSchedule) else []
    compiled = any(getattr(module, "_compiled_call_impl", None) is not None for module in hooked)
    if compiled or hasattr(model, "_orig_mod") or hasattr(adapter.model, "_orig_mod"):
        raise UnsupportedError(
            "this model runs under torch.compile, whose code does not see attach's hooks: give attach the model as it "
            "was (compiled._orig_mod) and run that, use tokenprune.compile, or shorten inputs with tokenprune.prepare"
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
    if given.get("prefill_chunk_size") or getattr(config, "prefill_chunk_size", None):
        raise UnsupportedError(
            "prefill_chunk_size feeds a prompt in pieces, and attach has to see its pictures and its question at once: "
            "leave it out, or use tokenprune.prepare, whose prompts may be fed in pieces"
        )
    early = given.get("assistant_early_exit") or getattr(config, "assistant_early_exit", None)
    if given.get("assistant_model") is not None or lookup or early:
        raise UnsupportedError(
            "assisted and prompt-lookup decoding cut the cache back to the unpruned prompt's length, which is wrong "
            "inside attach: use tokenprune.prepare, or plain decoding"
        )
