"""From a trained seed to a model folder: ``python -m experiments.trainings.package CHECKPOINT [FOLDER]``.

Writes an ordinary folder, which ``from_pretrained`` reads: fp16 weights, tokenizer, preparation of pictures and clips,
chat template, the measured accuracies and the model card.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from experiments.embedded.network import plain_state
from experiments.embedded.vocabulary import BOS, EOS, PAD
from experiments.trainings.kinds import KINDS, QWEN, Kind
from tokenprune.zoo import embedded_qwen


def kind_of(checkpoint: Path) -> Kind:
    """Family of a checkpoint."""
    return KINDS[json.loads((checkpoint / "meta.json").read_text()).get("kind", "qwen")]


def read_model(checkpoint: Path) -> Any:
    """The stock model with the weights of a checkpoint.

    Raises
    ------
    ValueError
        The checkpoint has other parameters than the model.
    """
    meta = json.loads((checkpoint / "meta.json").read_text())
    model = kind_of(checkpoint).build(**meta["shape"])
    found: dict[str, torch.Tensor] = {}
    for path in sorted(checkpoint.glob("weights-*.safetensors")):
        found |= load_file(path)
    own = plain_state(model)
    if found.keys() != own.keys():
        raise ValueError(f"checkpoint {checkpoint} and model differ in {sorted(found.keys() ^ own.keys())[:5]}")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(found[name])
    model.generation_config.update(
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, max_new_tokens=8, do_sample=False
    )
    return model.eval()


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
    checkpoint: Path,
    folder: Path,
    card: str | None,
    write_processor: Callable[[Path], None],
    facts: str = "scenes.json",
) -> None:
    """Write a folder.

    Parameters
    ----------
    checkpoint, folder : Path
    card : str or None
        With ``{results}`` where the table of accuracies stands; written where they were measured. None for no card.
    write_processor : callable
        Tokenizer, preparation of pictures and chat template to the folder.
    facts : str
        Name of the file of accuracies.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = read_model(checkpoint)
    model.to(torch.float16).save_pretrained(folder)
    write_processor(folder)
    progress = json.loads((checkpoint / "meta.json").read_text())["progress"]
    if "test" in progress and card is not None:
        (folder / "README.md").write_text(card.replace("{results}", results_table(progress["test"])))
        (folder / facts).write_text(json.dumps(progress["test"], indent=1) + "\n")
    for file in sorted(folder.iterdir()):
        print(f"{file.stat().st_size:>10}  {file.name}")


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path, nargs="?", help="default: the embedded Qwen3-VL")
    arguments = parser.parse_args()
    kind = kind_of(arguments.checkpoint)
    if arguments.folder is None and kind is not QWEN:
        parser.error(f"{arguments.checkpoint} is no checkpoint of {QWEN.model}: FOLDER says where it goes")
    card = Path(__file__).with_name("card.md").read_text() if kind is QWEN else None
    write_model(arguments.checkpoint, arguments.folder or embedded_qwen.path(), card, kind.write_processor)


if __name__ == "__main__":
    main()
