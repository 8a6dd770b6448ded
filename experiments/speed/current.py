"""Time to the first token of a model, as ``tokenprune bench`` has it, both backends in one process, nothing decoded.

    python experiments/speed/current.py --geometry qwen3-vl-8b --out rows.jsonl \
        --rows large-image:stock:full large-image:graphs:full,300,64 large-image:inductor:300

``bench`` makes programs that decode, too: with inductor about a minute more for each row. Rows are those of ``bench``,
with the kind of prompt and the backend. Rows that the file holds are not measured again. Needs a GPU.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tokenprune.benchmark.bench import BenchRow
from tokenprune.benchmark.clock import peaks
from tokenprune.benchmark.geometry import build_model, geometry
from tokenprune.benchmark.measure import Bench


def wanted(rows: list[str]) -> list[tuple[str, str, int]]:
    """Kind of prompt, backend, tokens kept (0 for all), in order."""
    found = []
    for row in rows:
        kind, backend, keeps = row.split(":")
        found += [(kind, backend, 0 if keep == "full" else int(keep)) for keep in keeps.split(",")]
    return found


@torch.no_grad()
def main() -> None:
    """Measure row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--geometry", required=True)
    parser.add_argument("--rows", nargs="+", required=True, metavar="KIND:BACKEND:KEEPS")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--warm", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no row after this long")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    end = time.monotonic() + asked.seconds
    warnings.simplefilter("default")
    done = [json.loads(line) for line in asked.out.read_text().splitlines()] if asked.out.exists() else []
    have = {(row["geometry"], row["kind"], row["backend"], row["keep"]) for row in done}
    model = build_model(asked.geometry, "cuda", torch.float16)
    roof = peaks(model.device, torch.float16)
    print(f"made after {asked.seconds - (end - time.monotonic()):.0f} s", flush=True)
    for kind, backend, keep in wanted(asked.rows):
        if (asked.geometry, kind, backend, keep) in have or time.monotonic() > end:
            continue
        row = BenchRow(1, "mi-pruner" if keep else "full", keep, "plain" if backend == "stock" else "compiled")
        made: Any = "graphs" if backend == "stock" else backend
        inputs = geometry(asked.geometry).inputs(model, kind)
        begin = time.monotonic()
        one = Bench(model, inputs, roof, asked.repeats, asked.warm, made, decoded=0)
        line = {"geometry": asked.geometry, "kind": kind, "backend": backend, **asdict(row)}
        line |= one.measure(row.built(), keep or None, row.way)
        line |= {"copy_tb_per_s": round(roof.bytes_per_ms / 1e9, 4), "tflops": round(roof.flops_per_ms / 1e9, 2)}
        line |= {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
        with asked.out.open("a") as out:
            out.write(json.dumps(line) + "\n")
        said = {name: value["median"] for name, value in line.items() if isinstance(value, dict) and "median" in value}
        print(kind, backend, keep, f"{time.monotonic() - begin:.0f} s", said, flush=True)
        del one
        gc.collect()
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
