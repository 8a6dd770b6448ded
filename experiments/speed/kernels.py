"""Which kernels a prefill consists of: calls and microseconds of each, as the device's own profile counts them.

    python experiments/speed/kernels.py --strategies mi-pruner,autoprune --out kernels.json

One prefill of a captured model at the sizes of a published one; a strategy between layers is what lies between its row
and that of one that acts before. Needs a GPU.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

import tokenprune as tp
from tokenprune.benchmark.clock import timed
from tokenprune.benchmark.geometry import asked, build_model, geometry


@torch.no_grad()
def main() -> None:
    """Capture, profile, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--geometry", default="llava-1.5-7b")
    parser.add_argument("--strategies", default="mi-pruner,autoprune")
    parser.add_argument("--keep", type=int, default=64)
    parser.add_argument("--top", type=int, default=30)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    model = build_model(options.geometry, "cuda", torch.float16)
    inputs = geometry(options.geometry).inputs(model)
    inputs = {k: v if v.is_floating_point() else v.cpu() for k, v in inputs.items()}
    found = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "keep": options.keep, "rows": {}}
    for name in options.strategies.split(","):
        start = time.perf_counter()
        compiled = tp.compile(model, name, options.keep, text=asked(model))
        prompt = compiled.select(compiled.encode(**inputs), **inputs)
        assert prompt is not None
        compiled.prefill(prompt, 9)
        made = time.perf_counter() - start
        took = timed(lambda c=compiled, p=prompt: c.prefill(p, 9), model.device, 20, 5)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            compiled.prefill(prompt, 9)
            torch.cuda.synchronize()
        kernels = sorted(profile.key_averages(), key=lambda one: -one.self_device_time_total)
        found["rows"][name] = {
            "prefill_ms": took.row,
            "made_s": round(made, 1),
            "captured": {built.shape: [built.captured, built.why] for built in compiled.built},
            "calls": sum(one.count for one in kernels),
            "busy_ms": round(sum(one.self_device_time_total for one in kernels) / 1e3, 3),
            "kernels": [
                {"name": one.key[:100], "calls": one.count, "us": round(one.self_device_time_total, 1)}
                for one in kernels[: options.top]
            ],
        }
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        row = found["rows"][name]
        print(name, {k: v for k, v in row.items() if k != "kernels"}, flush=True)


if __name__ == "__main__":
    main()
