"""The rows of docs/results/speed.md that a user would feel: what ``tokenprune bench`` measures, geometry by geometry.

    python -m experiments.speed.published --out results/published --seconds 200
    python -m experiments.speed.page experiments/speed/results/published.json

One process instead of a command for each geometry; the page names the command of each. Rows that a folder holds are not
measured again; ``published.json`` in the folder is written anew after each geometry. Needs a GPU.
"""

from __future__ import annotations

import argparse
import gc
import json
import shlex
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tokenprune.benchmark.bench import BenchRow, Setup, bench

__all__ = ["PARTS", "Part", "command"]

PLAIN, COMPILED = ("plain",), ("compiled",)
BOTH = PLAIN + COMPILED


@dataclass(frozen=True)
class Part:
    """A geometry, what its prompts show, and the rows measured: (strategy, tokens kept, ways)."""

    geometry: str
    kind: str
    rows: tuple[tuple[str, int, tuple[str, ...]], ...]

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.geometry}-{self.kind}"


PARTS = (
    Part(
        "llava-1.5-7b",
        "image",
        (
            ("full", 0, BOTH),
            ("mi-pruner", 64, ("compiled", "plain")),
            ("autoprune", 64, COMPILED),
            ("fastv", 64, COMPILED),
            ("dart", 64, COMPILED),
            ("autoprune", 64, PLAIN),
        ),
    ),
    Part(
        "qwen3-vl-8b",
        "large-image",
        (("full", 0, BOTH), ("mi-pruner", 300, COMPILED), ("mi-pruner", 64, COMPILED)),
    ),
    Part(
        "qwen2.5-vl-7b",
        "large-image",
        (("full", 0, BOTH), ("mi-pruner", 300, COMPILED), ("mi-pruner", 64, COMPILED)),
    ),
    Part("video-llava-7b", "video", (("full", 0, BOTH), ("mi-pruner", 114, COMPILED))),
    Part("qwen3-vl-8b", "image", (("full", 0, BOTH), ("mi-pruner", 81, COMPILED), ("mi-pruner", 64, COMPILED))),
    Part("qwen3-vl-8b", "long-video", (("full", 0, ("compiled", "plain")), ("mi-pruner", 26, COMPILED))),
)
"""In the order in which they are measured."""


def command(part: Part, repeats: int, warm: int) -> str:
    """The command that measures a part's rows, and those that it leaves out."""
    strategies = ",".join(dict.fromkeys(name for name, keep, _ in part.rows if keep))
    budgets = ",".join(dict.fromkeys(str(keep) for _, keep, _ in part.rows if keep))
    words = ["tokenprune", "bench", "--geometry", part.geometry, "--kind", part.kind, "--strategies", strategies]
    words += ["--budgets", budgets, "--batches", "1", "--ways", "plain,compiled"]
    words += ["--repeats", str(repeats), "--warm", str(warm), "--out", f"results/{part.name}"]
    return shlex.join(words)


def main() -> None:
    """Measure part by part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--warm", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no row after this long")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--small", action="store_true", help="few and narrow layers, for a trial")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    options.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"repeats": options.repeats, "warm": options.warm, "parts": {}}
    for part in PARTS:
        left = end - time.monotonic()
        if left <= 0:
            break
        start = time.monotonic()
        folder = options.out / part.name
        rows = [BenchRow(1, name, keep, way) for name, keep, ways in part.rows for way in ways]  # type: ignore[arg-type]
        dtype = "float16" if options.device.startswith("cuda") else "float32"
        setup = Setup(part.geometry, part.kind, options.small, options.device, dtype)
        setup = Setup(**{**vars(setup), "repeats": options.repeats, "warm": options.warm})
        try:
            measured = bench(setup, rows, folder, seconds=left, progress=lambda *what: print(*what, flush=True))
        except Exception:  # the other parts are worth having
            traceback.print_exc()
            continue
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        found["machine"] = summary["machine"]
        found["parts"][part.name] = measured
        (options.out / "published.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(part.name, f"{time.monotonic() - start:.0f} s", flush=True)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
