"""Ask every contestant every question: each picture encoded once, questions in batches, answers appended, resumable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from PIL import Image

from tokenprune.benchmark.cost import DecoderShape, kv_bytes, layer_average, prefill_flops
from tokenprune.encoded import Encoded, encode, takes_encoded
from tokenprune.evaluation.answers import is_correct
from tokenprune.evaluation.contestants import Contestant, box_overlap
from tokenprune.evaluation.examination import prompt_inputs
from tokenprune.evaluation.results import ResultFolder
from tokenprune.evaluation.thrift import Thrift
from tokenprune.features import Grid
from tokenprune.matching import Match, matched_keep
from tokenprune.models.base import adapter_for
from tokenprune.run import Run
from tokenprune.session import attach
from tokenprune.strategy import AnyStrategy

__all__ = ["Item", "batches", "run", "visual_tokens"]


class Question(Protocol):
    """What the runner reads of a question."""

    @property
    def text(self) -> str:
        """What is asked."""

    @property
    def answer(self) -> str:
        """The right one."""

    @property
    def family(self) -> str:
        """Question type."""

    @property
    def subfamily(self) -> str:
        """Part of the question type."""

    @property
    def choices(self) -> tuple[str, ...]:
        """All possible answers; empty for an open question."""

    @property
    def boxes(self) -> tuple[tuple[int, int, int, int], ...]:
        """What the question is about, in pixels: left, top, right, bottom."""

    @property
    def binary(self) -> bool:
        """Whether the answer is yes or no."""


@dataclass(frozen=True)
class Item:
    """A question about a picture.

    Attributes
    ----------
    id : str
    image_id : str
        Questions with the same one share the picture, and a cluster in the statistics.
    image : callable
        Paints or opens the picture.
    question : Question
    """

    id: str
    image_id: str
    image: Callable[[], Image.Image]
    question: Question


def batches(items: Sequence[Item], size: int) -> Iterator[list[Item]]:
    """Batches of questions whose pictures come together."""
    ordered = sorted(items, key=lambda item: item.image_id)
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def run(
    model: Any,
    processor: Any,
    items: Sequence[Item],
    rows: Sequence[Contestant],
    folder: ResultFolder,
    *,
    batch_size: int = 16,
    max_new_tokens: int = 6,
    match: Match = "kept",
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> None:
    """Fill ``results.jsonl``; what is there already is not asked again.

    Parameters
    ----------
    model, processor
        As :func:`tokenprune.models.loading.load_model` returns them.
    items : sequence of Item
    rows : sequence of Contestant
    folder : ResultFolder
    batch_size, max_new_tokens : int
    match : str, default "kept"
        What a row's budget is; see :data:`tokenprune.matching.Match`. Solved for every picture.
    progress : callable
        Called with answers so far, answers in all, and what comes next.
    """
    done = {(r["strategy"], r["keep"], r["draw"], r["sample"]) for r in folder.read()}
    total, count = len(items) * len(rows), 0
    for batch in batches(items, batch_size):
        todo = [row for row in rows if any((*row.key, item.id) not in done for item in batch)]
        count += (len(rows) - len(todo)) * len(batch)
        if not todo:
            continue
        stranger = next((item for item in items if item.image_id != batch[0].image_id), None)
        asked = _Asked(model, processor, batch, match, stranger)
        for row in todo:
            progress(count, total, f"{row.label}@{row.keep}" if row.keep else row.label)
            answers = asked.answers(row, max_new_tokens)
            folder.append(a for a in answers if (*row.key, a["sample"]) not in done)
            count += len(batch)
    progress(count, total, "done")


def visual_tokens(model: Any, processor: Any, item: Item) -> int:
    """Visual tokens of an item's picture."""
    ids = prompt_inputs(processor, [item.image()], [item.question.text])["input_ids"]
    return int(adapter_for(model).image_mask(ids).sum())


