"""What a strategy's signals cost in the captured encoder, kernel by kernel.

    python experiments/speed/encoder.py --out encoder.json

Medians of 50 replays after 20 on the host's clock, synchronised, and the device's own account of five more. Needs a
GPU. ``similarity`` asks for nothing that the encoder does not give anyway.
"""

from __future__ import annotations

import argparse
import json
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch

import tokenprune as tp
from tokenprune.benchmark.clock import account, timed
from tokenprune.benchmark.geometry import asked as words
from tokenprune.benchmark.geometry import build_model, geometry


@torch.no_grad()
def main() -> None:
    """Measure and write JSON after each strategy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--geometry", default="llava-1.5-7b")
    parser.add_argument("--strategies", nargs="+", default=["similarity", "attention", "vispruner", "mi-attention"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--keep", type=int, default=64)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    model = build_model(asked.geometry, "cuda", torch.float16)
    found: dict[str, Any] = {}
    for batch in asked.batches:
        inputs = geometry(asked.geometry).inputs(model, None, batch)
        inputs = {name: value if value.is_floating_point() else value.cpu() for name, value in inputs.items()}
        for name in asked.strategies:
            compiled = tp.compile(model, name, asked.keep, text=words(model))
            compiled.select(compiled.encode(**inputs), **inputs)
            row = {
                stage: timed(lambda s=stage, c=compiled: c.replay(s), model.device, 50, 20).median  # type: ignore[misc]
                for stage in ("encode", "select")
            }
            found[f"{name} B={batch}"] = row | account(partial(compiled.replay, "encode"))
            asked.out.write_text(json.dumps(found, indent=1))
            print(name, batch, row, flush=True)


if __name__ == "__main__":
    main()
