"""Samples as lmms-eval logs them, of answers that our own comparison gave."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenprune.data.items import Item
from tokenprune.integrations.lmms_eval.answering import Answer, Answerer, Generation
from tokenprune.integrations.lmms_eval.chats import Chat, chat_of

SHORT = Generation({"do_sample": False, "max_new_tokens": 6})


def chat_about(item: Item, around: tuple[str, str] = ("", "")) -> Chat:
    """A question as a task of the harness puts it: pictures, then text."""
    shown = item.image()
    pictures = list(shown) if isinstance(shown, tuple | list) else [shown]
    said = f"{around[0]}{item.question.text}{around[1]}"
    contents = [*({"type": "image", "url": one} for one in pictures), {"type": "text", "text": said}]
    return chat_of([{"role": "user", "content": contents}], around, 8)


def asked(answerer: Answerer, items: Sequence[Item], size: int) -> list[Answer]:
    """Answers in batches."""
    chats = [chat_about(item) for item in items]
    batches = (chats[i : i + size] for i in range(0, len(chats), size))
    return [answer for batch in batches for answer in answerer.answers(batch, SHORT)]


def write_samples(
    folder: Path, lines: Sequence[Mapping[str, Any]], journal: Path, run: str, changes: Mapping[str, Any] | None = None
) -> Path:
    """Lines of a comparison, as the harness would have logged them; returns its output folder."""
    file = folder / "model" / "20260101_000000_samples_tokenprune_scenes.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    copied = ("sample", "image", "task", "family", "question", "tokens", "layer_average_tokens", "flops", "kv_bytes")
    with file.open("w", encoding="utf-8") as out:
        for i, line in enumerate(lines):
            strategy = line["strategy"] if line["strategy"] != "random" else f"random:seed={line['draw']}"
            facts = {
                "input_tokens": 1,
                "output_tokens": 1,
                "run": run,
                "strategy": strategy,
                "identity": line["identity"] if line["strategy"] != "random" else f"draw{line['draw']}",
                "keep": line["keep"] or None,
                "document": f"tokenprune_scenes/{i}",
                "generation": "0",
                "journal": str(journal),
                "metric": line["metric"],
                **{name: line[name] for name in copied},
                **(changes or {}),
            }
            sample = {
                "doc_id": i,
                "target": line["answer"],
                "filtered_resps": line["prediction"],
                "token_counts": [facts],
                "doc_hash": "0",
                "accuracy": float(line["correct"]),
                "input": line["question"],
            }
            out.write(json.dumps(sample) + "\n")
    return folder
