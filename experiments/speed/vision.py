"""The vision encoder alone, at published sizes: stock, captured as it is, captured with what stands in for its parts.

    python experiments/speed/vision.py --geometry qwen3-vl-8b --kind large-image --out vision.json

The language model is cut to four layers, which changes nothing here. Medians of 30 calls after 10 on the host's clock,
synchronised, kernels of one replay by the profiler, and by how much the features differ from the stock encoder's.
Needs a GPU.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

import tokenprune as tp
from tokenprune.benchmark.clock import account, timed
from tokenprune.benchmark.geometry import asked as words
from tokenprune.benchmark.geometry import geometry
from tokenprune.hf.compiled import stages
from tokenprune.hf.encoded import observed

WAYS = ("captured as it is", "graphs", "inductor")


def tower(name: str) -> Any:
    """A model of published sizes whose language model has four layers."""
    from transformers import AutoModelForImageTextToText

    config = geometry(name).config(False)
    config.get_text_config().num_hidden_layers = 4
    with torch.random.fork_rng(), torch.device("cuda"):
        torch.manual_seed(0)
        return AutoModelForImageTextToText.from_config(config, dtype=torch.float16, attn_implementation="sdpa").eval()


@torch.no_grad()
def main() -> None:
    """Measure and write JSON after each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--geometry", default="qwen3-vl-8b")
    parser.add_argument("--kind")
    parser.add_argument("--strategy", default="mi-pruner")
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    model = tower(chosen.geometry)
    inputs = geometry(chosen.geometry).inputs(model, chosen.kind)
    inputs = {name: value if value.is_floating_point() else value.cpu() for name, value in inputs.items()}
    found: dict[str, Any] = {"geometry": chosen.geometry, "kind": chosen.kind, "device": torch.cuda.get_device_name()}
    plain = tp.compile(model, chosen.strategy, 0.25, text=words(model))
    there = {name: value.cuda() for name, value in inputs.items()}

    def stock() -> dict[str, torch.Tensor]:
        adapter = plain.request.adapter
        return stages.sight(adapter, observed(adapter, plain.request.signals, there))

    want = stock()
    found["stock"] = {"encode_ms": timed(stock, model.device, 10, 3).row}
    for way in chosen.ways:
        backend: Any = "inductor" if way == "inductor" else "graphs"
        compiled = tp.compile(model, chosen.strategy, 0.25, text=words(model), backend=backend)
        as_is = patch("tokenprune.hf.compiled.pipeline.quick_encoder", lambda *_: nullcontext())
        begin = time.perf_counter()
        with warnings.catch_warnings(record=True) as said, as_is if way == WAYS[0] else nullcontext():
            warnings.simplefilter("always")
            got = compiled.encode(**inputs).given
        row: dict[str, Any] = {"build_s": round(time.perf_counter() - begin, 2)}
        row["captured"] = [built.captured for built in compiled.built]
        row["warnings"] = [str(one.message)[:300] for one in said]
        row["differs"] = {
            name: [float((got[name] - value).abs().max()), float(value.abs().max())] for name, value in want.items()
        }
        row["encode_ms"] = timed(lambda c=compiled: c.replay("encode"), model.device, 30, 10).row  # type: ignore[misc]
        row |= account(partial(compiled.replay, "encode"), 3)
        found[way] = row
        chosen.out.write_text(json.dumps(found, indent=1))
        print(way, json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
