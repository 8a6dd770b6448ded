"""One model and a queue: requests take turns, each with a strategy and a budget of its own."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokenprune.core.errors import TokenPruneError
from tokenprune.hf.adapters.base import adapter_for
from tokenprune.hf.chat import conversation_inputs
from tokenprune.hf.compiled import Compiled, compile
from tokenprune.hf.compiled.greedy import ends_of
from tokenprune.hf.compiled.programs import Backend
from tokenprune.serving.request import ChatRequest, RequestError

__all__ = ["Answer", "BusyError", "Engine", "Hearer"]

Hearer = Callable[[str], object]
"""Is called with each piece of an answer; what it raises ends the answer."""

COMPILED = 8
"""How many pairs of strategy and budget stay compiled; the one used longest ago goes."""


class BusyError(TokenPruneError):
    """So many requests wait that one more would not be answered in time."""


@dataclass(frozen=True)
class Answer:
    """What a model said.

    Attributes
    ----------
    text : str
    prompt_tokens, completion_tokens, visual_tokens : int
        The prompt as it was before pruning, the answer, and the prompt's visual tokens before pruning.
    ended : bool
        Whether the model ended the answer itself.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    visual_tokens: int
    ended: bool


class Engine:
    """Answers requests one after the other, in the order in which they came, in a thread of its own.

    Parameters
    ----------
    model : PreTrainedModel
        Nothing else may use it meanwhile.
    processor : ProcessorMixin
    waiting : int, default 64
        How many requests may be under way or wait.
    backend : str, default "graphs"
        As in :func:`tokenprune.compile`.
    """

    def __init__(self, model: Any, processor: Any, *, waiting: int = 64, backend: Backend = "graphs") -> None:
        self.model, self.processor, self.backend = model, processor, backend
        self.adapter = adapter_for(model)
        self._most = waiting
        self._waiting = 0
        self._gate = threading.Lock()
        self._compiled: OrderedDict[tuple[str, str], Compiled] = OrderedDict()
        # one thread: processors, hooks and graphs serve one prompt at a time
        self._turns = ThreadPoolExecutor(1, thread_name_prefix="tokenprune-engine")

    @property
    def waiting(self) -> int:
        """Requests under way or in the queue."""
        return self._waiting

    def submit(self, request: ChatRequest, heard: Hearer | None = None) -> Future[Answer]:
        """Put a request into the queue.

        Parameters
        ----------
        request : ChatRequest
        heard : callable, optional
            Is given the answer piece by piece, in the engine's thread.

        Raises
        ------
        BusyError
            The queue is full.
        """
        with self._gate:
            if self._waiting >= self._most:
                raise BusyError(f"{self._waiting} requests wait already; try again later")
            self._waiting += 1
        future = self._turns.submit(self._answer, request, heard)
        future.add_done_callback(self._done)
        return future

    def close(self) -> None:
        """Let the request under way end, and forget those that wait."""
        self._turns.shutdown(wait=True, cancel_futures=True)

    def _done(self, _: Future[Answer]) -> None:
        with self._gate:
            self._waiting -= 1

    def _answer(self, request: ChatRequest, heard: Hearer | None) -> Answer:
        inputs = {
            name: value.to(self.model.dtype) if value.is_floating_point() else value
            for name, value in conversation_inputs(self.processor, request.messages, request.pictures).items()
        }
        ids: Tensor = inputs["input_ids"]
        length = ids.shape[1]
        self._check_room(length, request.max_tokens)
        streamer = None if heard is None else _pieces(self.processor.tokenizer, heard)
        call = {"max_new_tokens": request.max_tokens, "streamer": streamer, "do_sample": False, **inputs}
        if request.pictures:
            out = self._serving(request).generate(**call)
        else:
            there = {k: v.to(self.model.device) if isinstance(v, Tensor) else v for k, v in call.items()}
            with torch.no_grad():
                out = self.model.generate(**there)
        new = out[0, length:].cpu()
        return Answer(
            text=self.processor.tokenizer.decode(new, skip_special_tokens=True),
            prompt_tokens=length,
            completion_tokens=len(new),
            visual_tokens=int(self.adapter.image_mask(ids).sum()),
            ended=int(new[-1]) in ends_of(self.model.generation_config),
        )

    def _check_room(self, length: int, new: int) -> None:
        """Positions of dropped tokens stay taken, so a prompt counts as long as it was."""
        most = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if most is not None and length + new > most:
            raise RequestError(
                f"the prompt has {length} tokens and the answer up to {new}; this model reads {most} together",
                "messages",
                code="context_length_exceeded",
            )

    def _serving(self, request: ChatRequest) -> Compiled:
        """The model compiled for a strategy and a budget."""
        key = (repr(request.strategy), repr(request.keep))  # 1 is one token, 1.0 all of them
        made = self._compiled.pop(key, None)
        if made is None:
            made = compile(self.model, request.strategy, request.keep, processor=self.processor, backend=self.backend)
        self._compiled[key] = made  # the one used last stands last
        if len(self._compiled) > COMPILED:
            self._compiled.popitem(last=False)
        return made


def _pieces(tokenizer: Any, heard: Hearer) -> Any:
    """A stock streamer that hands words on as soon as they are whole."""
    from transformers import TextStreamer  # takes seconds to import

    class Pieces(TextStreamer):  # type: ignore[misc]
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            if text:
                heard(text)

    return Pieces(tokenizer, skip_prompt=True, skip_special_tokens=True)
