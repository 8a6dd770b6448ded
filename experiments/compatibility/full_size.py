"""Generate with models as large as real ones, at random weights: images and eight-frame videos, four prompts at once.

    python experiments/compatibility/full_size.py --device cuda --out experiments/compatibility/results/full-size.json

For each model: the laws (everything kept gives the plain model's tokens; logits of the last token with most dropped,
against the whole prompt with those masked out), tokens that enter the language model, peak memory above the weights,
and seconds to generate, with and without pruning. ``--small`` shrinks the layers for a try on a CPU.
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
from tokenprune.benchmark.geometry import GEOMETRIES, build_model, geometry
from tokenprune.evaluation.examination import mask_out
from tokenprune.models import adapter_for
from tokenprune.testing.laws import difference, forward

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
    return {"seconds": seconds, "peak_gib_above_weights": peak, "tokens": out[:, inputs["input_ids"].shape[1] :]}


def measure(model: Any, inputs: Inputs, strategy: str, keep: float, new: int) -> dict[str, Any]:
    """Laws and costs of one kind of prompt."""
    full = timed(model, inputs, new)
    with tp.attach(model, strategy, 1.0):
        everything = timed(model, inputs, new)
    with tp.attach(model, strategy, keep) as run:
        pruned = timed(model, inputs, new)
        run.history.clear()
        last = forward(model, inputs)[:, -1]
    prefill = run.history[-1]
    return {
        "batch": len(inputs["input_ids"]),
        "keep all gives the plain tokens": bool(torch.equal(full["tokens"], everything["tokens"])),
        "drop = mask out": difference(last, mask_out(model, inputs, prefill)),
        "visual tokens": [run.tokens_before, run.tokens_after],
        "sequence": [prefill.sequence_before, prefill.sequence_after],
        "full": {k: v for k, v in full.items() if k != "tokens"},
        "pruned": {k: v for k, v in pruned.items() if k != "tokens"},
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
