"""A thousand pictures of random sizes through one ``Compiled``: memory stays, and answers are those of ``attach``.

    python experiments/speed/pictures.py --programs 16 --out experiments/speed/results/pictures.json

Each picture has a width and a height of its own, and each grid of patches that a processor makes of them needs
programs of its own; ``--programs`` of a stage are kept, fewer than there are grids. After each hundredth the script
notes what is kept: programs on the shelf, bytes of tensors that are alive (weights among them), and the memory of the
process (on a GPU: what torch holds of it).
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import random
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers

import tokenprune as tp
from tokenprune.core.errors import NothingPrunedWarning
from tokenprune.data.images import picture
from tokenprune.hf.chat import prompt_inputs
from tokenprune.zoo.tiny import tiny_model, tiny_processor


def bytes_alive() -> int:
    """Bytes of all tensors that anybody holds, each memory counted once."""
    gc.collect()
    held: dict[int, int] = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor) and thing.layout == torch.strided:
            storage = thing.untyped_storage()
            held[storage.data_ptr()] = storage.nbytes()
    return sum(held.values())


def resident() -> int:
    """Bytes of the process in memory, as Linux tells it."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096


def kept(compiled: tp.Compiled, seen: int, device: str) -> dict[str, Any]:
    """What there is after ``seen`` pictures."""
    made = [one.stage for one in compiled.built]
    row = {
        "pictures": seen,
        "programs": {stage: len(compiled._shelf.of(stage)) for stage in ("encode", "select", "prefill", "decode")},
        "made_lately": {stage: made.count(stage) for stage in sorted(set(made))},
        "tensors_mib": round(bytes_alive() / 2**20, 3),
        "process_mib": round(resident() / 2**20, 1),
    }
    if device == "cuda":
        row["allocated_mib"] = round(torch.cuda.memory_allocated() / 2**20, 1)
        row["reserved_mib"] = round(torch.cuda.memory_reserved() / 2**20, 1)
    return row


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--family", default="qwen2_5_vl", help="a tiny model of tokenprune.zoo.tiny")
    parser.add_argument("--strategy", default="mi-pruner")
    parser.add_argument("--keep", type=float, default=0.4)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--largest", type=int, default=240, help="pixels of a side, at most")
    parser.add_argument("--programs", type=int, default=64)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    warnings.simplefilter("ignore", NothingPrunedWarning)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, processor = tiny_model(asked.family).to(device), tiny_processor(asked.family)
    compiled = tp.compile(model, asked.strategy, asked.keep, programs=asked.programs)
    draw = random.Random(0)
    rows, other, seconds = [], [], {"compiled": 0.0, "attach": 0.0}
    sizes: set[tuple[int, int]] = set()
    grids: set[str] = set()
    for number in range(1, asked.pictures + 1):
        size = draw.randint(30, asked.largest), draw.randint(30, asked.largest)
        sizes.add(size)
        inputs = prompt_inputs(processor, [picture(number, 64).resize(size)], ["what is it ?"])
        grids.add(
            str(inputs["image_grid_thw"].tolist() if "image_grid_thw" in inputs else inputs["pixel_values"].shape)
        )
        start = time.perf_counter()
        got = compiled.generate(**inputs, max_new_tokens=4)
        seconds["compiled"] += time.perf_counter() - start
        start = time.perf_counter()
        with tp.attach(model, asked.strategy, asked.keep):
            want = model.generate(**inputs.to(device), max_new_tokens=4, do_sample=False)
        seconds["attach"] += time.perf_counter() - start
        if not torch.equal(got, want):
            other.append(number)
        del inputs, got, want
        if number % 100 == 0 or number == asked.pictures:
            rows.append(kept(compiled, number, device))
            print(rows[-1], flush=True)
            found = {
                "asked": {name: value for name, value in vars(asked).items() if name != "out"},
                "device": torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} CPU",
                "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
                "sizes": len(sizes),
                "grids": len(grids),
                "answers_unlike_attach": other,
                "not_captured": sorted({str(built.why) for built in compiled.built if built.why is not None}),
                "seconds": {name: round(value, 1) for name, value in seconds.items()},
                "rows": rows,
            }
            asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
