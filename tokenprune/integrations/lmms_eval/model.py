"""``--model tokenprune``: what lmms-eval calls."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from tqdm import tqdm

from tokenprune.core.errors import UnsupportedError
from tokenprune.integrations.lmms_eval.answering import Answerer, Generation, tell_ignored
from tokenprune.integrations.lmms_eval.chats import Chat, chat_of, wrapping
from tokenprune.integrations.lmms_eval.documents import facts_of
from tokenprune.integrations.lmms_eval.ending import Ending
from tokenprune.integrations.lmms_eval.journal import Journal, key_of
from tokenprune.integrations.lmms_eval.options import FULL, Options
from tokenprune.results.fingerprint import identity
from tokenprune.results.provenance import provenance, short
from tokenprune.results.sources import source_of
from tokenprune.zoo.loading import load_model

__all__ = ["TokenPrune"]


@dataclass
class Cost(TokenCounts):  # type: ignore[misc]
    """What lmms-eval logs of each sample: tokens of prompt and answer, and what is known here besides."""

    facts: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """For its files."""
        return {**super().to_dict(), **(self.facts or {})}


@dataclass(frozen=True)
class _Asked:
    """One request: its place among the others, and all that its answer depends on."""

    places: list[int]
    key: str
    about: Mapping[str, Any]
    chat: Chat
    generation: Generation


class TokenPrune(lmms):  # type: ignore[misc]
    """Any model that there is an adapter for, pruned by any strategy, at any batch size.

    Parameters
    ----------
    **given
        ``--model_args``; see :class:`~tokenprune.integrations.lmms_eval.options.Options`.
    """

    is_simple = False

    def __init__(self, **given: Any) -> None:
        super().__init__()
        self._ending = Ending()
        given.pop("max_batch_size", None)  # the harness hands it to every model
        self.options = Options.of(given)
        self.options.built  # noqa: B018 - a misspelt strategy is told before a model is loaded
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        self._device = self._chosen_device()
        self._model, self.processor = load_model(self.options.pretrained, str(self._device), self.options.dtype)
        self._answerer = Answerer(self._model, self.processor, self.options)
        self._identity = identity(FULL if self._answerer.strategy is None else self._answerer.strategy)
        self._record = provenance(self._decisive(), self._model, self.processor, [])
        self._open = ExitStack()
        self._journal = (
            None
            if self.options.journal is None
            else self._open.enter_context(Journal(self.options.journal, self._record, self._rank))
        )
        self._told: set[str] = set()

    @property
    def device(self) -> torch.device:
        """Where the model is; the harness gathers there."""
        return self._device

    @property
    def batch_size(self) -> int:
        """Questions asked at a time."""
        return self.options.batch_size

    @property
    def batch_sizes(self) -> dict[str, int]:
        """What the harness reads of the first process when it has all its results, to write them."""
        self._ending.reached = True
        return {"questions": self.options.batch_size}

    def clean(self) -> None:
        """Called when everything is answered; other processes than the first then have nothing left to fail at."""
        self._open.close()
        self._ending.reached = self._ending.reached or self._rank > 0
        del self._answerer
        super().clean()

    def loglikelihood(self, requests: Any) -> Any:
        """Not supported."""
        raise UnsupportedError(
            "tasks that compare likelihoods of given answers are not supported, only written answers"
        )

    def generate_until_multi_round(self, requests: Any) -> Any:
        """Not supported."""
        raise UnsupportedError("tasks of several rounds are not supported: a pruned prompt has one turn to answer")

    def generate_until(self, requests: Sequence[Any]) -> list[GenerationResult]:
        """Answer all requests, in their order; what the journal holds is not asked again."""
        try:
            return self._generated(requests)
        except BaseException:
            self._open.close()  # another run of the same process may go on with the journal
            raise

    def _generated(self, requests: Sequence[Any]) -> list[GenerationResult]:
        results: list[GenerationResult | None] = [None] * len(requests)
        waiting: dict[Any, dict[str, _Asked]] = defaultdict(dict)
        started, written = time.perf_counter(), 0
        bar = tqdm(total=len(requests), disable=self.rank != 0, desc="tokenprune")

        def give(places: Sequence[int], line: Mapping[str, Any]) -> None:
            for place in places:
                results[place] = self._result(line)
            bar.update(len(places))

        # by task, split and document, so that batches are the same however requests come
        order = sorted(range(len(requests)), key=lambda i: (*requests[i].args[4:], requests[i].args[3]))
        times: dict[str, int] = defaultdict(int)
        for place in order:
            asked = self._asked(place, requests[place], times)
            if self._journal is not None and (line := self._journal.get(asked.key)) is not None:
                give([place], line)
                continue
            kind = (asked.chat.shows, repr(asked.generation))
            if asked.key in waiting[kind]:
                waiting[kind][asked.key].places.append(place)
                continue
            waiting[kind][asked.key] = asked
            if len(waiting[kind]) == self.batch_size:
                for one, line in self._answer([*waiting.pop(kind).values()]):
                    written += line["output_tokens"]
                    give(one.places, line)
        for rest in waiting.values():
            for one, line in self._answer([*rest.values()]) if rest else ():
                written += line["output_tokens"]
                give(one.places, line)
        bar.close()
        took = time.perf_counter() - started
        found = [result for result in results if result is not None]
        log_metrics(took, written, written / took if took else 0.0, additional_metrics=_means(found))
        return found

    def _asked(self, place: int, request: Any, times: dict[str, int]) -> _Asked:
        """A request, with its documents opened."""
        _, to_messages, given, document, task, split = request.args
        owner = getattr(to_messages, "__self__", None)
        generation = Generation.of(given, self.options.max_new_tokens)
        if task not in self._told:
            self._told.add(task)
            tell_ignored(task, generation)
        with _Named([f"{task}/{document}"]):
            row = self.task_dict[task][split][document]
            chat = chat_of(to_messages(row), wrapping(owner), self.options.num_frames)
        key = key_of(
            run=short(self._record),
            strategy=self._identity,
            label=self.options.label,
            keep=self.options.keep,
            task=task,
            split=split,
            document=document,
            turns=chat.turns,
            media=chat.media,
            question=chat.question,
            generation=asdict(generation),
        )
        # a task may ask the same several times, to see how answers vary; what fills processes up asks nothing new
        padding = bool((request.metadata or {}).get("__padding_only__"))
        nth = times[key] if generation.options["do_sample"] and not padding else 0
        times[key] += 1
        about = {
            "document": f"{task}/{document}",
            "generation": key_of(generation=asdict(generation))[:12],
            "question": "\n".join(chat.question),
            **facts_of(task, document, row, chat.media),
        }
        return _Asked([place], f"{key}-{nth}" if nth else key, about, chat, generation)

    def _answer(self, batch: Sequence[_Asked]) -> list[tuple[_Asked, dict[str, Any]]]:
        """Answer a batch and write it down."""
        with _Named([asked.about["document"] for asked in batch]):
            answers = self._answerer.answers([asked.chat for asked in batch], batch[0].generation)
        lines = [
            {
                "key": asked.key,
                "run": short(self._record),
                "strategy": self.options.label,
                "identity": self._identity,
                "keep": self.options.keep,
                **asked.about,
                **asdict(answer),
            }
            for asked, answer in zip(batch, answers, strict=True)
        ]
        if self._journal is not None:
            self._journal.add(lines)
        return list(zip(batch, lines, strict=True))

    def _result(self, line: Mapping[str, Any]) -> GenerationResult:
        facts = {name: value for name, value in line.items() if name not in ("key", "text")}
        facts["journal"] = None if self.options.journal is None else str(self.options.journal)
        counts = Cost(input_tokens=line["input_tokens"], output_tokens=line["output_tokens"], facts=facts)
        return GenerationResult(text=line["text"], token_counts=counts)

    def _decisive(self) -> dict[str, Any]:
        """Options that decide an answer, and the code that puts questions."""
        harness = f"lmms-eval {metadata.version('lmms_eval')}"
        return {"harness": harness, "integration": source_of(Answerer), **self.options.decisive}

    def _chosen_device(self) -> torch.device:
        """What was asked for, if there is one process; each of several has its own."""
        if self.options.device is not None and self._world_size == 1:
            return torch.device(self.options.device)
        device: torch.device = self.accelerator.device
        return device


class _Named:
    """Say which documents a failure is about."""

    def __init__(self, documents: Sequence[str]) -> None:
        self.documents = documents

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            error.add_note(f"documents {', '.join(self.documents)}")


def _means(results: Sequence[GenerationResult]) -> dict[str, float]:
    """What samples cost on average, for the harness's summary of a run."""
    facts = [result.token_counts.to_dict() for result in results]
    names = ("input_tokens", "tokens", "layer_average_tokens", "flops", "kv_bytes")
    return {name: sum(one[name] for one in facts) / len(facts) for name in names} if facts else {}
