"""From a trained seed to a model folder: ``python -m experiments.trainings.package CHECKPOINT [FOLDER]``.

Writes an ordinary folder, which ``from_pretrained`` reads: fp16 weights, tokenizer, preparation of pictures and clips,
chat template, the measured accuracies and the model card.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import Qwen2VLImageProcessorPil

from experiments.embedded.network import PATCH
from experiments.embedded.vocabulary import BOS, EOS, PAD, tokenizer
from experiments.trainings.network import MERGE, TEMPORAL, build
from tokenprune.zoo import embedded_qwen

TOKEN = (PATCH * MERGE) ** 2
"""Pixels of a token."""
FEWEST, MOST = 64, 144
"""Tokens of a picture; others are scaled."""

TEMPLATE = (
    "{% for m in messages %}{{ m['role'].upper() }}: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<vision_start><image><vision_end> "
    "{% elif c['type'] == 'video' %}<vision_start><video><vision_end> "
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def read_model(checkpoint: Path) -> Any:
    """The stock model with the weights of a checkpoint.

    Raises
    ------
    ValueError
        The checkpoint has other parameters than the model.
    """
    meta = json.loads((checkpoint / "meta.json").read_text())
    model = build(**meta["shape"])
    found: dict[str, torch.Tensor] = {}
    for path in sorted(checkpoint.glob("weights-*.safetensors")):
        found |= load_file(path)
    own = dict(model.named_parameters())
    if found.keys() != own.keys():
        raise ValueError(f"checkpoint {checkpoint} and model differ in {sorted(found.keys() ^ own.keys())[:5]}")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(found[name])
    model.generation_config.update(
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, max_new_tokens=8, do_sample=False
    )
    return model.eval()


CLIPS_TEMPLATE = TEMPLATE.replace("<vision_start><video><vision_end>", "<video>")
"""The same for processors that put the marks around each pair of frames themselves."""


def write_processor(folder: Path, template: str = TEMPLATE) -> None:
    """Tokenizer, preparation of pictures, chat template."""
    pictures = Qwen2VLImageProcessorPil(
        size={"shortest_edge": FEWEST * TOKEN, "longest_edge": MOST * TOKEN},
        patch_size=PATCH,
        merge_size=MERGE,
        temporal_patch_size=TEMPORAL,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    pictures.save_pretrained(folder)
    tokenizer(clips=True).save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(template)


def results_table(test: dict[str, Any]) -> str:
    """Accuracies as a Markdown table: pictures of both sets, then clips."""
    lines = [
        "| scenes | sub-family | accuracy % | with a wrong picture % | questions |",
        "|---|---|---:|---:|---:|",
    ]
    for group, values in test["accuracy"].items():
        for name, got in values.items():
            blind, n = test["wrong image"][group][name], test["questions"][group][name]
            lines.append(f"| {group} | {name} | {100 * got:.1f} | {100 * blind:.1f} | {n} |")
    return "\n".join(lines)


def write_model(
    checkpoint: Path, folder: Path, card: str, template: str = TEMPLATE, facts: str = "scenes.json"
) -> None:
    """Write a folder.

    Parameters
    ----------
    checkpoint, folder : Path
    card : str
        With ``{results}`` where the table of accuracies stands; written where they were measured.
    template : str
        Of prompts.
    facts : str
        Name of the file of accuracies.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = read_model(checkpoint)
    model.to(torch.float16).save_pretrained(folder)
    write_processor(folder, template)
    progress = json.loads((checkpoint / "meta.json").read_text())["progress"]
    if "test" in progress:
        (folder / "README.md").write_text(card.replace("{results}", results_table(progress["test"])))
        (folder / facts).write_text(json.dumps(progress["test"], indent=1) + "\n")
    for file in sorted(folder.iterdir()):
        print(f"{file.stat().st_size:>10}  {file.name}")


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path, nargs="?", default=embedded_qwen.path())
    arguments = parser.parse_args()
    write_model(arguments.checkpoint, arguments.folder, Path(__file__).with_name("card.md").read_text())


if __name__ == "__main__":
    main()
