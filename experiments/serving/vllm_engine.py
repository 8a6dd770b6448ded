"""Let vLLM answer from what ``image_embeds`` returns, and hold its answers to those of transformers.

    python -m experiments.serving.vllm_engine --out experiments/serving/results/vllm_engine.json

The language model runs in vLLM, on whatever vLLM finds; encoder, projector and selection run here, on a CPU. Both read
the checkpoint of the embedded model in float32, and decode greedily. For a scale the questions are asked once more,
each about the picture of the next. ``docs/serving.md`` says how to install what this
needs. Ends with exit code 1 when an answer differs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

import tokenprune as tp
from experiments.serving.load import questions
from experiments.serving.vllm_processor import prompt_of, vllm_version
from tokenprune.hf.chat import prompt_inputs
from tokenprune.serving import image_embeds
from tokenprune.zoo import embedded

NEW = 8
"""Tokens of an answer at most."""


def here(model: Any, processor: Any, picture: Image.Image, question: str, strategy: str, keep: int) -> list[int]:
    """Tokens that the same checkpoint says in transformers, places without gaps, as a server numbers them."""
    inputs = prompt_inputs(processor, [picture], [question])
    shorter = tp.prepare(model, strategy, keep, positions="compact", processor=processor, **inputs)
    out = model.generate(**shorter, max_new_tokens=NEW, do_sample=False)
    said: list[int] = out[0, shorter["input_ids"].shape[1] :].tolist()
    return said


def matching(answers: Sequence[Any], wanted: Sequence[list[int]]) -> int:
    """How many answers are token for token those wanted, the end token with them."""
    return sum(list(one.outputs[0].token_ids) == said for one, said in zip(answers, wanted, strict=True))


def published(folder: Path) -> str:
    """A copy of the embedded model whose weights are named as those of published checkpoints, which vLLM reads."""
    shutil.copytree(embedded.path(), folder)
    weights = load_file(folder / "model.safetensors")
    tower = "vision_tower."
    named = {name.replace(tower, f"{tower}vision_model.", 1): value for name, value in weights.items()}
    save_file(named, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def main(arguments: Sequence[str] | None = None) -> None:
    """Ask, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=24)
    parser.add_argument("--strategies", default="mi-pruner,divprune")
    parser.add_argument("--keeps", default="16,64,576")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    from vllm import LLM, SamplingParams

    jobs = questions(given.questions)
    model, processor = embedded.load()
    with tempfile.TemporaryDirectory() as folder:
        llm = LLM(
            published(Path(folder) / "model"),
            dtype="float32",
            max_model_len=1024,
            max_num_seqs=8,
            enforce_eager=True,
            enable_mm_embeds=True,
        )
    greedy = SamplingParams(temperature=0.0, max_tokens=NEW)
    place = model.config.image_token_id

    def ask(tokens: Sequence[dict[str, Any]]) -> list[Any]:
        asked = [
            {"prompt": prompt_of(processor, question), "multi_modal_data": one}
            for (_, question), one in zip(jobs, tokens, strict=True)
        ]
        return list(llm.generate(asked, greedy, use_tqdm=False))

    rows: list[dict[str, Any]] = []
    print(f"{vllm_version()}, torch {torch.__version__}, transformers {transformers.__version__}")
    print("| strategy | kept | says the same | placeholders | the same from another's picture |")
    print("|---|---:|---:|---:|---:|")
    for strategy in given.strategies.split(","):
        for keep in map(int, given.keeps.split(",")):
            with torch.no_grad():
                tokens = [image_embeds(model, processor, *job, strategy, keep) for job in jobs]
                wanted = [here(model, processor, *job, strategy, keep) for job in jobs]
            got = ask(tokens)
            turned = ask([*tokens[1:], tokens[0]])
            row = {
                "strategy": strategy,
                "keep": keep,
                "same": matching(got, wanted),
                "placeholders": sum(list(one.prompt_token_ids).count(place) == keep for one in got),
                "same_from_other_pictures": matching(turned, wanted),
            }
            rows.append(row)
            counts = [f"{row[name]} of {len(jobs)}" for name in ("same", "placeholders", "same_from_other_pictures")]
            print(f"| {strategy} | {keep} | {' | '.join(counts)} |", flush=True)
    if given.out is not None:
        machine = {
            "vllm": vllm_version(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }
        given.out.parent.mkdir(parents=True, exist_ok=True)
        answers = {"machine": machine, "questions": len(jobs), "rows": rows}
        given.out.write_text(json.dumps(answers, indent=1) + "\n")
    if any(row["same"] < len(jobs) or row["placeholders"] < len(jobs) for row in rows):
        raise SystemExit("vllm_engine: answers differ from those of transformers")


if __name__ == "__main__":
    main()
