"""Generate with models as large as real ones, at random weights: images and eight-frame videos, four prompts at once.

    python experiments/compatibility/full_size.py --device cuda --out experiments/compatibility/results/full-size.json

For each model: the laws on logits of the prompts' last tokens (everything kept, against the plain model; most dropped,
against the whole prompt with those masked out), beside what the plain model's own logits differ by from run to run and
between a prompt alone and in a batch; tokens that enter the language model, peak memory above the weights, and seconds
to generate, with and without pruning. ``--small`` shrinks the layers for a try on a CPU.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from laws import environment
from torch import Tensor

import tokenprune as tp
from tokenprune.benchmark.clock import synchronise
from tokenprune.benchmark.geometry import GEOMETRIES, asked, build_model, geometry
from tokenprune.diagnostics.laws import difference, forward
from tokenprune.diagnostics.mask_out import mask_out
from tokenprune.hf.adapters import adapter_for

Inputs = dict[str, Tensor]
MODELS = ("llava-1.5-7b", "video-llava-7b", "qwen2.5-vl-7b", "qwen3-vl-8b")


def timed(model: Any, inputs: Inputs, new: int) -> dict[str, Any]:
    """Generate; what it took. The first call warms up."""
    cuda = model.device.type == "cuda"
    # random weights must not say that they saw an image
    quiet = list(adapter_for(model).image_token_ids)
    weights = seconds = 0.0
    for _ in range(2):
        synchronise(model.device)
        if cuda:
            torch.cuda.reset_peak_memory_stats()
            weights = torch.cuda.memory_allocated()
        start = time.perf_counter()
        out = model.generate(**inputs, max_new_tokens=new, do_sample=False, suppress_tokens=quiet)
        synchronise(model.device)
        seconds = time.perf_counter() - start
    peak = (torch.cuda.max_memory_allocated() - weights) / 2**30 if cuda else None
    return {"seconds": seconds, "peak_gib_above_weights": peak, "tokens": out.shape[1] - inputs["input_ids"].shape[1]}


def last_logits(model: Any, inputs: Inputs) -> Tensor:
    """Logits behind each prompt, (B, V)."""
    return forward(model, inputs)[:, -1].float()


def first_of(inputs: Inputs) -> Inputs:
    """The first prompt of a batch of prompts that show as much."""
    batch = len(inputs["input_ids"])
    return {name: value[: len(value) // batch] for name, value in inputs.items()}


def measure(model: Any, inputs: Inputs, strategy: str, keep: float, new: int) -> dict[str, Any]:
    """Laws and costs of one kind of prompt."""
    full, plain = timed(model, inputs, new), last_logits(model, inputs)
    with tp.attach(model, strategy, 1.0, text=asked(model)):
        everything = last_logits(model, inputs)
    with tp.attach(model, strategy, keep, text=asked(model)) as run:
        pruned = timed(model, inputs, new)
        run.history.clear()
        last = last_logits(model, inputs)
    prefill = run.history[-1]
    return {
        "batch": len(inputs["input_ids"]),
        "again": difference(last_logits(model, inputs), plain),
        "alone": difference(last_logits(model, first_of(inputs)), plain[:1]),
        "keep all": difference(everything, plain),
        "drop": difference(last, mask_out(model, inputs, prefill)),
        "visual tokens": [run.tokens_before, run.tokens_after],
        "sequence": [prefill.sequence_before, prefill.sequence_after],
        "full": full,
        "pruned": pruned,
    }


@torch.no_grad()
def main() -> None:
    """Measure and write JSON after each kind of prompt."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(GEOMETRIES))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--strategy", default="mi-pruner")
    parser.add_argument("--keep", type=float, default=1 / 9)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    report: dict[str, Any] = {
        "environment": environment(asked.device),
        "dtype": asked.dtype,
        "strategy": asked.strategy,
        "keep": asked.keep,
        "new_tokens": asked.new_tokens,
        "full size": {},
    }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    for name in asked.models:
        model = build_model(name, asked.device, getattr(torch, asked.dtype), small=asked.small)
        found: dict[str, Any] = {"parameters": sum(p.numel() for p in model.parameters())}
        report["full size"][name] = found
        for kind in geometry(name).shows:
            inputs = geometry(name).inputs(model, kind, asked.batch)
            found[kind] = measure(model, inputs, asked.strategy, asked.keep, asked.new_tokens)
            print(name, kind, json.dumps(found[kind]), flush=True)
            asked.out.write_text(json.dumps(report, indent=1))
        del model


if __name__ == "__main__":
    main()
