"""Measure a model folder as a user would, on a CPU: ``python -m experiments.embedded.evaluate [FOLDER] --scenes 20``.

Two things: whether greedy ``generate`` (processor, chat template, stock classes) and teacher forcing agree, question by
question; and how well the cosine of a visual token and a word tells where the thing of that name is.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import rankdata
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from experiments.embedded.labels import patch_labels
from tokenprune.data.scenes import Scene, scene
from tokenprune.hf.chat import prompt_inputs
from tokenprune.zoo import embedded


def generated(model: Any, processor: Any, shown: Scene) -> list[str]:
    """What the model says to every question about a scene."""
    texts = [question.text for question in shown.questions]
    inputs = prompt_inputs(processor, [shown.image] * len(texts), texts)
    out = model.generate(**inputs)
    return processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)  # type: ignore[no-any-return]


def forced(model: Any, processor: Any, shown: Scene) -> list[bool]:
    """Whether every token of each right answer, and the end, is the most likely one."""
    found = []
    for question in shown.questions:
        inputs = prompt_inputs(processor, [shown.image], [question.text])
        said = processor.tokenizer(question.answer, add_special_tokens=False).input_ids
        said = torch.tensor([[*said, processor.tokenizer.eos_token_id]])
        ids = torch.cat([inputs["input_ids"], said[:, :-1]], 1)
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=inputs["pixel_values"]).logits
        found.append(bool((logits[:, -said.shape[1] :].argmax(-1) == said).all()))
    return found


class Nearness(NamedTuple):
    """How visual tokens lie to the name of one thing in a scene.

    Attributes
    ----------
    own, others, background : float
        Mean cosine of the name with the patches of the thing, of other things (nan where there are none), of neither.
    chance : float
        Chance that a patch of the thing is closer to its name than a patch that is not.
    """

    own: float
    others: float
    background: float
    chance: float


def nearness(model: Any, processor: Any, shown: Scene) -> list[Nearness]:
    """Compare the visual tokens of a scene with each name of what it shows."""
    pixels = processor.image_processor(images=[shown.image], return_tensors="pt")["pixel_values"]
    visual = model.model.get_image_features(pixel_values=pixels).pooler_output[0]
    visual = torch.nn.functional.normalize(visual.reshape(-1, visual.shape[-1]), dim=-1)
    names = [thing.name for thing in shown.objects] + ["sign"] * len(shown.signs)
    order = list(dict.fromkeys(names))
    (labels,) = patch_labels(shown.painting.owner, [[0, *(order.index(name) + 1 for name in names)]])
    found = []
    for i, name in enumerate(order):
        here = labels == i + 1
        if not here.any():
            continue
        word = processor.tokenizer.convert_tokens_to_ids(name)
        embedding = torch.nn.functional.normalize(model.get_input_embeddings().weight[word], dim=0)
        cosines = (visual @ embedding).numpy()
        n, rest = int(here.sum()), int((~here).sum())
        ranks = rankdata(cosines)
        others = cosines[(labels > 0) & ~here]
        found.append(
            Nearness(
                float(cosines[here].mean()),
                float(others.mean()) if others.size else float("nan"),
                float(cosines[labels == 0].mean()),
                float((ranks[here].sum() - n * (n + 1) / 2) / (n * rest)),
            )
        )
    return found


@torch.no_grad()
def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=embedded.path())
    parser.add_argument("--scenes", type=int, default=20, help="scenes of generate and teacher forcing")
    parser.add_argument("--patches", type=int, default=100, help="scenes of the cosine's measurement")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    model: Any = LlavaForConditionalGeneration.from_pretrained(arguments.folder, dtype=torch.float32).eval()
    processor = LlavaProcessor.from_pretrained(arguments.folder)
    asked: Counter[str] = Counter()
    right: Counter[str] = Counter()
    differ = 0
    for index in range(arguments.scenes):
        shown = scene(arguments.seed, index)
        said = generated(model, processor, shown)
        for question, text, agrees in zip(shown.questions, said, forced(model, processor, shown), strict=True):
            asked[question.family] += 1
            right[question.family] += text == question.answer
            differ += agrees != (text == question.answer)
    for family, n in asked.items():
        print(f"{family:12} {right[family]:5} of {n:5} right: {100 * right[family] / n:.1f} %")
    print(f"generate and teacher forcing differ on {differ} of {asked.total()} questions")
    things = [
        thing
        for index in range(arguments.patches)
        for thing in nearness(model, processor, scene(arguments.seed, index))
    ]
    own, others, background, chance = np.nanmean(things, axis=0)
    print(f"cosine with a thing's name ({len(things)} things): its patches {own:.2f}, ", end="")
    print(f"other things' {others:.2f}, background {background:.2f}")
    print(f"a thing's patch is closer to its name than another patch: {chance:.3f}")


if __name__ == "__main__":
    main()
