"""What tasks of ours call: pictures, prompts, and answers graded by metrics of this package."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tokenprune.core.errors import ConfigError
from tokenprune.data.images import open_image
from tokenprune.data.own.question import OwnQuestion
from tokenprune.evaluation.metrics import build_metric, graded

__all__ = ["doc_to_text", "doc_to_visual", "process_results", "total"]


def doc_to_visual(doc: Mapping[str, Any]) -> list[Any]:
    """Pictures of a question, opened; or its video, by name."""
    return [doc["video"]] if doc.get("video") else [open_image(file) for file in doc["images"]]


def doc_to_text(doc: Mapping[str, Any], lmms_eval_specific_kwargs: Mapping[str, Any] | None = None) -> str:
    """The question, between what the task writes before and behind it."""
    around = lmms_eval_specific_kwargs or {}
    return f"{around.get('pre_prompt') or ''}{doc['question']}{around.get('post_prompt') or ''}"


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """Grade an answer: ``accuracy``, and what metrics over all answers (:func:`total`) are made of."""
    question = _question(doc)
    said = results[0].strip()
    right = graded(said, question)
    if right is None:
        raise ConfigError(
            f"metric {question.metric!r} asks a judge, which a task of the harness does not: use tokenprune compare"
        )
    line = {
        "sample": doc["id"],
        "image": doc["image_id"],
        "prediction": said,
        "answer": question.answer if len(question.answers) < 2 else list(question.answers),
        "correct": right,
        "binary": question.binary,
        "task": doc["task"],
        "family": doc["family"],
    }
    return {"accuracy": float(right), **dict.fromkeys(doc.get("totals") or (), line)}


def total(metric: str, name: str) -> Callable[[Sequence[Mapping[str, Any]]], float]:
    """A number that a metric makes of all answers, as an aggregation."""

    def aggregate(lines: Sequence[Mapping[str, Any]]) -> float:
        found: float = build_metric(metric).totals(lines)[name]
        return found

    return aggregate


def _question(doc: Mapping[str, Any]) -> OwnQuestion:
    return OwnQuestion(
        text=doc["question"],
        answer=doc["answer"],
        family=doc["task"],
        subfamily=doc["family"],
        choices=tuple(doc.get("choices") or ()),
        answers=tuple(doc.get("answers") or (doc["answer"],)),
        options=tuple(doc.get("options") or ()),
        prompt=doc["question"],
        metric=doc["metric"],
    )
