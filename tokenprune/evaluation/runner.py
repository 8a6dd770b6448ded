"""Ask every condition every question: each picture encoded once, questions in batches, answers appended, resumable."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from tokenprune.core.budget import Budget
from tokenprune.core.errors import NonFiniteError
from tokenprune.core.matching import Match, asked_keep
from tokenprune.core.strategy import AnyStrategy, Strategy
from tokenprune.data.items import Item
from tokenprune.evaluation.batch import QuestionBatch, grey
from tokenprune.evaluation.conditions import RANDOM, Condition
from tokenprune.evaluation.failures import Failure, failure
from tokenprune.evaluation.metrics import graded
from tokenprune.evaluation.prefix_cache import SharedWork
from tokenprune.hf.adapters.base import adapter_for
from tokenprune.hf.attach import attach
from tokenprune.hf.chat import Pictures
from tokenprune.hf.cost import DecoderShape, kv_bytes, layer_average, prefill_flops
from tokenprune.hf.prompt_text import Text
from tokenprune.hf.record import Run
from tokenprune.results.team import TeamFolder

__all__ = ["Asked", "FiniteLogits", "ask", "batches", "following", "question_batch"]


def batches(items: Sequence[Item], size: int) -> Iterator[list[Item]]:
    """Batches of questions whose pictures come together."""
    ordered = sorted(items, key=lambda item: item.image_id)
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def ask(
    model: Any,
    processor: Any,
    items: Sequence[Item],
    rows: Sequence[Condition],
    folder: TeamFolder,
    *,
    batch_size: int = 16,
    max_new_tokens: int = 6,
    match: Match = "kept",
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> list[Failure]:
    """Fill a folder; what any process has answered already is not asked again.

    A strategy that raises costs its own row at that budget: it is not asked on, and the others are.

    Parameters
    ----------
    model, processor
        As :func:`tokenprune.zoo.loading.load_model` returns them.
    items : sequence of Item
    rows : sequence of Condition
    folder : TeamFolder
    batch_size, max_new_tokens : int
    match : str, default "kept"
        What a row's budget is; see :data:`tokenprune.core.matching.Match`. Solved for every picture.
    progress : callable
        Called with answers so far, answers in all, and what comes next.

    Returns
    -------
    list of Failure
        Rows that broke here, as far as they came.

    Raises
    ------
    NonFiniteError
        The unpruned model gives logits that are no numbers.
    """
    after = following(items)
    every = {(folder.run, *row.key, item.id) for row in rows for item in items if row.asks(item.question)}
    others = len(folder.known() - every)  # answers to rows that are not asked now; all that follow are of these rows
    failed: dict[tuple[str, int], Failure] = {}
    strategies = [row.strategy for row in rows if row.strategy is not None]
    cut = list(batches(items, batch_size))
    for number in folder.turns(len(cut)):
        batch, done = cut[number], folder.known()
        broken = {(one["strategy"], one["keep"]) for one in folder.failures()}
        wanted = [(row, _wanted(folder.run, row, batch, done)) for row in rows if (row.label, row.keep) not in broken]
        todo = [(row, samples) for row, samples in wanted if samples]
        if not todo:
            continue
        count = len(done) - others
        asked = Asked(model, processor, batch, match, after[batch[-1].image_id], folder.run, strategies)
        for row, samples in todo:
            if (row.label, row.keep) not in failed:
                progress(count, len(every), f"{row.label}@{row.keep}" if row.keep else row.label)
                try:
                    answers = asked.answers(row, max_new_tokens)
                except (Exception, SystemExit) as error:
                    # the unpruned rows and random are ours: without them there is no table
                    if row.kind != "strategy" or row.label == RANDOM:
                        raise
                    failed[row.label, row.keep] = failure(row.label, row.keep, row.strategy, error)
                    folder.tell_failures([asdict(one) for one in failed.values()])
                else:
                    folder.append(a for a in answers if a["sample"] in samples)
            count += len(samples)
    progress(len(folder.known()) - others, len(every), "done")
    return [*failed.values()]


def _wanted(run: str, row: Condition, batch: Sequence[Item], done: Container[Any]) -> set[str]:
    """Questions of a batch that a row asks and nobody has answered."""
    return {item.id for item in batch if row.asks(item.question) and (run, *row.key, item.id) not in done}


class FiniteLogits:
    """A logits processor that looks before a token is chosen: ``argmax`` of NaN is an answer like any other."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores as they are, or raise."""
        # a model may rule tokens out by minus infinity, but not all
        if bool((torch.isnan(scores) | torch.isposinf(scores)).any() | torch.isneginf(scores).all(-1).any()):
            raise NonFiniteError("the model's logits hold NaN or infinity: its weights or its precision are broken")
        return scores


