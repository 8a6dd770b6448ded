"""A thousand pictures of random sizes through one ``Compiled``: memory stays, and answers are those of ``attach``.

    python experiments/speed/pictures.py --programs 16 --out experiments/speed/results/pictures.json

Each picture has a width and a height of its own, and each grid of patches that a processor makes of them needs
programs of its own; ``--programs`` of a stage are kept, fewer than there are grids. After each hundredth the script
notes what is kept: programs on the shelf, bytes of tensors that are alive (weights among them), and the memory of the
process (on a GPU: what torch holds of it). Processes beside it (``--beside``) answer the same pictures inside
``attach``, and write what they found next to the file; a run that ends early counts as far as it got.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import random
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

import tokenprune as tp
from tokenprune.core.errors import NothingPrunedWarning
from tokenprune.data.images import picture
from tokenprune.hf.chat import prompt_inputs
from tokenprune.zoo.tiny import tiny_model, tiny_processor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


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


def pictures(number: int, largest: int) -> Iterator[tuple[int, tuple[int, int]]]:
    """Numbers of pictures from 1, and their random sizes."""
    draw = random.Random(0)
    for one in range(1, number + 1):
        yield one, (draw.randint(30, largest), draw.randint(30, largest))


def attached(asked: argparse.Namespace, part: int, out: Path) -> None:
    """Answer every so-manieth picture inside ``attach``, a line for each."""
    model, processor = tiny_model(asked.family).to(DEVICE), tiny_processor(asked.family)
    with out.open("w", encoding="utf-8") as lines:
        for number, size in pictures(asked.pictures, asked.largest):
            if number % asked.beside != part:
                continue
            inputs = prompt_inputs(processor, [picture(number, 64).resize(size)], ["what is it ?"])
            with tp.attach(model, asked.strategy, asked.keep):
                want = model.generate(**inputs.to(DEVICE), max_new_tokens=asked.new, do_sample=False)
            lines.write(json.dumps([number, want[0].tolist()]) + "\n")
            lines.flush()


def compared(got: dict[int, list[int]], parts: list[Path]) -> dict[str, Any]:
    """How many answers both have given so far, and which differ."""
    lines = [line for part in parts if part.exists() for line in part.read_text(encoding="utf-8").splitlines()]
    want = {number: answer for number, answer in map(json.loads, lines) if number in got}
    other = sorted(number for number, answer in want.items() if got[number] != answer)
    return {"answers_compared": len(want), "answers_unlike_attach": other}


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--family", default="qwen2_5_vl", help="a tiny model of tokenprune.zoo.tiny")
    parser.add_argument("--strategy", default="mi-pruner")
    parser.add_argument("--keep", type=float, default=0.4)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--largest", type=int, default=240, help="pixels of a side, at most")
    parser.add_argument("--programs", type=int, default=64)
    parser.add_argument("--new", type=int, default=4, help="tokens of an answer")
    parser.add_argument("--beside", type=int, default=1, help="processes that answer inside attach")
    parser.add_argument("--part", type=int, help="be one of them")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    warnings.simplefilter("ignore", NothingPrunedWarning)
    if asked.part is not None:
        attached(asked, asked.part, asked.out)
        return
    parts = [asked.out.with_suffix(f".{part}.jsonl") for part in range(asked.beside)]
    same = [word for word in sys.argv[1:] if word != str(asked.out)]
    own = [[sys.executable, __file__, *same, str(file), "--part", str(part)] for part, file in enumerate(parts)]
    beside = [subprocess.Popen(command) for command in own]
    try:
        answer(asked, parts, beside)
    finally:
        for process in beside:
            process.terminate()


def answer(asked: argparse.Namespace, parts: list[Path], beside: list[subprocess.Popen[bytes]]) -> None:
    """Answer all pictures through one compiled model, and compare."""
    model, processor = tiny_model(asked.family).to(DEVICE), tiny_processor(asked.family)
    compiled = tp.compile(model, asked.strategy, asked.keep, programs=asked.programs)
    rows: list[dict[str, Any]] = []
    got: dict[int, list[int]] = {}
    sizes: set[tuple[int, int]] = set()
    grids: set[str] = set()
    start = time.perf_counter()

    def write(seconds: float) -> None:
        found = {
            "asked": {name: value for name, value in vars(asked).items() if name not in ("out", "part")},
            "device": torch.cuda.get_device_name() if DEVICE == "cuda" else f"{platform.machine()} CPU",
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "sizes": len(sizes),
            "grids": len(grids),
            **compared(got, parts),
            "not_captured": sorted({str(built.why) for built in compiled.built if built.why is not None}),
            "seconds": round(seconds, 1),
            "rows": rows,
        }
        asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

    for number, size in pictures(asked.pictures, asked.largest):
        sizes.add(size)
        inputs = prompt_inputs(processor, [picture(number, 64).resize(size)], ["what is it ?"])
        grids.add(
            str(inputs["image_grid_thw"].tolist() if "image_grid_thw" in inputs else inputs["pixel_values"].shape)
        )
        got[number] = compiled.generate(**inputs, max_new_tokens=asked.new)[0].tolist()
        del inputs
        if number % 100 == 0 or number == asked.pictures:
            rows.append({**kept(compiled, number, DEVICE), "seconds": round(time.perf_counter() - start, 1)})
            print(rows[-1], flush=True)
            write(time.perf_counter() - start)
    seconds = time.perf_counter() - start
    while any(process.poll() is None for process in beside):
        time.sleep(0.5)
        write(seconds)
    if failed := [process.returncode for process in beside if process.returncode]:
        raise SystemExit(f"processes that answer inside attach ended with {failed}")
    write(seconds)
    print(compared(got, parts), flush=True)


if __name__ == "__main__":
    main()
