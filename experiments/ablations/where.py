"""Where kept tokens lie in painted scenes, and which words of the prompt called for them.

    python experiments/ablations/where.py --out where.json

For each strategy, by question type: the share of the budget on what the question is about, on other things, and on
background; how much of what the question is about is kept (area); and for strategies that score by PMI under a maximum,
whose word the kept tokens' best PMI belongs to. And what MI-Pruner weighs: relevance of tokens on the queried thing and
of background, and the redundancy (self-PMI) of either with the one of its own kind that it is most redundant with.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import tokenprune as tp
from tokenprune.components.pairwise import SelfPMI
from tokenprune.components.scorers import PMI
from tokenprune.core.information import cosine_similarity, log_marginal, pmi
from tokenprune.core.strategy import AnyStrategy
from tokenprune.data.items import Item, scene_items
from tokenprune.data.scenes import scene
from tokenprune.evaluation.batch import Box
from tokenprune.evaluation.runner import batches, question_batch
from tokenprune.hf.batch import read_batch
from tokenprune.hf.collect import collect
from tokenprune.hf.encoded import tokens_of
from tokenprune.hf.request import Request
from tokenprune.zoo.loading import load_model

STRATEGIES = (
    "mi-pruner",
    "mi-pruner:lam=0.7",
    "mi-pruner:lam=1",
    "mi-pruner:tau=0.02",
    "similarity",
    "attention",
    "divprune",
    "random",
)
COVERED = 0.25
"""Share of a token's patch that a box must cover for the token to lie on it."""


def voters(strategy: tp.Strategy, features: tp.Features, words: list[list[str]]) -> list[list[str]] | None:
    """For each visual token the word with its largest PMI; None where scores are made otherwise."""
    if not isinstance(strategy.scorer, PMI):
        return None
    conditional = strategy.scorer.normalizer(cosine_similarity(features.visual, features.text), features.text_mask)
    table = pmi(conditional, log_marginal(conditional))
    if features.text_mask is not None:
        table = table.masked_fill(~features.text_mask.unsqueeze(1), -torch.inf)
    return [[row[i] for i in best.tolist()] for row, best in zip(words, table.argmax(-1), strict=True)]