def following(items: Sequence[Item]) -> dict[str, Item | None]:
    """For each picture a question about the next one, in the order of batches; None where there is no other.

    A picture shown in the place of another is the next of all pictures, so that answers to it do not depend on how
    questions are batched.
    """
    first = {item.image_id: item for item in sorted(items, key=lambda item: item.image_id, reverse=True)}
    order = sorted(first)
    return {
        image: first[after] if after != image else None
        for image, after in zip(order, [*order[1:], *order[:1]], strict=True)
    }


def question_batch(
    model: Any,
    processor: Any,
    batch: Sequence[Item],
    others: Sequence[Pictures] = (),
    strategies: Sequence[AnyStrategy] = (),
) -> QuestionBatch:
    """The pictures that some questions are about."""
    painted = {item.image_id: item.image() for item in batch}
    return QuestionBatch(
        model,
        processor,
        [painted[item.image_id] for item in batch],
        [item.image_id for item in batch],
        [item.question.prompt for item in batch],
        others,
        strategies,
    )


class Asked:
    """One batch of questions: pictures encoded, prompts tokenised, once for all conditions."""

    def __init__(
        self,
        model: Any,
        processor: Any,
        batch: Sequence[Item],
        match: Match,
        stranger: Item | None,
        run: str,
        strategies: Sequence[AnyStrategy],
    ) -> None:
        self.model, self.processor, self.batch, self.match, self.run = model, processor, batch, match, run
        self.shared_work = SharedWork(adapter_for(model))
        self.shape = DecoderShape.of(model.config.get_text_config())
        # the last of these pictures is followed by one of the next batch; a single picture by a grey one
        others = [grey(batch[-1].image()) if stranger is None else stranger.image()]
        self.pictures = question_batch(model, processor, batch, others, strategies)
        self.wanted = self.pictures.overlap([item.question.boxes or () for item in batch])
        # what a prompt says about the form of the answer is no part of the question
        bare = all(item.question.prompt == item.question.text for item in batch)
        self.text: Text = "prompt" if bare else [[item.question.text] for item in batch]

    def answers(self, row: Condition, max_new_tokens: int) -> list[dict[str, Any]]:
        """Generate, and compare with the right answers."""
        strategy = row.for_batch(self.wanted)
        if strategy is not None and strategy is row.strategy:
            strategy = self.shared_work.once(strategy)
        inside = isinstance(strategy, Strategy) and strategy.stage is not None
        shown = self.pictures.shown(1 if row.kind == "wrong image" else 0, inside)
        pruning: Any = (
            nullcontext(Run())
            if strategy is None
            else attach(
                self.model,
                strategy,
                self._budget(strategy, row.keep),
                text=strategy.text or self.text,
                processor=self.processor,
                encoded=shown.encoded,
            )
        )
        with torch.no_grad(), pruning as record, self.shared_work.during(strategy):
            out = self.model.generate(
                **shown.inputs, max_new_tokens=max_new_tokens, do_sample=False, logits_processor=[FiniteLogits()]
            )
        texts = self.processor.batch_decode(out[:, shown.inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        unpruned = [(n,) * self.shape.layers for n in shown.prunable]
        visual = record.history[0].layer_tokens if record.history else unpruned
        return [
            self._line(row, item, said, layers, staying)
            for item, said, layers, staying in zip(self.batch, texts, visual, shown.staying, strict=True)
        ]

    def _budget(self, strategy: AnyStrategy, keep: int) -> Budget:
        """What the strategy is asked for; a picture with fewer tokens keeps them all."""
        if self.match == "share":
            return Budget(keep / 100, self.pictures.unit)
        if self.match == "kept":
            return Budget(keep, self.pictures.unit, clip=True)
        sizes = self.pictures.units
        solved = {size: asked_keep(self.match, strategy, keep, size, self.shape.layers) for size in set(sizes)}
        return Budget(solved[sizes[0]] if len(solved) == 1 else [solved[size] for size in sizes], self.pictures.unit)

    def _line(self, row: Condition, item: Item, said: str, layers: Sequence[int], staying: int) -> dict[str, Any]:
        question = item.question
        tokens = [n + staying for n in layers]
        bytes_each = torch.finfo(self.model.dtype).bits // 8
        return {
            "run": self.run,
            "strategy": row.label,
            "identity": row.identity,
            "keep": row.keep,
            "draw": row.draw,
            "sample": item.id,
            "image": item.image_id,
            "task": item.task,
            "family": item.family,
            "binary": question.binary,
            "question": question.text,
            "answer": question.answer if len(question.answers) < 2 else list(question.answers),
            "prediction": said.strip(),
            "metric": question.metric,
            "correct": graded(said.strip(), question),
            "tokens": layers[-1],
            "layer_average_tokens": layer_average(layers),
            "flops": prefill_flops(self.shape, tokens),
            "kv_bytes": kv_bytes(self.shape, tokens, bytes_each),
        }