class _Asked:
    """One batch of questions: pictures encoded, prompts tokenised, once for all contestants."""

    def __init__(
        self, model: Any, processor: Any, batch: Sequence[Item], match: Match, stranger: Item | None = None
    ) -> None:
        self.model, self.processor, self.batch, self.match = model, processor, batch, match
        self.adapter = adapter_for(model)
        self.thrift = Thrift(self.adapter)
        self.shape = DecoderShape.of(model.config.get_text_config())
        first = {item.image_id: item for item in batch}
        pictures = {image_id: item.image() for image_id, item in first.items()}
        self.pictures = [pictures[item.image_id] for item in batch]
        self.place = [list(first).index(item.image_id) for item in batch]
        questions = [item.question.text for item in batch]
        self.inputs = prompt_inputs(processor, self.pictures, questions).to(model.device)
        self.inputs["pixel_values"] = self.inputs["pixel_values"].to(model.dtype)
        self.pixels = self.inputs["pixel_values"][[self.place.index(i) for i in range(len(first))]]
        if len(first) == 1:  # the "wrong image" of a batch about one picture; nothing but grey where there is no other
            picture = Image.new("RGB", self.pictures[0].size, "grey") if stranger is None else stranger.image()
            other = prompt_inputs(processor, [picture], questions[:1])["pixel_values"]
            self.pixels = torch.cat([self.pixels, other.to(self.pixels)])
        self.encoded = encode(model, pixel_values=self.pixels) if takes_encoded(model) else None
        self.text = {k: v for k, v in self.inputs.items() if k in ("input_ids", "attention_mask")}
        self.images = self.adapter.image_mask(self.text["input_ids"])
        each = int(self.images[0].sum())
        grid = self.adapter.grid(each) or Grid(1, each)
        overlaps = [
            box_overlap(item.question.boxes, grid, picture.size)
            for item, picture in zip(batch, self.pictures, strict=True)
        ]
        self.wanted = torch.stack(overlaps)

    def answers(self, row: Contestant, max_new_tokens: int) -> list[dict[str, Any]]:
        """Generate, and compare with the right answers."""
        strategy = row.for_batch([item.image_id for item in self.batch], self.wanted)
        if strategy is not None and strategy is row.strategy:
            strategy = self.thrift.once(strategy)
        shift = 1 if row.kind == "wrong image" else 0
        vision, encoded = self._vision(shift)
        pruning: Any = (
            nullcontext(Run())
            if strategy is None
            else attach(
                self.model, strategy, self._budget(strategy, row.keep), processor=self.processor, encoded=encoded
            )
        )
        with torch.no_grad(), pruning as record, self.thrift.during(strategy):
            out = self.model.generate(**self.text, **vision, max_new_tokens=max_new_tokens, do_sample=False)
        texts = self.processor.batch_decode(out[:, self.text["input_ids"].shape[1] :], skip_special_tokens=True)
        visual = record.history[0].layer_tokens if record.history else self._unpruned()
        prompt = (self.text["attention_mask"].sum(1) - self.images.sum(1)).tolist()
        return [
            self._line(row, item, said, layers, int(words))
            for item, said, layers, words in zip(self.batch, texts, visual, prompt, strict=True)
        ]

    def _budget(self, strategy: AnyStrategy, keep: int) -> int | list[int]:
        """What the strategy is asked for: one budget, or one for each picture where they differ."""
        if self.match == "kept":
            return keep
        sizes = self.images.sum(1).tolist()
        solved = {size: matched_keep(strategy, keep, size, self.shape.layers) for size in set(sizes)}
        return solved[sizes[0]] if len(solved) == 1 else [solved[size] for size in sizes]

    def _vision(self, shift: int) -> tuple[dict[str, Any], Encoded | None]:
        """The pictures of the batch, moved on by ``shift`` distinct pictures."""
        place = [(i + shift) % len(self.pixels) for i in self.place]
        if self.encoded is None:
            return {"pixel_values": self.pixels[place]}, None
        picked = self.encoded.pick(place)
        return {"mm_encoder_outputs": picked.outputs}, picked

    def _unpruned(self) -> list[tuple[int, ...]]:
        return [(int(n),) * self.shape.layers for n in self.images.sum(1).tolist()]

    def _line(self, row: Contestant, item: Item, said: str, layers: Sequence[int], words: int) -> dict[str, Any]:
        question = item.question
        tokens = [n + words for n in layers]
        bytes_each = torch.finfo(self.model.dtype).bits // 8
        return {
            "strategy": row.label,
            "keep": row.keep,
            "draw": row.draw,
            "sample": item.id,
            "image": item.image_id,
            "family": question.family,
            "subfamily": question.subfamily,
            "binary": question.binary,
            "question": question.text,
            "answer": question.answer,
            "prediction": said.strip(),
            "correct": is_correct(said, question.answer, question.choices),
            "tokens": layers[-1],
            "layer_average_tokens": layer_average(layers),
            "flops": prefill_flops(self.shape, tokens),
            "kv_bytes": kv_bytes(self.shape, tokens, bytes_each),
        }