class Places:
    """One batch of questions: what strategies are shown, and where things are."""

    def __init__(self, model: Any, processor: Any, batch: list[Item], seed: int) -> None:
        self.model, self.processor, self.batch = model, processor, batch
        self.pictures = question_batch(model, processor, batch)
        painted = [scene(seed, int(item.image_id.split("-")[1])) for item in batch]
        self.asked = self._under([item.question.boxes for item in batch])
        self.anything = self._under([[thing.box for thing in (*one.objects, *one.signs)] for one in painted])

    def _under(self, boxes: Sequence[Sequence[Box]]) -> Tensor:
        """Share of each token's patch under its question's boxes, (B, N)."""
        units = zip(self.pictures.sizes, self.pictures.units, strict=True)
        patches = torch.tensor([[width * height / n] for (width, height), n in units], dtype=torch.float64)
        return self.pictures.overlap(boxes) / patches

    def features(self, strategy: AnyStrategy) -> tuple[tp.Features, list[list[str]]]:
        """What a strategy is given, and the words of each question."""
        request = Request.of(self.model, strategy, 1.0, None, None, "prompt", self.processor)
        shown = self.pictures.shown(0)
        ids, encoded = shown.inputs["input_ids"], shown.encoded
        assert encoded is not None
        batch = read_batch(request, ids, shown.inputs["attention_mask"].bool(), encoded.seen)
        here = request.adapter.image_mask(ids).unsqueeze(-1)
        embeds = request.adapter.embed_text(ids).masked_scatter(here, tokens_of(encoded.outputs["image"]))
        own = [row[text].tolist() for row, text in zip(ids, batch.layout.text, strict=True)]
        words = [self.processor.tokenizer.convert_ids_to_tokens(row) for row in own]
        return collect(request, ids, embeds, batch, encoded.seen), words

    def rows(self, strategy: tp.Strategy, keep: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """For each question its type and what became of it."""
        features, words = self.features(strategy)
        kept = strategy.select(features, keep).mask
        called = voters(strategy, features, words)
        for n, item in enumerate(self.batch):
            asked, anything = self.asked[n] >= COVERED, self.anything[n] >= COVERED
            row: dict[str, Any] = {
                "asked": float((kept[n] & asked).sum()) / keep,
                "other": float((kept[n] & anything & ~asked).sum()) / keep,
                "background": float((kept[n] & ~anything).sum()) / keep,
            }
            if asked.any():
                row["recall"] = float(self.asked[n][kept[n]].sum() / self.asked[n].sum())
            if called is not None:
                row["words"] = Counter(called[n][i] for i in kept[n].nonzero().flatten().tolist())
            yield item.question.family, row

    def scales(self) -> Iterator[tuple[str, dict[str, float]]]:
        """For each question its type, and means of relevance and of redundancy on the thing and on background."""
        features, _ = self.features(tp.build("mi-pruner"))
        relevance, redundancy = PMI().score(features), SelfPMI().table(features).dense()
        for n, item in enumerate(self.batch):
            row = {}
            for name, here in (("asked", self.asked[n] >= COVERED), ("background", self.anything[n] < COVERED)):
                if int(here.sum()) > 1:
                    among = redundancy[n][here][:, here].fill_diagonal_(-torch.inf)
                    row[f"relevance {name}"] = float(relevance[n][here].mean())
                    row[f"redundancy {name}"] = float(among.amax(1).mean())
            if len(row) == 4:
                yield item.question.family, row


def balance(rows: list[dict[str, float]]) -> dict[str, float]:
    """Means, and the lambda at which one more token of the queried thing gains as much as one more of background."""
    found = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
    relevant = found["relevance asked"] - found["relevance background"]
    redundant = found["redundancy asked"] - found["redundancy background"]
    return {name: round(value, 3) for name, value in {**found, "lambda": redundant / (relevant + redundant)}.items()}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means, and the words that called for most tokens."""
    found: dict[str, Any] = {}
    for name in ("asked", "other", "background", "recall"):
        values = [row[name] for row in rows if name in row]
        found[name] = round(sum(values) / len(values), 4) if values else None
    words: Counter[str] = sum((row["words"] for row in rows if "words" in row), Counter())
    if words:
        found["words"] = {word: round(count / words.total(), 3) for word, count in words.most_common(8)}
    found["n"] = len(rows)
    return found


@torch.no_grad()
def main() -> None:
    """Measure and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES))
    parser.add_argument("--families", nargs="+", default=["pope", "gqa", "textvqa"])
    parser.add_argument("--model", default="embedded", help="'embedded', a folder or a hub id")
    parser.add_argument("--keep", type=int, default=64)
    parser.add_argument("--limit", type=int, default=240)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    model, processor = load_model(asked.model)
    found: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    weighed: dict[str, list[dict[str, float]]] = defaultdict(list)
    for batch in batches(scene_items(asked.families, asked.limit, asked.seed), 16):
        places = Places(model, processor, batch, asked.seed)
        for family, scale in places.scales():
            weighed[family].append(scale)
        for name in asked.strategies:
            for family, row in places.rows(tp.build(name), asked.keep):  # type: ignore[arg-type]
                found[name][family].append(row)
    report = {name: {family: summary(rows) for family, rows in by.items()} for name, by in found.items()}
    weights = {family: balance(rows) for family, rows in weighed.items()}
    result = {"keep": asked.keep, "seed": asked.seed, "strategies": report, "mi-pruner weighs": weights}
    asked.out.write_text(json.dumps(result, indent=1))
    for name, by in report.items():
        for family, row in by.items():
            print(f"{name:22s} {family:10s} {row}")
    for family, row in weights.items():
        print(f"{family:10s} {row}")


if __name__ == "__main__":
    main()
