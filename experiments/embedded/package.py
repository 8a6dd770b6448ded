"""From a training checkpoint to the folder that ships: ``python -m experiments.embedded.package CHECKPOINT [FOLDER]``.

Writes an ordinary model folder, which ``from_pretrained`` reads: fp16 weights, tokenizer, processor with its chat
template, the measured accuracies and the model card.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPImageProcessorPil, LlavaProcessor

from experiments.embedded.network import MEAN, PATCH, STD, build
from experiments.embedded.train import NAMES, load_weights
from experiments.embedded.vocabulary import BOS, EOS, PAD, tokenizer
from tokenprune.data.scenes.world import SIZE
from tokenprune.zoo import embedded

TEMPLATE = (
    "{% for m in messages %}{{ m['role'].upper() }}: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image> {% else %}{{ c['text'] }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def processor() -> LlavaProcessor:
    """Build the processor: CLIP's picture preparation without torchvision, the tokenizer, and the chat template."""
    images = CLIPImageProcessorPil(
        size={"shortest_edge": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        image_mean=list(MEAN),
        image_std=list(STD),
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=TEMPLATE,
    )


def results_table(test: dict[str, Any]) -> str:
    """Accuracies as a Markdown table."""
    lines = ["| sub-family | accuracy % | with a wrong picture % | questions |", "|---|---:|---:|---:|"]
    for name in NAMES:
        got, blind, n = (test[key][name] for key in ("accuracy", "wrong image", "questions"))
        lines.append(f"| {name} | {100 * got:.1f} | {100 * blind:.1f} | {n} |")
    return "\n".join(lines)


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path, nargs="?", default=embedded.path())
    arguments = parser.parse_args()
    meta = json.loads((arguments.checkpoint / "meta.json").read_text())
    model = build(**meta["shape"])
    load_weights(model, None, arguments.checkpoint)
    model.to(torch.float16)
    model.generation_config.update(
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, max_new_tokens=8, do_sample=False
    )
    model.save_pretrained(arguments.folder)
    processor().save_pretrained(arguments.folder)
    test = meta["progress"]["test"]
    card = Path(__file__).with_name("card.md").read_text().replace("{results}", results_table(test))
    (arguments.folder / "README.md").write_text(card)
    (arguments.folder / "scenes.json").write_text(json.dumps(test, indent=1) + "\n")
    for file in sorted(arguments.folder.iterdir()):
        print(f"{file.stat().st_size:>10}  {file.name}")


if __name__ == "__main__":
    main()
